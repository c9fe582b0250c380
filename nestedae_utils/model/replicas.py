"""Replicas: folds, seeds and sizes as rows of a small table.

A replica is one training of a scale, told from the others by its labels
(``fold``, ``seed``, ``latent``, ``table``), with its own training and held-out
rows.  Values with a leading axis R are averaged and gathered by label, so that
nobody counts places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nestedae_utils.errors import ParameterError

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Replicas:
    """R replicas: their (training, held-out) rows, and their labels (R,).

    A chain that was read from a file has no rows.  The label ``seed`` is that
    of weights, shuffling and dropout; ``latent``, where there is one, the
    number of latents.
    """

    splits: tuple[Split, ...]
    labels: Mapping[str, np.ndarray]

    @classmethod
    def cross(cls, folds: Sequence[Split], seeds: int = 1, first: int = 0) -> Self:
        """Return every fold with every seed; the seeds lie within folds.

        ParameterError if a fold has no training or no held-out rows.
        """
        if any(not len(rows) for split in folds for rows in split):
            raise ParameterError(
                "splits: a replica has no training or no held-out rows; use "
                "fewer folds or more rows."
            )
        numbers = np.arange(first, first + seeds)
        labels = {
            "fold": np.repeat(np.arange(len(folds)), seeds),
            "seed": np.tile(numbers, len(folds)),
        }
        return cls(tuple(split for split in folds for _ in numbers), labels)

    def __len__(self) -> int:
        """Return R."""
        return len(next(iter(self.labels.values())))

    def times(self, **levels: Sequence[Any]) -> "Replicas":
        """Return all replicas for every value of one more label, the slowest."""
        ((name, values),) = levels.items()
        labels = {name: np.repeat(np.asarray(values), len(self))}
        labels |= {key: np.tile(own, len(values)) for key, own in self.labels.items()}
        return Replicas(self.splits * len(values), labels)

    def where(self, **labels: Any) -> np.ndarray:
        """Return the places of the replicas with these labels."""
        chosen = [self.labels[name] == value for name, value in labels.items()]
        return np.flatnonzero(np.all([np.ones(len(self), bool), *chosen], axis=0))

    def take(self, places: Sequence[int] | np.ndarray) -> "Replicas":
        """Return the replicas at these places."""
        places = np.asarray(places, int)
        splits = tuple(self.splits[place] for place in places if self.splits)
        return Replicas(splits, {k: v[places] for k, v in self.labels.items()})

    def pick(self, **labels: Any) -> "Replicas":
        """Return the replicas with these labels."""
        return self.take(self.where(**labels))

    def levels(self, name: str) -> np.ndarray:
        """Return a label's different values, in the order they come."""
        values, first = np.unique(self.labels[name], return_index=True)
        return values[np.argsort(first)]

    def grid(self, values: Any, *names: str) -> np.ndarray:
        """Return values (R, ...) by labels, averaged over all others.

        The result has a leading axis for each name, its levels in order; NaN
        where no replica has the combination.
        """
        values = np.asarray(values, float)
        cells = []
        for name in names:
            order = {level: at for at, level in enumerate(self.levels(name))}
            cells.append([order[one] for one in self.labels[name]])
        shape = tuple(len(self.levels(name)) for name in names)
        total, count = np.zeros(shape + values.shape[1:]), np.zeros(shape)
        np.add.at(total, tuple(cells), values)
        np.add.at(count, tuple(cells), 1)
        with np.errstate(invalid="ignore"):
            return total / count.reshape(shape + (1,) * (values.ndim - 1))

    def summary(self, values: Any) -> tuple[float, float, int]:
        """Return mean, spread and number of values (R,).

        The spread is the standard deviation (``ddof=1``) over folds, seeds
        averaged first, as the paper gives it; with one fold, over seeds.
        """
        axis = "fold" if len(self.levels("fold")) > 1 else "seed"
        by_level = self.grid(values, axis)
        spread = by_level.std(ddof=1) if len(by_level) > 1 else np.nan
        return float(np.mean(values)), float(spread), len(self)

    def in_fold(self, values: Any) -> np.ndarray:
        """Gather for every row the mean over those trained on it."""
        swapped = tuple(split[::-1] for split in self.splits)
        return Replicas(swapped, self.labels).out_of_fold(values)

    def out_of_fold(self, values: Any, keep: str = "") -> np.ndarray:
        """Gather for every row the mean over those that held it out.

        Of values (R, n, ...), predictions or errors, say, it returns
        (n, ...), or (levels, n, ...) of a label to ``keep`` apart; NaN for a
        row that no replica held out.
        """
        values = np.asarray(values, float)
        if keep:
            some = [self.where(**{keep: level}) for level in self.levels(keep)]
            parts = [self.take(own).out_of_fold(values[own]) for own in some]
            return np.stack(parts)
        total, count = np.zeros(values.shape[1:]), np.zeros(values.shape[1])
        for own, (_, held) in zip(values, self.splits, strict=True):
            total[held] += own[held]
            count[held] += 1
        with np.errstate(invalid="ignore"):
            return total / count.reshape(-1, *[1] * (total.ndim - 1))
