"""Completion and design on chains whose answers are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.chain import FittedScale, NestedAutoencoder, Scaler
from nestedae_utils.model.scales import (
    ACTIVATIONS,
    Block,
    Head,
    Scale,
    layers_of,
)
from nestedae_utils.study import inverse

LINEAR = {"latent_activation": "linear"}
LOW = Scale("low", (Block("x", 2),), 2, (Head("x", 2),), **LINEAR)
HIGH = Scale(
    "high",
    (Block("z", 2, latents_of="low"), Block("y", 1)),
    3,
    (Head("z", 2), Head("y", 1), Head("t", 1)),
    **LINEAR,
)


def parameters(scale, weights):
    """Pack matrices (R, rows, columns) by the layers' names, biases zero."""
    layers = layers_of(scale)
    flat = np.zeros((len(weights["encoder.0"]), layers[-1].stop), np.float32)
    for layer in layers:
        stop = layer.start + layer.rows * layer.columns
        flat[:, layer.start : stop] = weights[layer.name].reshape(
            len(flat), -1
        )
    return flat


def linear(seed, replicas=2):
    """Return a chain without noise: every decoder inverts its encoder.

    The target t is a weighted sum of the upper scale's inputs.
    """
    random = np.random.default_rng(seed)

    def matrix(size):
        turned = np.linalg.qr(random.normal(size=(replicas, size, size)))[0]
        return turned * random.uniform(0.5, 2, (replicas, 1, size))

    def scaler(width):
        return Scaler(
            random.normal(size=(1, 1, width)),
            random.uniform(0.5, 2, (1, 1, width)),
        )

    fine, coarse = matrix(2), matrix(3)
    back = np.linalg.inv(coarse)
    sums = random.normal(size=(3, 1))
    chain = NestedAutoencoder([LOW, HIGH])
    chain.attach(
        FittedScale(
            LOW,
            parameters(
                LOW,
                {"encoder.0": fine, "head x.0": np.linalg.inv(fine)},
            ),
            {"x": scaler(2)},
            {},
        )
    )
    chain.attach(
        FittedScale(
            HIGH,
            parameters(
                HIGH,
                {
                    "encoder.0": coarse,
                    "head z.0": back[..., :2],
                    "head y.0": back[..., 2:],
                    "head t.0": back @ sums,
                },
            ),
            {"z": scaler(2), "y": scaler(1)},
            {},
        )
    )
    table = {
        "x": random.normal(size=(40, 2)),
        "y": random.normal(size=(40, 1)),
    }
    return chain, table


def tanh_chain():
    """Return a chain of two scales with categories, its weights drawn."""
    low = Scale("low", (Block("x", 3),), 2, (Head("x", 3), Head("g", 1)))
    high = Scale(
        "high",
        (
            Block("z", 2, latents_of="low", lower_scaler="refitted"),
            Block("k", 3, scaling="none"),
            Block("w", 2),
        ),
        4,
        (
            Head("both", 4, of=("z", "w"), hidden=(5,)),
            Head("k", 3, loss="cross_entropy"),
            Head("p", 1, hidden=(6,), output="relu", scaling="standard"),
        ),
    )
    random = np.random.default_rng(0)
    table = {
        "x": random.normal(size=(30, 3)),
        "g": random.normal(size=(30, 1)),
        "k": np.eye(3)[random.integers(3, size=30)],
        "w": random.normal(size=(30, 2)),
        "p": random.normal(2, 1, size=(30, 1)),
    }
    splits = [(np.arange(24), np.arange(24, 30))] * 2
    chain = NestedAutoencoder([low, high])
    return chain.fit(
        {"low": table, "high": table},
        {"low": splits, "high": splits},
        [0, 1],
        epochs=5,
        batch_size=8,
        learning_rate=0.01,
    ), table


CHAIN, TABLE = tanh_chain()


# --- decoding --------------------------------------------------------------


def test_decoder_gives_what_the_chain_decodes():
    z = CHAIN.encode(TABLE)
    expected = CHAIN.decode(z)
    decoder = inverse.Decoder(CHAIN)
    made = decoder(torch.tensor(z, dtype=torch.float32))
    assert set(made) == {"z", "w", "k", "p", "x", "g"}
    assert len(made) == 6
    for parts in expected.values():
        for name, values in parts.items():
            np.testing.assert_allclose(
                made[name].detach(), values, rtol=1e-4, atol=1e-5
            )
    assert set(inverse.Decoder(CHAIN, "low")(made["z"])) == {"x", "g"}


def test_gradients_reach_through_the_chain():
    z = torch.zeros(2, 1, 4, requires_grad=True)
    inverse.Decoder(CHAIN)(z)["x"].sum().backward()
    assert (z.grad != 0).any(-1).all()


def test_decoder_errors():
    with pytest.raises(ParameterError, match="Did you mean 'high'"):
        inverse.Decoder(CHAIN, "hihg")
    with pytest.raises(ParameterError, match="fitted scale is allowed"):
        inverse.Decoder(NestedAutoencoder([LOW]))
    upper = NestedAutoencoder([LOW, HIGH])
    upper.attach(linear(0)[0].fitted["high"])
    with pytest.raises(ParameterError, match="'low' given, a fitted scale"):
        inverse.Decoder(upper)
    with pytest.raises(ParameterError, match="'q': not decoded"):
        inverse.Decoder(CHAIN)(torch.zeros(2, 1, 4))["q"]


# --- where the data lie ----------------------------------------------------


def test_distance_is_that_of_the_nearest_others():
    around = inverse.Neighbourhood.of(CHAIN, TABLE, neighbours=3)
    z = CHAIN.encode(TABLE)
    ask = np.random.default_rng(1).uniform(-1, 1, (2, 50, 4))
    made = around.distance(torch.tensor(ask, dtype=torch.float32)).numpy()
    for replica in range(2):
        tree = cKDTree(z[replica])
        typical = np.median(tree.query(z[replica], 4)[0][:, 1:].mean(1))
        expected = tree.query(ask[replica], 3)[0].mean(1) / typical
        # torch takes the lower of two middle values
        np.testing.assert_allclose(made[replica], expected, rtol=0.05)


def test_distances_in_parts(monkeypatch):
    around, z = inverse.Neighbourhood.of(CHAIN, TABLE), torch.rand(2, 50, 4)
    whole = around.distance(z)
    monkeypatch.setattr(inverse, "_CHUNK", 300)
    torch.testing.assert_close(around.distance(z), whole)


def test_points_close_to_each_other_and_far_from_zero():
    chain, table = linear(0)
    table["x"] = 1000 + 0.05 * table["x"]
    around = inverse.Neighbourhood.of(chain, table, scale="low")
    z = chain.encode(table, "low").astype(np.float32)
    expected = [
        np.median(np.sort(cdist(one, one))[:, 1:6].mean(1)) for one in z
    ]
    np.testing.assert_allclose(around.typical, expected, rtol=0.05)


@pytest.mark.parametrize("name", inverse.BOX)
def test_the_box_is_the_range_of_the_activation(name):
    far = torch.tensor([-1e3, 1e3])
    for end, value, at in zip(
        inverse.BOX[name], ACTIVATIONS[name].value(far), far, strict=True
    ):
        expected = end if np.isfinite(end) else at
        assert value == pytest.approx(float(expected))


def test_equal_rows_count_once_and_held_out_rows_not_at_all():
    twice = {name: np.tile(v, (2, 1)) for name, v in TABLE.items()}
    once = inverse.Neighbourhood.of(CHAIN, TABLE)
    again = inverse.Neighbourhood.of(CHAIN, twice)
    assert [len(p) for p in again.points] == [len(p) for p in once.points]
    torch.testing.assert_close(again.typical, once.typical)
    splits = [(np.arange(20), np.arange(20, 30)), (np.arange(9), [29])]
    part = inverse.Neighbourhood.of(CHAIN, TABLE, splits)
    assert [len(p) for p in part.points] == [20, 9]


def test_starts_are_training_points_and_differ():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    drawn = around.draw(30, 0)
    for own, points in zip(drawn, around.points, strict=True):
        assert len(np.unique(own.numpy(), axis=0)) == 30
        assert (torch.cdist(own, points).amin(1) < 1e-3).all()
    assert around.draw(70, 0).shape == (2, 70, 4)
    assert (around.draw(5, 0) == around.draw(5, 0)).all()
    assert (around.draw(5, 0) != around.draw(5, 1)).any()


def test_neighbourhood_errors():
    with pytest.raises(ParameterError, match="30 given for 30 distinct"):
        inverse.Neighbourhood.of(CHAIN, TABLE, neighbours=30)
    with pytest.raises(ParameterError, match="splits: 1 given for 2"):
        inverse.Neighbourhood.of(CHAIN, TABLE, [([0, 1], [2])])
    with pytest.raises(ParameterError, match="starts: 0 given"):
        inverse.Neighbourhood.of(CHAIN, TABLE).draw(0, 0)


# --- completion ------------------------------------------------------------


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_completion_of_a_linear_chain_is_exact(seed):
    """All inputs known: one point, whose target is the true one."""
    chain, table = linear(seed)
    around = inverse.Neighbourhood.of(chain, table)
    rows = {name: values[:3] for name, values in table.items()}
    known = {"z": chain.encode(rows, "low"), "y": rows["y"]}
    found = inverse.complete(
        chain, known, around, starts=4, steps=600, rate=0.2, tolerance=0.01
    )
    assert (found.fits.sum(-1) == 1).all(), "the starts end in one point"
    np.testing.assert_allclose(
        found.latents[:, :, 0], chain.encode(rows), atol=0.01
    )
    np.testing.assert_allclose(
        found.best("t"), chain.predict(rows)["t"], atol=0.02
    )


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_completion_of_one_scale_agrees_with_it(seed):
    """The lower latents known: they are met, whatever else is decoded."""
    chain, table = linear(seed)
    around = inverse.Neighbourhood.of(chain, table)
    fine = chain.encode({"x": table["x"][:3]}, "low")
    found = inverse.complete(
        chain, {"z": fine}, around, starts=4, steps=1000, rate=0.2
    )
    assert found.fits[..., 0].all()
    np.testing.assert_allclose(
        found.decoded["z"], np.tile(fine[:, :, None], (1, 1, 4, 1)), atol=0.02
    )


def test_converse_reaches_the_lower_scale():
    """What the upper scale knows fixes the lower one, by the same call."""
    chain, table = linear(3)
    around = inverse.Neighbourhood.of(chain, table)
    rows = {name: values[:4] for name, values in table.items()}
    known = {"y": rows["y"], "x": rows["x"]}
    found = inverse.complete(
        chain, known, around, starts=3, steps=600, rate=0.2, tolerance=0.01
    )
    np.testing.assert_allclose(
        found.latents[:, :, 0], chain.encode(rows), atol=0.02
    )


def test_rows_do_not_depend_on_each_other():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    fine = CHAIN.encode(TABLE, "low", seen_by="high")[:, :5]
    known = {"z": fine, "k": TABLE["k"][:5]}
    given_ = {"starts": 3, "steps": 20}
    every = inverse.complete(CHAIN, known, around, **given_)
    last = inverse.complete(
        CHAIN, {"z": fine[:, 4:], "k": TABLE["k"][4:5]}, around, **given_
    )
    np.testing.assert_allclose(every.latents[:, 4:], last.latents, atol=1e-4)
    np.testing.assert_allclose(every.misfit[:, 4:], last.misfit, atol=1e-4)


def test_misfit_is_the_largest_over_the_known_parts():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    found = inverse.complete(
        CHAIN,
        {"k": TABLE["k"][:2], "w": TABLE["w"][:2]},
        around,
        starts=4,
        steps=3,
        tolerance=0.6,
    )
    told = (found.decoded["k"] * TABLE["k"][:2, None]).sum(-1)
    unit = CHAIN.fitted["high"].scalers["w"].deviation
    off = (found.decoded["w"] - TABLE["w"][:2, None]) / unit[:, :, None]
    expected = np.maximum(1 - told, np.sqrt((off**2).mean(-1)))
    np.testing.assert_allclose(found.misfit, expected, rtol=1e-4)
    assert (found.misfit[found.fits] <= 0.6).all()
    # what fits stands first, the nearest to the data foremost
    good = found.misfit <= 0.6
    assert (np.diff(good.astype(int), axis=-1) <= 0).all()
    for replica, row in np.ndindex(good.shape[:2]):
        near = found.distance[replica, row][good[replica, row]]
        assert (np.diff(near) >= 0).all()


def test_misfit_without_a_scaler_is_in_deviations_of_what_is_decoded():
    chain, table = linear(2)
    assert "t" not in chain.fitted["high"].scalers
    around = inverse.Neighbourhood.of(chain, table)
    found = inverse.complete(chain, {"t": [[1.0]]}, around, starts=2, steps=1)
    unit = chain.predict(table)["t"].std(1, ddof=1)[:, None]
    off = np.abs(found.decoded["t"][..., 0] - 1) / unit
    np.testing.assert_allclose(found.misfit, off, rtol=0.02)


def test_misfit_of_a_block_in_small_units():
    chain, table = linear(2)
    scaler = chain.fitted["high"].scalers["y"]
    small = Scaler(scaler.mean, np.full_like(scaler.deviation, 1e-7))
    chain.fitted["high"].scalers["y"] = small
    table["y"] = small.mean[0] + 1e-7 * table["y"]
    around = inverse.Neighbourhood.of(chain, table)
    known = {"y": small.mean[0] + 1e-4}
    found = inverse.complete(chain, known, around, starts=2, steps=1)
    assert (found.misfit > 100).all()
    assert not found.fits.any()


def test_known_categories_are_met():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    few, many = (
        inverse.complete(
            CHAIN, {"k": np.eye(3)}, around, starts=8, steps=steps
        ).misfit
        for steps in (1, 200)
    )
    assert (many < few).all()


def test_solutions_differ_and_none_is_lost():
    chain, table = linear(0)
    around = inverse.Neighbourhood.of(chain, table)
    fine = chain.encode({"x": table["x"][:3]}, "low")
    found = inverse.complete(chain, {"z": fine}, around, starts=32, apart=0.5)
    near = 0.5 * around.typical.numpy()
    for replica, row in np.ndindex(found.fits.shape[:2]):
        z, fits = found.latents[replica, row], found.fits[replica, row]
        good = found.misfit[replica, row] <= 0.1
        assert fits.sum() > 1
        apart = np.sort(cdist(z[fits], z[fits]))[:, 1]
        assert (apart >= near[replica]).all()
        assert (cdist(z[good], z[fits]).min(1) < near[replica]).all()


def test_mean_and_spread_are_over_the_replicas_that_fit():
    shape = 3, 2, 1
    points = inverse.Points(
        np.zeros((*shape, 1)),
        {"p": np.array([1.0, 10, 3, 20, 99, 30]).reshape(*shape, 1)},
        np.zeros(shape),
        np.zeros(shape),
        np.array([[1, 1], [1, 0], [0, 0]], bool)[..., None],
    )
    mean, spread, count = points.over_replicas("p")
    np.testing.assert_allclose(mean[:, 0], [2, 10])
    np.testing.assert_allclose(spread[:, 0], [2**0.5, np.nan])
    assert count.tolist() == [2, 1]


def test_a_penalty_begins_where_it_is_told_to():
    chain, table = linear(1)
    around = inverse.Neighbourhood.of(chain, table)
    fine = chain.encode({"x": table["x"][:5] + 1}, "low")
    free, far, near = (
        inverse.complete(
            chain, {"z": fine}, around, density=weight, reach=reach
        ).latents
        for weight, reach in ((0.0, 1.0), (1.0, 1e6), (1.0, 1.0))
    )
    np.testing.assert_allclose(far, free, atol=1e-5)
    assert np.abs(near - free).max() > 0.01


def test_nothing_fits_and_everything_is_one():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    known = {"w": [[50.0, -50.0]]}
    none = inverse.complete(CHAIN, known, around, starts=3, steps=5)
    assert not none.fits.any()
    assert np.isnan(none.best("p")).all()
    mean, spread, count = none.over_replicas("p")
    assert np.isnan([mean, spread]).all()
    assert (count == 0).all()
    one = inverse.complete(
        CHAIN, known, around, starts=3, steps=5, tolerance=10**3, apart=1e3
    )
    assert (one.fits.sum(-1) == 1).all()
    mean, spread, count = one.over_replicas("p")
    np.testing.assert_allclose(mean, one.best("p").mean(0))
    np.testing.assert_allclose(spread, one.best("p").std(0, ddof=1))
    assert (count == 2).all()


def test_latents_stay_in_their_box():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    found = inverse.complete(
        CHAIN, {"w": [[50.0, -50.0]]}, around, starts=4, steps=50, rate=0.5
    )
    assert np.abs(found.latents).max() <= 1


def test_a_penalty_brings_solutions_to_the_data():
    chain, table = linear(1)
    around = inverse.Neighbourhood.of(chain, table)
    fine = chain.encode({"x": table["x"][:5] + 1}, "low")
    free, held = (
        inverse.complete(
            chain, {"z": fine}, around, density=weight, tolerance=9.0
        )
        for weight in (0.0, 1.0)
    )
    assert held.distance.mean() < free.distance.mean()
    assert held.misfit.mean() >= free.misfit.mean()


def test_completion_errors():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    other = inverse.Neighbourhood.of(CHAIN, TABLE, scale="low")
    for known, message in (
        ({}, "nothing given"),
        ({"pp": [[1.0]]}, "'pp': not decoded"),
    ):
        with pytest.raises(ParameterError, match=message):
            inverse.complete(CHAIN, known, around)
    for known, message in (
        ({"p": [1.0]}, r"\(rows, 1\) is allowed"),
        ({"p": np.zeros((3, 2, 1))}, "2 replicas"),
        ({"p": [[np.nan]]}, "not finite"),
        ({"p": np.zeros((0, 1))}, r"shape \(0, 1\) given"),
        ({"k": [[2, 2, 2]]}, "not one-hot"),
        ({"k": [[0, 0, 0]]}, "not one-hot"),
        ({"p": [[1.0]], "k": np.eye(3)}, r"\[1, 3\] rows"),
    ):
        with pytest.raises(DataError, match=message):
            inverse.complete(CHAIN, known, around)
    known = {"p": [[1.0]]}
    for changed, message in (
        ({"around": other}, "make it of the same chain"),
        ({"tolerance": 0.0}, "tolerance: 0.0"),
        ({"steps": 0}, "steps: 0"),
        ({"rate": 0.0}, "rate: 0.0"),
        ({"density": -1.0}, "density: -1.0 given"),
        ({"density": "a"}, "density: 'a' given"),
        ({"reach": 0.0}, "reach: 0.0"),
        ({"apart": -1.0}, "apart: -1.0"),
        ({"starts": 0}, "starts: 0"),
        ({"starts": -1}, "starts: -1"),
        ({"starts": 2.5}, "starts: 2.5"),
        ({"seed": -1}, "seed: -1"),
    ):
        with pytest.raises(ParameterError, match=message) as caught:
            inverse.complete(
                CHAIN, known, **{"around": around, "steps": 2, **changed}
            )
        assert "\n" not in str(caught.value)


# --- design ----------------------------------------------------------------


def test_a_point_without_a_finite_objective_does_not_count():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)

    def objective(made):
        return torch.log(made["w"][..., 0])

    found = inverse.design(CHAIN, objective, around, starts=32, steps=1)
    assert not np.isfinite(found.misfit).all()
    assert found.fits.any()
    assert np.isfinite(found.misfit[found.fits]).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_design_finds_the_optimum_of_a_known_function(seed):
    """A paraboloid of what is decoded has its top where it says."""
    chain, table = linear(seed)
    around = inverse.Neighbourhood.of(chain, table)
    top = {"x": np.array([[0.3, -0.4]]), "y": np.array([[0.2]])}

    def objective(made):
        return -sum(
            (made[name] - torch.tensor(at, dtype=torch.float32))
            .square()
            .sum(-1)
            for name, at in top.items()
        )

    found = inverse.design(
        chain, objective, around, density=0.0, steps=800, rate=0.2, starts=5
    )
    np.testing.assert_allclose(
        found.latents[:, :, 0], chain.encode(top), atol=0.03
    )
    assert np.abs(found.misfit).max() < 1e-3
    assert (found.fits.sum(-1) == 1).all()


def test_design_of_a_linear_function_ends_in_a_corner_of_the_box():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    found = inverse.design(
        CHAIN,
        lambda made: made["w"][..., 0] * 1e-3 + made["w"][..., 1],
        around,
        density=0.0,
        steps=300,
        rate=0.1,
        starts=8,
    )
    corners = np.abs(found.latents[:, 0, 0])
    assert (corners > 0.99).sum() >= 6
    assert (np.diff(found.misfit, axis=-1) >= 0).all()


def test_the_penalty_keeps_a_design_near_the_data():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    far = {
        weight: inverse.design(
            CHAIN, lambda made: made["w"][..., 0], around, density=weight
        ).distance.max()
        for weight in (0.0, 1.0, 1000.0)
    }
    assert far[0.0] > far[1.0] > far[1000.0]
    assert far[1000.0] < 1.2


def test_design_refuses_another_shape():
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    with pytest.raises(DataError, match="one number a point"):
        inverse.design(CHAIN, lambda made: made["w"], around)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    around = inverse.Neighbourhood.of(CHAIN, TABLE)
    with pytest.raises(ParameterError):
        inverse.complete(CHAIN, {"p": [[1.0]]}, around, steps=0)
    assert torch.get_num_threads() == before


# --- between two points ----------------------------------------------------

vectors = st.lists(
    st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=3
).map(np.array)


@given(vectors, vectors, st.integers(2, 9), st.sampled_from(inverse.PATHS))
@settings(max_examples=60, deadline=None)
def test_ways_begin_and_end_where_they_should(first, second, count, path):
    made = inverse.interpolate(first, second, count, path)
    assert made.shape == (count, 3)
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made[0], first, atol=1e-6)
    np.testing.assert_allclose(made[-1], second, atol=1e-6)
    if path == "linear":
        np.testing.assert_allclose(np.diff(made, 2, axis=0), 0, atol=1e-12)


def test_an_arc_changes_length_and_direction_evenly():
    first, second = np.array([[2.0, 0.0]]), np.array([[0.0, 4.0]])
    made = inverse.interpolate(first, second, 5, "spherical")[0]
    length = np.linalg.norm(made, axis=-1)
    np.testing.assert_allclose(length, [2, 2.5, 3, 3.5, 4])
    angle = np.arctan2(made[:, 1], made[:, 0])
    np.testing.assert_allclose(np.diff(angle), np.pi / 8)


def test_interpolation_errors():
    with pytest.raises(ParameterError, match="count: 1"):
        inverse.interpolate(np.zeros(2), np.ones(2), 1)
    with pytest.raises(ParameterError, match="path: 'arc'"):
        inverse.interpolate(np.zeros(2), np.ones(2), 3, "arc")
