"""Fine-tuning all scales of a chain together."""

import numpy as np
import pytest
import torch
from models import SETTINGS, coarse, fine, tables

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.chain import fit
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.study.tune import fine_tune, scale_loss

TUNING = {"epochs": 30, "steps": 2, "batch_size": 8, "learning_rate": 3e-3}
ALL, SEEN = np.arange(40), np.arange(8)
ROWS = {"fine": [ALL] * 2, "coarse": [SEEN] * 2}
TABLES = {
    "fine": tables(),
    "coarse": {key: values[:12] for key, values in tables().items()},
}


def chain_of(lower=2):
    """Return a small fitted chain, two replicas above, some below."""
    lower = Replicas.cross([(ALL, ALL)], lower)
    upper = Replicas.cross([(SEEN, np.arange(8, 12))], 2)
    chain = fit(fine(), TABLES["fine"], lower, **SETTINGS)
    return fit(coarse(), TABLES["coarse"], upper, chain, **SETTINGS)


def changed(table, key, rows):
    """Return the tables with some values of one column changed."""
    values = TABLES[table][key].copy()
    values[rows] = 3 - 2 * values[rows]
    return {**TABLES, table: {**TABLES[table], key: values}}


def weights(chain, scale):
    return chain.fitted[scale].parameters["encoder.0.weight"]


@pytest.mark.parametrize("lower", [1, 2])
def test_tuning_lowers_the_loss_and_leaves_the_chain(lower):
    chain, table = chain_of(lower), TABLES["coarse"]
    before = {name: weights(chain, name).copy() for name in chain.scales}
    tuned = fine_tune(chain, TABLES, ROWS, **TUNING)
    miss = [
        np.abs(each.predict(table)["y"] - table["y"])[:, SEEN].mean()
        for each in (chain, tuned)
    ]
    assert miss[1] < miss[0]
    for name in chain.scales:
        np.testing.assert_array_equal(weights(chain, name), before[name])
        assert not np.allclose(weights(tuned, name), before[name])
        assert len(tuned.fitted[name].replicas) == 2


def test_the_loss_is_the_sum_of_the_heads_own_on_scaled_targets():
    chain, table = chain_of(), TABLES["coarse"]
    decoded, scalers = chain.reconstruct(table), chain.fitted["coarse"].scalers
    away = {
        "y": chain.predict(table)["y"] - table["y"],
        "latents": decoded["latents"] - chain.encode(table, "fine"),
    }
    wanted = -np.log((decoded["kind"] * table["kind"]).sum(-1)).mean(1).sum()
    for key, values in away.items():
        scaled = values / scalers[key].deviation
        wanted += np.abs(scaled).mean((1, 2)).sum()
    batch = {key: torch.tensor(values) for key, values in table.items()}
    loss = scale_loss(chain, "coarse", batch).item()
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_only_a_replicas_own_training_rows_matter():
    chain, rows = chain_of(), {**ROWS, "coarse": [ALL[:4], ALL[4:8]]}
    plain, held_out, second, below = (
        fine_tune(chain, given, rows, **TUNING)
        for given in (
            TABLES,
            changed("coarse", "y", ALL[8:12]),
            changed("coarse", "y", ALL[4:8]),
            changed("fine", "p", ALL),
        )
    )
    for name in chain.scales:  # what is above pulls on what is below
        own, other = weights(plain, name), weights(second, name)
        np.testing.assert_array_equal(own, weights(held_out, name))
        np.testing.assert_allclose(own[0], other[0], atol=1e-6)
        assert not np.allclose(own[1], other[1], atol=1e-3)
        assert not np.allclose(own, weights(below, name), atol=1e-3)


def test_a_loss_that_is_not_finite_is_told():
    wild = {**TUNING, "learning_rate": 1e30}
    with pytest.raises(ParameterError, match=r"learning_rate: 1e\+30 given"):
        fine_tune(chain_of(), TABLES, ROWS, **wild)
