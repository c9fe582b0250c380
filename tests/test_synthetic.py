"""The thirteen functions, the published recipes, the free generator."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.data import synthetic
from nestedae_utils.data.synthetic import (
    FUNCTIONS,
    SCALE_1,
    SCALE_2,
    VARIABLES,
)
from nestedae_utils.errors import DataError, ParameterError

NAMES = [f.name for f in FUNCTIONS]
inputs = st.sampled_from(["grid", "random"])
seeds = st.integers(0, 2**32)


def test_scales():
    assert [f"f{j}" for j in range(1, 14)] == NAMES
    assert SCALE_1 == ("f1", "f2", "f3", "f4")
    assert tuple(NAMES[4:]) == SCALE_2


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


@given(seed=seeds, variable=st.sampled_from(VARIABLES))
@settings(max_examples=25, deadline=None)
def test_a_function_depends_on_its_variables_only(seed, variable):
    z = synthetic.generate(5, seed, inputs="random")[list(VARIABLES)]
    before = synthetic.evaluate(z)
    after = synthetic.evaluate(z.assign(**{variable: z[variable] + 0.3}))
    for j, function in enumerate(FUNCTIONS):
        changed = (before[:, j] != after[:, j]).any()
        assert changed == (variable in function.variables), function.name


def test_scale_1_knows_the_first_two_inputs_only():
    local = {n for f in FUNCTIONS if f.scale == 1 for n in f.variables}
    assert local == {"z1", "z2"}


@pytest.mark.parametrize("kind", ["clean", "noisy"])
def test_recipe_gives_the_published_table(public, kind):
    stated = synthetic.read_published(kind)
    made = synthetic.published(kind)[stated.columns]
    difference = (made - stated).abs() / np.maximum(1, stated.abs())
    assert difference.to_numpy().max() < 1e-10


def test_published_noise_exceeds_the_signal():
    table = synthetic.published("noisy")
    true = pd.DataFrame(
        synthetic.evaluate(table[list(VARIABLES)]), columns=NAMES
    )
    spread = true.std(ddof=0)
    noise = (table[NAMES] - true).std(ddof=0)
    assert set(spread.index[spread < 0.85 * noise]) == {"f3", "f4", "f7", "f8"}


def test_published_table_of_another_size(tmp_path, monkeypatch):
    path = tmp_path / "short.csv"
    path.write_text("1,2,3\n")
    monkeypatch.setattr(synthetic, "fetch", lambda key: path)
    with pytest.raises(DataError, match="1 rows x 3 columns found, 200 x 13"):
        synthetic.read_published("clean")


@given(
    n=st.integers(2, 40),
    seed=seeds,
    kind=inputs,
    z5_max=st.floats(0.1, 20),
    noise=st.floats(0.01, 10),
)
@settings(max_examples=40, deadline=None)
def test_noise_leaves_the_inputs_alone(n, seed, kind, z5_max, noise):
    options = {"inputs": kind, "z5_max": z5_max}
    clean = synthetic.generate(n, seed, 0.0, **options)
    noisy = synthetic.generate(n, seed, noise, **options)
    z = list(VARIABLES)
    pd.testing.assert_frame_equal(clean[z], noisy[z])
    np.testing.assert_array_equal(clean[NAMES], synthetic.evaluate(clean[z]))
    one = synthetic.generate(n, seed, 1.0, **options)[NAMES] - clean[NAMES]
    scale = clean[NAMES].abs().to_numpy().max()
    np.testing.assert_allclose(
        noisy[NAMES] - clean[NAMES], noise * one, rtol=1e-6, atol=1e-9 * scale
    )


@given(n=st.integers(2, 40), seed=seeds, kind=inputs)
@settings(max_examples=25, deadline=None)
def test_inputs_stay_in_their_ranges(n, seed, kind):
    table = synthetic.generate(n, seed, inputs=kind, z5_max=3.0)
    assert table.shape == (n, 18)
    assert table["z5"].between(0, 3, inclusive="right").all()
    for name, (low, high) in synthetic.RANGES.items():
        assert table[name].between(low, high).all()
    again = synthetic.generate(n, seed, inputs=kind, z5_max=3.0)
    pd.testing.assert_frame_equal(table, again)


def test_noise_is_in_units_of_the_spread():
    clean = synthetic.generate(4000, 1, inputs="random")
    noisy = synthetic.generate(4000, 1, 0.5, inputs="random")
    ratio = (noisy - clean)[NAMES].std() / clean[NAMES].std()
    np.testing.assert_allclose(ratio, 0.5, rtol=0.05)


def test_grid_is_the_published_one():
    z = ["z1", "z2", "z3", "z4"]
    pd.testing.assert_frame_equal(
        synthetic.generate(200)[z], synthetic.published("clean")[z]
    )


def test_seeds_differ():
    assert (
        synthetic.generate(seed=0)["z5"] != synthetic.generate(seed=1)["z5"]
    ).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n": 1}, "n: 1 given"),
        ({"n": 2.5}, "n: 2.5 given"),
        ({"seed": -1}, "seed: -1 given"),
        ({"noise": -0.1}, "noise: -0.1 given"),
        ({"noise": float("nan")}, "noise: nan given"),
        ({"inputs": "grids"}, "Did you mean 'grid'"),
        ({"z5_max": 0}, "z5_max: 0 given"),
    ],
)
def test_generate_refuses(options, match):
    with pytest.raises(ParameterError, match=match):
        synthetic.generate(**options)


@pytest.mark.parametrize(
    "call", [synthetic.published, synthetic.read_published]
)
def test_kind_refused(call):
    with pytest.raises(ParameterError, match="Did you mean 'noisy'"):
        call("nosy")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ([0, 2, 1, 1, 1], "z1: 0 given in row 1"),
        ([1, 1, 1, 1, 1], "z2: 1 given in row 1, .* other than 1"),
        ([1, 2, -3, 1, 1], "z3: -3 given"),
        ([1, 2, 1, float("nan"), 1], "z4: nan given"),
        ([1, 2, 1, 1, float("inf")], "z5: inf given"),
    ],
)
def test_evaluate_refuses_where_f9_is_not_defined(row, match):
    with pytest.raises(ParameterError, match=match):
        synthetic.evaluate([[1, 2, 1, 1, 1], row])


def test_evaluate_refuses_another_shape():
    with pytest.raises(ParameterError, match=r"shape \(1, 4\)"):
        synthetic.evaluate(np.ones((1, 4)))
