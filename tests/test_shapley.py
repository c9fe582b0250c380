"""Inputs attributed to by block: Shapley's axioms, and shuffles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.chapters.shapley import attributed, permutation, shapley
from nestedae_utils.model.chain import fit
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study.protocol import row_folds

BLOCKS = {"a": [0, 1], "b": [2], "c": [3, 4]}
SEEDS = st.integers(0, 2**31)
FEW = settings(max_examples=25, deadline=None)


def drawn(seed, *shape):
    """Return rounded numbers, so that some rows have equal blocks."""
    return np.random.default_rng(seed).normal(size=shape).round(1)


def curved(rows):
    """Return two models' predictions, with interactions, (2, m)."""
    a, b, c, d, e = rows.T
    return np.stack([a * b + np.tanh(c * d) - e**2, np.abs(c - e) * a])


@given(seed=SEEDS, count=st.integers(1, 5))
@FEW
def test_values_sum_to_the_prediction(seed, count):
    """Efficiency: nothing is lost, and the base is the mean prediction."""
    rows, others = drawn(seed, count, 5), drawn(seed + 1, 7, 5)
    values, base = shapley(curved, rows, others, BLOCKS)
    assert values.shape == (2, count, 3)
    np.testing.assert_allclose(base, curved(others).mean(-1))
    np.testing.assert_allclose(
        values.sum(-1) + base[:, None], curved(rows), atol=1e-10
    )


@given(seed=SEEDS)
@FEW
def test_a_block_that_does_nothing_gets_nothing(seed):
    """Dummy: columns that the model does not use."""
    rows, others = drawn(seed, 3, 5), drawn(seed + 1, 6, 5)
    values, _ = shapley(lambda x: x[:, 0] * x[:, 3], rows, others, BLOCKS)
    np.testing.assert_allclose(values[..., 1], 0, atol=1e-12)


@given(seed=SEEDS)
@FEW
def test_equal_parts_get_equal_values(seed):
    """Symmetry: two blocks that the model cannot tell apart."""
    rows, others = drawn(seed, 3, 2), drawn(seed + 1, 6, 2)
    rows[:, 1], others[:, 1] = rows[:, 0], others[:, 0]
    values, _ = shapley(
        lambda x: x[:, 0] * x[:, 1] + x.sum(1),
        rows,
        others,
        {"a": [0], "b": [1]},
    )
    np.testing.assert_allclose(values[:, 0], values[:, 1], atol=1e-12)


@given(seed=SEEDS)
@FEW
def test_values_of_a_sum_are_the_sums_of_values(seed):
    """Additivity, and the order of the blocks does not count."""
    rows, others = drawn(seed, 2, 5), drawn(seed + 1, 4, 5)
    two, _ = shapley(curved, rows, others, BLOCKS)
    whole, _ = shapley(
        lambda x: curved(x).sum(0),
        rows,
        others,
        dict(reversed(BLOCKS.items())),
    )
    np.testing.assert_allclose(whole[:, ::-1], two.sum(0), atol=1e-10)


def test_values_of_a_linear_model():
    rows, others = drawn(0, 4, 5), drawn(1, 9, 5)
    weights = np.arange(5.0)
    values, _ = shapley(lambda x: x @ weights, rows, others, BLOCKS)
    away = (rows - others.mean(0)) * weights
    for place, own in enumerate(BLOCKS.values()):
        np.testing.assert_allclose(
            values[:, place], away[:, own].sum(1), atol=1e-12
        )


def test_permutation():
    rows = np.random.default_rng(0).normal(size=(50, 5))
    rows[:, 1] = rows[:, 0]
    target = rows[:, 2].copy()

    def predict(x):
        return np.stack([x[:, 2], x[:, 2] + x[:, 1] - x[:, 0]])

    blocks = {**BLOCKS, "0": [0]}
    found = permutation(predict, rows, target, blocks, 20)
    assert found.shape == (2, 4)
    # equal columns stay equal if their block is shuffled as one
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(found[:, 2], 0, atol=1e-12)
    assert found[0, 3] == 0
    assert found[1, 3] > 0.5
    apart = np.abs(target[:, None] - target).mean()
    assert found[0, 1] == pytest.approx(apart, rel=0.1)
    again = permutation(predict, rows, target, blocks, 20)
    np.testing.assert_array_equal(again, found)
    # every shuffle is another
    fewer = permutation(predict, rows, target, blocks, 10)
    assert abs(fewer - found)[0, 1] > 1e-6


def test_attributed(monkeypatch, tmp_path):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path))
    random = np.random.default_rng(0)
    kinds = random.integers(0, 2, 24)
    table = {
        "ions": random.normal(size=(24, 3)).round(),
        "layer": np.eye(2)[kinds],
    }
    table["y"] = table["ions"][:, :1] + 3 * kinds[:, None]
    low = Scale("low", (Block("ions", 3),), 2, (Head("ions", 3),))
    high = Scale(
        "high",
        (Block("z", 2, latents_of="low"), Block("layer", 2, "none")),
        2,
        (Head("y", 1), Head("layer", 2, loss="cross_entropy")),
    )
    given_ = {"epochs": 40, "batch_size": 6, "learning_rate": 0.03}
    folds = row_folds(24, 3)
    lower = fit(low, table, Replicas.cross(folds[:1]), **given_)
    replicas = Replicas.cross(folds, 2)
    chain = fit(high, table, replicas, lower, **given_)
    blocks = {"ions": [0, 1, 2], "layer": [3, 4]}
    found = attributed(
        chain, table, "y", blocks,
        background=99, repeats=3, parts=("ions", "layer"),
    )  # fmt: skip
    assert found.shapley.shape == (6, 24, 2)
    assert found.blocks.shape == (6, 2)
    assert found.columns.shape == (6, 5)
    assert (found.blocks[:, 1] > 0).all()
    predicted = chain.predict(table)["y"][..., 0]
    wide = np.hstack([table["ions"], table["layer"]])
    for replica, (seen, held) in enumerate(replicas.splits):
        own = found.shapley[replica]
        assert np.isnan(own[seen]).all(), "held-out rows only"
        np.testing.assert_allclose(
            own[held].sum(-1) + found.base[replica],
            predicted[replica, held],
            atol=1e-5,
        )
        # the background is of training rows, here all of them
        assert found.base[replica] == pytest.approx(
            predicted[replica, seen].mean(), abs=1e-5
        )

        def predict(rows, replica=replica):
            given = {"ions": rows[:, :3], "layer": rows[:, 3:]}
            return chain.predict(given)["y"][replica, :, 0]

        # what is shuffled are held-out rows
        np.testing.assert_allclose(
            found.blocks[replica],
            permutation(predict, wide[held], table["y"][held, 0], blocks, 3),
            atol=1e-5,
        )
