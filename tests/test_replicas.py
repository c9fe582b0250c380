"""Replicas: labels instead of places."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.replicas import Replicas


def folds(rows: int, count: int) -> list:
    """Return folds of neighbouring rows."""
    every = np.arange(rows)
    cuts = np.array_split(every, count)
    return [(np.setdiff1d(every, held), held) for held in cuts]


def test_seeds_lie_within_folds_and_sizes_around_them():
    replicas = Replicas.cross(folds(6, 2), 3, first=5).times(latent=[2, 4])
    assert len(replicas) == 12
    assert replicas.labels["latent"].tolist() == [2] * 6 + [4] * 6
    assert replicas.labels["fold"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert replicas.labels["seed"].tolist() == [5, 6, 7] * 4
    assert replicas.where(fold=1, seed=6).tolist() == [4, 10]
    some = replicas.pick(latent=4, fold=0)
    assert some.labels["seed"].tolist() == [5, 6, 7]
    assert [held.tolist() for _, held in some.splits] == [[0, 1, 2]] * 3


def test_a_fold_without_rows_is_refused():
    with pytest.raises(ParameterError, match="no training or no held-out"):
        Replicas.cross([(np.arange(3), np.arange(0))])


@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 3))
def test_a_grid_is_means_by_label(count, seeds, sizes):
    replicas = Replicas.cross(folds(12, count), seeds).times(latent=range(sizes))
    values = np.random.default_rng(0).normal(size=(len(replicas), 2))
    cube = values.reshape(sizes, count, seeds, 2)
    assert np.allclose(replicas.grid(values, "latent", "fold"), cube.mean(2))
    assert np.allclose(replicas.grid(values, "seed"), cube.mean((0, 1)))


def test_summary_is_over_folds_else_over_seeds():
    values = [1.0, 3.0, 5.0, 9.0]
    mean, spread, count = Replicas.cross(folds(4, 2), 2).summary(values)
    assert (mean, count) == (4.5, 4)
    assert spread == pytest.approx(np.std([2, 7], ddof=1))
    one = Replicas.cross(folds(4, 2)[:1], 4).summary(values)
    assert one[1] == pytest.approx(np.std(values, ddof=1))
    assert np.isnan(Replicas.cross(folds(4, 2)[:1]).summary([1.0])[1])


@given(st.integers(2, 8), st.integers(1, 3), st.integers(8, 30))
def test_every_row_is_out_of_its_fold(count, seeds, rows):
    replicas = Replicas.cross(folds(rows, count), seeds)
    # what a replica says of a row is whether it held the row out
    says = np.zeros((len(replicas), rows, 1))
    for own, (_, held) in zip(says, replicas.splits, strict=True):
        own[held] = 1
    assert (replicas.out_of_fold(says) == 1).all()
    assert (replicas.in_fold(says) == 0).all()
    kept = replicas.out_of_fold(
        says + replicas.labels["seed"][:, None, None], keep="seed"
    )
    assert (kept[..., 0] == 1 + np.arange(seeds)[:, None]).all()


def test_a_row_that_nobody_held_out_has_no_value():
    replicas = Replicas.cross(folds(4, 2)[:1])
    found = replicas.out_of_fold(np.ones((1, 4)))
    assert np.isnan(found).tolist() == [False, False, True, True]
