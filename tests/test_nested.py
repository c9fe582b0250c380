"""Chains of scales: fitting, scalers, units, files, errors."""

import json
import pickle
import re

import numpy as np
import pytest
import torch

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.chain import NestedAutoencoder, Scaler
from nestedae_utils.model.scales import Block, Head, Scale

ROWS = 20
GIVEN = {
    "epochs": 2,
    "batch_size": 6,
    "learning_rate": 0.01,
    "device": "cpu",
}
SPLITS = [
    (np.arange(14), np.arange(14, ROWS)),
    (np.arange(6, ROWS), np.arange(6)),
]


def low(**changes):
    settings = {
        "name": "low",
        "inputs": (Block("x", 3),),
        "latent": 2,
        "heads": (Head("x", 3), Head("y", 1, scaling="standard")),
    }
    return Scale(**{**settings, **changes})


def high(scaler="carried", **changes):
    settings = {
        "name": "high",
        "inputs": (
            Block("z", 2, latents_of="low", lower_scaler=scaler),
            Block("c", 2, scaling="none"),
        ),
        "latent": 3,
        "heads": (
            Head("z", 2),
            Head("c", 2, loss="cross_entropy"),
            Head("w", 1, hidden=(4,), dropout=0.2),
        ),
    }
    return Scale(**{**settings, **changes})


def low_table(seed=0, rows=ROWS):
    x = np.random.default_rng(seed).normal(10, 3, (rows, 3))
    return {"x": x, "y": 100 + 5 * x[:, :1]}


def high_table(seed=1, rows=ROWS):
    random = np.random.default_rng(seed)
    return {
        "x": random.normal(12, 1, (rows, 3)),
        "c": np.eye(2)[random.integers(0, 2, rows)],
        "w": random.normal(0, 1, (rows, 1)),
    }


def fitted(scaler="carried", splits=SPLITS, **settings):
    chain = NestedAutoencoder([low(), high(scaler)])
    tables = {"low": low_table(), "high": high_table()}
    return chain.fit(
        tables,
        {"low": splits, "high": splits},
        list(range(len(splits))),
        **{**GIVEN, **settings},
    )


@pytest.fixture(scope="module")
def chain():
    return fitted()


def encode_by_hand(part, parameters, values, scaler):
    """Return the latents of a scale without hidden layers, one replica."""
    size = part.width * part.latent
    weight = parameters[:size].reshape(part.width, part.latent)
    bias = parameters[size : size + part.latent]
    mean, deviation = scaler
    return np.tanh((values - mean) / deviation @ weight + bias)


def statistics(values):
    return values.mean(0), values.std(0)


# --- Errors of a chain ----------------------------------------------------

CHAINS = {
    "no scale before": (
        lambda: [high()],
        ["scale 'high', block 'z', latents_of: 'low' given", "(none)"],
    ),
    "made by a later scale": (
        lambda: [high(), low()],
        ["scale 'high', block 'z', latents_of: 'low' given", "before"],
    ),
    "its own latents": (
        lambda: [low(inputs=(Block("x", 3), Block("z", 2, latents_of="low")))],
        ["scale 'low', block 'z', latents_of: 'low' given"],
    ),
    "a misspelt scale": (
        lambda: [low(), high(inputs=(Block("z", 2, latents_of="lov"),))],
        ["latents_of: 'lov' given", "('low')", "Did you mean 'low'?"],
    ),
    "wrong number of latents": (
        lambda: [low(latent=3), high()],
        ["scale 'high', block 'z', width: 2 given", "'low' has 3 latents"],
    ),
    "two of one name": (
        lambda: [low(), low()],
        ["scales: two are named 'low'"],
    ),
    "none": (lambda: [], ["scales: none given"]),
}


@pytest.mark.parametrize("case", CHAINS)
def test_chain_errors(case):
    declare, words = CHAINS[case]
    scales = declare()
    with pytest.raises(ParameterError) as caught:
        NestedAutoencoder(scales)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_not_fitted():
    chain = NestedAutoencoder([low(), high()])
    for ask in (chain.encode, chain.predict, chain.reconstruct):
        with pytest.raises(ParameterError, match="scale 'high': not fitted"):
            ask(high_table())
        with pytest.raises(ParameterError, match="scale 'low': not fitted"):
            ask(high_table(), "low")
        with pytest.raises(
            ParameterError, match=r"scale: 'hihg' given.*Did you mean 'high'"
        ):
            ask(high_table(), "hihg")
    with pytest.raises(ParameterError, match="scale 'low': not fitted"):
        chain.fit_scale("high", high_table(), SPLITS, [0, 1], **GIVEN)
    assert not chain.fitted


def test_fit_wants_one_entry_a_scale():
    chain = NestedAutoencoder([low(), high()])
    splits = {"low": SPLITS, "high": SPLITS}
    with pytest.raises(ParameterError, match="tables: nothing .* 'high'"):
        chain.fit({"low": low_table()}, splits, [0, 1], **GIVEN)
    chain = NestedAutoencoder([low()])
    with pytest.raises(ParameterError, match="splits: nothing .* 'low'"):
        chain.fit({"low": low_table()}, {}, [0, 1], **GIVEN)


# --- Errors of a table ----------------------------------------------------


def with_value(table, name, row, value):
    changed = table[name].copy()
    changed[row, -1] = value
    return {**table, name: changed}


def without(table, name):
    return {key: part for key, part in table.items() if key != name}


TABLES = {
    "no block": (lambda t: without(t, "c"), "no block 'c'; it has 'x', 'w'"),
    "no block of the scale below": (
        lambda t: without(t, "x"),
        "no block 'x'; it has 'c', 'w'",
    ),
    "no block at all": (lambda t: {}, "no block 'x'; it has none"),
    "not a number": (
        lambda t: with_value(t, "x", 4, np.nan),
        "block 'x': row 4 is not finite",
    ),
    "infinity": (
        lambda t: with_value(t, "c", 17, -np.inf),
        "block 'c': row 17 is not finite",
    ),
    "a column too few": (
        lambda t: {**t, "x": t["x"][:, :2]},
        "block 'x': shape (20, 2) given, (rows, 3) is allowed",
    ),
    "one column without an axis": (
        lambda t: {**t, "c": t["c"][:, 0]},
        "block 'c': shape (20,) given, (rows, 2) is allowed",
    ),
    "an axis too many": (
        lambda t: {**t, "c": t["c"][None, None]},
        "block 'c': shape (1, 1, 20, 2) given",
    ),
    "other numbers of rows": (
        lambda t: {**t, "c": t["c"][:19]},
        "different numbers of rows",
    ),
    "text": (
        lambda t: {**t, "x": t["x"].astype(str).astype(object) + " eV"},
        "block 'x'",
    ),
}


@pytest.mark.parametrize("ask", ["fit_scale", "predict"])
@pytest.mark.parametrize("case", TABLES)
def test_table_errors(case, ask, chain):
    change, message = TABLES[case]
    table = change(high_table())
    before = chain.fitted["high"]
    asked = {
        "predict": lambda: chain.predict(table),
        "fit_scale": lambda: chain.fit_scale(
            "high", table, SPLITS, [0, 1], **GIVEN
        ),
    }
    with pytest.raises(DataError) as caught:
        asked[ask]()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert chain.fitted["high"] is before


def test_a_target_is_needed_for_fitting_only(chain):
    table = without(high_table(), "w")
    assert chain.predict(table)["w"].shape == (2, ROWS, 1)
    with pytest.raises(DataError, match="no block 'w'"):
        chain.fit_scale("high", table, SPLITS, [0, 1], **GIVEN)
    with pytest.raises(DataError, match="'w': row 3 is not finite"):
        chain.fit_scale(
            "high",
            with_value(high_table(), "w", 3, np.nan),
            SPLITS,
            [0, 1],
            **GIVEN,
        )


@pytest.mark.parametrize("standardise_on", ["all", "train"])
@pytest.mark.parametrize(
    ("row", "place"), [(ROWS, 0), (ROWS, 1), (-1, 0), (-1, 1)]
)
def test_rows_out_of_range(row, place, standardise_on):
    split = [np.arange(10), np.arange(10, ROWS)]
    split[place] = np.append(split[place], row)
    chain = NestedAutoencoder([low()])
    with pytest.raises(ParameterError) as caught:
        chain.fit_scale(
            "low",
            low_table(),
            [tuple(split)],
            [0],
            standardise_on=standardise_on,
            **GIVEN,
        )
    message = str(caught.value)
    assert f"splits: row {row} given for scale 'low'" in message
    assert "has 20 rows" in message
    assert not chain.fitted


@pytest.mark.parametrize("standardise_on", ["all", "train"])
@pytest.mark.parametrize("scaler", ["carried", "refitted"])
def test_other_numbers_of_replicas(scaler, standardise_on):
    """A lower scale has as many replicas, or one that serves all."""
    chain = fitted(scaler)
    settings = {**GIVEN, "standardise_on": standardise_on}
    message = "splits: 3 replicas given for scale 'high'.* has 2"
    three = [*SPLITS, SPLITS[0]]
    with pytest.raises(ParameterError, match=message):
        chain.fit_scale("high", high_table(), three, [0, 1, 2], **settings)
    chain.attach(chain.fitted["low"].select([1]))
    chain.fit_scale("high", high_table(), three, [0, 1, 2], **settings)
    assert chain.encode(high_table()).shape == (3, ROWS, 3)


def test_a_table_of_other_replicas(chain):
    table = high_table()
    table["c"] = np.stack([table["c"]] * 3)
    with pytest.raises(ParameterError, match="replicas"):
        chain.fit_scale("high", table, SPLITS, [0, 1], **GIVEN)
    with pytest.raises((ParameterError, DataError), match="replicas"):
        chain.predict(table)


def test_bad_settings():
    chain = NestedAutoencoder([low()])
    given = ("low", low_table(), SPLITS, [0, 1])
    with pytest.raises(
        ParameterError, match=r"standardise_on: 'training'.*mean 'train'\?"
    ):
        chain.fit_scale(*given, standardise_on="training", **GIVEN)
    with pytest.raises(ParameterError, match="epochs: 0 given"):
        chain.fit_scale(*given, **{**GIVEN, "epochs": 0})
    for standardise_on in ("all", "train"):
        with pytest.raises(ParameterError, match="no training or no"):
            chain.fit_scale(
                "low",
                low_table(),
                [(np.array([], int), np.arange(5))],
                [0],
                standardise_on=standardise_on,
                **GIVEN,
            )
    assert not chain.fitted


def test_attach(chain):
    other = NestedAutoencoder([low(l1=0.5)])
    with pytest.raises(ParameterError, match="scale 'low': fitted with oth"):
        other.attach(chain.fitted["low"])
    assert not other.fitted
    same = NestedAutoencoder([low()]).attach(chain.fitted["low"])
    np.testing.assert_array_equal(
        same.encode(low_table()), chain.encode(low_table(), "low")
    )


# --- Shapes and units -----------------------------------------------------


def test_shapes(chain):
    table = high_table(seed=4, rows=7)
    assert chain.encode(table).shape == (2, 7, 3)
    assert chain.encode(table, "low").shape == (2, 7, 2)
    assert {k: v.shape for k, v in chain.predict(table).items()} == {
        "w": (2, 7, 1)
    }
    made = chain.reconstruct(table)
    assert {k: v.shape for k, v in made.items()} == {
        "z": (2, 7, 2),
        "c": (2, 7, 2),
    }
    assert (made["c"] > 0).all()
    np.testing.assert_allclose(made["c"].sum(-1), 1, atol=1e-6)
    assert chain.fitted["high"].replicas == 2
    history = chain.fitted["high"].history["validation_per_sample"]
    assert history["loss"].shape == (2, 2)
    # the two replicas are two models
    assert (made["z"][0] != made["z"][1]).all()


def test_a_linear_problem_is_learnt():
    """Two factors in three units; all comes back in its own unit."""
    random = np.random.default_rng(3)
    factors = random.normal(size=(80, 2))
    mixing = random.normal(size=(2, 5))
    units = np.array([1.0, 1e3, 1e-2, 10.0, 5.0])
    x = 7 * units + units * (factors @ mixing)
    y = 1000 + 300 * factors[:, :1]
    scale = Scale(
        "linear",
        (Block("a", 3), Block("b", 2)),
        2,
        (
            Head("both", 5, "mse", of=("b", "a")),
            Head("y", 1, "mse", scaling="standard"),
        ),
        latent_activation="linear",
    )
    chain = NestedAutoencoder([scale]).fit_scale(
        "linear",
        {"a": x[:, :3], "b": x[:, 3:], "y": y},
        [(np.arange(60), np.arange(60, 80))],
        [0],
        epochs=200,
        batch_size=10,
        learning_rate=0.01,
        device="cpu",
    )
    made = chain.reconstruct({"a": x[:, :3], "b": x[:, 3:]})
    assert list(made) == ["b", "a"]
    found = np.hstack([made["a"][0], made["b"][0]])
    assert (np.abs(found - x).mean(0) < 0.02 * x.std(0)).all()
    predicted = chain.predict({"a": x[:, :3], "b": x[:, 3:]})["y"][0]
    assert np.abs(predicted - y).mean() < 0.02 * y.std()


def test_a_block_that_is_not_scaled():
    """Its encoder sees raw values, and its target is raw."""
    scale = low(
        inputs=(Block("x", 3, scaling="none"),),
        heads=(Head("y", 1),),
    )
    chain = NestedAutoencoder([scale])
    chain.fit_scale("low", low_table(), SPLITS, [0, 1], **GIVEN)
    assert not chain.fitted["low"].scalers
    x = low_table()["x"]
    by_hand = encode_by_hand(
        scale, chain.fitted["low"].parameters[1], x, (0, 1)
    )
    np.testing.assert_allclose(
        chain.encode(low_table())[1], by_hand, atol=1e-5
    )


def test_a_table_of_its_own_for_each_replica():
    tables = [low_table(seed) for seed in (5, 6)]
    both = {key: np.stack([t[key] for t in tables]) for key in tables[0]}
    chain = NestedAutoencoder([low()])
    chain.fit_scale("low", both, SPLITS, [0, 1], **GIVEN)
    for replica, table in enumerate(tables):
        alone = NestedAutoencoder([low()]).fit_scale(
            "low", table, [SPLITS[replica]], [replica], **GIVEN
        )
        np.testing.assert_allclose(
            chain.predict(both)["y"][replica],
            alone.predict(table)["y"][0],
            rtol=1e-5,
        )


# --- Scalers --------------------------------------------------------------


def test_scaler_by_hand():
    values = np.array([[[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]]])
    scaler = Scaler.fit(values, None)
    assert scaler.mean.tolist() == [[[4.0, 5.0]]]
    deviation = np.sqrt((9 + 1 + 16) / 3)
    np.testing.assert_allclose(scaler.deviation, [[[deviation, 1.0]]])
    np.testing.assert_allclose(scaler.unscale(scaler.scale(values)), values)
    own = Scaler.fit(values, [np.array([0, 1]), np.array([2])])
    assert own.mean.tolist() == [[[2.0, 5.0]], [[8.0, 5.0]]]
    assert own.deviation.tolist() == [[[1.0, 1.0]], [[1.0, 1.0]]]
    assert own.select([1]).mean.tolist() == [[[8.0, 5.0]]]
    assert scaler.select([1]) is scaler


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3])
def test_constant_column(value):
    table = low_table()
    table["x"][:, 1] = value
    chain = NestedAutoencoder([low()])
    chain.fit_scale("low", table, SPLITS, [0, 1], **GIVEN)
    scaler = chain.fitted["low"].scalers["x"]
    assert scaler.deviation[0, 0, 1] == 1
    assert np.abs(scaler.scale(table["x"][None])[..., 1]).max() < 1e-8
    assert np.isfinite(chain.reconstruct(table)["x"]).all()


@pytest.mark.parametrize("scaler", ["carried", "refitted"])
def test_whose_statistics_scale_the_lower_inputs(scaler):
    """By hand: the paper refits them, which moves the latents."""
    chain = fitted(scaler)
    below, above = chain.fitted["low"], chain.fitted["high"]
    seen = {
        "carried": statistics(low_table()["x"]),
        "refitted": statistics(high_table()["x"]),
    }
    z = {
        kind: np.stack(
            [
                encode_by_hand(
                    below.scale, parameters, high_table()["x"], found
                )
                for parameters in below.parameters
            ]
        )
        for kind, found in seen.items()
    }
    assert np.abs(z["carried"] - z["refitted"]).max() > 0.1
    own = above.scalers["z"]
    np.testing.assert_allclose(own.mean[:, 0], z[scaler].mean(1), atol=1e-5)
    np.testing.assert_allclose(
        own.deviation[:, 0], z[scaler].std(1), atol=1e-5
    )
    if scaler == "refitted":
        lower = above.lower_scalers["low"]["x"]
        np.testing.assert_allclose(lower.mean[0, 0], seen[scaler][0])
        np.testing.assert_allclose(lower.deviation[0, 0], seen[scaler][1])
    else:
        assert not above.lower_scalers
    # encoding new rows uses what was fitted, not the new rows
    rows = {key: part[:5] for key, part in high_table().items()}
    for replica in range(2):
        inputs = np.hstack([z[scaler][replica][:5], rows["c"]])
        mean = np.append(own.mean[replica, 0], [0, 0])
        deviation = np.append(own.deviation[replica, 0], [1, 1])
        by_hand = encode_by_hand(
            above.scale, above.parameters[replica], inputs, (mean, deviation)
        )
        np.testing.assert_allclose(
            chain.encode(rows)[replica], by_hand, atol=1e-5
        )
    # the lower scale itself keeps its own statistics
    np.testing.assert_allclose(
        chain.encode(high_table(), "low"), z["carried"], atol=1e-5
    )


def test_a_lower_scale_seen_by_a_later_one():
    """The latents that the later scale took, and their units."""
    chain = fitted("refitted")
    below, table = chain.fitted["low"], high_table(12)
    mean, deviation = statistics(high_table()["x"])
    z = chain.encode(table, "low", seen_by="high")
    for replica, parameters in enumerate(below.parameters):
        np.testing.assert_allclose(
            z[replica],
            encode_by_hand(
                below.scale, parameters, table["x"], (mean, deviation)
            ),
            atol=1e-5,
        )
    assert np.abs(z - chain.encode(table, "low")).max() > 0.1
    # Seen by itself, the same point lies where the statistics agree.
    own_mean, own_deviation = statistics(low_table()["x"])
    moved = (table["x"] - mean) / deviation * own_deviation + own_mean
    here = chain.reconstruct({"x": moved}, "low")["x"]
    np.testing.assert_allclose(
        chain.reconstruct(table, "low", seen_by="high")["x"],
        (here - own_mean) / own_deviation * deviation + mean,
        rtol=1e-4,
    )
    # a target has one unit only
    np.testing.assert_allclose(
        chain.predict(table, "low", seen_by="high")["y"],
        chain.predict({"x": moved}, "low")["y"],
        rtol=1e-5,
    )


def test_seen_by_errors(chain):
    """This chain carries the statistics."""
    table = high_table()
    for ask in (chain.encode, chain.predict, chain.reconstruct):
        with pytest.raises(
            ParameterError, match="seen_by: 'high' given.* of 'low' anew"
        ):
            ask(table, "low", seen_by="high")
        with pytest.raises(ParameterError, match="'hihg' given"):
            ask(table, "low", seen_by="hihg")


def test_both_scalers_in_one_scale():
    """Two blocks of one scale's latents, each as it declares."""
    scale = high(
        inputs=(
            Block("old", 2, latents_of="low"),
            Block("new", 2, latents_of="low", lower_scaler="refitted"),
        ),
        heads=(Head("w", 1),),
    )
    chain = NestedAutoencoder([low(), scale])
    chain.fit(
        {"low": low_table(), "high": high_table()},
        {"low": SPLITS, "high": SPLITS},
        [0, 1],
        **GIVEN,
    )
    scalers = chain.fitted["high"].scalers
    below = chain.fitted["low"]
    for block, table in (("old", low_table()), ("new", high_table())):
        z = encode_by_hand(
            below.scale,
            below.parameters[0],
            high_table()["x"],
            statistics(table["x"]),
        )
        np.testing.assert_allclose(
            scalers[block].mean[0, 0], z.mean(0), atol=1e-5
        )


def three_scales(middle, top):
    return [
        low(),
        Scale(
            "mid",
            (Block("z", 2, latents_of="low", lower_scaler=middle),),
            3,
            (Head("z", 2),),
        ),
        Scale(
            "top",
            (
                Block("m", 3, latents_of="mid", lower_scaler=top),
                Block("c", 2, scaling="none"),
            ),
            2,
            (Head("m", 3), Head("w", 1)),
        ),
    ]


@pytest.mark.parametrize("top", ["carried", "refitted"])
@pytest.mark.parametrize("middle", ["carried", "refitted"])
def test_three_scales(middle, top, tmp_path):
    tables = {
        "low": low_table(),
        "mid": {"x": high_table(7)["x"] + 2},
        "top": high_table(8, rows=16),
    }
    splits = {"low": SPLITS, "mid": SPLITS}
    splits["top"] = [(np.arange(10), np.arange(10, 16))] * 2
    chain = NestedAutoencoder(three_scales(middle, top))
    chain.fit(tables, splits, [0, 1], **GIVEN)
    assert list(chain.fitted) == ["low", "mid", "top"]
    assert chain.encode(tables["top"]).shape == (2, 16, 2)
    assert chain.reconstruct(tables["top"])["m"].shape == (2, 16, 3)

    bottom = tables["mid" if middle == "refitted" else "low"]["x"]
    fit = chain.fitted
    for replica in range(2):

        def by_hand(name, values, scaler, replica=replica):
            part = fit[name]
            return encode_by_hand(
                part.scale, part.parameters[replica], values, scaler
            )

        z, z_mid = (
            by_hand("low", tables[name]["x"], statistics(bottom))
            for name in ("top", "mid")
        )
        m = by_hand("mid", z, statistics(z if top == "refitted" else z_mid))
        own = fit["top"].scalers["m"]
        np.testing.assert_allclose(own.mean[replica, 0], m.mean(0), atol=1e-5)
        inputs = np.hstack([(m - m.mean(0)) / m.std(0), tables["top"]["c"]])
        np.testing.assert_allclose(
            chain.encode(tables["top"])[replica],
            by_hand("top", inputs, (0, 1)),
            atol=1e-4,
        )
    again = NestedAutoencoder.load(chain.save(tmp_path / "three"))
    np.testing.assert_array_equal(
        again.predict(tables["top"])["w"], chain.predict(tables["top"])["w"]
    )


def test_statistics_of_the_training_rows_only():
    table = low_table()
    moved = with_value(table, "x", 17, 1e3)  # held out by the first replica
    moved = with_value(moved, "y", 17, 1e4)
    scalers = {}
    for name, given in (("table", table), ("moved", moved)):
        for rows in ("all", "train"):
            chain = NestedAutoencoder([low()])
            chain.fit_scale(
                "low", given, SPLITS, [0, 1], standardise_on=rows, **GIVEN
            )
            scalers[name, rows] = chain.fitted["low"].scalers
    for block in ("x", "y"):
        before, after = (
            scalers[name, "train"][block] for name in ("table", "moved")
        )
        assert before.mean.shape[:2] == (2, 1)
        for what in ("mean", "deviation"):
            old, new = getattr(before, what), getattr(after, what)
            np.testing.assert_array_equal(old[0], new[0])
            assert (old[1, 0, -1] != new[1, 0, -1]).all()
        for replica, (train_rows, _) in enumerate(SPLITS):
            mean, deviation = statistics(table[block][train_rows])
            np.testing.assert_allclose(before.mean[replica, 0], mean)
            np.testing.assert_allclose(before.deviation[replica, 0], deviation)
        assert scalers["table", "all"][block].mean.shape[:2] == (1, 1)
        assert (
            scalers["table", "all"][block].mean[..., -1]
            != scalers["moved", "all"][block].mean[..., -1]
        ).all()


def test_refitted_on_the_training_rows():
    chain = fitted("refitted", standardise_on="train")
    lower = chain.fitted["high"].lower_scalers["low"]["x"]
    for replica, (train_rows, _) in enumerate(SPLITS):
        mean, _ = statistics(high_table()["x"][train_rows])
        np.testing.assert_allclose(lower.mean[replica, 0], mean)
    assert chain.predict(high_table())["w"].shape == (2, ROWS, 1)


# --- Decoding ---------------------------------------------------------------


@pytest.mark.parametrize("standardise_on", ["all", "train"])
@pytest.mark.parametrize("scaler", ["carried", "refitted"])
def test_decode_goes_down_the_chain(scaler, standardise_on):
    chain = fitted(scaler, standardise_on=standardise_on)
    table = high_table(7)
    z = chain.encode(table)
    decoded = chain.decode(z)
    assert set(decoded) == {"high", "low"}
    assert set(decoded["high"]) == {"z", "c", "w"}
    assert set(decoded["low"]) == {"x", "y"}
    made = {**chain.predict(table), **chain.reconstruct(table)}
    for name, values in decoded["high"].items():
        np.testing.assert_allclose(values, made[name], atol=1e-5)
    # the lower scale is decoded from the reconstructed latents, on the
    # statistics that the higher scale saw it with
    seen_by = "high" if scaler == "refitted" else ""
    lower = chain.decode(decoded["high"]["z"], "low", seen_by=seen_by)
    np.testing.assert_allclose(lower["low"]["x"], decoded["low"]["x"])
    direct = chain.reconstruct(table, "low", seen_by=seen_by)["x"]
    exact = chain.decode(
        chain.encode(table, "low", seen_by=seen_by), "low", seen_by=seen_by
    )["low"]["x"]
    np.testing.assert_allclose(exact, direct, atol=1e-5)
    assert np.abs(decoded["low"]["x"] - direct).max() > 0.01


def test_decode_of_a_scale_that_does_not_reconstruct_latents():
    declared = [low(), high(heads=(Head("w", 1),))]
    chain = NestedAutoencoder(declared).fit(
        {"low": low_table(), "high": high_table()},
        {"low": SPLITS, "high": SPLITS}, [0, 1], **GIVEN,
    )  # fmt: skip
    assert set(chain.decode(np.zeros((1, 4, 3)))) == {"high"}


def test_decode_errors(chain):
    with pytest.raises(DataError, match=r"\(replicas, rows, 3\) is allowed"):
        chain.decode(np.zeros((2, 5, 2)))
    with pytest.raises(DataError, match="3 replicas given, 1 or 2"):
        chain.decode(np.zeros((3, 5, 3)))
    with pytest.raises(ParameterError, match="seen_by: 'high' given"):
        chain.decode(np.zeros((2, 5, 2)), "low", seen_by="high")


# --- Selected replicas ----------------------------------------------------


@pytest.mark.parametrize("standardise_on", ["all", "train"])
def test_select(standardise_on):
    chain = fitted("refitted", standardise_on=standardise_on)
    table = high_table(9)
    picked = NestedAutoencoder([low(), high("refitted")])
    for part in chain.fitted.values():
        chosen = part.select([1])
        assert chosen.replicas == 1
        assert chosen.history == {}
        assert chosen.last_epoch is None
        assert part.history
        picked.attach(chosen)
    for name in ("low", "high"):
        np.testing.assert_allclose(
            picked.encode(table, name)[0],
            chain.encode(table, name)[1],
            atol=1e-6,
        )
    turned = NestedAutoencoder([low()])
    turned.attach(chain.fitted["low"].select([1, 0]))
    np.testing.assert_allclose(
        turned.encode(table), chain.encode(table, "low")[::-1], atol=1e-6
    )


# --- Files ----------------------------------------------------------------


@pytest.mark.parametrize("standardise_on", ["all", "train"])
@pytest.mark.parametrize("scaler", ["carried", "refitted"])
def test_save_and_load(scaler, standardise_on, tmp_path):
    chain = fitted(scaler, standardise_on=standardise_on)
    path = chain.save(tmp_path / "chain.pt")
    assert path == tmp_path / "chain.pt"
    assert [file.name for file in tmp_path.iterdir()] == ["chain.pt"]
    for scales in (None, [low(), high(scaler)]):
        again = NestedAutoencoder.load(str(path), scales)
        assert again.scales == chain.scales
        for name, part in chain.fitted.items():
            other = again.fitted[name]
            assert other.parameters.dtype == np.float32
            np.testing.assert_array_equal(other.parameters, part.parameters)
            assert set(other.scalers) == set(part.scalers)
            assert set(other.lower_scalers) == set(part.lower_scalers)
        table = high_table(11)
        for ask in ("predict", "reconstruct"):
            for name in ("low", "high"):
                before = getattr(chain, ask)(table, name)
                after = getattr(again, ask)(table, name)
                assert list(before) == list(after)
                for key, values in before.items():
                    np.testing.assert_array_equal(values, after[key])
        np.testing.assert_array_equal(chain.encode(table), again.encode(table))


def test_a_loaded_chain_goes_on(tmp_path):
    chain = NestedAutoencoder([low(), high()])
    chain.fit_scale("low", low_table(), SPLITS, [0, 1], **GIVEN)
    again = NestedAutoencoder.load(chain.save(tmp_path / "half"))
    assert list(again.fitted) == ["low"]
    for one in (chain, again):
        one.fit_scale("high", high_table(), SPLITS, [0, 1], **GIVEN)
    np.testing.assert_array_equal(
        chain.predict(high_table())["w"], again.predict(high_table())["w"]
    )


def test_saving_again_replaces_the_file(chain, tmp_path):
    path = tmp_path / "chain.pt"
    path.write_text("something else")
    chain.save(path)
    assert NestedAutoencoder.load(path).fitted
    assert [file.name for file in tmp_path.iterdir()] == ["chain.pt"]


def test_a_failed_save_leaves_nothing(chain, tmp_path, monkeypatch):
    with pytest.raises((OSError, DataError)):
        chain.save(tmp_path / "nowhere" / "chain.pt")
    (tmp_path / "folder").mkdir()
    with pytest.raises((OSError, DataError)):
        chain.save(tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
    old = tmp_path / "chain.pt"
    old.write_text("the old one")

    def fail(payload, path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        chain.save(old)
    assert old.read_text() == "the old one"
    assert {file.name for file in tmp_path.iterdir()} == {"folder", "chain.pt"}


@pytest.fixture(scope="module")
def saved(chain, tmp_path_factory):
    return chain.save(tmp_path_factory.mktemp("saved") / "chain.pt")


def refused(path, *words, scales=None):
    with pytest.raises(DataError) as caught:
        NestedAutoencoder.load(path, scales)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_load_a_missing_file(tmp_path):
    refused(tmp_path / "none.pt", "no such file")


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.99, 1])
def test_load_a_truncated_file(share, saved, tmp_path):
    whole = saved.read_bytes()
    path = tmp_path / "short.pt"
    path.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 1)])
    refused(path, "not a saved nested autoencoder, or cut short", "save it")


def test_load_an_altered_file(saved, tmp_path):
    """One byte of the weights."""
    raw = bytearray(saved.read_bytes())
    weights = NestedAutoencoder.load(saved).fitted["low"].parameters.tobytes()
    raw[raw.index(weights) + 10] ^= 1
    path = tmp_path / "altered.pt"
    path.write_bytes(raw)
    refused(path, "not a saved nested autoencoder, or cut short")


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_load_random_bytes(size, tmp_path):
    path = tmp_path / "random.pt"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    refused(path, "not a saved nested autoencoder")


def test_load_a_folder(tmp_path):
    refused(tmp_path, "not a saved nested autoencoder")


class Evil:
    """Code in a pickle, which runs when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "inside"])
def test_code_in_a_file_is_not_run(kind, saved, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    elif kind == "torch":
        torch.save(Evil(marker), path)
    else:
        payload = torch.load(saved, weights_only=True)
        torch.save({**payload, "more": Evil(marker)}, path)
    refused(path, "not a saved nested autoencoder")
    assert not marker.exists()
    # Read in the careless way, it would have been.
    if kind == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    "payload",
    [[1, 2], {}, {"format": 1, "scales": "[", "tensors": {}}, "text"],
)
def test_load_another_payload(payload, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(payload, path)
    refused(path, "not a saved nested autoencoder")


def test_load_another_format(saved, tmp_path):
    payload = torch.load(saved, weights_only=True)
    path = tmp_path / "later.pt"
    torch.save({**payload, "format": 2}, path)
    refused(path, "format 2 found, format 1 is allowed")


def altered(saved, path, change):
    payload = torch.load(saved, weights_only=True)
    change(payload["tensors"])
    torch.save(payload, path)
    return path


def test_load_parameters_of_another_shape(saved, tmp_path):
    def change(tensors):
        tensors["low|parameters"] = tensors["low|parameters"][:, 1:]

    path = altered(saved, tmp_path / "a.pt", change)
    refused(path, "scale 'low' has parameters of shape (2, ")


@pytest.mark.parametrize(
    "key", ["low|scaler||x|mean", "low|scaler||x|deviation"]
)
def test_load_without_a_scaler(key, saved, tmp_path):
    path = altered(saved, tmp_path / "a.pt", lambda tensors: tensors.pop(key))
    refused(path, "'low'", "scaler")


def test_load_something_that_is_no_tensor(saved, tmp_path):
    def change(tensors):
        tensors["low|parameters"] = "none"

    refused(altered(saved, tmp_path / "a.pt", change), "save it anew")


def test_load_a_declaration_that_is_not_allowed(saved, tmp_path):
    payload = torch.load(saved, weights_only=True)
    declared = json.loads(payload["scales"])
    path = tmp_path / "a.pt"
    for change in ({"latent": 0}, {"activation": "tan"}, {"later": 1}):
        scales = json.dumps([{**declared[0], **change}])
        torch.save({**payload, "scales": scales}, path)
        refused(path, next(iter(change)))
    torch.save({**payload, "scales": json.dumps(declared[::-1])}, path)
    refused(path, "latents_of: 'low'")


OTHERS = {
    "l1": ([low(l1=0.5), high()], "scale 'low' was saved with l1 = 0.0"),
    "latent": (
        [low(), high(latent=4)],
        "scale 'high' was saved with latent = 3, but 4 is wanted",
    ),
    "heads": ([low(heads=(Head("x", 3),)), high()], "'low' .* heads = "),
    "scaler": ([low(), high("refitted")], "'high' .* inputs = .*carried"),
    "names": (
        [low(name="deep")],
        r"with the scales \['low', 'high'\], but \['deep'\] are wanted",
    ),
    "number": (
        [low()],
        r"with the scales \['low', 'high'\], but \['low'\] are wanted",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_load_a_file_of_other_settings(case, saved):
    scales, message = OTHERS[case]
    with pytest.raises(DataError, match=re.escape(str(saved))) as caught:
        NestedAutoencoder.load(saved, scales)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
