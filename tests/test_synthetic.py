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
    other = synthetic.evaluate(z.assign(z3=1.0, z4=2.0, z5=0.1))
    differ = (other != synthetic.evaluate(z)).any(axis=0)
    assert differ.tolist() == [False] * 4 + [True] * 9


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
    quiet = true.std() < 0.85 * (table[NAMES] - true).std()
    assert set(quiet.index[quiet]) == {"f3", "f4", "f7", "f8"}


@given(
    n=st.integers(2, 40),
    seed=st.integers(0, 2**32),
    inputs=st.sampled_from(["grid", "random"]),
)
@settings(max_examples=30)
def test_inputs_are_in_their_ranges_and_noise_leaves_them_alone(n, seed, inputs):
    clean, single, double = (
        synthetic.generate(n, seed, noise, inputs) for noise in (0, 1, 2)
    )
    assert clean.equals(synthetic.generate(n, seed, inputs=inputs))
    assert clean.shape == (n, 18)
    assert clean["z5"].between(0, 1, inclusive="right").all()
    for name, (low, high) in synthetic.RANGES.items():
        assert clean[name].between(low, high).all()
    assert (clean[NAMES] == synthetic.evaluate(clean[Z])).all(axis=None)
    assert clean[Z].equals(double[Z])
    twice, once = (double - clean)[NAMES], (single - clean)[NAMES]
    close = 1e-9 * clean[NAMES].abs().to_numpy().max()
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6, atol=close)


def test_noise_is_in_units_of_the_spread_and_seeds_differ():
    clean = synthetic.generate(4000, 1, inputs="random")
    noisy = synthetic.generate(4000, 1, 0.5, inputs="random")
    ratio = (noisy - clean)[NAMES].std() / clean[NAMES].std()
    np.testing.assert_allclose(ratio, 0.5, rtol=0.05)
    grid, published = synthetic.generate(200), synthetic.published("clean")
    assert grid[Z[:4]].equals(published[Z[:4]])
    assert (grid["z5"] != synthetic.generate(200, 1)["z5"]).all()
