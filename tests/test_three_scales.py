"""Folds over several tables, few rows, members on members, processes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.chapters import three_scales
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block

TABLES = st.lists(
    st.lists(st.integers(0, 30), min_size=5, max_size=60),
    min_size=1,
    max_size=4,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path))


@given(tables=TABLES, folds=st.integers(2, 5), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_a_group_has_one_fold_in_all_tables(tables, folds, seed):
    groups = {str(k): np.array(own) for k, own in enumerate(tables)}
    if folds > len(set(tables[0])):
        with pytest.raises(ParameterError, match=f"folds: {folds} given"):
            three_scales.shared_folds(groups, folds, seed)
        return
    found = three_scales.shared_folds(groups, folds, seed)
    fold_of = {}
    for name, own in groups.items():
        assert found[name].shape == own.shape
        for group, fold in zip(own, found[name], strict=True):
            assert fold_of.setdefault(group, fold) == fold
            assert 0 <= fold < folds
    # the first table is as even as its groups allow
    counts = np.bincount(found["0"], minlength=folds)
    assert counts.max() - counts.min() <= np.bincount(tables[0]).max()
    splits = three_scales.by_fold(found["0"])
    assert len(splits) == folds
    for seen, held in splits:
        assert sorted([*seen, *held]) == list(range(len(tables[0])))
        assert not set(groups["0"][seen]) & set(groups["0"][held])


def test_later_tables_are_evened_out():
    groups = {
        "few": np.arange(2),
        "many": np.repeat(range(12), [10, *[1] * 11]),
    }
    counts = np.bincount(three_scales.shared_folds(groups, 2)["many"])
    assert abs(counts[0] - counts[1]) <= 1


def test_groups_are_by_rounded_fractions():
    groups = three_scales.common_groups(
        {
            "a": np.array([[0.125, 0.875], [1.0, 0.0]]),
            "b": np.array([[0.12, 0.88], [0.5, 0.5], [1.0, 0.0]]),
        }
    )
    assert groups["a"][0] == groups["b"][0]
    assert groups["a"][1] == groups["b"][2]
    assert len({*groups["a"], *groups["b"]}) == 3


@given(
    folds=st.integers(2, 4), draws=st.integers(1, 3), rows=st.integers(8, 40)
)
@settings(deadline=None, max_examples=40)
def test_few_rows_are_nested_and_never_held_out(folds, draws, rows):
    fold = np.arange(rows) % folds
    sizes = [1, 3, 1000]
    few = three_scales.few_rows(fold, sizes, draws, seeds=2)
    assert len(few) == len(sizes) * draws * folds * 2
    for draw in range(draws):
        for held in range(folds):
            before = set()
            for size in sizes:
                own = few.pick(size=size, draw=draw, fold=held)
                (seen, out), (same, _) = own.splits
                assert not set(seen) & set(out)
                assert set(fold[out]) == {held}
                assert len(seen) == min(size, rows - len(out))
                assert before <= set(seen) == set(same)
                before = set(seen)


def test_held_out_values_are_gathered_by_size_and_draw():
    fold = np.array([0, 1, 0, 1, 0])
    few = three_scales.few_rows(fold, [1, 2], 3, seeds=2)
    labels = few.labels
    values = (
        1000 * labels["size"] + 100 * labels["draw"] + 10 * labels["fold"]
        + labels["seed"]
    )[:, None] + np.zeros(5)  # fmt: skip
    found = three_scales.by_size(few, values)
    assert found.shape == (2, 3, 5)
    wanted = 10 * fold + 0.5  # of the row's own fold, mean over seeds
    np.testing.assert_allclose(found[1, 2], 2200 + wanted)
    np.testing.assert_allclose(found[0, 0], 1000 + wanted)


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


def test_a_member_stands_on_the_member_of_its_fold_and_seed():
    random = np.random.default_rng(0)
    table = {
        "ions": random.normal(size=(20, 15)),
        "gap": random.normal(size=(20, 1)),
    }
    given_ = {"epochs": 2, "batch_size": 5}
    low = three_scales.declare("low", [Block("ions", 15)], ["gap"], 3)
    high = three_scales.declare(
        "high", [Block("latents", 3, latents_of="low")], ["gap"], 2
    )
    fold = np.arange(20) % 2
    apart = Replicas.cross(three_scales.by_fold(fold), 2)
    whole = Replicas.cross([(np.arange(20), np.arange(20))], 2)
    few = three_scales.few_rows(fold, [4, 8], 1, seeds=2)
    weight = "encoder.0.weight"
    for below, places in ((apart, [0, 1, 2, 3]), (whole, [0, 1, 0, 1])):
        lower = three_scales.fit(low, table, below, **given_)
        chain = three_scales.fit(high, table, few, lower, **given_)
        np.testing.assert_array_equal(
            chain.fitted["low"].parameters[weight],
            lower.fitted["low"].parameters[weight][places * 2],
        )
        assert chain.predict(table)["gap"].shape == (8, 20, 1)
    # standardised on the training rows alone
    seen = few.splits[3][0]
    scaler = chain.fitted["high"].scalers["gap"]
    np.testing.assert_allclose(scaler.mean[3, 0], table["gap"][seen].mean(0))


def test_a_gaussian_process_learns_and_uses_the_lower_fidelity():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    low = np.sin(2 * x[:, 0]) + x[:, 1]
    high = 1.5 * low - 0.3
    few = [np.arange(8), np.arange(50)]
    alone = three_scales.gaussian_process(x, high, few, x)
    wide = np.column_stack([x, low])
    multi = three_scales.gaussian_process(
        np.stack([wide, wide]), np.stack([high, high]), few, wide
    )
    assert alone.shape == multi.shape == (2, 60)
    error = np.abs(np.stack([alone, multi])[:, :, 50:] - high[50:]).mean(-1)
    assert (error[1] < error[0]).all()
    assert error[0, 1] < error[0, 0]


def test_a_gaussian_process_of_many_rows_learns_its_kernel_from_some():
    x = np.linspace(0, 6, three_scales.LARGEST + 80)[:, None]
    target = np.sin(x[:, 0])
    found, scaled = (
        three_scales.gaussian_process(x, y, [np.arange(len(x))], x)[0]
        for y in (target, 1000 * target + 5000)
    )
    assert np.abs(found - target).max() < 0.05
    np.testing.assert_allclose(scaled, 1000 * found + 5000, rtol=1e-3)
