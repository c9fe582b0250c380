"""The choice by inner folds, and what the outer ones are told."""

import numpy as np
import pytest

from nestedae_utils.chapters import better
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.study import protocol

SETTINGS = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def task():
    random = np.random.default_rng(0)
    table = {
        "ions": random.random((36, 15)),
        "factors": random.random((36, 2)),
        "gap": random.random((36, 1)),
    }
    folds = protocol.row_folds(36, 3)
    candidates = {
        name: (better.gap_scale(names, 3), SETTINGS)
        for name, names in (
            ("ions", ["ions"]),
            ("factors", ["factors"]),
            ("both", ["ions", "factors"]),
        )
    }
    inner = protocol.inner_folds(folds, 2)
    return better.Task(table, "gap", folds, inner, 2, "cpu", candidates)


def test_inner_errors_are_those_of_the_ensemble_on_inner_rows(task):
    fitted = task.fit("ions", task.inner, better.INNER_MEMBERS)
    predicted = fitted.predict(task.table)["gap"][..., 0].reshape(6, 2, 36)
    errors = [
        np.abs(mean - task.truth)[rows]
        for mean, (_, rows) in zip(predicted.mean(1), task.inner, strict=True)
    ]
    expected = [np.concatenate(errors[place : place + 2]).mean() for place in (0, 2, 4)]
    np.testing.assert_allclose(task.inner_errors(fitted), expected)


def test_outer_rows_change_no_choice(task):
    before = task.try_all()
    table = {key: values.copy() for key, values in task.table.items()}
    held = task.folds[0][1]
    for values in table.values():
        values[held] += 5.0
    other = better.Task(table, "gap", task.folds, task.inner, 2, "cpu", task.candidates)
    assert (other.try_all()[0] == before[0]).all()
    assert (other.try_all()[1] != before[1]).any()


def test_each_fold_is_judged_by_the_candidates_it_chose(task):
    chosen = [["ions", "both"], ["both", "factors"], ["both", "ions"]]
    predicted, steps = task.judge(chosen, task.folds)
    assert predicted.shape == (6, 36)
    assert (np.isfinite(predicted).sum(0) == 4).all()
    # 24 rows in batches of 16, 2 epochs, 2 candidates and 2 members a fold
    assert steps == 2 * 2 * 3 * 2 * 2
    alone = task.fit("factors", task.folds[1:2], 2)
    rows = task.folds[1][1]
    np.testing.assert_array_equal(
        predicted[2:4][:, rows], alone.predict(task.table)["gap"][:, rows, 0]
    )


def test_each_member_stands_on_the_member_with_its_seed(task):
    lower = task.fit("ions", task.folds[:1], 3)
    table = {
        **task.table,
        "pce": task.table["gap"],
        "etl": np.eye(7)[np.arange(36) % 7],
        "htl": np.eye(4)[np.arange(36) % 4],
    }
    device = {"device": (better.device_scale([], 3, 2), SETTINGS)}
    one = better.Task(table, "pce", task.folds, task.inner, 2, "cpu", device, lower)
    below = one.fit("device", task.folds, 2).fitted["band_gap"].replicas
    assert isinstance(below, Replicas)
    assert list(below.labels["seed"]) == [0, 1, 0, 1, 0, 1]


def test_best_candidates_of_each_fold(task):
    errors = task.try_all()
    best = better.best_of(errors)
    for fold, names in enumerate(best):
        assert errors.loc[names, fold].max() <= errors[fold].median()
    tried = task.tried(errors)
    assert tried["among the best in folds"].sum() == better.KEEP * 3
