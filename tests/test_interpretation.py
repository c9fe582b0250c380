"""Latents matched across replicas; encoders that are not as trained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SETTINGS, coarse, fine, replicas, tables

from nestedae_utils.chapters import interpretation, segregation
from nestedae_utils.model.chain import fit

SEEDS = given(seed=st.integers(0, 2**31))
FEW = settings(max_examples=25)


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def disguised(latents, seed):
    """Return latents with an order and signs of their own in each replica."""
    random, hidden = np.random.default_rng(seed), np.empty_like(latents)
    for one, plain in zip(hidden, latents, strict=True):
        one[:] = plain[:, random.permutation(plain.shape[1])]
        one *= random.choice([-1, 1], plain.shape[1])
    return hidden


def test_correlations_are_pearsons():
    first, second = drawn(0, 3, 30, 4), drawn(1, 3, 30, 2)
    found = interpretation.correlations(first, second)
    for own, *both in zip(found, first, second, strict=True):
        wanted = np.corrcoef(np.hstack(both).T)[:4, 4:]
        np.testing.assert_allclose(own, wanted, atol=1e-12)
    constant = np.full((30, 1), 0.1)
    assert not interpretation.correlations(first[0], constant).any()


@SEEDS
@FEW
def test_matching_does_not_depend_on_order_and_sign(seed):
    # the same latents in disguise come back as the first one's
    hidden = disguised(np.repeat(drawn(seed, 1, 40, 5), 3, axis=0), seed)
    found = interpretation.match(hidden)
    np.testing.assert_allclose(found.apply(hidden), hidden[[0] * 3])
    np.testing.assert_allclose(found.agreement, 1)
    # different ones are matched alike, however they are disguised
    latents = drawn(seed, 3, 30, 4)
    hidden = np.concatenate([latents[:1], disguised(latents[1:], seed)])
    plain, other = map(interpretation.match, (latents, hidden))
    np.testing.assert_allclose(other.agreement, plain.agreement)
    np.testing.assert_allclose(other.apply(hidden), plain.apply(latents))
    for measure in (interpretation.agreement, interpretation.shared):
        assert measure(hidden) == pytest.approx(measure(latents))
    pairs = [
        interpretation.match(latents[[first, second]]).agreement[1].mean()
        for first, second in ((0, 1), (0, 2), (1, 2))
    ]
    assert interpretation.agreement(latents) == pytest.approx(np.mean(pairs))


@SEEDS
@FEW
def test_other_axes_share_the_space(seed):
    latents = drawn(seed, 1, 50, 3)
    turn = np.linalg.qr(drawn(seed + 1, 3, 3))[0]
    both = np.stack([latents[0], latents[0] @ turn + 2])
    assert interpretation.shared(both) == pytest.approx(1)
    assert 0 < interpretation.agreement(both) <= 1 + 1e-12


def test_what_is_not_shared():
    latents = drawn(0, 2, 500, 3)
    latents[:, :, 0] = 0.1  # a constant latent is left out
    assert interpretation.shared(latents) < 0.05
    assert interpretation.agreement(latents) < 0.1
    # all of a line's latents from a plane, but not the other way
    plane = drawn(0, 60, 2)
    both = np.stack([plane, np.hstack([plane[:, :1]] * 2)])
    assert 0.7 < interpretation.shared(both) < 0.8


def test_information_sees_what_is_not_linear():
    latents = drawn(0, 2, 300, 2)
    values = np.stack([latents[0, :, 0] ** 2, drawn(1, 300)], axis=1)
    assert abs(interpretation.correlations(latents[0], values)[0, 0]) < 0.3
    found = interpretation.information(latents, values)
    assert found.shape == (2, 2, 2)
    assert found[0, 0, 0] > 1
    assert found.ravel()[1:].max() < 0.15


def test_rank():
    values = drawn(0, 40, 2)
    wide = np.hstack([values, values @ drawn(1, 2, 3), np.full((40, 1), 0.1)])
    assert interpretation.rank(wide) == 2
    line = values[:, :1] + 0.01 * values
    assert interpretation.rank(line * [1, 1000]) == 2
    assert interpretation.rank(line, 0.9) == 1


def test_encoders_that_are_not_as_trained():
    table, name = tables(), "coarse"
    lower = fit(fine(), table, replicas().pick(fold=0), **SETTINGS)
    chain = fit(coarse(), table, replicas(2, 2), lower, **SETTINGS)

    def weights(chain):
        return chain.fitted[name].parameters[interpretation.WEIGHTS]

    before = weights(chain).copy()
    other = weights(interpretation.exchanged(chain, name))
    for block in (slice(0, 2), slice(2, 6)):
        assert not np.array_equal(other[:, block], before[:, block])
        np.testing.assert_array_equal(
            np.sort(other[:, block], 1), np.sort(before[:, block], 1)
        )
    pruned = weights(interpretation.pruned(chain, name, 0.3))
    assert ((pruned == 0) == (np.abs(before) < 0.3)).all()
    start = weights(started := interpretation.untrained(chain, name))
    first, more = segregation.untrained_maps(chain, table, 2)
    np.testing.assert_array_equal(first[:2], started.encode(table)[:2])
    assert not np.array_equal(first, more)
    np.testing.assert_array_equal(start[:2], start[2:])
    assert not np.array_equal(start[0], start[1])
    # a few steps do not lead far away from the start, and the chain stays
    assert 0 < np.abs(start - before).max() < 0.3
    np.testing.assert_array_equal(weights(chain), before)
