"""Folds over several tables, few rows, Gaussian processes, fine-tuning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study import selection
from nestedae_utils.study import tune as transfer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path))


TABLES = st.lists(
    st.lists(st.integers(0, 30), min_size=5, max_size=60),
    min_size=1,
    max_size=4,
)


@given(tables=TABLES, folds=st.integers(2, 5), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_a_group_has_one_fold_in_all_tables(tables, folds, seed):
    groups = {str(k): np.array(own) for k, own in enumerate(tables)}
    if folds > len(set(tables[0])):
        with pytest.raises(ParameterError, match="folds"):
            transfer.shared_folds(groups, folds, seed)
        return
    made = transfer.shared_folds(groups, folds, seed)
    fold_of = {}
    for name, own in groups.items():
        assert made[name].shape == own.shape
        for group, fold in zip(own, made[name], strict=True):
            assert fold_of.setdefault(group, fold) == fold
            assert 0 <= fold < folds
    # the first table is as even as its groups allow
    counts = np.bincount(made["0"], minlength=folds)
    assert counts.max() - counts.min() <= np.bincount(tables[0]).max()


def test_groups_are_by_rounded_fractions():
    groups = transfer.common_groups(
        {
            "a": np.array([[0.125, 0.875], [1.0, 0.0]]),
            "b": np.array([[0.12, 0.88], [0.5, 0.5], [1.0, 0.0]]),
        }
    )
    assert groups["a"][0] == groups["b"][0]
    assert groups["a"][1] == groups["b"][2]
    assert len({*groups["a"], *groups["b"]}) == 3


@given(
    folds=st.integers(2, 4),
    draws=st.integers(1, 3),
    rows=st.integers(8, 40),
)
@settings(deadline=None, max_examples=40)
def test_few_rows_are_nested_and_never_held_out(folds, draws, rows):
    fold = np.arange(rows) % folds
    sizes = [1, 3, 1000]
    splits = transfer.few_rows(fold, sizes, draws)
    assert len(splits) == len(sizes) * draws * folds
    for place, (seen, held) in enumerate(splits):
        size, own = divmod(place, draws * folds)
        assert not set(seen) & set(held)
        assert set(fold[held]) == {own % folds}
        assert len(seen) == min(sizes[size], rows - len(held))
        if size:
            assert set(splits[place - draws * folds][0]) <= set(seen)


def test_missing_targets_get_the_training_median():
    values = np.array([[1.0], [np.nan], [3.0], [100.0]])
    splits = [(np.array([0, 1, 2]), np.array([3]))] * 2
    made = transfer.filled(values, splits)
    assert made.shape == (2, 4, 1)
    assert made[0, 1, 0] == 2.0
    assert np.isnan(values[1, 0]), "the table itself stays as it is"
    with pytest.raises(DataError, match="none of a replica"):
        transfer.filled(values, [(np.array([1]), np.array([0]))])


def test_a_gaussian_process_learns_and_uses_the_lower_fidelity():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    low = np.sin(2 * x[:, 0]) + x[:, 1]
    high = 1.5 * low - 0.3
    few = [np.arange(8), np.arange(50)]
    alone = transfer.gaussian_process(x, high, few, x)
    wide = np.column_stack([x, low])
    multi = transfer.gaussian_process(wide, high, few, wide)
    assert alone.shape == multi.shape == (2, 60)
    error = np.abs(np.stack([alone, multi])[:, :, 50:] - high[50:]).mean(-1)
    assert (error[1] < error[0]).all()
    assert error[0, 1] < error[0, 0]


def test_a_gaussian_process_of_many_rows_learns_its_kernel_from_some():
    x = np.linspace(0, 6, transfer.LARGEST + 80)[:, None]
    made = transfer.gaussian_process(
        x, np.sin(x[:, 0]), [np.arange(len(x))], x
    )
    assert np.abs(made[0] - np.sin(x[:, 0])).max() < 0.05


@pytest.mark.parametrize(
    ("x", "y", "asked"),
    [
        (np.zeros((3, 4, 2)), np.zeros(4), np.zeros((4, 2))),
        (np.zeros((4, 2)), np.zeros(5), np.zeros((4, 2))),
        (np.zeros((4, 2)), np.zeros(4), np.zeros((4, 3))),
    ],
)
def test_shapes_that_do_not_belong_together(x, y, asked):
    with pytest.raises(DataError) as caught:
        transfer.gaussian_process(x, y, [np.arange(3)] * 2, asked)
    assert "\n" not in str(caught.value)


def test_a_processs_units_do_not_matter():
    random = np.random.default_rng(0)
    x, asked = random.normal(size=(20, 2)), random.normal(size=(5, 2))
    y = np.sin(x).sum(1)
    one, other = (
        transfer.gaussian_process(x, target, [np.arange(20)], asked)
        for target in (y, 1000 * y + 5000)
    )
    np.testing.assert_allclose(other, 1000 * one + 5000, rtol=1e-3)


def test_later_tables_are_evened_out():
    groups = {
        "few": np.arange(2),
        "many": np.repeat(range(12), [10, *[1] * 11]),
    }
    counts = np.bincount(transfer.shared_folds(groups, 2)["many"])
    assert abs(counts[0] - counts[1]) <= 1


def chain_of(replicas=2, scaling="standard", **block):
    """Return a small fitted chain of two scales, its tables and rows."""
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    fine = {"x": x, "y": x[:, :1] + x[:, 1:2]}
    coarse = {"x": x[:12], "z": fine["y"][:12] ** 2}
    lower = Scale(
        "fine", (Block("x", 3),), 2, (Head("y", 1, scaling="standard"),)
    )
    upper = Scale(
        "coarse",
        (Block("latents", 2, scaling, latents_of="fine", **block),),
        2,
        (Head("z", 1, scaling="standard"), Head("latents", 2)),
    )
    settings = {"epochs": 20, "batch_size": 8, "learning_rate": 1e-2}
    all_fine = np.arange(40)
    seen = np.arange(8)
    below, _ = selection.fit(
        lower, fine, [(all_fine, all_fine)] * replicas, [0, 1], **settings
    )
    chain, _ = selection.fit(
        upper,
        coarse,
        [(seen, np.arange(8, 12))] * replicas,
        [0, 1],
        below,
        **settings,
    )
    rows = {"fine": [all_fine] * replicas, "coarse": [seen] * replicas}
    return chain, {"fine": fine, "coarse": coarse}, rows


TUNING = {"epochs": 30, "steps": 2, "batch_size": 8, "learning_rate": 3e-3}


@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_tuning_lowers_the_loss_and_leaves_the_chain(scaling):
    chain, tables, rows = chain_of(scaling=scaling)
    before = {n: p.parameters.copy() for n, p in chain.fitted.items()}
    tuned = transfer.fine_tune(chain, tables, rows, **TUNING)
    seen = rows["coarse"][0]
    miss = [
        np.abs(each.predict(tables["coarse"])["z"] - tables["coarse"]["z"])[
            :, seen
        ].mean()
        for each in (chain, tuned)
    ]
    assert miss[1] < miss[0]
    for name, part in chain.fitted.items():
        assert np.array_equal(part.parameters, before[name])
        assert not np.array_equal(tuned.fitted[name].parameters, before[name])


def test_a_tiny_rate_changes_next_to_nothing():
    chain, tables, rows = chain_of()
    tuned = transfer.fine_tune(
        chain, tables, rows, **{**TUNING, "learning_rate": 1e-9}
    )
    for name, part in chain.fitted.items():
        assert np.allclose(
            tuned.fitted[name].parameters, part.parameters, atol=1e-6
        )


def test_held_out_rows_do_not_matter_for_tuning():
    chain, tables, rows = chain_of()
    other = {**tables, "coarse": dict(tables["coarse"])}
    other["coarse"]["z"] = tables["coarse"]["z"].copy()
    other["coarse"]["z"][8:] = 99.0
    made = [
        transfer.fine_tune(chain, given, rows, **TUNING)
        for given in (tables, other)
    ]
    for name in chain.fitted:
        assert np.array_equal(
            made[0].fitted[name].parameters, made[1].fitted[name].parameters
        )


@pytest.mark.parametrize(("table", "key"), [("coarse", "z"), ("fine", "y")])
def test_every_loss_pulls_on_the_lower_scale(table, key):
    chain, tables, rows = chain_of()
    other = {**tables, table: {**tables[table], key: -tables[table][key]}}
    made = [
        transfer.fine_tune(chain, given, rows, **TUNING)
        .fitted["fine"]
        .parameters
        for given in (tables, other)
    ]
    assert not np.array_equal(*made)


def test_every_replica_is_tuned_on_its_own_rows():
    chain, tables, rows = chain_of()
    rows = {**rows, "coarse": [np.arange(4), np.arange(4, 8)]}
    other = {**tables, "coarse": dict(tables["coarse"])}
    other["coarse"]["z"] = tables["coarse"]["z"].copy()
    other["coarse"]["z"][4:8] = -5.0
    first, second = (
        transfer.fine_tune(chain, given, rows, **TUNING)
        .fitted["coarse"]
        .parameters
        for given in (tables, other)
    )
    np.testing.assert_allclose(first[0], second[0], atol=1e-6)
    assert not np.allclose(first[1], second[1], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coarse": {"x": np.zeros((12, 3))}}, "z missing for scale 'coarse'"),
        ({"coarse": {"z": np.zeros((12, 1))}}, "x missing for scale 'coarse'"),
        ({"fine": {}}, "y, x missing for scale 'fine'"),
    ],
)
def test_tables_that_cannot_be_tuned_on(change, message):
    chain, tables, rows = chain_of()
    with pytest.raises(ParameterError, match=message):
        transfer.fine_tune(chain, {**tables, **change}, rows, **TUNING)


def test_tuning_on_missing_values_stops():
    chain, tables, rows = chain_of()
    tables["coarse"]["z"] = np.full((12, 1), np.nan)
    with pytest.raises(ParameterError, match="loss is not finite"):
        transfer.fine_tune(chain, tables, rows, **TUNING)
    with pytest.raises(ParameterError, match="seed: -1 given"):
        transfer.fine_tune(chain, tables, rows, **TUNING, seed=-1)


def test_chains_that_cannot_be_tuned():
    chain, tables, rows = chain_of()
    with pytest.raises(ParameterError, match="replicas"):
        transfer.fine_tune(
            chain, tables, {**rows, "fine": rows["fine"][:1]}, **TUNING
        )
    with pytest.raises(ParameterError, match="no training rows"):
        transfer.fine_tune(chain, tables, {"fine": rows["fine"]}, **TUNING)
    chain, tables, rows = chain_of(lower_scaler="refitted")
    with pytest.raises(ParameterError, match="refitted"):
        transfer.fine_tune(chain, tables, rows, **TUNING)
