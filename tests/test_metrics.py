"""Numbers over folds and seeds, by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.chain import FittedScale
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study.protocol import row_folds
from nestedae_utils.study.statistics import (
    at_end,
    fewest,
    interval,
    out_of_fold,
    over_folds,
    paired,
    pareto,
)


def test_at_end():
    """Each replica's own last epoch; NaN stands behind it."""
    values = np.array(
        [[3, 2, 1, 0.5], [6, 5, math.nan, math.nan]], dtype=np.float32
    )
    fitted = FittedScale(
        scale=Scale("a", (Block("x", 1),), 1, (Head("x", 1),)),
        parameters=np.zeros((2, 4), np.float32),
        scalers={},
        lower_scalers={},
        history={
            "train_as_made": {"x_mae": values},
            "validation_as_made": {"x_mae": 10 * values},
        },
        last_epoch=np.array([3, 1]),
        best_epoch=np.array([3, 1]),
    )
    found = at_end(fitted, "train_as_made", "x_mae")
    assert found.tolist() == [0.5, 5]
    assert found.dtype == float
    assert at_end(fitted, "validation_as_made", "x_mae").tolist() == [5, 50]


def test_over_folds_by_hand():
    """Seeds are averaged first; they lie within the folds."""
    mean, spread = over_folds([1, 3, 2, 6, 10, 8], 3)
    # fold means 2, 4, 9
    assert mean == pytest.approx(5)
    assert spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    mean, spread = over_folds(np.array([1, 3, 2, 6, 10, 8]), 6)
    assert mean == pytest.approx(5)
    assert spread == pytest.approx(math.sqrt((16 + 4 + 9 + 1 + 25 + 9) / 5))


def test_over_one_fold_is_over_its_seeds():
    assert over_folds([1, 2, 6], 1) == pytest.approx((3, math.sqrt(7)))
    mean, spread = over_folds([4.0], 1)
    assert mean == 4
    assert math.isnan(spread)


@pytest.mark.parametrize(
    ("values", "folds"),
    [([1, 2, 3], 2), ([1, 2], 0), ([1, 2], -1), ([1], 2), ([[1, 2]], 1)],
)
def test_over_folds_errors(values, folds):
    with pytest.raises(ParameterError, match=f"folds: {folds} given for"):
        over_folds(values, folds)


def test_out_of_fold_by_hand():
    splits = [
        (np.array([2, 3]), np.array([0, 1])),
        (np.array([0, 1]), np.array([2, 3])),
        (np.array([1, 2, 3]), np.array([0])),
    ]
    predicted = np.arange(3 * 5 * 2, dtype=float).reshape(3, 5, 2)
    found = out_of_fold(predicted, splits)
    assert found.shape == (5, 2)
    # row 0 is held out by the first and the last replica
    np.testing.assert_array_equal(found[0], (predicted[0, 0] + [20, 21]) / 2)
    np.testing.assert_array_equal(found[1], predicted[0, 1])
    np.testing.assert_array_equal(found[2:4], predicted[1, 2:4])
    assert np.isnan(found[4]).all()
    with pytest.raises(ValueError, match="zip"):
        out_of_fold(predicted, splits[:2])


@given(st.integers(2, 8), st.integers(1, 3), st.integers(8, 30))
@settings(max_examples=20, deadline=None)
def test_every_row_is_out_of_its_fold(folds, seeds, rows):
    """What a replica knows of its own training rows never shows."""
    splits, numbers = row_folds(rows, folds, seeds)
    predicted = np.full((len(splits), rows, 1), np.nan)
    truth = np.arange(rows)[:, None]
    for replica, (_, held) in enumerate(splits):
        predicted[replica, held] = truth[held] + numbers[replica]
    found = out_of_fold(predicted, splits)
    np.testing.assert_allclose(found, truth + (seeds - 1) / 2)


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


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], [1, 2, 3]), ([1], [2]), ([[1, 2]], [[3, 4]]), ([], [])],
)
def test_paired_errors(first, second):
    with pytest.raises(ParameterError, match="paired: shapes .* at least two"):
        paired(np.array(first), np.array(second))


# --- Bootstrap intervals ---------------------------------------------------


@given(
    seed=st.integers(0, 1000), shift=st.floats(-5, 5), scale=st.floats(0.1, 9)
)
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


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([1.0], None, "1 groups"),
        ([1.0, 2.0], [0, 0], "1 groups"),
        ([1.0, 2.0], [0, 1, 2], r"shape \(3,\)"),
        ([1.0, np.nan], None, "not finite"),
    ],
)
def test_interval_errors(values, groups, message):
    with pytest.raises(ParameterError, match=message):
        interval(values, groups)


def test_fewest():
    errors = np.array([[3.0, 3.2], [1.0, 1.3], [1.1, 1.1], [1.0, 1.1]])
    assert fewest((2, 4, 8, 6), errors) == 6
    assert fewest((2, 4, 8, 6), errors - [[0], [0.1], [0], [0]]) == 4
    assert fewest((5,), errors[:1]) == 5


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_pareto(points):
    values = np.array(points, dtype=float)
    made = pareto(values)
    for place, (a, b) in enumerate(points):
        beaten = any(c >= a and d >= b and (c, d) != (a, b) for c, d in points)
        assert made[place] == (not beaten)
    assert made.any()


def test_pareto_errors():
    with pytest.raises(ParameterError, match="finite values of shape"):
        pareto(np.array([[1.0, np.nan]]))
    with pytest.raises(ParameterError, match="finite values of shape"):
        pareto(np.ones(3))
