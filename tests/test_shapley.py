"""Inputs attributed to by block: Shapley's axioms, and shuffles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SETTINGS, coarse, fine, replicas, tables

from nestedae_utils.chapters.shapley import attributed, permutation, shapley
from nestedae_utils.model.chain import fit

BLOCKS = {"a": [0, 1], "b": [2], "c": [3, 4]}


def drawn(seed, *shape):
    """Return rounded numbers, so that some rows have equal blocks."""
    return np.random.default_rng(seed).normal(size=shape).round(1)


def curved(rows):
    """Return two models' predictions, with interactions, (2, m)."""
    a, b, c, d, e = rows.T
    return np.stack([a * b + np.tanh(c * d) - e**2, np.abs(c - e) * a])


@given(seed=st.integers(0, 2**31), count=st.integers(1, 5))
@settings(max_examples=25)
def test_shapleys_axioms(seed, count):
    rows, others = drawn(seed, count, 5), drawn(seed + 1, 7, 5)
    values, base = shapley(curved, rows, others, BLOCKS)
    assert values.shape == (2, count, 3)
    # efficiency: nothing is lost, and the base is the mean prediction
    np.testing.assert_allclose(base, curved(others).mean(-1))
    whole = values.sum(-1) + base[:, None]
    np.testing.assert_allclose(whole, curved(rows), atol=1e-10)
    # additivity, and the order of the blocks does not count
    added, _ = shapley(
        lambda x: curved(x).sum(0), rows, others, dict(reversed(BLOCKS.items()))
    )
    np.testing.assert_allclose(added[:, ::-1], values.sum(0), atol=1e-10)
    # dummy: a block that the model does not use gets nothing
    idle, _ = shapley(lambda x: x[:, 0] * x[:, 3], rows, others, BLOCKS)
    np.testing.assert_allclose(idle[..., 1], 0, atol=1e-12)
    # symmetry: blocks that the model cannot tell apart get the same
    rows[:, 1], others[:, 1] = rows[:, 0], others[:, 0]
    values, _ = shapley(
        lambda x: x[:, 0] * x[:, 1] + x.sum(1),
        rows[:, :2],
        others[:, :2],
        {"a": [0], "b": [1]},
    )
    np.testing.assert_allclose(values[:, 0], values[:, 1], atol=1e-12)


def test_permutation():
    rows = np.random.default_rng(0).normal(size=(50, 5))
    rows[:, 1] = rows[:, 0]
    target = rows[:, 2].copy()

    def predict(x):
        return np.stack([x[:, 2], x[:, 2] + x[:, 1] - x[:, 0]])

    blocks = {**BLOCKS, "0": [0]}
    found = permutation(predict, rows, target, blocks, 20)
    # equal columns stay equal if their block is shuffled as one
    np.testing.assert_allclose(found[:, [0, 2]], 0, atol=1e-12)
    assert found[0, 3] == 0 < 0.5 < found[1, 3]
    apart = np.abs(target[:, None] - target).mean()
    assert found[0, 1] == pytest.approx(apart, rel=0.1)
    # every shuffle is another, and the same again
    again, fewer = (permutation(predict, rows, target, blocks, n) for n in (20, 10))
    np.testing.assert_array_equal(again, found)
    assert abs(fewer - found)[0, 1] > 1e-6


def test_attributed():
    table, parts = tables(), ("x", "kind")
    apart = replicas(3, 2)
    lower = fit(fine(), table, replicas().pick(fold=0), **SETTINGS)
    chain = fit(coarse(), table, apart, lower, **SETTINGS)
    blocks = {"x": [0, 1, 2], "kind": [3, 4, 5, 6]}
    found = attributed(chain, table, "y", blocks, background=99, repeats=3, parts=parts)
    assert found.columns.shape == (6, 7)
    predicted = chain.predict(table)["y"][..., 0]
    near = {"atol": 1e-5}
    for replica, (seen, held) in enumerate(apart.splits):
        own = found.shapley[replica]
        assert np.isnan(own[seen]).all(), "held-out rows only"
        whole = own[held].sum(-1) + found.base[replica]
        np.testing.assert_allclose(whole, predicted[replica, held], **near)
        # the background is of training rows, here all of them
        mean = predicted[replica, seen].mean()
        np.testing.assert_allclose(found.base[replica], mean, **near)

        def predict(rows, replica=replica):
            given = {"x": rows[:, :3], "kind": rows[:, 3:]}
            return chain.predict(given)["y"][replica, :, 0]

        # what is shuffled are held-out rows
        wide = np.hstack([table[part] for part in parts])[held]
        risen = permutation(predict, wide, table["y"][held, 0], blocks, 3)
        np.testing.assert_allclose(found.blocks[replica], risen, **near)
