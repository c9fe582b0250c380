"""Fine-tuning all scales of a chain together."""

import numpy as np
import pytest
import torch

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.chain import fit
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study.tune import fine_tune, scale_loss

TUNING = {"epochs": 30, "steps": 2, "batch_size": 8, "learning_rate": 3e-3}
SETTINGS = {"epochs": 20, "batch_size": 8, "learning_rate": 1e-2}
ALL, SEEN = np.arange(40), np.arange(8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path))


def chain_of(scaling="standard", lower=2):
    """Return a small fitted chain, two replicas above, and its tables."""
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    fine = {"x": x, "y": x[:, :1] + x[:, 1:2]}
    coarse = {"x": x[:12], "z": fine["y"][:12] ** 2}
    below = Scale(
        "fine", (Block("x", 3),), 2, (Head("y", 1, scaling="standard"),)
    )
    above = Scale(
        "coarse",
        (Block("latents", 2, scaling, latents_of="fine"),),
        2,
        (Head("z", 1, weight=2.0, scaling="standard"), Head("latents", 2)),
    )
    chain = fit(below, fine, Replicas.cross([(ALL, ALL)], lower), **SETTINGS)
    splits = [(SEEN, np.arange(8, 12))]
    chain = fit(above, coarse, Replicas.cross(splits, 2), chain, **SETTINGS)
    rows = {"fine": [ALL] * 2, "coarse": [SEEN] * 2}
    return chain, {"fine": fine, "coarse": coarse}, rows


def with_z(tables, rows, value):
    z = tables["coarse"]["z"].copy()
    z[rows] = value
    return {**tables, "coarse": {**tables["coarse"], "z": z}}


def weights(chain, scale, name="encoder.0.weight"):
    return chain.fitted[scale].parameters[name]


@pytest.mark.parametrize("scaling", ["standard", "none"])
@pytest.mark.parametrize("lower", [1, 2])
def test_tuning_lowers_the_loss_and_leaves_the_chain(scaling, lower):
    chain, tables, rows = chain_of(scaling, lower)
    before = {name: weights(chain, name).copy() for name in chain.scales}
    tuned = fine_tune(chain, tables, rows, **TUNING)
    miss = [
        np.abs(each.predict(tables["coarse"])["z"] - tables["coarse"]["z"])[
            :, SEEN
        ].mean()
        for each in (chain, tuned)
    ]
    assert miss[1] < miss[0]
    for name in chain.scales:
        np.testing.assert_array_equal(weights(chain, name), before[name])
        assert not np.allclose(weights(tuned, name), before[name])
        assert len(tuned.fitted[name].replicas) == 2


def test_the_loss_is_the_scales_own():
    """The weighted sum of the heads' errors, on standardised targets."""
    chain, tables, _ = chain_of()
    table = tables["coarse"]
    fitted = chain.fitted["coarse"]
    got = chain.reconstruct(table)["latents"]
    latents = chain.encode(table, "fine")
    away = (got - latents) / fitted.scalers["latents"].deviation
    predicted = chain.predict(table)["z"] - table["z"]
    wanted = (
        2 * np.abs(predicted / fitted.scalers["z"].deviation).mean((1, 2))
        + np.abs(away).mean((1, 2))
    ).sum()
    batch = {key: torch.tensor(values) for key, values in table.items()}
    loss = scale_loss(chain, "coarse", batch)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_what_is_reconstructed_does_not_pull_on_the_lower_scale():
    chain, tables, _ = chain_of()
    upper = chain.scales["coarse"]
    targets = []
    for name, fitted in chain.fitted.items():
        parameters = {
            key: torch.tensor(value, requires_grad=True)
            for key, value in fitted.parameters.items()
        }
        # nothing comes back from what the latents are decoded to
        if name == "coarse":
            for key in ("head latents.0.weight", "head z.0.weight"):
                parameters[key] = torch.zeros_like(parameters[key])
        fitted.parameters.clear()
        fitted.parameters.update(parameters)
        targets.append(parameters["encoder.0.weight"])
    batch = {k: torch.tensor(v) for k, v in tables["coarse"].items()}
    loss = scale_loss(chain, upper.name, batch)
    slope = torch.autograd.grad(loss, targets[0], allow_unused=True)[0]
    assert slope is None or not slope.any()


def test_a_tiny_rate_changes_next_to_nothing():
    chain, tables, rows = chain_of()
    tuned = fine_tune(chain, tables, rows, **{**TUNING, "learning_rate": 1e-9})
    for name in chain.scales:
        np.testing.assert_allclose(
            weights(tuned, name), weights(chain, name), atol=1e-6
        )


def test_only_the_training_rows_of_a_replica_matter():
    chain, tables, rows = chain_of()
    tuned = fine_tune(chain, tables, rows, **TUNING)
    other = fine_tune(chain, with_z(tables, slice(8, None), 9), rows, **TUNING)
    for name in chain.scales:
        np.testing.assert_array_equal(
            weights(tuned, name), weights(other, name)
        )
    rows = {**rows, "coarse": [np.arange(4), np.arange(4, 8)]}
    first, second = (
        weights(fine_tune(chain, given, rows, **TUNING), "coarse")
        for given in (tables, with_z(tables, slice(4, 8), -5))
    )
    np.testing.assert_allclose(first[0], second[0], atol=1e-6)
    assert not np.allclose(first[1], second[1], atol=1e-3)


@pytest.mark.parametrize(("table", "key"), [("coarse", "z"), ("fine", "y")])
def test_every_loss_pulls_on_the_lower_scale(table, key):
    chain, tables, rows = chain_of()
    other = {**tables, table: {**tables[table], key: -tables[table][key]}}
    tuned = [
        weights(fine_tune(chain, given, rows, **TUNING), "fine")
        for given in (tables, other)
    ]
    assert not np.allclose(*tuned, atol=1e-3)


def test_a_loss_that_is_not_finite_is_told():
    chain, tables, rows = chain_of()
    with pytest.raises(ParameterError, match=r"learning_rate: 1e\+30 given"):
        fine_tune(chain, tables, rows, **{**TUNING, "learning_rate": 1e30})
