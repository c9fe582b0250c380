"""The paper's scales, folds and trainings, on tables that take no time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.scales import Block, parameter_count
from nestedae_utils.model.training import HISTORIES
from nestedae_utils.study import protocol

GIVEN = {"epochs": 2, "batch_size": 5, "learning_rate": 0.001}


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))


def gaps(rows=14):
    random = np.random.default_rng(4)
    return {
        "ions": random.normal(size=(rows, 15)),
        "fractions": random.dirichlet(np.ones(14), rows),
        "gap": random.uniform(0.5, 3, (rows, 1)),
        "formula": np.array(["MAPbI3"] * rows),
    }


def devices(rows=16):
    random = np.random.default_rng(5)
    return {
        "ions": random.normal(size=(rows, 15)),
        "fractions": random.dirichlet(np.ones(14), rows),
        "etl": np.eye(7)[random.integers(0, 7, rows)],
        "htl": np.eye(4)[random.integers(0, 4, rows)],
        "pce": random.uniform(2, 20, (rows, 1)),
    }


# --- Splits ---------------------------------------------------------------


def test_row_folds_by_hand():
    splits, numbers = protocol.row_folds(10, 3, 2)
    assert numbers == [0, 1, 0, 1, 0, 1]
    assert [len(held) for _, held in splits] == [4, 4, 3, 3, 3, 3]
    for replica in (0, 2, 4):
        for one, other in zip(*splits[replica : replica + 2], strict=True):
            np.testing.assert_array_equal(one, other)
    # scikit-learn's KFold(3, shuffle=True, random_state=0) of ten rows
    assert [held.tolist() for _, held in splits[::2]] == [
        [2, 4, 8, 9],
        [1, 6, 7],
        [0, 3, 5],
    ]


@given(st.integers(2, 9), st.integers(1, 3), st.integers(0, 30))
@settings(max_examples=30, deadline=None)
def test_row_folds_divide_the_rows(folds, seeds, more):
    rows = folds + more
    splits, numbers = protocol.row_folds(rows, folds, seeds)
    assert len(splits) == len(numbers) == folds * seeds
    for seen, held in splits:
        assert sorted([*seen, *held]) == list(range(rows))
    held = np.concatenate([held for _, held in splits[::seeds]])
    assert sorted(held) == list(range(rows))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ((4, 5, 1), "folds: 5 given for 4 rows, at most one fold a row"),
        ((9, 1, 1), "folds: 1 given, a whole number of at least 2"),
        ((9, 0, 1), "folds: 0 given, a whole number of at least 2"),
        ((9, 2.5, 1), "folds: 2.5 given, a whole number of at least 2"),
        ((9, 3, 0), "seeds: 0 given, a whole number of at least 1"),
    ],
)
def test_row_folds_errors(given_, message):
    with pytest.raises(ParameterError, match=message):
        protocol.row_folds(*given_)


def test_held_out():
    splits, numbers = protocol.held_out(200, 0.2, 3)
    assert numbers == [0, 1, 2]
    for seen, held in splits:
        assert (len(seen), len(held)) == (160, 40)
        assert sorted([*seen, *held]) == list(range(200))
    assert len({tuple(held) for _, held in splits}) == 3
    again, _ = protocol.held_out(200, 0.2, 2)
    for one, other in zip(again, splits[:2], strict=True):
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, 5, math.nan])
def test_held_out_share(share):
    with pytest.raises(ParameterError, match="share: "):
        protocol.held_out(20, share, 1)


def test_held_out_seeds():
    with pytest.raises(ParameterError, match="seeds: 0 given"):
        protocol.held_out(20, 0.2, 0)
    with pytest.raises(ParameterError, match="seed: -1 given"):
        protocol.held_out(20, 0.2, 1, -1)


def test_held_out_from_another_seed():
    every, _ = protocol.held_out(50, 0.2, 5)
    later, numbers = protocol.held_out(50, 0.2, 2, first=3)
    assert numbers == [3, 4]
    for one, other in zip(later, every[3:], strict=True):
        np.testing.assert_array_equal(one[1], other[1])


# --- Declarations ---------------------------------------------------------


def layers(*widths):
    """Count the weights and biases of a chain of layers."""
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return sum(rows * columns + columns for rows, columns in pairs)


def losses(scale):
    return {head.name: head.loss for head in scale.heads}


def test_band_gap_scale():
    """AE1: 15 properties, tanh latent 12; the gap from 100 units."""
    scale = protocol.band_gap_scale()
    assert (scale.width, scale.hidden, scale.latent) == (15, (), 12)
    assert scale.latent_activation == "tanh"
    assert (scale.l1, scale.l1_on) == (0.01, "encoder")
    assert scale.initialisation == "xavier_normal"
    assert losses(scale) == {"gap": "mae", "ions": "mae"}
    assert [head.name for head in scale.predicted] == ["gap"]
    gap, ions = scale.heads
    assert (gap.hidden, gap.activation, gap.output) == (
        (100,),
        "relu",
        "relu",
    )
    assert (gap.dropout, gap.gain, gap.scaling) == (0.1, 1, "none")
    assert (ions.hidden, ions.output, ions.dropout) == ((), "linear", 0)
    assert {head.weight for head in scale.heads} == {1}
    assert parameter_count(scale) == 192 + 1300 + 101 + 195
    assert protocol.band_gap_scale(5, 0.5).latent == 5
    assert protocol.band_gap_scale(5, 0.5).l1 == 0.5


@pytest.mark.parametrize(
    ("composition", "width", "latent"),
    [("latents", 23, 18), ("latents", 23, 2), ("nothing", 11, 8)]
    + [("ions", 26, 18)],
)
def test_device_scale(composition, width, latent):
    scale = protocol.device_scale(latent, composition=composition)
    assert (scale.width, scale.hidden, scale.latent) == (width, (), latent)
    assert (scale.l1, scale.l1_on) == (0.01, "encoder")
    assert [head.name for head in scale.predicted] == ["pce"]
    pce = scale.heads[0]
    assert (pce.hidden, pce.dropout, pce.gain) == ((100,), 0.1, 10)
    assert (pce.activation, pce.output, pce.loss) == ("relu", "relu", "mae")
    rest = {} if composition == "nothing" else {composition: "mae"}
    assert losses(scale) == {
        "pce": "mae",
        **rest,
        "etl": "cross_entropy",
        "htl": "cross_entropy",
    }
    scaling = {block.name: block.scaling for block in scale.inputs}
    assert scaling.pop("etl") == scaling.pop("htl") == "none"
    assert set(scaling.values()) <= {"standard"}
    count = layers(width, latent) + layers(latent, 100, 1)
    for head in scale.reconstructed:
        count += layers(latent, head.width)
    assert parameter_count(scale) == count
    if (composition, latent) == ("latents", 18):
        assert count == 432 + 1900 + 101 + 228 + 133 + 76


def test_device_scale_of_other_latents():
    scale = protocol.device_scale()
    assert scale.latent == 18
    assert scale.inputs[0].latents_of == "band_gap"
    assert scale.inputs[0].lower_scaler == "refitted"
    other = protocol.device_scale(lower_latent=5, lower_scaler="carried")
    assert other.inputs[0].lower_scaler == "carried"
    NestedAutoencoder([protocol.band_gap_scale(5), other])
    with pytest.raises(ParameterError, match="has 12 latents"):
        NestedAutoencoder([protocol.band_gap_scale(), other])
    with pytest.raises(ParameterError, match=r"'latent' given.*'latents'\?"):
        protocol.device_scale(composition="latent")
    with pytest.raises(ParameterError, match="latent: 0 given"):
        protocol.device_scale(0)


@pytest.mark.parametrize("kind", protocol.SETTINGS)
def test_synthetic_scales(kind):
    """The text and the published inputs differ."""
    published = kind == "inputs"
    chains = (
        protocol.synthetic_single(kind),
        protocol.synthetic_nested(kind),
    )
    shapes = []
    for chain in chains:
        NestedAutoencoder(chain)
        for scale in chain:
            (decoder,) = scale.heads
            shapes.append((scale.width, *scale.hidden, scale.latent))
            assert decoder.width == scale.width
            backward = list(scale.hidden[::-1])
            if published:
                # a first layer as wide as the latent, and none as the first
                backward = [scale.latent, *backward[:-1]]
            assert decoder.hidden == tuple(backward)
            assert decoder.loss == "mae"
            assert decoder.of == tuple(block.name for block in scale.inputs)
            assert decoder.output == ("tanh" if published else "linear")
            assert {decoder.activation, scale.activation} == {"tanh"}
            assert scale.latent_activation == "tanh"
            assert scale.l1 == (0.001 if published else 0.01)
            assert scale.l1_on == ("all" if published else "encoder")
            assert scale.initialisation == (
                "xavier_uniform" if published else "xavier_normal"
            )
            assert parameter_count(scale) == layers(*shapes[-1]) + layers(
                scale.latent, *backward, scale.width
            )
    single, fine, coarse = shapes
    assert (single[0], single[-1]) == (13, 5)
    assert fine == (4, 4, 3, 2)
    assert (coarse[0], coarse[-1]) == (11, 5)
    if not published:
        assert coarse == (11, 9, 7, 6, 5)
    assert chains[1][1].inputs[1] == Block("latents", 2, latents_of="fine")
    usual = 0.001 if published else 0.01
    (heavy,) = protocol.synthetic_single(kind, 3)
    assert heavy.l1 == pytest.approx(3 * usual)
    free, wide = protocol.synthetic_nested(kind, l1_factor=0, latent=4)
    assert free.l1 == wide.l1 == 0
    assert (free.latent, wide.latent) == (2, 4)
    (wide,) = protocol.synthetic_single(kind, latent=4)
    assert wide.latent == 4


def test_synthetic_settings():
    with pytest.raises(ParameterError, match=r"settings: 'txt'.*'text'\?"):
        protocol.synthetic_single("txt")
    with pytest.raises(ParameterError, match="l1_factor: -1 given"):
        protocol.synthetic_nested("text", l1_factor=-1)
    with pytest.raises(ParameterError, match="latent: 0 given"):
        protocol.synthetic_single("text", latent=0)


def test_same():
    first = np.array([[0.1 + 0.2, 1], [0.3, 1], [0.3, 2], [0.3, 1]])
    assert protocol.same(first).tolist() == [0, 0, 1, 0]
    layer = np.array([[0], [0], [0], [1]])
    assert len(set(protocol.same(first, layer))) == 3


@given(
    folds=st.integers(2, 4),
    seeds=st.integers(1, 3),
    by=st.sampled_from(protocol.FOLDS_BY),
    draw=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_folds_by(folds, seeds, by, draw):
    kinds = [draw.randrange(6) for _ in range(24)] + list(range(6))
    layers = [draw.randrange(2) for _ in kinds]
    table = {
        "fractions": np.eye(6)[kinds],
        "etl": np.eye(2)[layers],
        "htl": np.ones((len(kinds), 1)),
    }
    splits, numbers = protocol.folds_by(by, table, folds, seeds)
    assert numbers == list(range(seeds)) * folds
    held_out = np.concatenate([split[1] for split in splits[::seeds]])
    assert sorted(held_out) == list(range(len(kinds)))
    groups = {
        "row": range(len(kinds)),
        "input": [2 * k + e for k, e in zip(kinds, layers, strict=True)],
        "composition": kinds,
    }[by]
    for seen, unseen in splits:
        assert len(seen) + len(unseen) == len(kinds)
        assert not {groups[row] for row in seen} & {
            groups[row] for row in unseen
        }


def test_folds_by_errors():
    table = {**devices(), "fractions": np.ones((16, 14))}
    with pytest.raises(ParameterError, match=r"by: 'rows' given.*'row'\?"):
        protocol.folds_by("rows", table, 2, 1)
    with pytest.raises(ParameterError, match="folds: 2 given for 1 groups"):
        protocol.folds_by("composition", table, 2, 1)
    with pytest.raises(ParameterError, match="seeds: 0 given"):
        protocol.folds_by("input", table, 2, 0)


# --- Trainings ------------------------------------------------------------


def same_weights(one, other):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_fit_perovskites():
    table = gaps()
    chain = protocol.fit_perovskites(
        protocol.band_gap_scale(4), table, folds=3, seeds=2, **GIVEN
    )
    assert chain.fitted["band_gap"].replicas == 6
    assert chain.encode(table).shape == (6, 14, 4)
    predicted = chain.predict(table)["gap"]
    assert predicted.shape == (6, 14, 1)
    assert (predicted >= 0).all()
    assert chain.reconstruct(table)["ions"].shape == (6, 14, 15)
    history = chain.fitted["band_gap"].history
    for kind in HISTORIES:
        assert set(history[kind]) == {"gap_mae", "ions_mae", "loss"}
        assert history[kind]["gap_mae"].shape == (6, 2)
    # standardised on all rows, as in the paper; the gap is raw
    scalers = chain.fitted["band_gap"].scalers
    assert set(scalers) == {"ions"}
    np.testing.assert_allclose(
        scalers["ions"].mean[0, 0], table["ions"].mean(0)
    )
    # the last replica is the last fold's seed 1
    splits, _ = protocol.row_folds(14, 3, 1)
    alone = NestedAutoencoder([protocol.band_gap_scale(4)]).fit_scale(
        "band_gap", table, [splits[2]], [1], device="cpu", **GIVEN
    )
    same_weights(
        chain.fitted["band_gap"].parameters[5],
        alone.fitted["band_gap"].parameters[0],
    )


def test_fit_latent_sizes():
    table = gaps()
    sizes = (5, 2, 3)
    scale = protocol.band_gap_scale(5)
    given_ = {"folds": 2, "seeds": 1, **GIVEN}
    chain = protocol.fit_perovskites(scale, table, latents=sizes, **given_)
    z = chain.encode(table)
    assert z.shape == (6, 14, 5)
    used = (z != 0).any(axis=1).sum(1)
    assert used.tolist() == [5, 5, 2, 2, 3, 3]
    # the second size's replicas are those of a scale of that size
    alone = protocol.fit_perovskites(
        protocol.band_gap_scale(2), table, folds=2, seeds=1, **GIVEN
    )
    np.testing.assert_allclose(
        chain.predict(table)["gap"][2:4],
        alone.predict(table)["gap"],
        atol=1e-4,
    )
    with pytest.raises(ParameterError, match="latent: 0 given"):
        protocol.fit_perovskites(scale, table, latents=(0, 2), **given_)


def test_fit_device_on_the_first_model_below():
    below = protocol.fit_perovskites(
        protocol.band_gap_scale(), gaps(), folds=2, seeds=2, **GIVEN
    )
    table = devices()
    chain = protocol.fit_perovskites(
        protocol.device_scale(), table, below, folds=2, seeds=2, **GIVEN
    )
    np.testing.assert_array_equal(
        chain.fitted["band_gap"].parameters,
        below.fitted["band_gap"].parameters[:1],
    )
    assert chain.fitted["band_gap"].replicas == 1
    # nothing of the lower model is lost or trained on
    assert below.fitted["band_gap"].replicas == 4
    assert below.fitted["band_gap"].history
    z = chain.encode(table, "band_gap")
    assert z.shape == (1, 16, 12)
    np.testing.assert_allclose(z[0], below.encode(table)[0], atol=1e-6)
    assert chain.encode(table).shape == (4, 16, 18)
    assert chain.predict(table)["pce"].shape == (4, 16, 1)
    made = chain.reconstruct(table)
    assert {key: part.shape for key, part in made.items()} == {
        "latents": (4, 16, 12),
        "etl": (4, 16, 7),
        "htl": (4, 16, 4),
    }
    history = chain.fitted["device"].history["validation_as_made"]
    assert {"pce_mae", "latents_mae", "etl_accuracy_as_made"} <= set(history)
    # the devices' own statistics, as in the paper
    lower = chain.fitted["device"].lower_scalers["band_gap"]["ions"]
    np.testing.assert_allclose(lower.mean[0, 0], table["ions"].mean(0))


def test_fit_device_on_the_statistics_below():
    """What the paper did not do: the devices on AE1's own scale."""
    below = protocol.fit_perovskites(
        protocol.band_gap_scale(3), gaps(), folds=2, seeds=1, **GIVEN
    )
    table = devices()
    latents = []
    for scaler in ("carried", "refitted"):
        scale = protocol.device_scale(2, lower_latent=3, lower_scaler=scaler)
        chain = protocol.fit_perovskites(
            scale, table, below, folds=2, seeds=1, **GIVEN
        )
        latents.append(chain.encode(table))
        lower = chain.fitted["device"].lower_scalers
        assert bool(lower) == (scaler == "refitted")
    assert np.abs(latents[0] - latents[1]).max() > 0.01


@pytest.mark.parametrize("composition", ["nothing", "ions"])
def test_fit_device_alone(composition):
    table = devices()
    scale = protocol.device_scale(3, composition=composition)
    chain = protocol.fit_perovskites(scale, table, folds=2, seeds=1, **GIVEN)
    assert list(chain.scales) == ["device"]
    assert chain.encode(table).shape == (2, 16, 3)
    assert chain.predict(table)["pce"].shape == (2, 16, 1)
    moved = {**table, "ions": table["ions"] + 1}
    blind = np.array_equal(chain.encode(moved), chain.encode(table))
    assert blind == (composition == "nothing")


def test_fit_device_errors():
    table = devices()
    given_ = {"folds": 2, "seeds": 1, **GIVEN}
    with pytest.raises(ParameterError, match="latents_of: 'band_gap' given"):
        protocol.fit_perovskites(protocol.device_scale(), table, **given_)
    scale = protocol.device_scale(3, composition="nothing")
    with pytest.raises(ParameterError, match="folds: 17 given for 16 rows"):
        protocol.fit_perovskites(scale, table, **{**given_, "folds": 17})
    with pytest.raises(ParameterError, match="epochs: 0 given"):
        protocol.fit_perovskites(scale, table, **{**given_, "epochs": 0})
    table["pce"][3] = np.nan
    with pytest.raises(DataError, match="'pce': row 3 is not finite"):
        protocol.fit_perovskites(scale, table, **given_)


def test_fit_by_composition_on_training_rows():
    table = devices()
    table["fractions"] = np.eye(14)[[row // 2 for row in range(16)]]
    scale = protocol.device_scale(3, composition="ions")
    chain = protocol.fit_perovskites(
        scale, table, folds=4, seeds=1, by="composition",
        standardise_on="train", every=2, **GIVEN,
    )  # fmt: skip
    splits, _ = protocol.folds_by("composition", table, 4, 1)
    scaler = chain.fitted["device"].scalers["ions"]
    for replica, (seen, _) in enumerate(splits):
        np.testing.assert_allclose(
            scaler.mean[replica, 0], table["ions"][seen].mean(0)
        )
    history = chain.fitted["device"].history["validation_per_sample"]
    assert np.isnan(history["pce_mae"][:, 0]).all()
    assert np.isfinite(history["pce_mae"][:, 1]).all()


@pytest.mark.parametrize("nested", [False, True])
def test_fit_synthetic(nested):
    random = np.random.default_rng(6)
    tables = random.normal(size=(2, 15, 13))
    declare = (
        protocol.synthetic_nested if nested else protocol.synthetic_single
    )
    chain = protocol.fit_synthetic(declare("inputs"), tables, seeds=3, **GIVEN)
    last = list(chain.scales)[-1]
    assert len(chain.fitted) == 1 + nested
    for part in chain.fitted.values():
        assert part.replicas == 6
    own = np.repeat(tables, 3, axis=0)
    table = {"scale_1": own[..., :4], "scale_2": own[..., 4:]}
    assert chain.encode(table).shape == (6, 15, 5)
    made = chain.reconstruct(table)
    assert made["scale_2"].shape == (6, 15, 9)
    assert set(made) == {
        "scale_2",
        "latents" if nested else "scale_1",
    }
    # the second table's seed 1, alone
    splits, _ = protocol.held_out(15, 0.2, 3)
    alone = NestedAutoencoder(declare("inputs"))
    for scale in alone.scales:
        alone.fit_scale(
            scale,
            {"scale_1": tables[1, :, :4], "scale_2": tables[1, :, 4:]},
            [splits[1]],
            [1],
            device="cpu",
            **GIVEN,
        )
    same_weights(
        chain.fitted[last].parameters[4], alone.fitted[last].parameters[0]
    )
