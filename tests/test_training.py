"""Replicas, Adam, histories, early stopping, errors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nestedae_utils import errors as checks
from nestedae_utils.errors import ParameterError
from nestedae_utils.model import training
from nestedae_utils.model.scales import (
    Block,
    Head,
    Network,
    Scale,
    initial_parameters,
    layers_of,
)
from nestedae_utils.model.training import HISTORIES, row_metrics, train
from nestedae_utils.study import protocol

TOY = Scale(
    "toy",
    (Block("x", 4), Block("c", 3, scaling="none")),
    2,
    (
        Head("y", 1, hidden=(6,), dropout=0.2, weight=2.0),
        Head("x", 4, weight=0.5),
        Head("c", 3, loss="cross_entropy"),
    ),
    hidden=(5,),
    l1=0.01,
)
DRY = replace(TOY, heads=(replace(TOY.heads[0], dropout=0), *TOY.heads[1:]))
ROWS = 29
GIVEN = {
    "epochs": 4,
    "batch_size": 5,
    "learning_rate": 0.01,
    "device": "cpu",
}


def toy_data(seed=0, rows=ROWS):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4))
    c = np.eye(3)[random.integers(0, 3, rows)]
    y = np.tanh(x[:, :1]) + c[:, :1] + 0.1 * random.normal(size=(rows, 1))
    return np.hstack([x, c]), {"x": x, "c": c, "y": y}


def cut(rows, share, seed):
    order = np.random.default_rng(seed).permutation(rows)
    return order[:share], order[share:]


def outputs(scale, parameters, inputs):
    """Return every head's output of one replica, dropout off."""
    network = Network(scale, torch.tensor(parameters)[None])
    z = network.encode(torch.tensor(inputs, dtype=torch.float32)[None])
    return {
        head.name: network.head(head, z)[0].double().numpy()
        for head in scale.heads
    }


def row_losses(out, targets):
    """Return the losses of the toy's rows, by hand; last their sum."""
    logits = out["c"]
    likelihood = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_head = {
        "y_mae": np.abs(out["y"] - targets["y"]).mean(1),
        "x_mae": np.abs(out["x"] - targets["x"]).mean(1),
        "c_cross_entropy": -np.log((likelihood * targets["c"]).sum(1)),
    }
    total = 2 * by_head["y_mae"] + 0.5 * by_head["x_mae"]
    return {**by_head, "loss": total + by_head["c_cross_entropy"]}


def same_history(one, other, tolerance, columns=slice(None)):
    assert set(one) == set(other) == set(HISTORIES)
    for kind in HISTORIES:
        assert set(one[kind]) == set(other[kind])
        for metric, values in one[kind].items():
            np.testing.assert_allclose(
                values[:, columns],
                other[kind][metric][:, columns],
                rtol=0,
                atol=tolerance,
                err_msg=f"{kind}, {metric}",
            )


# --- Replicas -------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_a_replica_alone_and_among_fifty(own):
    """Ragged folds have 2 to 5 batches; the toy has dropout."""
    count = 50
    splits = [cut(ROWS, 8 + 3 * (r % 6), r // 3) for r in range(count)]
    assert {math.ceil(len(split[0]) / 5) for split in splits} == {2, 3, 4, 5}
    seeds = [replica % 17 for replica in range(count)]
    data = [toy_data(100 + r if own else 100) for r in range(count)]
    inputs, targets = data[0]
    if own:
        inputs = np.stack([part[0] for part in data])
        targets = {
            name: np.stack([part[1][name] for part in data])
            for name in data[0][1]
        }
    settings = {**GIVEN, "epochs": 20}
    together = train(TOY, inputs, targets, splits, seeds, **settings)
    assert together.parameters.dtype == np.float32
    lost = together.history["validation_per_sample"]["loss"]
    assert lost.shape == (count, 20)
    assert len(np.unique(lost[:, -1])) == count
    for replica in (0, 7, 49):
        alone = train(
            TOY,
            data[replica][0],
            data[replica][1],
            [splits[replica]],
            [seeds[replica]],
            **settings,
        )
        picked = {
            kind: {name: v[[replica]] for name, v in metrics.items()}
            for kind, metrics in together.history.items()
        }
        same_history(alone.history, picked, 1e-4)
        np.testing.assert_allclose(
            alone.parameters[0], together.parameters[replica], atol=1e-3
        )


def test_seeds_decide_weights_order_and_dropout():
    """Equal seeds give equal replicas, other seeds other ones."""
    inputs, targets = toy_data()
    split = cut(ROWS, 20, 0)
    done = train(TOY, inputs, targets, [split] * 3, [4, 5, 4], **GIVEN)
    np.testing.assert_allclose(
        done.parameters[0], done.parameters[2], atol=1e-6
    )
    assert np.abs(done.parameters[0] - done.parameters[1]).max() > 0.1


@pytest.mark.parametrize(
    ("scale", "batch_size", "differ"),
    [(DRY, 21, False), (DRY, 7, True), (TOY, 21, True)],
    ids=["neither", "order", "dropout"],
)
def test_order_and_dropout_come_from_the_seed(
    scale, batch_size, differ, monkeypatch
):
    """Told apart by giving all replicas the same first weights."""
    first = initial_parameters(scale, 0)
    monkeypatch.setattr(
        training, "initial_parameters", lambda *args: first.copy()
    )
    inputs, targets = toy_data()
    if scale is TOY:  # equal rows have no order
        inputs[:] = inputs[0]
        for values in targets.values():
            values[:] = values[0]
    split = cut(ROWS, 21, 0)
    settings = {**GIVEN, "batch_size": batch_size}
    done = train(scale, inputs, targets, [split] * 2, [4, 5], **settings)
    made = done.history["train_as_made"]["y_mae"]
    apart = np.abs(made[0] - made[1]).max()
    assert apart > 1e-3 if differ else apart < 1e-4


def test_twice_the_same():
    inputs, targets = toy_data()
    splits = [cut(ROWS, 20, 0), cut(ROWS, 14, 1)]
    first = train(TOY, inputs, targets, splits, [0, 1], **GIVEN)
    torch.manual_seed(3)
    np.random.seed(3)
    again = train(TOY, inputs, targets, splits, [0, 1], **GIVEN)
    np.testing.assert_array_equal(first.parameters, again.parameters)
    same_history(first.history, again.history, 0)


def test_inputs_are_left_alone():
    inputs, targets = toy_data()
    before = inputs.copy(), {name: t.copy() for name, t in targets.items()}
    threads = torch.get_num_threads()
    train(TOY, inputs, targets, [cut(ROWS, 20, 0)], [0], **GIVEN)
    np.testing.assert_array_equal(inputs, before[0])
    for name, values in targets.items():
        np.testing.assert_array_equal(values, before[1][name])
    assert torch.get_num_threads() == threads


def test_quick_training_learns():
    """The optimiser goes downhill, and dropout makes a difference."""
    inputs, targets = toy_data()
    split = cut(ROWS, 24, 0)
    settings = {**GIVEN, "epochs": 30}
    wet = train(TOY, inputs, targets, [split], [0], **settings)
    dry = train(DRY, inputs, targets, [split], [0], **settings)
    for done in (wet, dry):
        loss = done.history["train_per_sample"]["loss"][0]
        assert loss[-1] < 0.7 * loss[0]
    assert np.abs(wet.parameters - dry.parameters).max() > 0.01


@pytest.mark.parametrize("l1_on", ["encoder", "all"])
def test_l1_shrinks_the_weights_it_acts_on(l1_on):
    inputs, targets = toy_data()
    split = cut(ROWS, 24, 0)
    settings = {**GIVEN, "epochs": 40}
    scale = replace(TOY, l1_on=l1_on, l1=3.0)
    heavy = train(scale, inputs, targets, [split], [0], **settings)
    network = Network(scale, torch.tensor(heavy.parameters))
    encoder = network.weights["encoder.0"][0].abs().mean()
    decoder = network.weights["head x.0"][0].abs().mean()
    assert encoder < 0.02
    assert (decoder < 0.02) == (l1_on == "all")


# --- Adam against torch.nn ------------------------------------------------


def dry_band_gap_scale(l1_on="encoder"):
    scale = protocol.band_gap_scale(latent=12)
    gap, ions = scale.heads
    return replace(scale, heads=(replace(gap, dropout=0), ions), l1_on=l1_on)


class Plain(nn.Module):
    """AE1 as one writes it in torch."""

    def __init__(self, flat, scale):
        super().__init__()
        self.encoder = nn.Linear(15, 12)
        self.gap = nn.Sequential(
            nn.Linear(12, 100), nn.ReLU(), nn.Linear(100, 1), nn.ReLU()
        )
        self.ions = nn.Linear(12, 15)
        self.linear = [self.encoder, self.gap[0], self.gap[2], self.ions]
        for layer, module in zip(layers_of(scale), self.linear, strict=True):
            middle = layer.start + layer.rows * layer.columns
            weight = flat[layer.start : middle].reshape(layer.rows, -1)
            module.weight.data = torch.tensor(weight.T.copy())
            module.bias.data = torch.tensor(flat[middle : layer.stop])

    def forward(self, x):
        z = torch.tanh(self.encoder(x))
        return self.gap(z), self.ions(z)

    def flat(self):
        return torch.cat(
            [
                part.detach().flatten()
                for module in self.linear
                for part in (module.weight.T, module.bias)
            ]
        ).numpy()


@pytest.mark.parametrize("l1_on", ["encoder", "all"])
def test_adam_against_torch(l1_on):
    scale = dry_band_gap_scale(l1_on)
    random = np.random.default_rng(8)
    # Odd batches: the signs of an absolute error then never cancel to a
    # rounding error, which Adam would take for a slope.
    x = random.normal(size=(45, 15))
    gap = np.abs(x[:, :1] + 2)
    split = (np.arange(38), np.arange(38, 45))
    done = train(
        scale,
        x,
        {"gap": gap, "ions": x},
        [split],
        [3],
        epochs=3,
        batch_size=7,
        learning_rate=0.001,
        device="cpu",
    )

    first = initial_parameters(scale, 3)
    model = Plain(first, scale)
    np.testing.assert_array_equal(model.flat(), first)
    adam = torch.optim.Adam(model.parameters(), lr=0.001)
    stream = training._Stream(3)
    inputs = torch.tensor(x, dtype=torch.float32)
    gaps = torch.tensor(gap, dtype=torch.float32)
    mae = nn.L1Loss()
    penalised = model.linear[: 1 if l1_on == "encoder" else None]
    for epoch in range(3):
        order = stream.shuffling.permutation(split[0])
        seen = []
        for start in range(0, 38, 7):
            rows = order[start : start + 7]
            out = model(inputs[rows])
            losses = mae(out[0], gaps[rows]), mae(out[1], inputs[rows])
            l1 = sum(module.weight.abs().sum() for module in penalised)
            adam.zero_grad()
            (sum(losses) + 0.01 * l1).backward()
            adam.step()
            seen.append([loss.item() for loss in losses])
        made = done.history["train_as_made"]
        assert len(seen) == 6
        for metric, mean in zip(
            ("gap_mae", "ions_mae"), np.mean(seen, 0), strict=True
        ):
            assert made[metric][0, epoch] == pytest.approx(mean, abs=1e-5)
    assert np.abs(model.flat() - first).max() > 0.01
    np.testing.assert_allclose(done.parameters[0], model.flat(), atol=1e-5)


# --- Histories ------------------------------------------------------------


def test_histories_by_hand():
    """The last batch of 11 validation rows has one row and a weight of 1/3."""
    inputs, targets = toy_data(4)
    # the odd row is far from all others, so that its weight tells
    targets["y"][ROWS - 1] += 50
    split = (np.arange(18), np.arange(18, ROWS))
    done = train(TOY, inputs, targets, [split], [0], **GIVEN)
    by_row = row_losses(outputs(TOY, done.parameters[0], inputs), targets)
    for metric, losses in by_row.items():
        ends = {
            kind: metrics[metric][0, -1]
            for kind, metrics in done.history.items()
        }
        held = losses[18:]
        batches = held[:5], held[5:10], held[10:]
        as_made = np.mean([batch.mean() for batch in batches])
        assert ends["validation_as_made"] == pytest.approx(as_made, rel=1e-4)
        assert ends["validation_per_sample"] == pytest.approx(
            held.mean(), rel=1e-4
        )
        assert ends["train_per_sample"] == pytest.approx(
            losses[:18].mean(), rel=1e-4
        )
        if metric == "y_mae":
            assert as_made > 2 * held.mean()


def test_train_as_made_is_the_loss_before_the_step():
    """With one batch an epoch, no dropout, and L1 left out."""
    inputs, targets = toy_data(5)
    split = cut(ROWS, 20, 2)
    done = train(
        DRY, inputs, targets, [split], [6], **{**GIVEN, "batch_size": 20}
    )
    first = row_losses(
        outputs(DRY, initial_parameters(DRY, 6), inputs), targets
    )
    made = done.history["train_as_made"]
    ends = done.history["train_per_sample"]
    for metric, losses in first.items():
        before = losses[split[0]].mean()
        assert made[metric][0, 0] == pytest.approx(before, rel=1e-5)
        np.testing.assert_allclose(
            made[metric][0, 1:], ends[metric][0, :-1], rtol=1e-5
        )
        assert made[metric][0, -1] != pytest.approx(
            ends[metric][0, -1], rel=1e-5
        )


def test_train_as_made_has_dropout_on():
    inputs, targets = toy_data(5)
    split = cut(ROWS, 20, 2)
    settings = {**GIVEN, "batch_size": 20, "epochs": 1}
    wet, dry = (
        train(scale, inputs, targets, [split], [6], **settings)
        .history["train_as_made"]["y_mae"]
        .item()
        for scale in (TOY, DRY)
    )
    assert abs(wet - dry) > 1e-3


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_keeps_the_mean(dropout):
    """Of many rows that are one and the same, far below their target."""
    x = np.tile([[3.0, -7.0, 5.0]], (400, 1))
    split = (np.arange(390), np.arange(390, 400))
    head = Head("y", 1, hidden=(300,), dropout=dropout)
    scale = Scale("one", (Block("x", 3),), 2, (head,))
    done = train(
        scale,
        x,
        {"y": np.full((400, 1), 100.0)},
        [split],
        [1],
        epochs=1,
        batch_size=390,
        learning_rate=1e-12,
        device="cpu",
    )
    dry = outputs(scale, done.parameters[0], x)["y"][0, 0]
    wet = 100 - done.history["train_as_made"]["y_mae"][0, 0]
    assert abs(dry) > 0.2
    assert wet == pytest.approx(dry, rel=0.04)
    assert wet != pytest.approx(dry, rel=1e-6)


def test_train_as_made_is_the_mean_of_the_batches():
    """A rate of next to nothing leaves the weights as they are."""
    inputs, targets = toy_data(6)
    split = (np.arange(21), np.arange(21, ROWS))
    order = training._Stream(2).shuffling.permutation(split[0])
    # the one row of the last batch is far from all others
    targets["y"][order[-1]] += 50
    settings = {**GIVEN, "epochs": 1, "learning_rate": 1e-12}
    done = train(DRY, inputs, targets, [split], [2], **settings)
    losses = row_losses(
        outputs(DRY, initial_parameters(DRY, 2), inputs), targets
    )
    for metric, by_row in losses.items():
        batches = [by_row[order[at : at + 5]] for at in range(0, 21, 5)]
        assert len(batches[-1]) == 1
        as_made = np.mean([batch.mean() for batch in batches])
        made = done.history["train_as_made"][metric][0, 0]
        assert made == pytest.approx(as_made, rel=1e-5)
        if metric == "y_mae":
            assert made > 2 * by_row[:21].mean()


def test_metrics_of_categories():
    """Top-1, and the paper's share of columns on the right side of 0.5."""
    head = Head("c", 4, loss="cross_entropy")
    logits = torch.tensor(
        [
            [2.0, -1.0, -1.0, -1.0],  # all right
            [-1.0, -2.0, -3.0, -4.0],  # nothing predicted, but the best one
            [1.0, 2.0, 3.0, -1.0],  # two of four, another is best
            [-1.0, -2.0, -0.5, -3.0],  # three of four, another is best
        ]
    )
    found = row_metrics(head, logits, torch.eye(4)[torch.tensor([0, 0, 0, 0])])
    assert found["accuracy"].tolist() == [1, 1, 0, 0]
    assert found["accuracy_as_made"].tolist() == [1, 0.75, 0.5, 0.75]
    expected = -torch.log_softmax(logits, 1)[:, 0]
    torch.testing.assert_close(found["cross_entropy"], expected)
    assert set(row_metrics(Head("y", 1), logits, logits)) == {"mae"}
    assert set(row_metrics(Head("y", 1, "huber"), logits, logits)) == {"huber"}


def test_accuracies_in_the_history():
    inputs, targets = toy_data(7)
    split = cut(ROWS, 20, 1)
    done = train(TOY, inputs, targets, [split], [0], **{**GIVEN, "epochs": 15})
    logits = outputs(TOY, done.parameters[0], inputs)["c"]
    right = logits.argmax(1) == targets["c"].argmax(1)
    columns = (logits > 0) == (targets["c"] > 0.5)
    for kind, rows in (
        ("train_per_sample", split[0]),
        ("validation_per_sample", split[1]),
    ):
        metrics = done.history[kind]
        top, as_made = metrics["c_accuracy"], metrics["c_accuracy_as_made"]
        assert top[0, -1] == pytest.approx(right[rows].mean())
        assert as_made[0, -1] == pytest.approx(columns[rows].mean())
    assert 0 < right.mean() < 1


# --- Early stopping -------------------------------------------------------

LINE = Scale(
    "line",
    (Block("x", 1),),
    1,
    (Head("y", 1),),
    latent_activation="linear",
)
LINE_SPLIT = (np.arange(12), np.arange(12, 18))
LINE_GIVEN = {
    "epochs": 40,
    "batch_size": 4,
    "learning_rate": 0.01,
    "device": "cpu",
}


def lines():
    """Return three replicas' data, of which the second learns nothing.

    Its validation rows lie on the opposite line, so that every step makes
    them worse.
    """
    x = np.tile(np.linspace(-1, 1, 18)[:, None], (3, 1, 1))
    y = 3 * x
    y[1, 12:] *= -9
    y[2] *= 2
    return x, {"y": y}


def test_replicas_stop_by_themselves():
    inputs, targets = lines()
    splits = [LINE_SPLIT] * 3
    done = train(
        LINE, inputs, targets, splits, [3, 3, 3], patience=4, **LINE_GIVEN
    )
    best = done.best_epoch
    assert done.last_epoch[1] == best[1] + 4 < 20
    assert done.last_epoch[0] == done.last_epoch[2] == 39
    for kind in HISTORIES:
        for values in done.history[kind].values():
            stopped = np.isnan(values)
            assert stopped.shape == (3, 40)
            assert not stopped[[0, 2]].any()
            assert stopped[1].argmax() == done.last_epoch[1] + 1
            assert stopped[1].sum() == 39 - done.last_epoch[1]
    # A stopped replica has the weights of its own last epoch, and the
    # others are not disturbed.
    for replica, epochs in enumerate(done.last_epoch + 1):
        alone = train(
            LINE,
            inputs[replica],
            {"y": targets["y"][replica]},
            [LINE_SPLIT],
            [3],
            **{**LINE_GIVEN, "epochs": int(epochs)},
        )
        np.testing.assert_allclose(
            done.parameters[replica], alone.parameters[0], atol=1e-5
        )


def test_every_other_epoch_in_the_histories():
    splits = [cut(ROWS, 20, 1), cut(ROWS, 17, 2)]
    given = {**GIVEN, "epochs": 7}
    full = train(TOY, *toy_data(), splits, [0, 1], **given)
    sparse = train(TOY, *toy_data(), splits, [0, 1], every=3, **given)
    np.testing.assert_array_equal(sparse.parameters, full.parameters)
    assert sparse.last_epoch.tolist() == [6, 6]
    for kind in HISTORIES:
        for metric, values in full.history[kind].items():
            kept = sparse.history[kind][metric]
            np.testing.assert_array_equal(
                kept[:, [2, 5, 6]], values[:, [2, 5, 6]]
            )
            assert np.isnan(kept[:, [0, 1, 3, 4]]).all()
    for more in ({"patience": 2}, {"keep": "best"}):
        with pytest.raises(ParameterError, match="every: 3 given, only 1"):
            train(TOY, *toy_data(), splits, [0, 1], every=3, **more, **given)


def test_patience_counts_epochs_without_a_fall():
    inputs, targets = lines()
    splits = [LINE_SPLIT] * 3
    for patience in (1, 3):
        done = train(
            LINE,
            inputs,
            targets,
            splits,
            [3, 3, 3],
            patience=patience,
            min_delta=1e6,
            **LINE_GIVEN,
        )
        assert done.last_epoch.tolist() == [patience] * 3
        loss = done.history["validation_per_sample"]["loss"]
        assert np.isfinite(loss[:, : patience + 1]).all()
        assert np.isnan(loss[:, patience + 1 :]).all()
    never = train(LINE, inputs, targets, splits, [3, 3, 3], **LINE_GIVEN)
    assert never.last_epoch.tolist() == [39] * 3


def test_best_epoch_and_its_weights():
    inputs, targets = lines()
    splits = [LINE_SPLIT] * 3
    kept = {
        keep: train(
            LINE, inputs, targets, splits, [3, 3, 3], keep=keep, **LINE_GIVEN
        )
        for keep in ("last", "best")
    }
    loss = kept["best"].history["validation_per_sample"]["loss"]
    for done in kept.values():
        np.testing.assert_array_equal(done.best_epoch, loss.argmin(1))
    assert kept["best"].best_epoch[1] < 39
    for replica, epoch in enumerate(kept["best"].best_epoch):
        for keep, at in (("best", epoch), ("last", 39)):
            found = outputs(
                LINE, kept[keep].parameters[replica], inputs[replica]
            )["y"]
            error = np.abs(found - targets["y"][replica])[12:].mean()
            assert error == pytest.approx(loss[replica, at], rel=1e-4)


# --- Errors ---------------------------------------------------------------

SPLIT = cut(ROWS, 20, 0)
NOBODY = np.array([], dtype=int)
BAD = {
    "no epoch": ({"epochs": 0}, "epochs: 0 given, a whole number of at"),
    "half an epoch": ({"epochs": 1.5}, "epochs: 1.5 given"),
    "no batch": ({"batch_size": 0}, "batch_size: 0 given, a whole number"),
    "a negative rate": (
        {"learning_rate": -0.1},
        "learning_rate: -0.1 given, a finite number above 0",
    ),
    "a rate of zero": ({"learning_rate": 0}, "learning_rate: 0 given"),
    "a rate of nan": ({"learning_rate": math.nan}, "learning_rate: nan"),
    "an infinite rate": ({"learning_rate": math.inf}, "learning_rate: inf"),
    "a negative patience": ({"patience": -1}, "patience: -1 given"),
    "a least fall of nan": ({"min_delta": math.nan}, "min_delta: nan given"),
    "a negative least fall": ({"min_delta": -1.0}, "min_delta: -1.0 given"),
    "unknown weights": (
        {"keep": "bets"},
        "keep: 'bets' given, one of 'last', 'best' is allowed. Did you mean "
        "'best'?",
    ),
    "unknown device": ({"device": "gpu"}, "device: 'gpu' given"),
    "no epoch is measured": ({"every": 0}, "every: 0 given"),
    "no split": ({"splits": []}, "splits: none given"),
    "no training rows": (
        {"splits": [SPLIT, (NOBODY, SPLIT[1])]},
        "splits: a replica has no training or no validation rows",
    ),
    "no validation rows": (
        {"splits": [(SPLIT[0], NOBODY), SPLIT]},
        "splits: a replica has no training or no validation rows",
    ),
    "too few seeds": ({"seeds": [0]}, "seeds: 1 given for 2 replicas"),
    "no seeds": ({"seeds": []}, "seeds: 0 given for 2 replicas"),
    "a negative seed": ({"seeds": [0, -1]}, "seed: -1 given"),
    "half a seed": ({"seeds": [0, 0.5]}, "seed: 0.5 given"),
    "too many latents": (
        {"latents": [1, 2, 2]},
        "latents: 3 given for 2 replicas",
    ),
    "more latents than declared": (
        {"latents": [1, 3]},
        "latent: 3 given, a whole number from 1 to 2",
    ),
    "no latents": ({"latents": [0, 2]}, "latent: 0 given"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_parameters(case):
    changes, message = BAD[case]
    inputs, targets = toy_data()
    given = {"splits": [SPLIT] * 2, "seeds": [0, 1], **GIVEN, **changes}
    with pytest.raises(ParameterError) as caught:
        train(TOY, inputs, targets, **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_diverging_rate_is_one_error():
    inputs, targets = toy_data()
    scale = replace(TOY, latent_activation="linear", activation="linear")
    threads = torch.get_num_threads()
    with pytest.raises(ParameterError) as caught:
        train(
            scale,
            inputs,
            targets,
            [SPLIT],
            [0],
            **{**GIVEN, "learning_rate": 1e30},
        )
    message = str(caught.value)
    assert message.startswith("learning_rate: 1e+30 given, but the loss of")
    assert "'toy' is not finite in epoch 0; lower it" in message
    assert "\n" not in message
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("watched", [False, True])
def test_progress_is_shown_to_watchers_only(watched, capfd, monkeypatch):
    monkeypatch.setattr(checks, "watched", lambda: watched)
    inputs, targets = toy_data()
    train(TOY, inputs, targets, [SPLIT], [0], **GIVEN)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert ("toy" in shown.err) if watched else (shown.err == "")


def test_who_watches(monkeypatch):
    """A Jupyter server does; a kernel of a book's build does not."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not checks.watched()
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    assert checks.watched()


# --- Devices --------------------------------------------------------------


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no CUDA device"
)
def test_cuda_agrees_with_the_cpu():
    inputs, targets = toy_data()
    splits = [cut(ROWS, 8 + 3 * (r % 6), r) for r in range(6)]
    done = {
        device: train(
            TOY,
            inputs,
            targets,
            splits,
            list(range(6)),
            patience=8,
            **{**GIVEN, "epochs": 10, "device": device},
        )
        for device in ("cpu", "cuda")
    }
    same_history(done["cpu"].history, done["cuda"].history, 1e-3)
    np.testing.assert_allclose(
        done["cpu"].parameters, done["cuda"].parameters, atol=1e-2
    )
