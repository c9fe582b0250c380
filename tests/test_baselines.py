"""The baselines on folds: what they learn from, and what they give."""

import numpy as np
import pytest

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.study import baselines, protocol


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))


def data(rows=90):
    random = np.random.default_rng(0)
    features = random.normal(size=(rows, 4))
    target = 3 * features[:, 0] + 0.1 * random.normal(size=rows)
    return features, target, protocol.row_folds(rows, 3, 1)[0]


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
    other = target.copy()
    other[first] += 100
    after = baselines.predict(name, features, other, splits)
    np.testing.assert_allclose(after[first], before[first])
    rest = np.setdiff1d(np.arange(30), first)
    assert np.abs(after[rest] - before[rest]).max() > 1


def test_group_median_is_that_of_equal_inputs():
    layers = np.eye(2)[[0, 0, 0, 1, 1, 1, 0, 1]]
    target = np.array([1.0, 2.0, 9.0, 4.0, 5.0, 90.0, 0.0, 0.0])
    splits = [(np.arange(6), np.array([6, 7]))]
    predicted = baselines.predict("group median", layers, target, splits)
    assert predicted[6:].tolist() == [2.0, 5.0]
    assert np.isnan(predicted[:6]).all()


def test_folds_with_features_of_their_own():
    features, target, splits = data(30)
    noise = np.zeros_like(features)
    own = np.stack([features, features, noise])
    predicted = baselines.predict("ridge", own, target[:, None], splits)
    shared = baselines.predict("ridge", features, target, splits)
    for fold in (0, 1):
        held_out = splits[fold][1]
        np.testing.assert_allclose(predicted[held_out], shared[held_out])
    held_out = splits[2][1]
    mean = target[splits[2][0]].mean()
    np.testing.assert_allclose(predicted[held_out], mean)


def test_errors():
    features, target, splits = data(30)
    with pytest.raises(ParameterError, match=r"baseline: 'rigde'.*'ridge'\?"):
        baselines.predict("rigde", features, target, splits)
    with pytest.raises(DataError, match=r"shape \(29, 4\) given, \(30, width"):
        baselines.predict("ridge", features[1:], target, splits)
    with pytest.raises(DataError, match="with 3 folds in front"):
        baselines.predict("ridge", features[None][[0, 0]], target, splits)
