"""Training: replicas in, parameters and histories out.

All replicas (folds times seeds) are trained at once.  A replica's result
does not depend on its neighbours: its first weights, its shuffling and its
dropout come from its own seed; ragged folds and last batches are masked; and
Adam keeps a step count of its own for each replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from nestedae_utils import errors as checks
from nestedae_utils.errors import ParameterError
from nestedae_utils.model.scales import (
    LOSSES,
    Head,
    Network,
    Scale,
    initial_parameters,
    resolve_device,
)

Split = tuple[np.ndarray, np.ndarray]
History = dict[str, dict[str, np.ndarray]]

HISTORIES = (
    "train_as_made",
    "train_per_sample",
    "validation_as_made",
    "validation_per_sample",
)
KEEP = ("last", "best")


@dataclass(frozen=True)
class Training:
    """What a training returns.

    Attributes
    ----------
    parameters
        Shape (R, P), float32: of the last epoch that the replica trained,
        or of its best one.
    history
        Four histories, each a mapping from ``<head>_<metric>`` (and
        ``loss``, the weighted sum of the heads' losses without L1) to an
        array (R, epochs).

        ``train_as_made`` is the mean over the epoch's batches with dropout
        on and the weights moving; ``validation_as_made`` the unweighted
        mean over the validation batches, as the paper's code logs them.
        The ``per_sample`` ones are means over rows at the epoch's end,
        dropout off.  A replica that has stopped has NaN from then on.
    last_epoch, best_epoch
        Shape (R,), counted from 0: the last one trained, and the one of
        the lowest ``validation_per_sample`` loss.
    """

    parameters: np.ndarray
    history: History
    last_epoch: np.ndarray
    best_epoch: np.ndarray


def train(
    scale: Scale,
    inputs: np.ndarray,
    targets: Mapping[str, np.ndarray],
    splits: Sequence[Split],
    seeds: Sequence[int],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    device: str = "auto",
    patience: int = 0,
    min_delta: float = 0.0,
    keep: str = "last",
    latents: Sequence[int] | None = None,
    every: int = 1,
) -> Training:
    """Train R replicas of a scale together with Adam (arXiv:1412.6980).

    Parameters
    ----------
    scale
        The declaration.
    inputs
        Scaled inputs, shape (n, width), or (R, n, width) where they differ
        between replicas.
    targets
        For every head its scaled target, shape (n, width) or (R, n, width).
    splits
        For every replica its training and validation rows.
    seeds
        For every replica its seed.
    epochs, batch_size, learning_rate
        As named.
    device
        See :func:`nestedae_utils.model.scales.resolve_device`.
    patience, min_delta
        A replica stops after ``patience`` epochs in which its validation
        loss has not fallen by more than ``min_delta``; 0 means never.
    keep
        Parameters of the ``"last"`` or the ``"best"`` epoch.
    latents
        For every replica its number of latents, at most ``scale.latent``.
    every
        The histories hold every such epoch and the last one, NaN between.

    Raises
    ------
    ParameterError
        If a parameter is not allowed, or the loss stops being finite.
    """
    checks.whole("epochs", epochs, 1)
    checks.whole("batch_size", batch_size, 1)
    checks.real("learning_rate", learning_rate, positive=True)
    checks.whole("patience", patience, 0)
    checks.real("min_delta", min_delta, 0)
    checks.choice("keep", keep, KEEP)
    checks.whole("every", every, 1)
    if every > 1 and (patience or keep == "best"):
        raise ParameterError(
            f"every: {every} given, only 1 is allowed with a patience or "
            "with keep 'best', which look at every epoch."
        )
    check_replicas(splits, seeds, latents)
    place = resolve_device(device)
    replicas = len(splits)
    sizes = latents if latents is not None else [None] * replicas
    flat = torch.tensor(
        np.stack(
            [
                initial_parameters(scale, seed, size)
                for seed, size in zip(seeds, sizes, strict=True)
            ]
        ),
        device=place,
    )
    rows = _Rows(scale, inputs, targets, splits, batch_size, place)
    network = Network(scale, flat)
    gradient = Network(scale, torch.zeros_like(flat))
    # One leaf a replica: Adam then counts steps for each of them, and a
    # replica without a gradient (no batch left, or stopped) stays as it is.
    leaves = [flat[replica] for replica in range(replicas)]
    adam = torch.optim.Adam(leaves, lr=learning_rate, fused=True)
    streams = [_Stream(seed) for seed in seeds]

    history: History = {name: {} for name in HISTORIES}
    running = np.ones(replicas, dtype=bool)
    last_epoch = np.zeros(replicas, dtype=int)
    best_epoch = np.zeros(replicas, dtype=int)
    best_loss = np.full(replicas, np.inf)
    lowest = np.full(replicas, np.inf)
    fallen = np.zeros(replicas, dtype=int)
    best_flat = flat.clone()
    counted = tqdm(
        range(epochs), scale.name, disable=not checks.watched(), leave=False
    )
    with one_thread():
        for epoch in counted:
            outputs = _epoch(
                network, gradient, leaves, adam, rows, streams, running
            )
            last_epoch[running] = epoch
            if (epoch + 1) % every and epoch + 1 < epochs:
                continue
            measured = {
                "train_as_made": _as_made(scale, rows, *outputs),
                **rows.measure(network),
            }
            _record(history, measured, epoch, epochs, running)
            loss = history["validation_per_sample"]["loss"][:, epoch]
            if not np.isfinite(loss[running]).all():
                raise ParameterError(
                    f"learning_rate: {learning_rate} given, but the loss of "
                    f"scale {scale.name!r} is not finite in epoch {epoch}; "
                    "lower it."
                )
            better = running & (loss < best_loss)
            best_loss[better] = loss[better]
            best_epoch[better] = epoch
            if keep == "best":
                chosen = torch.as_tensor(better, device=place)[:, None]
                best_flat = torch.where(chosen, flat, best_flat)
            if patience:
                lower = running & (loss < lowest - min_delta)
                lowest[lower] = loss[lower]
                fallen[lower] = epoch
                running &= epoch - fallen < patience
                if not running.any():
                    break
    final = best_flat if keep == "best" else flat
    return Training(
        parameters=final.cpu().numpy().copy(),
        history=history,
        last_epoch=last_epoch,
        best_epoch=best_epoch,
    )


def row_metrics(
    head: Head, output: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Return every row's loss and, for categories, two accuracies.

    ``accuracy_as_made`` is the share of one-hot columns on the right side
    of 0.5 after a sigmoid of each logit (multilabel, as in the paper's
    code); ``accuracy`` is top-1.
    """
    metrics = {head.loss: LOSSES[head.loss].rows(output, target)}
    if head.loss == "cross_entropy":
        right = (output > 0) == (target > 0.5)
        metrics["accuracy_as_made"] = right.float().mean(-1)
        # the true class has the largest logit; argmax is far slower
        picked = (output * target).sum(-1)
        metrics["accuracy"] = (picked >= output.amax(-1)).float()
    return metrics


class _Stream:
    """The random numbers of one replica, the same on every device."""

    def __init__(self, seed: int) -> None:
        self.shuffling = np.random.default_rng([seed, 1])
        self.dropout = np.random.Generator(np.random.SFC64([seed, 2]))

    def keep(self, shape: tuple[int, ...], dropout: float) -> np.ndarray:
        """Draw which units stay; 16 random bits a unit are enough."""
        size = int(np.prod(shape))
        bits = np.frombuffer(self.dropout.bytes(2 * size), dtype=np.uint16)
        return (bits >= round(dropout * 65536)).reshape(shape)


class _Rows:
    """The scaled rows of all replicas, and how batches weigh them."""

    def __init__(
        self,
        scale: Scale,
        inputs: np.ndarray,
        targets: Mapping[str, np.ndarray],
        splits: Sequence[Split],
        batch_size: int,
        place: torch.device,
    ) -> None:
        self.place = place
        self.replicas = len(splits)
        self.batch_size = batch_size
        self.train = [np.asarray(split[0]) for split in splits]
        # Inputs and targets side by side: one gather serves all of them.
        parts = [inputs]
        self.spans: dict[str, slice] = {}
        start = scale.width
        for head in scale.heads:
            column = _place_in_inputs(scale, head)
            if column is None:
                column, start = start, start + head.width
                parts.append(targets[head.name])
            self.spans[head.name] = slice(column, column + head.width)
        together = np.concatenate(
            [self._shared_or_own(part) for part in parts], axis=-1
        ).astype(np.float32, order="C")
        self.table = torch.tensor(together, device=place)
        self.steps = np.array(
            [-(-len(rows) // batch_size) for rows in self.train]
        )
        self.weights = self._batch_weights()
        self.factors = _by_step(
            {
                head.name: self.weights[..., None]
                * head.weight
                / (head.width if LOSSES[head.loss].mean else 1)
                for head in scale.heads
            }
        )
        self.views = self._view_weights(splits)

    def _shared_or_own(self, part: np.ndarray) -> np.ndarray:
        part = np.asarray(part, dtype=np.float64)
        if part.ndim == 2:
            part = part[None]
        return np.broadcast_to(part, (self.replicas, *part.shape[1:]))

    def _batch_weights(self) -> Tensor:
        """Weights (steps, R, batch) that turn row losses into batch means."""
        steps, size = max(self.steps), self.batch_size
        weights = np.zeros((self.replicas, steps * size))
        for replica, rows in enumerate(self.train):
            weights[replica, : len(rows)] = _batch_means(len(rows), size)
        weights = weights.reshape(self.replicas, steps, size)
        weights = weights.transpose(1, 0, 2).astype(np.float32)
        return torch.tensor(np.ascontiguousarray(weights), device=self.place)

    def _view_weights(self, splits: Sequence[Split]) -> dict[str, Tensor]:
        """Weights (R, n) that turn row metrics into the three end values."""
        shape = (self.replicas, self.table.shape[1])
        views = {name: np.zeros(shape) for name in HISTORIES[1:]}
        for replica, (train_rows, validation_rows) in enumerate(splits):
            views["train_per_sample"][replica, train_rows] = 1 / len(
                train_rows
            )
            count = len(validation_rows)
            views["validation_per_sample"][replica, validation_rows] = (
                1 / count
            )
            batches = -(-count // self.batch_size)
            views["validation_as_made"][replica, validation_rows] = (
                _batch_means(count, self.batch_size) / batches
            )
        return {
            name: torch.tensor(view, dtype=torch.float32, device=self.place)
            for name, view in views.items()
        }

    def epoch(self, streams: Sequence[_Stream]) -> Tensor:
        """Return the shuffled rows as batches (steps, R, batch, columns)."""
        steps, size = max(self.steps), self.batch_size
        order = np.zeros((self.replicas, steps * size), dtype=np.int64)
        for replica, (rows, stream) in enumerate(
            zip(self.train, streams, strict=True)
        ):
            order[replica, : len(rows)] = stream.shuffling.permutation(rows)
            order[replica] += replica * self.table.shape[1]
        index = order.reshape(self.replicas, steps, size).transpose(1, 0, 2)
        chosen = torch.from_numpy(index.reshape(-1)).to(self.place)
        return self.table.flatten(0, 1)[chosen].view(
            steps, self.replicas, size, -1
        )

    def kept(self, head: Head, streams: Sequence[_Stream]) -> list[Tensor]:
        """Return which units stay (steps, R, batch, width), one a layer."""
        if not head.dropout:
            return []
        layers = []
        for width in head.hidden:
            kept = np.zeros(
                (max(self.steps), self.replicas, self.batch_size, width), bool
            )
            for replica, stream in enumerate(streams):
                # A replica draws for its own steps only, so that its stream
                # does not depend on its neighbours'.
                steps = self.steps[replica]
                kept[:steps, replica] = stream.keep(
                    (steps, self.batch_size, width), head.dropout
                )
            layers.append(torch.from_numpy(kept).to(self.place))
        return layers

    @torch.no_grad()
    def measure(self, network: Network) -> History:
        """Return all metrics over all rows at this moment, dropout off."""
        scale = network.scale
        z = network.encode(self.table[:, :, : scale.width])
        measured: History = {name: {} for name in self.views}
        for head in scale.heads:
            metrics = row_metrics(
                head,
                network.head(head, z),
                self.table[:, :, self.spans[head.name]],
            )
            for metric, values in metrics.items():
                for name, weights in self.views.items():
                    measured[name][f"{head.name}_{metric}"] = (
                        (values * weights).sum(-1).cpu().numpy()
                    )
        for metrics in measured.values():
            metrics["loss"] = _weighted(scale, metrics)
        return measured


def _epoch(
    network: Network,
    gradient: Network,
    leaves: Sequence[Tensor],
    adam: torch.optim.Optimizer,
    rows: _Rows,
    streams: Sequence[_Stream],
    running: np.ndarray,
) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Take one epoch's steps; return its batches and every head's outputs."""
    scale = network.scale
    l1 = scale.l1 * network.penalised()
    batches = rows.epoch(streams)
    inputs = batches[..., : scale.width].unbind()
    targets = _by_step(
        {h.name: batches[..., rows.spans[h.name]] for h in scale.heads}
    )
    drawn = {head.name: rows.kept(head, streams) for head in scale.heads}
    outputs: dict[str, list[Tensor]] = {head.name: [] for head in scale.heads}
    before = None
    for step, factors in enumerate(rows.factors):
        active = running & (step < rows.steps)
        if before is None or (active != before).any():
            for replica, leaf in enumerate(leaves):
                own = gradient.flat[replica]
                leaf.grad = own if active[replica] else None
            before = active
        # as numbers only now: a step's fit into the processor's cache
        masks = {
            head.name: [
                kept[step].float().mul_(1 / (1 - head.dropout))
                for kept in drawn[head.name]
            ]
            for head in scale.heads
        }
        made = network.differentiate(
            inputs[step], targets[step], factors, masks, gradient
        )
        for name, output in made.items():
            outputs[name].append(output)
        if scale.l1:  # the subgradient of the L1 term
            gradient.flat.addcmul_(network.flat.sign(), l1)
        adam.step()
    return batches, outputs


def _place_in_inputs(scale: Scale, head: Head) -> int | None:
    """Return the input column where what a head reconstructs begins.

    None if it predicts, or if its blocks do not stand side by side.
    """
    blocks = scale.blocks_of(head)
    names = [block.name for block in scale.inputs]
    first = names.index(blocks[0]) if blocks else 0
    if not blocks or tuple(names[first : first + len(blocks)]) != blocks:
        return None
    return sum(block.width for block in scale.inputs[:first])


def _by_step(parts: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Turn tensors (steps, ...) by name into mappings by step."""
    unbound = [part.unbind() for part in parts.values()]
    return [
        dict(zip(parts, step, strict=True))
        for step in zip(*unbound, strict=True)
    ]


def _as_made(
    scale: Scale,
    rows: _Rows,
    batches: Tensor,
    outputs: Mapping[str, list[Tensor]],
) -> dict[str, np.ndarray]:
    """Average the batches' means over the steps of each replica."""
    steps = torch.tensor(rows.steps, device=rows.place)
    made = {}
    for head in scale.heads:
        target = batches[..., rows.spans[head.name]]
        metrics = row_metrics(head, torch.stack(outputs[head.name]), target)
        for metric, values in metrics.items():
            means = (values * rows.weights).sum(dim=(0, 2)) / steps
            made[f"{head.name}_{metric}"] = means.cpu().numpy()
    return {**made, "loss": _weighted(scale, made)}


def _weighted(scale: Scale, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the weighted sum of the heads' losses, without L1."""
    return sum(
        head.weight * metrics[f"{head.name}_{head.loss}"]
        for head in scale.heads
    )


def _record(
    history: History,
    measured: History,
    epoch: int,
    epochs: int,
    running: np.ndarray,
) -> None:
    for name, metrics in measured.items():
        for metric, values in metrics.items():
            kept = history[name].setdefault(
                metric, np.full((len(running), epochs), np.nan, np.float32)
            )
            kept[running, epoch] = values[running]


def _batch_means(count: int, size: int) -> np.ndarray:
    """Return for each of ``count`` rows one over the size of its batch."""
    weights = np.full(count, 1 / size)
    rest = count % size
    if rest:
        weights[-rest:] = 1 / rest
    return weights


def check_replicas(
    splits: Sequence[Split],
    seeds: Sequence[int],
    latents: Sequence[int] | None = None,
) -> None:
    """Check that splits, seeds and latents belong together."""
    if not splits:
        raise ParameterError(
            "splits: none given, at least one pair of training and "
            "validation rows is needed."
        )
    for name, values in (("seeds", seeds), ("latents", latents)):
        if values is not None and len(values) != len(splits):
            raise ParameterError(
                f"{name}: {len(values)} given for {len(splits)} replicas, "
                "one for each is needed."
            )
    for seed in seeds:
        checks.whole("seed", seed, 0)
    if any(not len(rows) for split in splits for rows in split):
        raise ParameterError(
            "splits: a replica has no training or no validation rows; use "
            "fewer folds or more rows."
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: more of them slow such small products down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
