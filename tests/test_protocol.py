"""The paper's scales, folds and trainings, on tables that take no time."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.networks import parameter_count
from nestedae_utils.study import protocol

SETTINGS = {"epochs": 2, "batch_size": 5, "learning_rate": 0.001}


pytestmark = pytest.mark.usefixtures("own_cache")


def table(rows=16):
    """Return both tables in one; rows 2k and 2k + 1 have one composition."""
    random = np.random.default_rng(5)
    return {
        "ions": random.normal(size=(rows, 15)),
        "fractions": np.repeat(random.dirichlet(np.ones(14), rows // 2), 2, axis=0),
        "gap": random.uniform(0.5, 3, (rows, 1)),
        "etl": np.eye(7)[random.integers(0, 7, rows)],
        "htl": np.eye(4)[random.integers(0, 4, rows)],
        "pce": random.uniform(2, 20, (rows, 1)),
    }


def test_row_folds_are_those_of_the_paper():
    held = [held.tolist() for _, held in protocol.row_folds(10, 3)]
    # scikit-learn's KFold(3, shuffle=True, random_state=0) of ten rows
    assert held == [[2, 4, 8, 9], [1, 6, 7], [0, 3, 5]]


@given(st.integers(2, 5), st.sampled_from(protocol.FOLDS_BY), st.integers(0, 99))
@settings(max_examples=30)
def test_folds_divide_the_rows_and_keep_groups(folds, by, seed):
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 8, 30)
    kinds[:8] = range(8)
    table = {
        "fractions": np.eye(14)[kinds],
        "etl": np.eye(7)[kinds % 2],
        "htl": np.eye(4)[random.integers(0, 2, 30)],
    }
    splits = protocol.folds_by(by, table, folds)
    held = np.concatenate([held for _, held in splits])
    assert sorted(held) == list(range(30))
    for seen, unseen in splits:
        assert sorted([*seen, *unseen]) == list(range(30))
        if by == "composition":
            assert not set(kinds[seen]) & set(kinds[unseen])


@pytest.mark.parametrize("by", protocol.FOLDS_BY)
def test_more_folds_than_groups(by):
    with pytest.raises(ParameterError, match="folds: 40 given for .* at most"):
        protocol.folds_by(by, table(), 40)


@given(st.integers(2, 4), st.integers(2, 3), st.booleans())
@settings(max_examples=20)
def test_inner_folds_never_see_what_is_held_out(outer, inner, grouped):
    groups = np.arange(40) // 2 if grouped else None
    splits = protocol.row_folds(40, outer)
    found = protocol.inner_folds(splits, inner, groups)
    assert len(found) == outer * inner
    for place, (train, test) in enumerate(found):
        seen, held = splits[place // inner]
        assert set(train) | set(test) == set(seen)
        assert not (set(train) | set(test)) & set(held)
        if grouped:
            assert not set(groups[train]) & set(groups[test])


def test_held_out_shares_are_drawn_by_the_seed():
    some = protocol.held_out(200, 0.2, 3)
    assert some.labels["seed"].tolist() == [0, 1, 2]
    for seen, held in some.splits:
        assert (len(seen), len(held)) == (160, 40)
        assert sorted([*seen, *held]) == list(range(200))
    assert len({tuple(held) for _, held in some.splits}) == 3
    later = protocol.held_out(200, 0.2, 1, first=2)
    assert (later.splits[0][1] == some.splits[2][1]).all()


def test_same():
    blocks = np.array([[0.1, 0.2], [0.3, 0.4], [0.1 + 1e-12, 0.2]])
    assert protocol.same(blocks).tolist() == [0, 1, 0]
    assert len(set(protocol.same(blocks, np.eye(3)))) == 3


def layers(*widths):
    """Count the weights and biases of a chain of layers."""
    return sum((n + 1) * m for n, m in itertools.pairwise(widths))


@pytest.mark.parametrize(
    ("composition", "width", "latent"),
    [("", 15, 12), ("latents", 23, 18), ("nothing", 11, 8), ("ions", 26, 18)],
)
def test_perovskite_scales(composition, width, latent):
    """AE1 where no composition is named: 15 properties, latent 12."""
    below = protocol.band_gap_scale()
    scale = protocol.device_scale(latent, composition=composition or "ions")
    scale = scale if composition else below
    assert (scale.width, scale.hidden, scale.latent) == (width, (), latent)
    assert (scale.l1, scale.l1_on) == (0.01, "encoder")
    target, *rest = scale.heads
    assert (target.hidden, target.activation, target.dropout) == ((100,), "relu", 0.1)
    assert (target.output, target.loss) == ("relu", "mae")
    assert target.gain == (10 if composition else 1)
    assert {(*h.hidden, h.output) for h in rest} == {("linear",)}
    losses = {"mae"} | ({"cross_entropy"} if composition else set())
    assert {h.loss for h in rest} | {"mae"} == losses
    count = layers(width, latent) + layers(latent, 100, 1)
    count += sum(layers(latent, head.width) for head in rest)
    assert parameter_count(scale) == count
    assert NestedAutoencoder([below, scale] if composition == "latents" else [scale])


@pytest.mark.parametrize("kind", protocol.SETTINGS)
def test_synthetic_scales(kind):
    """The text and the published inputs differ."""
    published = kind == "inputs"
    every = [*protocol.synthetic_single(kind), *protocol.synthetic_nested(kind)]
    widths = [(s.width, *s.hidden, s.latent) for s in every]
    last = (11, 11, 8, 6, 5) if published else (11, 9, 7, 6, 5)
    assert widths == [(13, 13, 8, 6, 5), (4, 4, 3, 2), last]
    for scale in every:
        (decoder,) = scale.heads
        backward = list(scale.hidden[::-1])
        if published:
            # a first layer as wide as the latent, and none as the first
            backward = [scale.latent, *backward[:-1]]
        assert decoder.hidden == tuple(backward)
        assert decoder.output == ("tanh" if published else "linear")
        assert scale.l1 == (0.001 if published else 0.01)
        assert scale.l1_on == ("all" if published else "encoder")
        assert scale.initialisation.endswith("form" if published else "mal")


def test_devices_stand_on_the_model_with_the_least_sum_of_errors():
    few = {"folds": 2, "seeds": 2, **SETTINGS}
    lower = protocol.fit_perovskites(protocol.band_gap_scale(4), table(), **few)
    scale = protocol.device_scale(3, lower_latent=4)
    chain = protocol.fit_perovskites(scale, table(), lower, by="composition", **few)
    below, device = chain.fitted.values()
    ae1, errors = lower.fitted["band_gap"], ("gap_mae", "ions_mae")
    sums = [ae1.at_end("validation_as_made", error)[::2] for error in errors]
    # of the first seed, whatever the others have
    place = 2 * int(np.sum(sums, axis=0).argmin())
    assert protocol.chosen(lower) == place
    assert below.replicas.labels["fold"].tolist() == [place // 2]
    served = ae1.parameters["encoder.0.weight"][[place]]
    assert (below.parameters["encoder.0.weight"] == served).all()
    assert chain.predict(table())["pce"].shape == (4, 16, 1)
    assert device.replicas.labels["fold"].tolist() == [0, 0, 1, 1]
    for _, rows in device.replicas.splits:
        assert set(rows) == {row ^ 1 for row in rows}, "pairs stay together"


def test_sizes_are_a_label():
    chain = protocol.fit_perovskites(
        protocol.band_gap_scale(4), table(), folds=2, seeds=1, latents=[2, 4],
        **SETTINGS,
    )  # fmt: skip
    fitted = chain.fitted["band_gap"]
    assert fitted.replicas.labels["latent"].tolist() == [2, 2, 4, 4]
    codes = chain.encode(table())
    assert not codes[:2, :, 2:].any()
    assert codes[2:, :, 2:].any()


def test_tables_and_seeds_of_the_functions():
    values = np.random.default_rng(0).normal(size=(2, 30, 13))
    for declare in (protocol.synthetic_single, protocol.synthetic_nested):
        scales = declare("inputs")
        chain = protocol.fit_synthetic(scales, values, seeds=3, first=1, **SETTINGS)
        *_, last = chain.fitted.values()
        assert last.replicas.labels["table"].tolist() == [0, 0, 0, 1, 1, 1]
        assert last.replicas.labels["seed"].tolist() == [1, 2, 3] * 2
        splits = last.replicas.splits
        assert (splits[0][1] == splits[3][1]).all()
        assert len(chain.fitted) == len(scales)
