"""Numbers about results: comparisons, intervals, the fewest."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from nestedae_utils.model.replicas import Replicas
from nestedae_utils.study import statistics
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
    assert (found.wins, found.pairs) == (3, 4)
    other = paired(second, first)
    turned = (-found.difference, -found.high, -found.low)
    assert (other.difference, other.low, other.high) == pytest.approx(turned)
    # a fifth of the rows held out: 1/4 + 1/4 in place of 1/4
    wide = paired(first, second, 0.25)
    assert wide.high - wide.low == pytest.approx(
        math.sqrt(2) * (found.high - found.low)
    )


@pytest.mark.filterwarnings("error")
def test_paired_equal_models():
    assert paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == (0, 0, 0, 0, 3)


SIMULATIONS = 500
FEATURES = np.array([0.3, 0.0, 0.0])


def gains(random, splits):
    """Return how much less a line errs than the median, by split."""
    x = random.normal(size=(200, 3))
    y = x @ FEATURES + random.normal(size=200)
    found = []
    for seen, held in splits:
        line, *_ = np.linalg.lstsq(x[seen], y[seen], rcond=None)
        misses = np.abs(y[held] - x[held] @ line), np.abs(y[held] - np.median(y[seen]))
        found.append(misses[0].mean() - misses[1].mean())
    return np.array(found)


def repeated(random):
    """Draw ten splits of 200 rows, a fifth held out."""
    for _ in range(10):
        rows = random.permutation(200)
        yield rows[40:], rows[:40]


def once(random):
    """Draw the five folds of one cross-validation."""
    rows = random.permutation(200).reshape(5, 40)
    for fold in range(5):
        yield np.delete(rows, fold, 0).ravel(), rows[fold]


@pytest.mark.parametrize(
    ("draw", "share", "least", "most"),
    [
        (repeated, 0.25, 0.90, 0.98),
        (once, 0.0, 0.90, 0.98),
        # what is wrong without the correction
        (repeated, 0.0, 0.0, 0.85),
    ],
)
def test_intervals_cover_the_truth(draw, share, least, most):
    """In simulations whose truth is known: of a line fitted to 160 rows."""
    random = np.random.default_rng(0)
    truth = np.mean([gains(random, once(random)).mean() for _ in range(3000)])
    covered = 0
    for _ in range(SIMULATIONS):
        values = gains(random, draw(random))
        found = paired(values, np.zeros(len(values)), share)
        covered += found.low <= truth <= found.high
    assert least <= covered / SIMULATIONS <= most


@pytest.mark.parametrize("grouped", [True, False])
def test_the_bootstrap_covers_the_truth_if_it_draws_groups(grouped):
    """Rows of a group share most of their error."""
    random, covered = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(40), 5)
    for _ in range(SIMULATIONS):
        values = random.normal(size=40)[groups] + 0.3 * random.normal(size=200)
        low, high = interval(values, groups if grouped else None)
        covered += low <= 0 <= high
    share = covered / SIMULATIONS
    assert 0.90 <= share <= 0.98 if grouped else share < 0.75


@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5), scale=st.floats(0.1, 9))
@settings(max_examples=15)
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
    assert fewest((2, 4, 8, 6), errors, 0.06) == (6, None, 2, (4, 8))
    assert fewest((2, 4, 8, 6), errors, 0.2).value == 4
    assert fewest((5,), errors[:1], 0.0).ends == (5, 5)


def test_fewest_says_when_the_draws_do_not_decide():
    random = np.random.default_rng(0)
    sizes, truth = (2, 4, 8, 16), np.array([2.0, 1.0, 1.0, 1.0])
    errors = truth[:, None] + 0.1 * random.normal(size=(4, 5))
    wide = fewest(sizes, errors, 0.0)
    clear = fewest(sizes, errors, 0.3)
    assert wide.ends[1] > clear.ends[1]
    assert (clear.value, clear.ends) == (4, (2, 8)), "the sizes beside it"


# --- every kind covers its truth ---------------------------------------------


def covered(estimate, truth):
    low, high = estimate.ends
    assert low <= estimate.value <= high
    return low <= truth <= high


def seeds_of(random):
    """Five given folds, four seeds: only these are drawn."""
    replicas = Replicas.cross([(np.arange(1), np.arange(1))] * 5, 4)
    at = np.array([0.0, 3.0, 1.0, 7.0, 2.0])[replicas.labels["fold"]]
    noise = random.normal(size=4)[replicas.labels["seed"]]
    return statistics.trained(replicas, at + noise), 2.6


def picked_of(random):
    """Another model of the same kind."""
    draws = random.normal(size=6)
    return statistics.picked(draws[:5], 2), draws[5]


def spread_of(random):
    """A function of several columns, by folds."""
    folds = random.normal((0.0, 2.0), 1.0, size=(10, 2))
    return statistics.resampled(lambda some: np.diff(some.mean(0))[0], folds), 2.0


def draws_of(random):
    """Few draws of the rows that are learnt from, and groups of rows."""
    groups = np.repeat(np.arange(30), 4)
    rows = random.normal(size=30)[groups] + 0.2 * random.normal(size=120)
    return statistics.rows(rows + random.normal(size=(6, 1)), groups), 0.0


def ceiling_of(random):
    """Half of the variance is between groups, and many are of one."""
    groups = np.concatenate([np.arange(150), np.repeat(np.arange(150, 200), 6)])
    values = random.normal(size=200)[groups] + random.normal(size=450)
    return statistics.resampled(
        statistics.ceiling, values, groups=groups, labelled=True
    ), 0.5


def models_of(random):
    """The mean minus the standard deviation, known from both."""
    values = random.normal(size=10)
    return statistics.by_models(values.mean(), values.std(ddof=1), 10, less=1), -1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw", [seeds_of, picked_of, spread_of, draws_of, ceiling_of, models_of]
)
def test_every_kind_covers_its_truth(draw, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    random = np.random.default_rng(0)
    share = sum(covered(*draw(random)) for _ in range(SIMULATIONS)) / SIMULATIONS
    assert 0.90 <= share <= 0.98


def test_one_draw_proves_nothing():
    replicas = Replicas.cross([(np.arange(1), np.arange(1))])
    for found in (
        statistics.mean([1.0]),
        statistics.trained(replicas, [1.0]),
        statistics.resampled(np.mean, np.ones(3), groups=np.zeros(3)),
        statistics.by_models(1.0, 0.0, 1),
    ):
        assert found.value == 1
        assert np.isnan(found.ends).all()


def test_limits_of_what_groups_can_tell_are_corrected():
    """With as many groups as rows, in sample all is told; in truth nothing."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), 2)
    noise = random.normal(size=600)
    assert statistics.ceiling(noise, groups) == pytest.approx(0, abs=0.1)
    means = noise.reshape(-1, 2).mean(1)[groups]
    assert 1 - ((noise - means) ** 2).sum() / (noise**2).sum() > 0.4
    # the mean absolute value of the normal distribution
    told = statistics.floor(noise, groups)
    assert told == pytest.approx(math.sqrt(2 / math.pi), abs=0.05)


def test_where_all_blocks_agree_another_may_not():
    """A share of 45 % is missed by five folds in five of a hundred cases."""
    found = statistics.unanimous(
        statistics.rows(np.zeros(50), np.arange(50) // 10), 5, 100
    )
    assert found.ends[0] == found.value == 0
    assert (1 - found.ends[1] / 100) ** 5 == pytest.approx(0.05)
    mixed = statistics.rows(np.arange(50.0))
    assert statistics.unanimous(mixed, 5, 100) == mixed


def test_a_verdict_in_words():
    assert statistics.verdict(-2, -1) == "nested is better"
    assert statistics.verdict(1, 2, first="the forest") == "the forest is worse"
    assert statistics.verdict(-1, 0, of="folds").endswith("these folds could show")


def test_r2_is_the_mean_of_each_models():
    random = np.random.default_rng(0)
    true, predicted = random.normal(size=50), random.normal(size=(50, 3))
    expected = [r2_score(true, one) for one in predicted.T]
    assert statistics.r2(true, predicted) == pytest.approx(np.mean(expected))
