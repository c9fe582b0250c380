"""Numbers about results: comparisons, intervals, the fewest."""

import math
from dataclasses import astuple

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
    found = paired(np.zeros(5), np.arange(1, 6))
    assert found.p_wilcoxon == pytest.approx(2 / 32)
    other = paired(np.arange(1, 6), np.zeros(5))
    assert (found.wins, other.wins) == (5, 0)
    turned = (-found.difference, -found.high, -found.low)
    assert (other.difference, other.low, other.high) == pytest.approx(turned)
    assert (other.p_t, other.p_wilcoxon) == pytest.approx((found.p_t, found.p_wilcoxon))


@pytest.mark.filterwarnings("error")
def test_paired_equal_models():
    """No difference is no evidence, and no warning."""
    found = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert astuple(found) == (0, 0, 0, 1, 1, 0, 3)


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
    groups = np.repeat(np.arange(30), 16)
    ends = interval(often), interval(often, groups), interval(values)
    narrow, wide, alone = np.diff(ends)[:, 0]
    assert wide == pytest.approx(alone)
    assert narrow < 0.4 * wide


def test_fewest():
    errors = np.array([[3.0, 3.2], [1.0, 1.3], [1.1, 1.1], [1.0, 1.1]])
    assert fewest((2, 4, 8, 6), errors) == 6
    assert fewest((2, 4, 8, 6), errors - [[0], [0.1], [0], [0]]) == 4
    assert fewest((5,), errors[:1]) == 5
