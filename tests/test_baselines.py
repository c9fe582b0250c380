"""The baselines on folds: what they learn from, and what they give."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from nestedae_utils.study import baselines, protocol

pytestmark = pytest.mark.usefixtures("own_cache")


def data(rows=90):
    random = np.random.default_rng(0)
    features = random.normal(size=(rows, 4))
    target = 3 * features[:, 0] + 0.1 * random.normal(size=rows)
    return features, target, protocol.row_folds(rows, 3)


@pytest.mark.parametrize("name", sorted({*baselines.BASELINES} - {"median"}))
def test_every_baseline_learns_a_line(name):
    features, target, splits = data()
    predicted = baselines.predict(name, features, target, splits)
    error = np.abs(predicted - target).mean()
    assert error < 0.6 * np.abs(target - np.median(target)).mean()


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_held_out_targets_are_not_seen(name):
    """Other targets in a fold change nothing in that fold's predictions."""
    features, target, splits = data(30)
    before = baselines.predict(name, features, target, splits)
    _, first = splits[0]
    other = target + 100 * np.isin(np.arange(30), first)
    after = baselines.predict(name, features, other, splits)
    np.testing.assert_allclose(after[first], before[first])
    rest = np.setdiff1d(np.arange(30), first)
    assert np.abs(after[rest] - before[rest]).max() > 1


@pytest.mark.parametrize("name", baselines.GRIDS)
def test_settings_are_chosen_by_the_inner_folds_alone(name, monkeypatch):
    fixed, grid = baselines.GRIDS[name]
    features, target, splits = data(60)
    inner = protocol.inner_folds(splits, 2)
    before = baselines.predict(name, features, target, splits, inner=inner)
    error = np.abs(before - target).mean()
    assert error < 0.6 * np.abs(target - np.median(target)).mean()
    # what a fold holds out does not reach its choice
    _, first = splits[0]
    other = target + 100 * np.isin(np.arange(60), first)
    after = baselines.predict(name, features, other, splits, inner=inner)
    np.testing.assert_allclose(after[first], before[first])
    # with one setting to choose there is no choice: the fixed one's
    alone = {key: values[:1] for key, values in grid.items()}
    monkeypatch.setitem(baselines.GRIDS, "one", (fixed, alone))
    made = baselines.BASELINES[fixed]().set_params(
        **{key: values[0] for key, values in alone.items()}
    )
    seen, held = splits[1]
    expected = made.fit(features[seen], target[seen]).predict(features[held])
    found = baselines.predict("one", features, target, splits, inner=inner)
    np.testing.assert_allclose(found[held], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [*baselines.BASELINES, *baselines.GRIDS])
def test_nothing_but_the_unit_depends_on_the_unit(name, monkeypatch):
    few = {"n_estimators": 10, "max_iter": 10}
    fixed, grid = baselines.GRIDS.get(name, (name, {}))
    model = baselines.BASELINES[fixed]()
    model.set_params(**{key: few[key] for key in few if key in model.get_params()})
    monkeypatch.setitem(baselines.BASELINES, fixed, lambda: model)
    if grid:
        grid = {key: (10,) if key in few else some for key, some in grid.items()}
        monkeypatch.setitem(baselines.GRIDS, name, (fixed, grid))
    features, target, splits = data(36)
    # rounded to few digits many splits of a tree are of equal worth
    features, target = features.round(1), target.round(1)
    inner = protocol.inner_folds(splits, 2) if name in baselines.GRIDS else ()
    expected = baselines.predict(name, features, target, splits, inner=inner)
    units = np.array([1e-9, 1.602e-19, 1e18, 0.3])
    for unit in (1.602e-19, 6.02e23 / 7)[: 1 if inner else 2]:
        found = baselines.predict(
            name, features * units, target * unit, splits, inner=inner
        )
        np.testing.assert_allclose(found / unit, expected, rtol=1e-6, atol=1e-6)


def test_group_median_is_that_of_equal_inputs():
    layers = np.eye(2)[[0, 0, 0, 1, 1, 1, 0, 1]]
    target = np.array([1.0, 2.0, 9.0, 4.0, 5.0, 90.0, 0.0, 0.0])
    splits = [(np.arange(6), np.array([6, 7]))]
    predicted = baselines.predict("group median", layers, target, splits)
    assert predicted[6:].tolist() == pytest.approx([2.0, 5.0])
    assert np.isnan(predicted[:6]).all()


def test_folds_with_features_of_their_own():
    features, target, splits = data(30)
    by_fold = np.stack([features, features, 0 * features])
    predicted = baselines.predict("ridge", by_fold, target[:, None], splits)
    expected = baselines.predict("ridge", features, target, splits)
    seen, held_out = splits[2]
    expected[held_out] = target[seen].mean()
    np.testing.assert_allclose(predicted, expected)


@pytest.mark.parametrize("name", baselines.CLASSIFIERS)
def test_a_category(name):
    features, target, splits = data(60)
    kinds = (target > 0) + (target > 3).astype(int)
    predicted = baselines.predict(name, features, kinds, splits, True)
    most = (kinds == np.bincount(kinds).argmax()).mean()
    right = (predicted == kinds).mean()
    assert right > most + 0.1 or name == "most frequent"
    # a training fold of one kind only
    splits = [(np.flatnonzero(kinds == 1), np.flatnonzero(kinds != 1))]
    predicted = baselines.predict(name, features, kinds, splits, True)
    assert set(predicted[splits[0][1]]) == {1}


def test_a_model_of_ones_own_on_splits_that_overlap():
    features, target, _ = data(60)
    splits = [(np.arange(40), np.arange(40, 60)), (np.arange(10, 50), np.arange(10))]
    model = LogisticRegression()
    likely = baselines.held_out(model, features, target > 0, splits, likely=True)
    for chance, (_, held) in zip(likely, splits, strict=True):
        assert ((chance > 0.5) == (target[held] > 0)).mean() > 0.8
        assert 0 <= chance.min() < 0.2
        assert 0.8 < chance.max() <= 1
    # what one split holds out changes no model but those that learn from it
    altered = np.where(np.arange(60) < 10, -target, target)
    again = baselines.held_out(model, features, altered > 0, splits, likely=True)
    np.testing.assert_array_equal(likely[1], again[1])
    assert not np.allclose(likely[0], again[0])
    assert not hasattr(model, "coef_")
