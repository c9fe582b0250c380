"""Latents matched across replicas; encoders that are not as trained."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.chapters import interpretation
from nestedae_utils.model.chain import fit
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale

SEEDS = st.integers(0, 2**31)
FEW = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NESTEDAE_CACHE", str(folder))


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def disguised(latents, seed):
    """Return latents with an order and signs of their own in each replica."""
    random = np.random.default_rng(seed)
    size = latents.shape[-1]
    return np.stack(
        [
            one[:, random.permutation(size)] * random.choice([-1, 1], size)
            for one in latents
        ]
    )


def test_correlations_are_pearsons():
    first, second = drawn(0, 3, 30, 4), drawn(1, 3, 30, 2)
    found = interpretation.correlations(first, second)
    assert found.shape == (3, 4, 2)
    for replica in range(3):
        both = np.hstack([first[replica], second[replica]])
        wanted = np.corrcoef(both.T)[:4, 4:]
        np.testing.assert_allclose(found[replica], wanted, atol=1e-12)
    constant = np.full((30, 1), 0.1)
    found = interpretation.correlations(first[0], constant)
    assert found.tolist() == [[0]] * 4


@given(seed=SEEDS, replicas=st.integers(1, 4), size=st.integers(1, 6))
@FEW
def test_matched_latents_do_not_depend_on_order_and_sign(seed, replicas, size):
    """The same latents in disguise come back as the first one's."""
    latents = np.repeat(drawn(seed, 1, 40, size), replicas, axis=0)
    hidden = disguised(latents, seed + 1)
    found = interpretation.match(hidden)
    placed = found.apply(hidden)
    np.testing.assert_allclose(placed, hidden[[0] * replicas])
    np.testing.assert_allclose(found.agreement, 1)
    assert (found.order[0] == range(size)).all()
    assert (found.signs[0] == 1).all()


@given(seed=SEEDS)
@FEW
def test_matching_different_latents_in_disguise(seed):
    """Replicas that differ are matched alike, however they are disguised."""
    latents = drawn(seed, 3, 30, 4)
    hidden = latents.copy()
    hidden[1:] = disguised(latents[1:], seed + 1)
    plain, other = interpretation.match(latents), interpretation.match(hidden)
    np.testing.assert_allclose(other.agreement, plain.agreement)
    np.testing.assert_allclose(other.apply(hidden), plain.apply(latents))
    for measure in (interpretation.agreement, interpretation.shared):
        assert measure(disguised(latents, seed)) == pytest.approx(
            measure(latents)
        )


def test_the_match_is_the_best_of_all():
    latents = drawn(3, 2, 25, 4)
    latents[1, :, 3] = 0.1
    size = np.abs(interpretation.correlations(*latents))
    best = max(
        sum(size[place, other] for place, other in enumerate(order))
        for order in permutations(range(4))
    )
    found = interpretation.match(latents)
    assert found.agreement[1].sum() == pytest.approx(best)
    # a constant latent agrees with nothing
    assert found.agreement[1].min() == 0


def test_agreement_is_over_all_pairs():
    latents = drawn(0, 3, 20, 2)
    pairs = [
        interpretation.match(latents[[first, second]]).agreement[1].mean()
        for first, second in ((0, 1), (0, 2), (1, 2))
    ]
    assert interpretation.agreement(latents) == pytest.approx(np.mean(pairs))


@given(seed=SEEDS)
@FEW
def test_other_axes_share_the_space(seed):
    latents = drawn(seed, 1, 50, 3)
    turn = np.linalg.qr(drawn(seed + 1, 3, 3))[0]
    both = np.stack([latents[0], latents[0] @ turn + 2])
    assert interpretation.shared(both) == pytest.approx(1)
    assert 0 < interpretation.agreement(both) <= 1 + 1e-12


def test_what_is_shared():
    latents = drawn(0, 2, 500, 3)
    assert interpretation.shared(latents) < 0.05
    assert interpretation.agreement(latents) < 0.1
    latents[:, :, 0] = 0.1  # a constant latent is left out
    assert interpretation.shared(latents) < 0.05
    # all of a line's latents from a plane, but not the other way
    plane = drawn(0, 60, 2)
    both = np.stack([plane, np.hstack([plane[:, :1]] * 2)])
    found = interpretation.shared(both)
    assert found == pytest.approx(interpretation.shared(both[::-1]))
    assert 0.7 < found < 0.8


def test_information():
    latents = drawn(0, 2, 300, 2)
    values = np.stack([latents[0, :, 0] ** 2, drawn(1, 300)], axis=1)
    found = interpretation.information(latents, values)
    assert found.shape == (2, 2, 2)
    # a square has no correlation with what it is made of, but is known by it
    square = interpretation.correlations(latents[0], values)[0, 0]
    assert abs(square) < 0.3
    assert found[0, 0, 0] > 1
    assert found.ravel()[1:].max() < 0.15
    assert (found >= 0).all()


def test_rank():
    values = drawn(0, 40, 2)
    wide = np.hstack([values, values @ drawn(1, 2, 3), np.full((40, 1), 0.1)])
    assert interpretation.rank(wide) == 2
    assert interpretation.rank(values * [1, 1000]) == 2
    line = values[:, :1] + 0.01 * values
    assert interpretation.rank(line, 0.9) == 1
    assert interpretation.rank(line) == 2


def test_encoders_that_are_not_as_trained():
    table = {"a": drawn(0, 24, 3), "b": drawn(1, 24, 2)}
    blocks = (Block("a", 3), Block("b", 2))
    scale = Scale("one", blocks, 2, (Head("a", 3), Head("b", 2)))
    rows = np.arange(24)
    replicas = Replicas.cross([(rows[::2], rows[1::2]), (rows, rows)], 2)
    chain = fit(
        scale, table, replicas, epochs=3, batch_size=8, learning_rate=0.01
    )

    def weights(chain):
        return chain.fitted["one"].parameters[interpretation.WEIGHTS]

    before = weights(chain).copy()
    other = weights(interpretation.exchanged(chain, "one"))
    for block in (slice(0, 3), slice(3, 5)):
        assert not np.array_equal(other[:, block], before[:, block])
        np.testing.assert_array_equal(
            np.sort(other[:, block], 1), np.sort(before[:, block], 1)
        )
    cut = np.median(np.abs(before))
    pruned = weights(interpretation.pruned(chain, "one", cut))
    assert ((pruned == 0) == (np.abs(before) < cut)).all()
    start = interpretation.untrained(chain, "one").encode(table)
    np.testing.assert_array_equal(start[:2], start[2:])
    assert not np.array_equal(start[0], start[1])
    # a few steps do not lead far away from the start, and the chain stays
    assert np.abs(start - chain.encode(table)).max() < 0.5
    np.testing.assert_array_equal(weights(chain), before)
