"""Numbers about results: comparisons, intervals, the fewest."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.study.statistics import fewest, interval, paired


def test_paired_by_hand():
    first = np.array([1.0, 2.0, 4.0, 3.0])
    second = first + np.array([1.0, 2.0, 4.0, -1.0])
    found = paired(first, second)
    # differences -1, -2, -4, 1: mean -1.5, variance 13/3
    error = math.sqrt(13 / 3 / 4)
    assert found.difference == pytest.approx(-1.5)
    # Student's t with 3 degrees of freedom: 95 % lie within 3.18245
    assert found.low == pytest.approx(-1.5 - 3.182446 * error, rel=1e-6)
    assert found.high == pytest.approx(-1.5 + 3.182446 * error, rel=1e-6)
    t = 1.5 / error
    turn = t / math.sqrt(3)
    tail = 0.5 - (turn / (1 + turn * turn) + math.atan(turn)) / math.pi
    assert found.p_t == pytest.approx(2 * tail, rel=1e-9)
    assert (found.wins, found.pairs) == (3, 4)


def test_paired_wilcoxon_by_hand():
    """All of five pairs on one side: 2 of 32 signings are as extreme."""
    found = paired(np.zeros(5), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert found.p_wilcoxon == pytest.approx(2 / 32)
    assert found.wins == 5
    other = paired(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.zeros(5))
    assert other.wins == 0
    assert other.difference == -found.difference
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low))
    assert other.p_t == pytest.approx(found.p_t)
    assert other.p_wilcoxon == found.p_wilcoxon


def test_paired_equal_models():
    """No difference is no evidence, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert found.difference == found.low == found.high == 0
    assert (found.p_t, found.p_wilcoxon) == (1, 1)
    assert found.wins == 0


# --- Bootstrap intervals ---------------------------------------------------


@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5), scale=st.floats(0.1, 9))
@settings(max_examples=15, deadline=None)
def test_interval_moves_with_its_values(seed, shift, scale):
    values = np.random.default_rng(seed).normal(size=40)
    low, high = interval(values)
    assert low < values.mean() < high
    moved = interval(shift + scale * values)
    assert moved == pytest.approx((shift + scale * low, shift + scale * high))


def test_interval_is_about_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3, 2, 400)
    half = 1.96 * values.std(ddof=1) / 20
    low, high = interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert interval(values) == (low, high), "always the same draws"


def test_rows_of_a_group_are_no_independent_evidence():
    values = np.random.default_rng(1).normal(size=30)
    often = np.repeat(values, 16)
    narrow = np.diff(interval(often))[0]
    wide = np.diff(interval(often, np.repeat(np.arange(30), 16)))[0]
    alone = np.diff(interval(values))[0]
    assert wide == pytest.approx(alone)
    assert narrow < 0.4 * wide


def test_fewest():
    errors = np.array([[3.0, 3.2], [1.0, 1.3], [1.1, 1.1], [1.0, 1.1]])
    assert fewest((2, 4, 8, 6), errors) == 6
    assert fewest((2, 4, 8, 6), errors - [[0], [0.1], [0], [0]]) == 4
    assert fewest((5,), errors[:1]) == 5
