"""Latents matched across replicas; inputs attributed to by block."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.chapters import interpretation as interpret
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study.protocol import row_folds
from nestedae_utils.study.statistics import out_of_fold

BLOCKS = {"a": [0, 1], "b": [2], "c": [3, 4]}
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


# --- latents ---------------------------------------------------------------


def test_correlations_are_pearsons():
    first, second = drawn(0, 3, 30, 4), drawn(1, 3, 30, 2)
    found = interpret.correlations(first, second)
    assert found.shape == (3, 4, 2)
    for place in range(3):
        both = np.hstack([first[place], second[place]])
        wanted = np.corrcoef(both.T)[:4, 4:]
        np.testing.assert_allclose(found[place], wanted, atol=1e-12)
    constant = np.full((30, 1), 0.1)
    assert interpret.correlations(first[0], constant).tolist() == [[0]] * 4


@given(seed=SEEDS, replicas=st.integers(1, 4), size=st.integers(1, 6))
@FEW
def test_matched_latents_do_not_depend_on_order_and_sign(seed, replicas, size):
    """The same latents in disguise come back as the reference's."""
    latents = np.repeat(drawn(seed, 1, 40, size), replicas, axis=0)
    hidden = disguised(latents, seed + 1)
    for reference in range(replicas):
        found = interpret.match(hidden, reference)
        placed = found.apply(hidden)
        np.testing.assert_allclose(placed, hidden[[reference] * replicas])
        np.testing.assert_allclose(found.agreement, 1)
        assert (found.order[reference] == range(size)).all()
        assert (found.signs[reference] == 1).all()


@given(seed=SEEDS)
@FEW
def test_matching_different_latents_in_disguise(seed):
    """Replicas that differ are matched alike, however they are disguised."""
    latents = drawn(seed, 3, 30, 4)
    hidden = latents.copy()
    hidden[1:] = disguised(latents[1:], seed + 1)
    plain, other = interpret.match(latents), interpret.match(hidden)
    np.testing.assert_allclose(other.agreement, plain.agreement)
    np.testing.assert_allclose(other.apply(hidden), plain.apply(latents))
    assert interpret.agreement(disguised(latents, seed)) == pytest.approx(
        interpret.agreement(latents)
    )
    assert interpret.shared(disguised(latents, seed)) == pytest.approx(
        interpret.shared(latents)
    )


def test_the_match_is_the_best_of_all():
    latents = drawn(3, 2, 25, 4)
    size = np.abs(interpret.correlations(*latents))
    best = max(
        sum(size[place, other] for place, other in enumerate(order))
        for order in permutations(range(4))
    )
    assert interpret.match(latents).agreement[1].sum() == pytest.approx(best)


def test_a_constant_latent_agrees_with_nothing():
    latents = np.repeat(drawn(0, 1, 20, 3), 2, axis=0)
    latents[1, :, 2] = 0.1
    found = interpret.match(latents)
    np.testing.assert_allclose(found.agreement[1], [1, 1, 0], atol=1e-12)
    assert found.signs[1, 2] == 1


def test_agreement_is_over_all_pairs():
    latents = drawn(0, 3, 20, 2)
    pairs = [
        interpret.match(latents[[first, second]]).agreement[1].mean()
        for first, second in ((0, 1), (0, 2), (1, 2))
    ]
    assert interpret.agreement(latents) == pytest.approx(np.mean(pairs))


@given(seed=SEEDS)
@FEW
def test_other_axes_share_the_space(seed):
    latents = drawn(seed, 1, 50, 3)
    turn = np.linalg.qr(drawn(seed + 1, 3, 3))[0]
    both = np.stack([latents[0], latents[0] @ turn + 2])
    assert interpret.shared(both) == pytest.approx(1)
    assert 0 < interpret.agreement(both) <= 1 + 1e-12


def test_unrelated_latents_share_little():
    latents = drawn(0, 2, 500, 3)
    assert interpret.shared(latents) < 0.05
    assert interpret.agreement(latents) < 0.1
    # a constant latent is left out
    latents[:, :, 0] = 0.1
    assert interpret.shared(latents) < 0.05


@pytest.mark.parametrize(
    ("latents", "told"),
    [
        (np.zeros((3, 4)), r"match: latents of shape \(3, 4\)"),
        (np.zeros((0, 4, 2)), "match: latents of shape"),
        (np.full((1, 4, 2), np.nan), "match: a latent is not finite"),
    ],
)
def test_latents_that_cannot_be_matched(latents, told):
    with pytest.raises(ParameterError, match=told):
        interpret.match(latents)


def test_errors_of_matching():
    with pytest.raises(ParameterError, match="reference: 2 given"):
        interpret.match(drawn(0, 2, 9, 2), 2)
    for function in (interpret.agreement, interpret.shared):
        with pytest.raises(ParameterError, match="1 replica given"):
            function(drawn(0, 1, 9, 2))


def test_information():
    latents = drawn(0, 2, 300, 2)
    values = np.stack([latents[0, :, 0] ** 2, drawn(1, 300)], axis=1)
    found = interpret.information(latents, values)
    assert found.shape == (2, 2, 2)
    # a square has no correlation with what it is made of, but is known by it
    square = interpret.correlations(latents[0], values)[0, 0]
    assert abs(square) < 0.3
    assert found[0, 0, 0] > 1
    assert found.ravel()[1:].max() < 0.15
    assert (found >= 0).all()


def test_errors_of_information():
    latents = drawn(0, 1, 9, 2)
    with pytest.raises(
        ParameterError, match=r"shape \(8, 1\) given, finite ones"
    ):
        interpret.information(latents, np.zeros((8, 1)))
    with pytest.raises(ParameterError, match="neighbours: 9 given"):
        interpret.information(latents, np.zeros((9, 1)), 9)


# --- Shapley values --------------------------------------------------------


def curved(rows):
    """Return two models' predictions, with interactions, (2, m)."""
    a, b, c, d, e = rows.T
    return np.stack([a * b + np.tanh(c * d) - e**2, np.abs(c - e) * a])


@given(seed=SEEDS, count=st.integers(1, 5))
@FEW
def test_values_sum_to_the_prediction(seed, count):
    """Efficiency: nothing is lost, and the base is the mean prediction."""
    rows, others = drawn(seed, count, 5), drawn(seed + 1, 7, 5)
    values, base = interpret.shapley(curved, rows, others, BLOCKS)
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
    values, _ = interpret.shapley(
        lambda x: x[:, 0] * x[:, 3], rows, others, BLOCKS
    )
    np.testing.assert_allclose(values[..., 1], 0, atol=1e-12)


@given(seed=SEEDS)
@FEW
def test_equal_parts_get_equal_values(seed):
    """Symmetry: two blocks that the model cannot tell apart."""
    rows, others = drawn(seed, 3, 2), drawn(seed + 1, 6, 2)
    rows[:, 1], others[:, 1] = rows[:, 0], others[:, 0]
    values, _ = interpret.shapley(
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
    two, _ = interpret.shapley(curved, rows, others, BLOCKS)
    whole, _ = interpret.shapley(
        lambda x: curved(x).sum(0),
        rows,
        others,
        dict(reversed(BLOCKS.items())),
    )
    np.testing.assert_allclose(whole[:, ::-1], two.sum(0), atol=1e-10)


def test_values_of_a_linear_model():
    rows, others = drawn(0, 4, 5), drawn(1, 9, 5)
    weights = np.arange(5.0)
    values, _ = interpret.shapley(lambda x: x @ weights, rows, others, BLOCKS)
    away = (rows - others.mean(0)) * weights
    for place, own in enumerate(BLOCKS.values()):
        np.testing.assert_allclose(values[:, place], away[:, own].sum(1))


@pytest.mark.parametrize(
    ("rows", "others", "blocks", "told"),
    [
        ((2, 5), (3, 5), {"a": [0, 1], "b": [1, 2, 3, 4]}, "5 columns once"),
        ((2, 5), (3, 5), {"a": [0]}, "blocks that hold each of 5 columns"),
        ((2, 5), (3, 4), BLOCKS, "tables of the same columns"),
        ((2, 5), (0, 5), BLOCKS, "at least one row"),
    ],
)
def test_errors_of_shapley(rows, others, blocks, told):
    with pytest.raises(ParameterError, match=told):
        interpret.shapley(curved, np.ones(rows), np.ones(others), blocks)


# --- permutation -----------------------------------------------------------


def test_permutation():
    rows = drawn(0, 50, 5)
    rows[:, 1] = rows[:, 0]
    target = rows[:, 2].copy()

    def predict(x):
        return np.stack([x[:, 2], x[:, 2] + x[:, 1] - x[:, 0]])

    blocks = {**BLOCKS, "0": [0]}
    found = interpret.permutation(predict, rows, target, blocks, 20)
    assert found.shape == (2, 4)
    # equal columns stay equal if their block is shuffled as one
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(found[:, 2], 0, atol=1e-12)
    assert found[0, 3] == 0
    assert found[1, 3] > 0.5
    apart = np.abs(target[:, None] - target).mean()
    assert found[0, 1] == pytest.approx(apart, rel=0.1)
    again = interpret.permutation(predict, rows, target, blocks, 20)
    np.testing.assert_array_equal(again, found)


def test_errors_of_permutation():
    with pytest.raises(ParameterError, match=r"target of shape \(3,\)"):
        interpret.permutation(curved, np.ones((2, 5)), np.ones(3), BLOCKS)
    with pytest.raises(ParameterError, match="repeats: 0 given"):
        interpret.permutation(curved, np.ones((2, 5)), np.ones(2), BLOCKS, 0)


# --- models ----------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """Return two scales, their table and the folds of the upper one."""
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
    splits, seeds = row_folds(24, 3, 2)
    given_ = {"epochs": 40, "batch_size": 6, "learning_rate": 0.03}
    chain = NestedAutoencoder([low, high])
    chain.fit_scale("low", table, splits[:1], [0], **given_)
    chain.fit_scale("high", table, splits, seeds, **given_)
    return chain, table, splits


def test_attributed(small):
    chain, table, splits = small
    blocks = {"ions": [0, 1, 2], "layer": [3, 4]}
    found = interpret.attributed(
        chain,
        table,
        "y",
        blocks,
        splits[::2],
        background=99,
        repeats=3,
        parts=("ions", "layer"),
    )
    assert found.shapley.shape == (2, 24, 2)
    assert found.blocks.shape == (3, 2, 2)
    assert found.columns.shape == (3, 2, 5)
    made = chain.predict(table)["y"]
    for seed in range(2):
        held_out = out_of_fold(made[seed::2], splits[seed::2])[:, 0]
        whole = found.shapley[seed].sum(-1) + found.base[seed]
        np.testing.assert_allclose(whole, held_out, atol=1e-5)
    assert (found.blocks[..., 1] > 0).all()
    # the background is of training rows, here all of them
    for replica, (seen, held_out) in enumerate(splits):
        np.testing.assert_allclose(
            found.base[replica % 2, held_out],
            made[replica, seen, 0].mean(),
            atol=1e-5,
        )
    # what is shuffled are held-out rows
    wide = np.hstack([table["ions"], table["layer"]])
    for fold, (_, held_out) in enumerate(splits[::2]):

        def predict(rows, fold=fold):
            given = {"ions": rows[:, :3], "layer": rows[:, 3:]}
            return chain.predict(given)["y"][2 * fold : 2 * fold + 2, :, 0]

        np.testing.assert_allclose(
            found.blocks[fold],
            interpret.permutation(
                predict, wide[held_out], table["y"][held_out, 0], blocks, 3
            ),
            atol=1e-5,
        )


def test_attributed_errors(small):
    chain, table, splits = small
    given_ = {"repeats": 1, "parts": ("ions", "layer")}
    blocks = {"ions": [0, 1, 2], "layer": [3, 4]}
    with pytest.raises(ParameterError, match="4 folds given for 6 replicas"):
        interpret.attributed(
            chain, table, "y", blocks, splits[:4], background=5, **given_
        )
    with pytest.raises(ParameterError, match="background: 0 given"):
        interpret.attributed(
            chain, table, "y", blocks, splits[::2], background=0, **given_
        )
    two = {**table, "y": np.tile(table["y"], 2)}
    with pytest.raises(ParameterError, match="'y' of shape"):
        interpret.attributed(
            chain, two, "y", blocks, splits[::2], background=5, **given_
        )


# --- directions ------------------------------------------------------------


def test_rank():
    values = drawn(0, 40, 2)
    wide = np.hstack([values, values @ drawn(1, 2, 3), np.full((40, 1), 0.1)])
    assert interpret.rank(wide) == 2
    assert interpret.rank(values * [1, 1000]) == 2
    line = values[:, :1] + 0.01 * values
    assert interpret.rank(line, 0.9) == 1
    assert interpret.rank(line) == 2
    with pytest.raises(ParameterError, match="share: 1.5 given"):
        interpret.rank(values, 1.5)
    with pytest.raises(DataError, match="every column is constant"):
        interpret.rank(np.ones((4, 2)))


def test_every_shuffle_is_another():
    rows = drawn(0, 12, 2)

    def risen(repeats):
        return interpret.permutation(
            lambda x: x[:, 0], rows, rows[:, 0], {"a": [0]}, repeats
        )

    assert abs(risen(2) - risen(1))[0] > 1e-6


def test_shared_takes_both_directions():
    """All of a plane's latents from two of them, but not the other way."""
    plane = drawn(0, 60, 2)
    line = np.hstack([plane[:, :1], plane[:, :1]])
    both = np.stack([plane, line])
    found = interpret.shared(both)
    assert found == pytest.approx(interpret.shared(both[::-1]))
    assert 0.7 < found < 0.8
    with pytest.raises(ParameterError, match="all constant"):
        interpret.shared(np.ones((2, 8, 3)))


def test_information_refuses_what_is_not_finite():
    values = drawn(1, 20, 1)
    values[3] = np.nan
    with pytest.raises(ParameterError, match="finite ones of shape"):
        interpret.information(drawn(0, 20, 2)[None], values)
