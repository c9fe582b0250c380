"""Replicas: folds, seeds and sizes as rows of a small table.

A replica is one training of a scale, told from the others by its labels
(``fold``, ``seed``, ``latent``, ``table``); it has its own training and
held-out rows.  Values with a leading axis R are averaged and gathered by
label, so that nobody counts places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestedae_utils.errors import ParameterError

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Replicas:
    """R replicas: their labels, and each one's (training, held-out) rows.

    Attributes
    ----------
    splits
        R pairs of row numbers; none for a chain that was read from a file.
    labels
        By name an array (R,).  ``seed`` is the seed of weights, shuffling
        and dropout; ``latent``, where there is one, the number of latents.
    """

    splits: tuple[Split, ...]
    labels: Mapping[str, np.ndarray]

    @classmethod
    def cross(cls, folds: Sequence[Split], seeds: int = 1, first: int = 0) -> Replicas:
        """Return every fold with every seed; the seeds lie within folds.

        Raises
        ------
        ParameterError
            If a fold has no training or no held-out rows.
        """
        if any(not len(rows) for split in folds for rows in split):
            raise ParameterError(
                "splits: a replica has no training or no held-out rows; use "
                "fewer folds or more rows."
            )
        numbers = np.arange(first, first + seeds)
        return cls(
            tuple(split for split in folds for _ in numbers),
            {
                "fold": np.repeat(np.arange(len(folds)), seeds),
                "seed": np.tile(numbers, len(folds)),
            },
        )

    def __len__(self) -> int:
        """Return R."""
        return len(next(iter(self.labels.values())))

    def times(self, **levels: Sequence[Any]) -> Replicas:
        """Return all replicas for every value of one more label.

        The new label changes slowest.
        """
        ((name, values),) = levels.items()
        labels = {name: np.repeat(np.asarray(values), len(self))}
        for key, own in self.labels.items():
            labels[key] = np.tile(own, len(values))
        return Replicas(self.splits * len(values), labels)

    def where(self, **labels: Any) -> np.ndarray:
        """Return the places of the replicas with these labels."""
        chosen = np.ones(len(self), bool)
        for name, value in labels.items():
            chosen &= self.labels[name] == value
        return np.flatnonzero(chosen)

    def take(self, places: Sequence[int] | np.ndarray) -> Replicas:
        """Return the replicas at these places."""
        places = np.asarray(places, int)
        splits = tuple(self.splits[place] for place in places if self.splits)
        return Replicas(splits, {k: v[places] for k, v in self.labels.items()})

    def pick(self, **labels: Any) -> Replicas:
        """Return the replicas with these labels."""
        return self.take(self.where(**labels))

    def levels(self, name: str) -> np.ndarray:
        """Return a label's different values, in the order they come."""
        values, first = np.unique(self.labels[name], return_index=True)
        return values[np.argsort(first)]

    def grid(self, values: Any, *names: str) -> np.ndarray:
        """Return values (R, ...) by labels, averaged over all others.

        Returns
        -------
        numpy.ndarray
            One leading axis for each name, its levels in order; NaN where
            no replica has the combination.
        """
        values = np.asarray(values, float)
        levels = [list(self.levels(name)) for name in names]
        shape = tuple(map(len, levels))
        total = np.zeros(shape + values.shape[1:])
        count = np.zeros(shape)
        for place, value in enumerate(values):
            cell = tuple(
                level.index(self.labels[name][place])
                for level, name in zip(levels, names, strict=True)
            )
            total[cell] += value
            count[cell] += 1
        with np.errstate(invalid="ignore"):
            return total / count.reshape(shape + (1,) * (values.ndim - 1))

    def over(self, name: str, values: Any) -> np.ndarray:
        """Average values (R, ...) over a label; keep the others' order."""
        rest = [key for key in self.labels if key != name]
        groups = list(zip(*(self.labels[key] for key in rest), strict=True))
        by_group: dict[tuple, list[np.ndarray]] = {}
        for group, value in zip(groups, np.asarray(values), strict=True):
            by_group.setdefault(group, []).append(value)
        return np.stack([np.mean(own, axis=0) for own in by_group.values()])

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

        Parameters
        ----------
        values
            Shape (R, n, ...), predictions or errors, say.
        keep
            A label that is not averaged over.

        Returns
        -------
        numpy.ndarray
            Shape (n, ...), or (levels of ``keep``, n, ...); NaN for a row
            that no replica held out.
        """
        values = np.asarray(values, float)
        if keep:
            return np.stack(
                [
                    self.pick(**{keep: level}).out_of_fold(
                        values[self.where(**{keep: level})]
                    )
                    for level in self.levels(keep)
                ]
            )
        total = np.zeros(values.shape[1:])
        count = np.zeros((len(total),) + (1,) * (total.ndim - 1))
        for own, (_, held) in zip(values, self.splits, strict=True):
            total[held] += own[held]
            count[held] += 1
        with np.errstate(invalid="ignore"):
            return total / count
