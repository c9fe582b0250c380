"""Folds over several tables, few rows, members on members, processes."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import coarse, fine, tables

from nestedae_utils.chapters import three_scales
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.replicas import Replicas

ROWS = st.lists(st.integers(0, 30), min_size=5, max_size=60)
TABLES = st.lists(ROWS, min_size=1, max_size=4)


@given(given=TABLES, folds=st.integers(2, 5), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_a_group_has_one_fold_in_all_tables(given, folds, seed):
    groups = {str(k): np.array(own) for k, own in enumerate(given)}
    if folds > len(set(given[0])):
        with pytest.raises(ParameterError, match=f"folds: {folds} given"):
            three_scales.shared_folds(groups, folds, seed)
        return
    found = three_scales.shared_folds(groups, folds, seed)
    fold_of = {}
    for name, own in groups.items():
        for group, fold in zip(own, found[name], strict=True):
            assert fold_of.setdefault(group, fold) == fold in range(folds)
    # the first table is as even as its groups allow
    counts = np.bincount(found["0"], minlength=folds)
    assert counts.max() - counts.min() <= np.bincount(given[0]).max()
    for seen, held in three_scales.by_fold(found["0"]):
        assert sorted([*seen, *held]) == list(range(len(given[0])))
        assert not set(groups["0"][seen]) & set(groups["0"][held])


def test_groups_are_by_rounded_fractions():
    first = np.array([[0.125, 0.875], [1.0, 0.0]])
    second = np.array([[0.12, 0.88], [0.5, 0.5], [1.0, 0.0]])
    groups = three_scales.common_groups({"a": first, "b": second})
    assert groups["a"].tolist() == groups["b"][[0, 2]].tolist()
    assert len(set(groups["b"])) == 3


@pytest.mark.parametrize(("folds", "draws", "rows"), [(2, 3, 9), (4, 1, 40)])
def test_few_rows_are_nested_and_never_held_out(folds, draws, rows):
    fold, sizes = np.arange(rows) % folds, [1, 3, 1000]
    few = three_scales.few_rows(fold, sizes, draws, seeds=2)
    assert len(few) == len(sizes) * draws * folds * 2
    for draw, held in product(range(draws), range(folds)):
        before = set()
        for size in sizes:
            own = few.pick(size=size, draw=draw, fold=held)
            (seen, out), (same, _) = own.splits
            assert set(fold[out]) == {held} != set(fold[seen])
            assert not set(seen) & set(out)
            assert len(seen) == min(size, rows - len(out))
            assert before <= set(seen) == set(same)
            before = set(seen)
    # held-out values by size and draw: of the row's fold, mean over seeds
    size, draw, own, seed = few.labels.values()
    values = (10000 * size + 100 * draw + 10 * own + seed)[:, None]
    found = three_scales.by_size(few, values + np.zeros(rows))
    for (i, size), draw in product(enumerate(sizes), range(draws)):
        wanted = 10000 * size + 100 * draw + 10 * fold + 0.5
        np.testing.assert_allclose(found[i, draw], wanted)


def test_missing_targets_get_the_training_median():
    values = np.array([[1.0], [np.nan], [3.0], [100.0]])
    seen = Replicas.cross([(np.array([0, 1, 2]), np.array([3]))], 2)
    filled = three_scales.filled(values, seen)
    assert filled.shape == (2, 4, 1)
    assert filled[0, 1, 0] == 2.0
    assert np.isnan(values[1, 0]), "the table itself stays as it is"
    seen = Replicas.cross([(np.array([1]), np.array([0]))])
    with pytest.raises(DataError, match="none of a replica"):
        three_scales.filled(values, seen)


@pytest.mark.parametrize("several", [True, False])
def test_a_member_stands_on_the_member_of_its_fold_and_seed(several):
    table, fold, rows = tables(), np.arange(40) % 2, np.arange(40)
    splits = three_scales.by_fold(fold) if several else [(rows, rows)]
    few = three_scales.few_rows(fold, [4, 8], 1, seeds=2)
    lower = three_scales.fit(
        fine(), table, Replicas.cross(splits, 2), epochs=2, batch_size=8
    )
    chain = three_scales.fit(coarse(), table, few, lower, epochs=2, batch_size=8)
    places = ([0, 1, 2, 3] if several else [0, 1, 0, 1]) * 2
    np.testing.assert_array_equal(
        chain.encode(table, "fine"), lower.encode(table)[places]
    )
    # standardised on the training rows alone
    scaler = chain.fitted["coarse"].scalers["y"]
    seen = few.splits[3][0]
    np.testing.assert_allclose(scaler.mean[3, 0], table["y"][seen].mean(0))


def test_a_gaussian_process_learns_and_uses_the_lower_fidelity():
    x = np.random.default_rng(0).normal(size=(60, 3))
    low = np.sin(2 * x[:, 0]) + x[:, 1]
    high, few = 1.5 * low - 0.3, [np.arange(8), np.arange(50)]
    wide = np.column_stack([x, low])
    alone = three_scales.gaussian_process(x, high, few, x)
    # features and target of each set by themselves
    multi = three_scales.gaussian_process(
        np.stack([wide] * 2), np.stack([high] * 2), few, wide
    )
    assert alone.shape == multi.shape == (2, 60)
    error = np.abs(np.stack([alone, multi])[:, :, 50:] - high[50:]).mean(-1)
    assert (error[1] < error[0]).all()
    assert error[0, 1] < error[0, 0]


def test_a_gaussian_process_of_many_rows_learns_its_kernel_from_some():
    x = np.linspace(0, 6, three_scales.LARGEST + 80)[:, None]
    target, every = np.sin(x[:, 0]), [np.arange(len(x))]
    found = three_scales.gaussian_process(x, target, every, x)
    assert np.abs(found - target).max() < 0.05
    # the units do not matter
    scaled = three_scales.gaussian_process(x, 1e3 * target + 5e3, every, x)
    np.testing.assert_allclose(scaled, 1e3 * found + 5e3, rtol=1e-3)
