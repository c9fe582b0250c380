"""What a training is of, the same on both paths: replicas of one scale."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nestedae_utils.errors import ParameterError
from nestedae_utils.model import cache, networks
from nestedae_utils.model.fitted import Fitted, History
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale

VIEWS = ("train_per_sample", "validation_as_made", "validation_per_sample")
KINDS = ("train_as_made", *VIEWS)
DENSELY = 200
"""Last epochs after which all rows are measured; before, ever more rarely."""
Result = dict[str, np.ndarray]
"""Of a replica: parameters ``p`` (P,), ``as_made`` (k, metrics), and
``measured`` (k, views, metrics)."""


class Job:
    """A training on one table; by replica its rows, steps, seed and latents.

    ``table`` (1 or R, n, columns) has the inputs, then every head's target;
    ``batches`` are the steps of an epoch, ``told`` (epochs,) says after which
    epochs all rows are measured.
    """

    dtype = torch.float32

    def __init__(
        self,
        scale: Scale,
        inputs: np.ndarray,
        targets: Mapping[str, np.ndarray],
        replicas: Replicas,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        place: torch.device,
    ) -> None:
        self.scale, self.replicas, self.place = scale, replicas, place
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.told = learning_rate, told(epochs)
        parts = [inputs, *(targets[head.name] for head in scale.heads)]
        wide = [p[None] if p.ndim == 2 else p for p in map(np.asarray, parts)]
        shape = max(map(len, wide)), wide[0].shape[1], -1
        wide = [np.broadcast_to(p, (shape[0], *p.shape[1:])) for p in wide]
        self.table = np.concatenate(wide, -1).astype(np.float32)
        self.rows = [np.asarray(rows, np.int64) for rows, _ in replicas.splits]
        self.held = [np.asarray(held, np.int64) for _, held in replicas.splits]
        self.batches = [-(-len(rows) // batch_size) for rows in self.rows]
        every = np.full(len(replicas), scale.latent)
        self.seeds: list[int] = replicas.labels["seed"].tolist()
        self.latents: list[int] = replicas.labels.get("latent", every).tolist()

    def keys(self, path: str, sources: str) -> list[str]:
        """Return for every replica the key of its result.

        It is made of all that the result depends on, so that the cache finds it
        whoever asks for it: also of the path and of a digest of the sources.
        """
        common = cache.fingerprint(
            [self.scale.model_dump(), self.epochs, self.batch_size]
            + [self.learning_rate, path, self.place.type, sources]
        )
        tables = [cache.fingerprint(table) for table in self.table]
        own = zip(self.seeds, self.latents, self.rows, self.held, strict=True)
        return [
            cache.fingerprint([common, tables[r % len(tables)], *parts])
            for r, parts in enumerate(own)
        ]

    def initial(self, replica: int) -> np.ndarray:
        """Return a replica's first parameters (P,), layer by layer."""
        seed, latent = self.seeds[replica], self.latents[replica]
        drawn = networks.initial(self.scale, seed, latent)
        return np.concatenate([value.ravel() for value in drawn.values()])

    def views(self, replica: int) -> np.ndarray:
        """Return the weights that turn row metrics into means, (views, n)."""
        rows, held = self.rows[replica], self.held[replica]
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

    def gather(self, results: Sequence[Result]) -> Fitted:
        """Stack the replicas' results to a fitted scale without scalers."""
        p, as_made, measured = (np.stack([r[k] for r in results]) for k in results[0])
        names, heads = networks.metric_names(self.scale), self.scale.heads
        by_kind = zip(KINDS, [as_made, *measured.transpose(2, 0, 1, 3)], strict=True)
        values = {
            kind: {name: array[..., m] for m, name in enumerate(names)}
            for kind, array in by_kind
        }
        for one in values.values():
            one["loss"] = sum(h.weight * one[f"{h.name}_{h.loss}"] for h in heads)
        history = History(np.flatnonzero(self.told) + 1, values)
        parameters = networks.unpacked(self.scale, p)
        return Fitted(self.scale, self.replicas, parameters, history=history)


def told(epochs: int) -> np.ndarray:
    """Return after which epochs all rows are measured, (epochs,)."""
    densely = np.arange(epochs) >= epochs - DENSELY
    densely[np.geomspace(1, epochs, 120).round().astype(int) - 1] = True
    return densely


def batch_means(count: int, size: int) -> np.ndarray:
    """Return for each of ``count`` rows one over the size of its batch."""
    rest = count % size
    whole = np.full(count - rest, 1 / size)
    return np.concatenate([whole, np.full(rest, 1 / max(rest, 1))])
