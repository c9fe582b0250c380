"""The chain of scales: one way up and down, whose statistics, no leakage."""

import shutil

import numpy as np
import pytest
import torch
from models import SETTINGS, coarse, fine, replicas, tables, tensors

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import files
from nestedae_utils.model.chain import NestedAutoencoder, fit
from nestedae_utils.model.fitted import Scaler
from nestedae_utils.model.networks import decode, encode
from nestedae_utils.model.scales import Block, Head, Scale


@pytest.fixture(scope="module", params=["carried", "refitted"])
def chain(request):
    """Return two fitted scales of two replicas, on tables of their own."""
    below = fit(fine(), tables(), replicas(2), **SETTINGS)
    return fit(
        coarse(request.param), tables(30, 1), replicas(2, 1, 30), below,
        **SETTINGS,
    )  # fmt: skip


DECLARED = {
    "two alike": (lambda: [fine(), fine()], "two are named 'fine'"),
    "no scale": (lambda: [coarse()], "a scale before this one is allowed"),
    "near": (lambda: [fine(name="fines"), coarse()], "mean 'fines'?"),
    "latents": (lambda: [fine(latent=5), coarse()], "'fine' has 5 latents"),
}


@pytest.mark.parametrize("case", DECLARED)
def test_scales_that_do_not_fit(case):
    declare, words = DECLARED[case]
    with pytest.raises(ParameterError, match=words.replace("?", r"\?")):
        NestedAutoencoder(declare())


TABLES = {
    "missing": ({"x": None}, "block 'x': missing; it has 'p', 'kind', 'y'"),
    "width": ({"x": np.ones((9, 2))}, r"shape \(9, 2\) given, \(rows, 3\)"),
    "nan": ({"x": np.full((9, 3), np.nan)}, "a value is not finite"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_do_not_fit(case, chain):
    changes, words = TABLES[case]
    table = {k: v for k, v in {**tables(9), **changes}.items() if v is not None}
    with pytest.raises(DataError, match=words):
        chain.encode(table)


def test_what_is_not_fitted():
    with pytest.raises(ParameterError, match=r"'fine' given, .*\(none\)"):
        NestedAutoencoder([fine()]).encode(tables())
    below = fit(fine(), tables(), replicas(2), **SETTINGS)
    with pytest.raises(ParameterError, match="declared|other settings"):
        NestedAutoencoder([fine(l1=0.5)]).attach(below.fitted["fine"])


@pytest.mark.parametrize("value", [0.0, 1e6, 0.1])
def test_a_constant_column_stays_itself(value):
    values = np.full((1, 7, 1), value)
    scaler = Scaler.fit(values)
    assert scaler.deviation == 1
    assert scaler.scale(torch.tensor(values)).abs().max() < 1e-9


def test_scalers_by_hand():
    values = np.random.default_rng(0).normal(3, 2, (1, 9, 2))
    rows = [np.arange(4), np.arange(4, 9)]
    own = Scaler.fit(values, rows)
    for place, some in enumerate(rows):
        assert np.allclose(own.mean[place], values[0, some].mean(0))
        assert np.allclose(own.deviation[place], values[0, some].std(0))
    both = torch.tensor(np.repeat(values, 2, 0))
    assert np.allclose(own.unscale(own.scale(both)), both)
    assert own.take([1]).mean == pytest.approx(own.mean[1:])


def test_the_way_up_and_down_by_hand(chain):
    """Encode and decode both scales by their layers and scalers."""
    table = tables(11, 5)
    lower, upper = chain.fitted["fine"], chain.fitted["coarse"]
    used = upper.lower_scalers.get("fine", lower.scalers)
    refitted = upper.scale.inputs[0].lower_scaler == "refitted"
    assert bool(upper.lower_scalers) == refitted
    if refitted:
        mean = tables(30, 1)["x"].mean(0)
        assert np.allclose(used["x"].mean, mean)
    p = tensors(lower.parameters, 2)
    x = used["x"].scale(torch.tensor(table["x"])[None]).expand(2, -1, -1)
    z1 = encode(lower.scale, p, x)
    q = tensors(upper.parameters, 2)
    scaled = upper.scalers["latents"].scale(z1)
    kind = torch.tensor(table["kind"])[None].expand(2, -1, -1)
    z2 = encode(upper.scale, q, torch.cat([scaled, kind], -1))
    assert np.allclose(chain.encode(table), z2)
    heads = {head.name: head for head in upper.scale.heads}
    y = upper.scalers["y"].unscale(decode(heads["y"], q, z2))
    assert np.allclose(chain.predict(table)["y"], y)
    assert np.allclose(chain.reconstruct(table)["kind"].sum(-1), 1)
    latents = upper.scalers["latents"].unscale(decode(heads["latents"], q, z2))
    down = chain.decode(chain.encode(table))
    assert np.allclose(down["coarse"]["latents"], latents)
    head = {h.name: h for h in lower.scale.heads}["x"]
    x_back = used["x"].unscale(decode(head, p, latents))
    assert np.allclose(down["fine"]["x"], x_back)
    if refitted:
        seen = chain.seen_by("coarse").encode(table, "fine")
        assert np.allclose(seen, z1)
        assert not np.allclose(chain.encode(table, "fine"), z1)


def test_only_what_is_wanted_is_decoded(chain):
    z = torch.tensor(chain.encode(tables(5)))
    found = chain.down("coarse", z, wanted={"p"})
    assert set(found["coarse"]) == {"latents"}
    assert set(found["fine"]) == {"p"}
    every = chain.down("coarse", z)
    torch.testing.assert_close(found["fine"]["p"], every["fine"]["p"])


def test_gradients_reach_the_table_and_the_latents(chain):
    table = {k: torch.tensor(v, requires_grad=True) for k, v in tables(4).items()}
    z = chain.latents("coarse", table)
    down = chain.down("coarse", z)
    (down["fine"]["p"].sum() + down["coarse"]["y"].sum()).backward()
    assert table["x"].grad.abs().sum() > 0

    def back(z):
        return chain.down("coarse", z)["fine"]["p"]

    assert torch.autograd.gradcheck(back, z.detach().requires_grad_())


def test_replicas_of_a_chain(chain):
    table = tables(7, 3)
    one = chain.take([1])
    assert np.allclose(one.encode(table)[0], chain.encode(table)[1])
    assert one.fitted["coarse"].replicas.labels["fold"].tolist() == [1]
    shared = fit(fine(), tables(), replicas(2).take([0]), **SETTINGS)
    on_one = fit(coarse(), tables(30, 1), replicas(2, 2, 30), shared, **SETTINGS)
    assert on_one.encode(table).shape == (4, 7, 3)
    assert len(on_one.take([2, 3]).fitted["fine"].replicas) == 1


def test_held_out_rows_leave_no_trace():
    """Standardised on training rows, what is held out leaves no trace."""
    one, other, some = tables(), tables(), replicas(2)
    held = some.splits[0][1]
    for block in ("x", "p"):
        other[block] = other[block].copy()
        other[block][held] += 5
    found = [
        fit(fine(), table, some, standardise_on="train", **SETTINGS)
        for table in (one, other)
    ]
    first, second = (c.fitted["fine"].parameters for c in found)
    for name in first:
        assert (first[name][0] == second[name][0]).all()
    assert any((first[n][1] != second[n][1]).any() for n in first)
    everywhere = fit(fine(), other, some, **SETTINGS).fitted["fine"].parameters
    assert any((everywhere[n][0] != first[n][0]).any() for n in first)


@pytest.mark.parametrize("path", ["", "reference"])
def test_a_table_of_its_own_for_each_replica(path, own_cache, monkeypatch):
    monkeypatch.setenv("NESTEDAE_PATH", path)
    some, parts = replicas(2), [tables(40, seed) for seed in (0, 1)]
    wide = {key: np.stack([part[key] for part in parts]) for key in "xp"}
    how = {**SETTINGS, "standardise_on": "train"}
    second = fit(fine(), parts[1], some.take([1]), **how)
    shutil.rmtree(own_cache)
    # the first is found beside the second, which is trained again
    first = fit(fine(), parts[0], some.take([0]), **how)
    both = fit(fine(), wide, some, **how).fitted["fine"].parameters
    for place, alone in enumerate((first, second)):
        for name, value in alone.fitted["fine"].parameters.items():
            np.testing.assert_allclose(both[name][place], value[0], atol=1e-6)


@pytest.mark.parametrize("scaler", ["carried", "refitted"])
def test_three_scales(scaler, tmp_path):
    top = Scale(
        name="top",
        inputs=(Block("codes", 3, latents_of="coarse", lower_scaler=scaler),),
        latent=2,
        heads=(Head("codes", 3), Head("w", 1)),
    )
    chain = fit([fine(), coarse(scaler)], tables(), replicas(2), **SETTINGS)
    table = {**tables(25, 4), "w": np.ones((25, 1))}
    chain = fit(top, table, replicas(2, 1, 25), chain, **SETTINGS)
    down = chain.decode(chain.encode(table))
    assert set(down) == {"top", "coarse", "fine"}
    assert down["fine"]["x"].shape == (2, 25, 3)
    again = files.load(files.save(chain, tmp_path / "chain"))
    assert np.allclose(again.encode(table), chain.encode(table))


def test_a_linear_problem_is_learnt():
    random = np.random.default_rng(0)
    hidden = random.normal(size=(60, 1))
    table = {"x": hidden @ [[1.0, -2.0, 0.5]], "p": 3 * hidden + 1}
    scale = Scale(
        "line", (Block("x", 3),), 1,
        (Head("x", 3), Head("p", 1, scaling="standard")),
        latent_activation="linear",
    )  # fmt: skip
    how = {"epochs": 300, "batch_size": 10, "learning_rate": 0.01}
    chain = fit(scale, table, replicas(2, 1, 60), **how)
    miss = chain.predict(table)["p"] - table["p"]
    assert np.abs(miss).mean() < 0.1 * table["p"].std()
    x = chain.reconstruct(table)["x"] - table["x"]
    assert np.abs(x).mean() < 0.1
