"""Search, completion and design on chains whose answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from nestedae_utils.chapters import completion, design
from nestedae_utils.chapters.completion import complete
from nestedae_utils.data import perovskites
from nestedae_utils.model.chain import NestedAutoencoder, fit
from nestedae_utils.model.fitted import Fitted, Scaler
from nestedae_utils.model.layers import ACTIVATIONS
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study import inverse

LINEAR = {"latent_activation": "linear"}
LOW = Scale("low", (Block("x", 2),), 2, (Head("x", 2),), **LINEAR)
BLOCKS = Block("z", 2, latents_of="low"), Block("y", 1)
HEADS = Head("z", 2), Head("y", 1), Head("t", 1)
HIGH = Scale("high", BLOCKS, 3, HEADS, **LINEAR)


def two(*splits):
    labels = {"fold": np.arange(2), "seed": np.zeros(2, int)}
    return Replicas((*splits, splits[0])[:2], labels)


def linear(seed):
    """Return a chain without noise: every decoder inverts its encoder."""
    random = np.random.default_rng(seed)

    def matrix(size):
        turned = np.linalg.qr(random.normal(size=(2, size, size)))[0]
        return turned * random.uniform(0.5, 2, (2, 1, size))

    def fitted(scale, weights, **widths):
        parameters = {f"{k}.weight": v.astype(np.float32) for k, v in weights.items()}
        parameters |= {f"{k}.bias": 0 * v[:, :1] for k, v in weights.items()}
        scalers = {
            name: Scaler(*random.uniform(0.5, 2, (2, 1, 1, width)))
            for name, width in widths.items()
        }
        return Fitted(scale, two((np.arange(40), [])), parameters, scalers)

    fine, coarse, sums = matrix(2), matrix(3), random.normal(size=(3, 1))
    back = np.linalg.inv(coarse)
    low = {"encoder.0": fine, "head x.0": np.linalg.inv(fine)}
    high = {"encoder.0": coarse, "head t.0": back @ sums}
    high |= {"head z.0": back[..., :2], "head y.0": back[..., 2:]}
    chain = NestedAutoencoder([LOW, HIGH])
    chain.attach(fitted(LOW, low, x=2)).attach(fitted(HIGH, high, z=2, y=1))
    x, y = random.normal(size=(40, 2)), random.normal(size=(40, 1))
    return chain, {"x": x, "y": y}


def searched(chain, table, **how):
    return inverse.Search(chain, inverse.Neighbourhood.of(chain, table), **how)


@pytest.fixture(scope="module")
def trained():
    low = Scale("low", (Block("x", 3),), 2, (Head("x", 3), Head("g", 1)))
    lower = Block("z", 2, latents_of="low", lower_scaler="refitted")
    kinds = Block("k", 3, scaling="none")
    heads = (
        Head("both", 4, of=("z", "w"), hidden=(5,), activation="tanh"),
        Head("k", 3, loss="cross_entropy"),
        Head("p", 1, hidden=(6,), output="relu", scaling="standard"),
    )
    high = Scale("high", (lower, kinds, Block("w", 2)), 4, heads)
    random = np.random.default_rng(0)
    table = {"k": np.eye(3)[random.integers(3, size=30)]}
    for name, width in {"x": 3, "g": 1, "w": 2, "p": 1}.items():
        table[name] = random.normal(size=(30, width))
    rows = two((np.arange(24), np.arange(24, 30)))
    how = {"epochs": 5, "batch_size": 8, "learning_rate": 0.01}
    return fit([low, high], table, rows, **how), table


def test_what_is_decoded_is_the_chains_and_has_gradients(trained):
    chain, table = trained
    z = torch.tensor(chain.encode(table)[:, :3], requires_grad=True)
    decoded = inverse.decode(chain, z)
    assert set(decoded) == {"z", "w", "k", "p", "x", "g"}
    for parts in chain.decode(z.detach().numpy()).values():
        for name, values in parts.items():
            np.testing.assert_array_equal(decoded[name].detach(), values)
    assert torch.autograd.gradcheck(lambda z: inverse.decode(chain, z)["x"], z)


def test_distance_is_that_of_the_nearest_others(trained, monkeypatch):
    chain, table = trained
    around = inverse.Neighbourhood.of(chain, table, neighbours=3)
    ask = np.random.default_rng(1).uniform(-1, 1, (2, 50, 4))
    distance = around.distance(ask)
    for replica, z in enumerate(chain.encode(table)[:, :24]):
        typical = np.median(np.sort(cdist(z, z))[:, 1:4].mean(1))
        near = np.sort(cdist(ask[replica], z))[:, :3].mean(1)
        # torch takes the lower of two middle values
        np.testing.assert_allclose(distance[replica], near / typical, 0.05)
    monkeypatch.setattr(inverse, "TOGETHER", 7)
    torch.testing.assert_close(around.distance(ask), distance)


def test_points_close_to_each_other_and_far_from_zero():
    chain, table = linear(0)
    table = {"x": 1000 + 0.05 * table["x"]}
    low = NestedAutoencoder([LOW]).attach(chain.fitted["low"])
    around = inverse.Neighbourhood.of(low, table)
    for z, typical in zip(low.encode(table), around.typical, strict=True):
        near = np.sort(cdist(z, z))[:, 1:6].mean(1)
        np.testing.assert_allclose(typical, np.median(near), rtol=0.05)


@pytest.mark.parametrize("name", inverse.BOX)
def test_the_box_is_the_range_of_the_activation(name):
    ends = np.clip(inverse.BOX[name], -1e3, 1e3)
    values = ACTIVATIONS[name](torch.tensor([-1e3, 1e3]))
    np.testing.assert_allclose(values, ends)


def test_no_leakage_into_the_neighbourhood():
    """Held-out rows are not in it; of equal rows there is one."""
    chain, table = linear(0)
    rows = np.arange(40)
    splits = (rows[:20], rows[20:]), (rows[:9], rows[9:])
    high = chain.fitted["high"]
    chain.fitted["high"] = replace(high, replicas=two(*splits))
    for values in table.values():
        values[8] = values[7]
    around = inverse.Neighbourhood.of(chain, table)
    z, drawn = chain.encode(table), around.draw(8, seed=0)
    for replica, (seen, _) in enumerate(splits):
        points = around.points[replica]
        points = points[points[:, 0].isfinite()]
        assert len(points) == len(seen) - 1
        assert cdist(points, z[replica, seen]).min(1).max() < 1e-4
        assert (cdist(drawn[replica], points) == 0).any(1).all()
        assert len(np.unique(drawn[replica], axis=0)) == 8
    assert around.draw(70, 0).isfinite().all(), "more than there are"
    assert (around.draw(5, 0) != around.draw(5, 1)).any()


@given(seed=st.integers(0, 1000))
@settings(max_examples=4, derandomize=True)
def test_completion_of_a_linear_chain_is_exact(seed):
    """All inputs known, at either end: one point, the true one."""
    chain, table = linear(seed)
    search = searched(chain, table, starts=4, steps=600, rate=0.2)
    rows = {name: values[:3] for name, values in table.items()}
    z, t = chain.encode(rows), chain.predict(rows)["t"]
    for known in (rows, {"z": chain.encode(rows, "low"), "y": rows["y"]}):
        found = complete(search, known, tolerance=0.01)
        assert (found.fits.sum(-1) == 1).all(), "the starts end in one point"
        np.testing.assert_allclose(found.latents[:, :, 0], z, atol=0.02)
        np.testing.assert_allclose(found.decoded["t"][:, :, 0], t, atol=0.05)


def test_rows_do_not_depend_on_each_other(trained):
    chain, table = trained
    search = searched(chain, table, starts=3, steps=20)
    fine = chain.seen_by("high").encode(table, "low")[:, :5]
    every = complete(search, {"z": fine, "k": table["k"][:5]})
    last = complete(search, {"z": fine[:, 4:], "k": table["k"][4:5]})
    np.testing.assert_allclose(every.latents[:, 4:], last.latents, atol=1e-4)
    np.testing.assert_allclose(every.misfit[:, 4:], last.misfit, atol=1e-4)


def test_misfit_is_the_largest_over_the_known_names(trained):
    chain, table = trained
    known = {"k": table["k"][:2], "w": table["w"][:2]}
    found = complete(searched(chain, table, starts=4, steps=3), known, 0.6)
    likely = (found.decoded["k"] * known["k"][:, None]).sum(-1)
    unit = chain.fitted["high"].scalers["w"].deviation
    off = (found.decoded["w"] - known["w"][:, None]) / unit[:, :, None]
    expected = np.maximum(1 - likely, np.sqrt((off**2).mean(-1)))
    np.testing.assert_allclose(found.misfit, expected, rtol=1e-4)
    # what fits stands first, the nearest to the data foremost
    good = found.misfit <= 0.6
    assert (good[..., :-1] >= good[..., 1:]).all()
    assert (np.diff(found.distance)[good[..., 1:]] >= 0).all()


def test_misfit_without_a_scaler_is_in_deviations_of_what_is_decoded():
    chain, table = linear(2)
    found = complete(searched(chain, table, starts=2, steps=1), {"t": [[1.0]]})
    off = np.abs(found.decoded["t"][..., 0] - 1)
    unit = chain.predict(table)["t"].std(1, ddof=1)[:, None]
    np.testing.assert_allclose(found.misfit, off / unit, rtol=0.02)


def test_solutions_differ_and_none_is_lost():
    chain, table = linear(0)
    search = searched(chain, table)
    fine = chain.encode({"x": table["x"][:3]}, "low")
    found = complete(search, {"z": fine})
    good = found.misfit <= 0.1
    near = search.apart * search.around.typical.numpy()
    for replica, row in np.ndindex(good.shape[:2]):
        z, fits = found.latents[replica, row], found.fits[replica, row]
        assert fits.sum() > 1
        assert np.sort(cdist(z[fits], z[fits]))[:, 1].min() >= near[replica]
        away = cdist(z[good[replica, row]], z[fits]).min(1)
        assert (away < near[replica]).all()


def test_what_cannot_be_fits_nowhere_and_stays_in_the_box(trained):
    search = searched(*trained, starts=4, steps=50, rate=0.5)
    found = complete(search, {"w": [[50.0, -50.0]]})
    assert not found.fits.any()
    assert np.abs(found.latents).max() == 1
    found = complete(replace(search, apart=1e3), {"w": [[50.0, -50.0]]}, 1e3)
    assert (found.fits.sum(-1) == 1).all(), "everything is one"


def test_a_penalty_begins_at_its_reach_and_brings_points_to_the_data():
    chain, table = linear(1)
    search = searched(chain, table, starts=8)
    known = {"z": chain.encode({"x": table["x"][:5] + 1}, "low")}
    free, far, near = (
        complete(replace(search, **how), known, 9.0)
        for how in ({}, {"density": 1.0, "reach": 1e6}, {"density": 1.0})
    )
    np.testing.assert_allclose(far.latents, free.latents, atol=1e-5)
    assert near.distance.mean() < free.distance.mean()
    assert near.misfit.mean() >= free.misfit.mean()


def test_compositions_go_to_the_models_that_held_them_out():
    """And a completion is scored by the pairs that it names first."""
    number = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    layers = completion.layers(np.array([5, 6, 0, 1, 1, 7, 3, 2]))
    table = {"fractions": np.eye(5)[number], "pce": 1.0 * number[:, None]}
    parts = np.flatnonzero(number < 2), np.flatnonzero(number > 1)
    replicas = Replicas.cross([parts, parts[::-1]], seeds=2)
    known = completion.Compositions.of(table | layers, replicas)
    held = known.held(known.median[None])
    for own, (seen, _) in zip(held, known.replicas.splits, strict=True):
        assert not set(own) & set(known.median[seen])
    np.testing.assert_array_equal(known.by_seed(held), [known.median] * 2)
    points = [1, 1, 7, 0, 5, 6], [9.0, 30, 4, 12, 20, 20]
    answer = known.answer(*(np.broadcast_to(p, (4, 3, 6)) for p in points))
    assert (answer.pairs == [1, 7, 0]).all()
    assert (answer.median == 9).all() & (answer.best == 12).all()
    recovered = known.recovered(answer)[0, known.median.argsort()]
    assert recovered.tolist() == [0, 1, 1, 0, 0]
    assert known.scores({"": answer})["top3"].tolist() == [40, 100]


@given(seed=st.integers(0, 1000))
@settings(max_examples=4, derandomize=True)
def test_design_finds_the_optimum_of_a_known_function(seed):
    """A paraboloid of what is decoded has its top where it says."""
    chain, table = linear(seed)
    top = {"x": torch.tensor([[0.3, -0.4]]), "y": torch.tensor([[0.2]])}

    def aim(decoded):
        away = [(decoded[name] - at).square() for name, at in top.items()]
        return -torch.cat(away, -1).sum(-1)

    how = {"steps": 400, "rate": 0.2, "starts": 5}
    found = design.design(searched(chain, table, **how), aim)
    z = chain.encode({name: at.double() for name, at in top.items()})
    np.testing.assert_allclose(found.latents[:, :, 0], z, atol=0.03)
    assert np.abs(found.misfit).max() < 1e-3
    assert (found.fits.sum(-1) == 1).all()


def test_a_design_is_the_best_of_the_box_unless_it_is_held_back(trained):
    search = searched(*trained, starts=8)

    def aim(decoded):
        return decoded["w"].sum(-1)

    free, held, tight = (
        design.design(replace(search, density=density), aim)
        for density in (0.0, 1.0, 1000.0)
    )
    random = torch.rand(2, 20_000, 4) * 2 - 1
    best = aim(inverse.decode(search.chain, random)).amax(1)
    assert (-free.misfit[:, 0, 0] > best.numpy()).all()
    assert (np.diff(free.misfit) >= 0).all()
    assert free.distance.max() > held.distance.max() > tight.distance.max()
    assert tight.distance.max() < 1.2
    # points without a finite aim do not count
    search = replace(search, starts=32, steps=1)
    found = design.design(search, lambda z: torch.log(z["w"][..., 0]))
    finite = np.isfinite(found.misfit)
    assert not finite.all()
    assert finite[found.fits].any()
    assert not found.fits[~finite].any()


def test_fractions_in_twentieths_fill_every_site():
    random = np.random.default_rng(0)
    sites = [list(members) for members in perovskites.SITES.values()]
    shares = [random.dirichlet(np.ones(len(site)), 50) for site in sites]
    fractions = pd.DataFrame(np.hstack(shares), columns=np.concatenate(sites))
    steps = 20 * design.rounded(fractions)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    np.testing.assert_allclose([steps[s].sum(axis=1) for s in sites], 20)
    assert (steps / 20 - fractions).abs().to_numpy().max() < 0.15


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
@settings(max_examples=60)
def test_nothing_beats_what_stands_on_the_front(points):
    aims = pd.DataFrame(points, columns=["pce", "gap"], dtype=float)
    materials = aims.reindex(columns=[*aims, *design.MATERIAL]).assign(htl=aims.index)
    front = design.front(materials, "gap", -1)
    assert front["gap"].is_monotonic_increasing
    for n, (a, b) in enumerate(points):
        beaten = any(c >= a and d <= b and (c, d) != (a, b) for c, d in points)
        assert (n in front.index) == (not beaten)


number = st.floats(-1, 1, allow_subnormal=False)
vectors = st.tuples(number, number, number).map(np.array)


@given(vectors, vectors, st.integers(2, 9), st.sampled_from(design.PATHS))
@settings(max_examples=60)
def test_ways_begin_and_end_where_they_should(first, second, count, path):
    way = design.interpolate(first, second, count, path)
    assert way.shape == (count, 3)
    np.testing.assert_allclose(way[[0, -1]], [first, second], atol=1e-6)
    if path == "linear":
        np.testing.assert_allclose(np.diff(way, 2, axis=0), 0, atol=1e-12)


def test_an_arc_changes_length_and_direction_evenly():
    first, second = np.array([[2.0, 0.0]]), np.array([[0.0, 4.0]])
    way = design.interpolate(first, second, 5, "spherical")[0]
    length, angle = np.linalg.norm(way, axis=-1), np.arctan2(*way.T[::-1])
    np.testing.assert_allclose(length, [2, 2.5, 3, 3.5, 4])
    np.testing.assert_allclose(np.diff(angle), np.pi / 8)
