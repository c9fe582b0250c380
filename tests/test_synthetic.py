"""The thirteen functions, the published recipes, the free generator."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.data import synthetic

Z = list(synthetic.VARIABLES)
NAMES = [f.name for f in synthetic.FUNCTIONS]
inputs = st.sampled_from(["grid", "random"])
seeds = st.integers(0, 2**32)


def test_values_by_hand():
    f = dict(zip(NAMES, synthetic.evaluate([[1, 2, 1, 3, 1]])[0], strict=True))
    assert f["f1"] == 1
    assert f["f3"] == pytest.approx(math.exp(-1) + math.exp(-2))
    assert f["f5"] == -2
    assert f["f6"] == pytest.approx(2 * math.sin(2))
    assert f["f7"] == pytest.approx(math.exp(-11 / 5))
    assert f["f9"] == pytest.approx(math.log(3) / math.log(2))
    assert f["f10"] == 9
    assert f["f11"] == pytest.approx(2 * math.cos(1))
    assert f["f13"] == 16
    # L4 is -0.625 at 1, 1/3 at 2 and 1.375 at 3.
    assert f["f12"] == pytest.approx(3 * -0.625 + 1 / 3 + 1.375)


def test_the_first_scale_knows_the_first_two_inputs_only():
    assert [f"f{j}" for j in range(1, 14)] == NAMES
    assert [f.scale for f in synthetic.FUNCTIONS] == [1] * 4 + [2] * 9
    z = synthetic.generate(5, inputs="random")[Z]
    first = {"f1", "f2", "f3", "f4"}
    for name, without in {
        "z1": {"f7"},
        "z2": {"f7", "f11"},
        "z3": {*first, "f6", "f11"},
        "z4": {*first, "f6", "f11"},
        "z5": {*first, "f5"},
    }.items():
        other = synthetic.evaluate(z.assign(**{name: z[name] + 0.3}))
        same = (other == synthetic.evaluate(z)).all(axis=0)
        assert set(np.array(NAMES)[same]) == without, name


@pytest.mark.parametrize("kind", ["clean", "noisy"])
def test_recipe_gives_the_published_table(public, kind):
    stated = synthetic.read_published(kind)
    assert stated.shape == (200, 13 if kind == "clean" else 18)
    again = synthetic.published(kind)[stated.columns]
    difference = (again - stated).abs() / np.maximum(1, stated.abs())
    assert difference.to_numpy().max() < 1e-10


def test_published_noise_exceeds_the_signal():
    table = synthetic.published("noisy")
    true = pd.DataFrame(synthetic.evaluate(table[Z]), columns=NAMES)
    spread = true.std(ddof=0)
    noise = (table[NAMES] - true).std(ddof=0)
    assert set(spread.index[spread < 0.85 * noise]) == {"f3", "f4", "f7", "f8"}


@given(n=st.integers(2, 40), seed=seeds, kind=inputs)
@settings(max_examples=30, deadline=None)
def test_inputs_are_in_their_ranges_and_noise_leaves_them_alone(n, seed, kind):
    clean, single, double = (
        synthetic.generate(n, seed, noise, kind) for noise in (0, 1, 2)
    )
    pd.testing.assert_frame_equal(
        clean, synthetic.generate(n, seed, inputs=kind)
    )
    assert clean.shape == (n, 18)
    assert clean["z5"].between(0, 1, inclusive="right").all()
    for name, (low, high) in synthetic.RANGES.items():
        assert clean[name].between(low, high).all()
    np.testing.assert_array_equal(clean[NAMES], synthetic.evaluate(clean[Z]))
    pd.testing.assert_frame_equal(clean[Z], double[Z])
    scale = clean[NAMES].abs().to_numpy().max()
    np.testing.assert_allclose(
        (double - clean)[NAMES],
        2 * (single - clean)[NAMES],
        rtol=1e-6,
        atol=1e-9 * scale,
    )


def test_noise_is_in_units_of_the_spread_and_seeds_differ():
    clean = synthetic.generate(4000, 1, inputs="random")
    noisy = synthetic.generate(4000, 1, 0.5, inputs="random")
    ratio = (noisy - clean)[NAMES].std() / clean[NAMES].std()
    np.testing.assert_allclose(ratio, 0.5, rtol=0.05)
    grid = synthetic.generate(200)
    published = synthetic.published("clean")
    pd.testing.assert_frame_equal(grid[Z[:4]], published[Z[:4]])
    assert (grid["z5"] != synthetic.generate(200, 1)["z5"]).all()
