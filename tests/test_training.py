"""Training: the definition by hand, and the fast path held against it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import SETTINGS, fine, replicas, tables, tensors
from test_scales import scales

from nestedae_utils.errors import ParameterError
from nestedae_utils.model import cache, dense, kernels, networks, reference, training
from nestedae_utils.model.layers import CODES, Code
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study import protocol


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Train anew in every test."""
    monkeypatch.setattr(cache, "load", lambda key: None)
    monkeypatch.setattr(cache, "store", lambda key, arrays: None)


@pytest.fixture
def by_definition(monkeypatch):
    """Train by the definition."""
    monkeypatch.setattr(dense, "knows", lambda scale: False)


def arrays(scale, rows=40, seed=0):
    """Return random inputs and targets, categories one-hot."""
    random = np.random.default_rng(seed)
    blocks = {}
    for block in scale.inputs:
        values = random.normal(size=(rows, block.width))
        if block.scaling == "none":
            kinds = random.integers(0, block.width, rows)
            values = np.eye(block.width)[kinds]
        blocks[block.name] = values
    targets = {}
    for head in scale.heads:
        parts = [blocks[name] for name in scale.blocks_of(head)]
        parts = parts or [random.normal(size=(rows, head.width))]
        targets[head.name] = np.hstack(parts)
    return np.hstack(list(blocks.values())), targets


def both(scale, inputs, targets, some, **settings):
    """Train by the fast path and by the definition in float64."""
    place = torch.device("cpu")
    job, exact = (
        reference.Job(scale, inputs, targets, some, place=place, **settings)
        for _ in range(2)
    )
    exact.dtype = torch.float64
    found = []
    for run, own in ((dense.train, job), (reference.train, exact)):
        results = dict(run(own, range(len(some))))
        found.append(own.gather([results[r] for r in range(len(some))]))
    return found


def furthest(one, other, epochs=None):
    """Return the largest relative difference of losses, by replica."""
    worst = []
    for kind, metrics in one.history.values.items():
        for name, values in metrics.items():
            same = other.history.values[kind][name]
            if "accuracy" in name:  # rows are right or wrong
                assert np.median(np.abs(values - same)) < 0.01
                continue
            apart = np.abs(values - same) / np.maximum(np.abs(same), 1e-3)
            worst.append(apart[:, :epochs].max(1))
    return np.max(worst, axis=0)


# --- the fast path ---------------------------------------------------------

PAPER = {
    "AE1": (protocol.band_gap_scale(), 10),
    "AE2": (protocol.device_scale(), 100),
    "first": (protocol.synthetic_nested("inputs")[0], 10),
    "second": (protocol.synthetic_nested("text")[1], 10),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paths_agree_on_the_papers_scales(name):
    """To 1e-4 over 20 epochs.

    An absolute error so near zero that rounding decides its sign sends a
    replica another way; not more than a few of them.
    """
    scale, size = PAPER[name]
    inputs, targets = arrays(scale, 230)
    how = {"epochs": 20, "batch_size": size, "learning_rate": 0.001}
    fast, slow = both(scale, inputs, targets, replicas(3, 2, 230), **how)
    apart = furthest(fast, slow)
    assert np.median(apart) < 1e-4
    assert furthest(fast, slow, 3).max() < 1e-4


@given(scales(), st.sampled_from([4, 13, 40]))
@settings(max_examples=25)
def test_the_paths_agree_on_any_scale(scale, size):
    inputs, targets = arrays(scale)
    how = {"epochs": 3, "batch_size": size, "learning_rate": 0.001}
    fast, slow = both(scale, inputs, targets, replicas(2, 1), **how)
    assert np.median(furthest(fast, slow)) < 1e-4
    for name, value in fast.parameters.items():
        assert np.abs(value - slow.parameters[name]).mean() < 1e-4


def test_the_paths_agree_on_sizes_and_tables_of_replicas():
    scale = fine(latent=4)
    some = replicas(2, 1).times(latent=[1, 4])
    tabled = np.random.default_rng(0).normal(size=(4, 40, 3))
    targets = {"x": tabled, "p": np.tanh(tabled[..., :1])}
    fast, slow = both(scale, tabled, targets, some, **SETTINGS)
    assert furthest(fast, slow).max() < 1e-4
    unused = fast.parameters["encoder.1.weight"][:2, :, 1:]
    assert not unused.any(), "a latent beyond the replica's size"


def test_what_the_fast_path_does_not_know_runs_by_the_definition(monkeypatch):
    monkeypatch.setitem(
        CODES,
        "double",
        Code(lambda latent: latent, lambda columns, noise, p: 2 * columns),
    )
    assert dense.knows(fine())
    assert not dense.knows(fine(code="double"))
    before = training.tally.copy()
    table = tables()
    training.train(fine(code="double"), table["x"], table, replicas(2), **SETTINGS)
    training.train(fine(), table["x"], table, replicas(2), **SETTINGS)
    ran = training.tally - before
    steps = 3 * sum(-(-len(rows) // 7) for rows, _ in replicas(2).splits)
    assert ran == {
        "reference replicas": 2, "reference steps": steps,
        "dense replicas": 2, "dense steps": steps,
    }  # fmt: skip


# --- replicas by themselves --------------------------------------------------


@pytest.mark.parametrize("path", ["dense", "reference"])
def test_a_replica_alone_and_among_fifty(path, request):
    if path == "reference":
        request.getfixturevalue("by_definition")
    table = tables()
    many = replicas(5, 10)
    together = training.train(fine(), table["x"], table, many, **SETTINGS)
    for place in (0, 17, 49):
        alone = training.train(
            fine(), table["x"], table, many.take([place]), **SETTINGS
        )
        for name, value in alone.parameters.items():
            np.testing.assert_allclose(
                value[0], together.parameters[name][place], atol=2e-6
            )
        for kind, metrics in alone.history.values.items():
            for name, value in metrics.items():
                same = together.history.values[kind][name][place]
                np.testing.assert_allclose(value[0], same, rtol=2e-4)


def test_seeds_decide():
    table = tables()
    fold = replicas(2).splits[0]
    seeds = Replicas((fold,) * 3, {"seed": np.array([4, 4, 5])})
    found = training.train(fine(), table["x"], table, seeds, **SETTINGS)
    first = found.parameters["encoder.0.weight"]
    assert (first[0] == first[1]).all()
    assert (first[0] != first[2]).any()


@pytest.mark.parametrize("width", [3, 8])
def test_dropout_bits_are_numpys(width):
    """Odd numbers of bits too: each layer's begin with a new word."""
    random = np.random.SFC64([7, 2])
    state = random.state["state"]["state"]
    for count in (width, 5 * width, 1):
        words = random.random_raw(-(-count // 4)).view(np.uint16)
        kept = np.empty(count, np.uint8)
        kernels.keep(state, 20000, kept, np.empty(count, np.uint64))
        assert kept.tolist() == (words[:count] >= 20000).tolist()


# --- the definition ----------------------------------------------------------


def plain(scale, inputs, targets, seed, split, epochs, size, rate):
    """Train one replica by torch's own layers, losses and Adam."""
    drawn = networks.initial(scale, seed)
    p = {k: torch.tensor(v, requires_grad=True) for k, v in drawn.items()}
    adam = torch.optim.Adam(p.values(), lr=rate)
    shuffling = np.random.default_rng([seed, 1])
    losses = []
    for _ in range(epochs):
        order = shuffling.permutation(split[0])
        for low in range(0, len(order), size):
            rows = order[low : low + size]
            x = torch.tensor(inputs[rows], dtype=torch.float32)
            z = torch.tanh(
                torch.tanh(x @ p["encoder.0.weight"] + p["encoder.0.bias"])
                @ p["encoder.1.weight"]
                + p["encoder.1.bias"]
            )
            total = sum(
                h.weight
                * torch.nn.functional.l1_loss(
                    z @ p[f"head {h.name}.0.weight"] + p[f"head {h.name}.0.bias"],
                    torch.tensor(targets[h.name][rows], dtype=torch.float32),
                )
                for h in scale.heads
            )
            losses.append(total.item())
            names = networks.penalised(scale)
            total = total + scale.l1 * sum(p[n].abs().sum() for n in names)
            adam.zero_grad()
            total.backward()
            adam.step()
    return p, losses


@pytest.mark.parametrize("l1_on", ["encoder", "all"])
def test_against_torchs_own_loop(by_definition, l1_on):
    scale = fine(heads=(Head("x", 3), Head("p", 1, weight=2.0)), l1=0.01, l1_on=l1_on)
    table, some = tables(), replicas(3).take([1])
    found = training.train(scale, table["x"], table, some, **SETTINGS)
    p, losses = plain(scale, table["x"], table, 0, some.splits[0], 3, 7, 0.01)
    for name, value in found.parameters.items():
        same = p[name].detach().numpy().reshape(value[0].shape)
        np.testing.assert_allclose(value[0], same, atol=2e-6)
    steps = len(losses) // 3
    as_made = found.history.values["train_as_made"]["loss"][0]
    means = np.reshape(losses, (3, steps)).mean(1)
    np.testing.assert_allclose(as_made, means, rtol=1e-5)


def test_metrics_of_rows_and_of_batches():
    """By hand: 26 held-out rows are batches of 10, 10 and 6."""
    scale = fine(heads=(Head("x", 3),), l1=0.0)
    table = tables(60)
    split = (np.arange(34), np.arange(34, 60))
    found = training.train(
        scale,
        table["x"],
        table,
        Replicas.cross([split]),
        epochs=2,
        batch_size=10,
        learning_rate=0.01,
    )
    p = tensors(found.parameters, 1)
    x = torch.tensor(table["x"])[None]
    out = networks.decode(scale.heads[0], p, networks.encode(scale, p, x))
    miss = (out[0] - x[0]).abs().mean(-1).numpy()
    end = {k: v["x_mae"][0, -1] for k, v in found.history.values.items()}
    batches = np.split(miss[34:], [10, 20])
    expected = {
        "train_per_sample": miss[:34].mean(),
        "validation_per_sample": miss[34:].mean(),
        "validation_as_made": np.mean([b.mean() for b in batches]),
    }
    for kind, value in expected.items():
        assert end[kind] == pytest.approx(value, rel=1e-4)


def test_histories_are_dense_at_the_end_and_even_on_a_log_axis():
    epochs = np.flatnonzero(reference.told(1500)) + 1
    assert epochs[0] == 1
    assert (np.diff(epochs[-200:]) == 1).all()
    before = epochs[epochs <= 1300]
    assert len(before) < 130
    far = before[before > 30]
    assert np.diff(np.log(far)).max() < 2.5 * np.diff(np.log(far)).min()


def test_a_code_of_ones_own(monkeypatch):
    """A gaussian latent by its registry: noise, penalty, further columns."""

    def apply(columns, noise, p):
        mean, log = columns.chunk(2, -1)
        return mean if noise is None else mean + noise * torch.exp(log / 2)

    def penalty(columns, z, p, weights):
        mean, log = columns.chunk(2, -1)
        return 0.01 * (mean**2 + log.exp() - log - 1).sum(-1) / 2

    monkeypatch.setitem(
        CODES, "gaussian", Code(lambda n: 2 * n, apply, lambda n: n, penalty)
    )
    scale = fine(code="gaussian", latent_activation="linear")
    table, many = tables(), replicas(2, 3)
    found = training.train(scale, table["x"], table, many, **SETTINGS)
    assert found.parameters["encoder.1.weight"].shape == (6, 6, 4)
    alone = training.train(scale, table["x"], table, many.take([4]), **SETTINGS)
    for name, value in alone.parameters.items():
        same = found.parameters[name][4]
        np.testing.assert_allclose(value[0], same, atol=2e-6)


def test_rows_without_weight_change_nothing():
    """So a step can be recorded, and a replica that is done stays as it is."""
    table, settings = tables(), {**SETTINGS, "place": torch.device("cpu")}
    job = reference.Job(fine(), table["x"], table, replicas(2), **settings)
    stack = reference.Stack(job, [0, 1])
    state = [stack.flat, stack.mean, stack.square, stack.taken]
    before = [part.detach().clone() for part in state]
    stack.step()
    assert all(map(torch.equal, state, before))
    stack.batch = next(stack.epoch())
    stack.step()
    assert not any(map(torch.equal, state, before))


# --- what people meet --------------------------------------------------------


@pytest.mark.parametrize("path", ["dense", "reference"])
def test_a_diverging_rate_is_one_error(path, request):
    if path == "reference":
        request.getfixturevalue("by_definition")
    scale = Scale(
        "s", (Block("x", 3),), 2, (Head("x", 3, loss="mse"),),
        latent_activation="linear",
    )  # fmt: skip
    table = tables()
    with pytest.raises(ParameterError, match="learning_rate: .* lower it"):
        training.train(
            scale,
            1e6 * table["x"],
            {"x": 1e6 * table["x"]},
            replicas(2),
            epochs=300,
            batch_size=4,
            learning_rate=1e36,
        )


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "'gpu' given, 'auto', 'cpu'"),
        ("cpu:0", "'cpu:0' given"),
        ("cuda:x", "'cuda:x' given"),
        ("cuda:7", "this machine has 0 CUDA devices"),
        ("mps", "no such device"),
    ],
)
def test_devices_that_are_not_there(device, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ParameterError, match=words):
        training.resolve_device(device)
    assert training.resolve_device("auto").type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    table, some = tables(), replicas(2, 2)
    found = [
        training.train(fine(), table["x"], table, some, device=device, **SETTINGS)
        for device in ("cpu", "cuda")
    ]
    assert np.median(furthest(*found)) < 1e-3
