"""What a training is of, and what comes of it: the same on both paths.

A job is replicas of one scale on one table.  Each has a key, made of all that
its result depends on, so that the cache finds it whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from nestedae_utils.errors import ParameterError
from nestedae_utils.model import cache, networks
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale

VIEWS = ("train_per_sample", "validation_as_made", "validation_per_sample")
KINDS = ("train_as_made", *VIEWS)
DENSELY = 200
"""Last epochs after which all rows are measured; before, ever more rarely."""


@dataclass(frozen=True)
class History:
    """Metrics of R replicas after some epochs.

    ``epochs`` (k,) count from 1: the last ones, and before that on a stride
    that looks even on a logarithmic axis.  ``values`` has four kinds, each a
    mapping from ``<head>_<metric>`` (and ``loss``, the weighted sum of the
    heads' losses) to an array (R, k).  ``train_as_made`` is the mean over the
    epoch's batches with dropout on and the weights moving;
    ``validation_as_made`` the unweighted mean over the validation batches, as
    the paper's code logs them; the ``per_sample`` ones are means over rows,
    dropout off.
    """

    epochs: np.ndarray
    values: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Trained:
    """Parameters by name, each (R, rows, columns), and their history."""

    parameters: dict[str, np.ndarray]
    history: History


Result = dict[str, np.ndarray]
"""Of a replica: parameters ``p`` (P,), ``as_made`` (k, metrics), and
``measured`` (k, views, metrics)."""


@dataclass(frozen=True)
class Job:
    """What both paths need to know of a training; lists are by replica."""

    scale: Scale
    table: np.ndarray
    columns: Mapping[str, int]
    replicas: Replicas
    epochs: int
    batch_size: int
    learning_rate: float
    place: torch.device
    dtype: torch.dtype = torch.float32

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Training rows."""
        return [np.asarray(rows, np.int64) for rows, _ in self.replicas.splits]

    @cached_property
    def batches(self) -> list[int]:
        """Steps in an epoch."""
        return [-(-len(rows) // self.batch_size) for rows in self.rows]

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds."""
        return self.replicas.labels["seed"].tolist()

    @cached_property
    def latents(self) -> list[int]:
        """Numbers of latents."""
        every = np.full(len(self.replicas), self.scale.latent)
        return self.replicas.labels.get("latent", every).tolist()

    @cached_property
    def told(self) -> np.ndarray:
        """Whether all rows are measured after each epoch, (epochs,)."""
        told = np.arange(self.epochs) >= self.epochs - DENSELY
        told[np.geomspace(1, self.epochs, 120).round().astype(int) - 1] = True
        return told

    def keys(self, path: str, sources: str) -> list[str]:
        """Return for every replica the key of its result, by path and sources."""
        common = cache.fingerprint(
            [self.scale.model_dump(), self.epochs, self.batch_size]
            + [self.learning_rate, path, self.place.type, sources]
        )
        tables = [cache.fingerprint(table) for table in self.table]
        return [
            cache.fingerprint(
                [common, tables[r % len(tables)], self.seeds[r], self.latents[r]]
                + [self.rows[r], np.asarray(held, np.int64)]
            )
            for r, (_, held) in enumerate(self.replicas.splits)
        ]

    def initial(self, replica: int) -> np.ndarray:
        """Return a replica's first parameters (P,), layer by layer."""
        seed, latent = self.seeds[replica], self.latents[replica]
        drawn = networks.initial(self.scale, seed, latent)
        return np.concatenate([value.ravel() for value in drawn.values()])

    def views(self, replica: int) -> np.ndarray:
        """Return the weights that turn row metrics into means, (views, n)."""
        rows, held = self.replicas.splits[replica]
        weights = np.zeros((len(VIEWS), self.table.shape[1]), np.float32)
        weights[0, rows] = 1 / len(rows)
        batches = -(-len(held) // self.batch_size)
        weights[1, held] = batch_means(len(held), self.batch_size) / batches
        weights[2, held] = 1 / len(held)
        return weights

    def check(self, p: np.ndarray, values: np.ndarray, epoch: int) -> None:
        """Refuse parameters or metrics that are not finite."""
        if not (np.isfinite(p).all() and np.isfinite(values).all()):
            raise ParameterError(
                f"learning_rate: {self.learning_rate} given, but the loss of "
                f"scale {self.scale.name!r} is not finite in epoch {epoch}; "
                "lower it."
            )

    def gather(self, results: Sequence[Result]) -> Trained:
        """Stack the replicas' results."""
        p, as_made, measured = (np.stack([r[k] for r in results]) for k in results[0])
        parameters, start = {}, 0
        for name, shape in networks.parameter_shapes(self.scale).items():
            part = p[:, start : (start := start + shape[0] * shape[1])]
            parameters[name] = part.reshape(-1, *shape)
        values = {}
        names = networks.metric_names(self.scale)
        by_kind = [as_made, *measured.transpose(2, 0, 1, 3)]
        for kind, array in zip(KINDS, by_kind, strict=True):
            values[kind] = {name: array[..., m] for m, name in enumerate(names)}
            values[kind]["loss"] = sum(
                head.weight * values[kind][f"{head.name}_{head.loss}"]
                for head in self.scale.heads
            )
        return Trained(parameters, History(np.flatnonzero(self.told) + 1, values))


def batch_means(count: int, size: int) -> np.ndarray:
    """Return for each of ``count`` rows one over the size of its batch."""
    rest = count % size
    whole = np.full(count - rest, 1 / size)
    return np.concatenate([whole, np.full(rest, 1 / max(rest, 1))])


def side_by_side(
    scale: Scale, inputs: np.ndarray, targets: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, int]]:
    """Return one table (1 or R, n, columns), and where each target begins."""
    parts, columns, start = [inputs], {}, scale.width
    for head in scale.heads:
        parts.append(targets[head.name])
        columns[head.name], start = start, start + head.width
    wide = [p[None] if p.ndim == 2 else p for p in map(np.asarray, parts)]
    count = max(map(len, wide))
    wide = [np.broadcast_to(p, (count, *p.shape[1:])) for p in wide]
    return np.concatenate(wide, -1).astype(np.float32), columns
