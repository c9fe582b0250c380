"""A trained scale, and the scalers that are a part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.model.layers import Arrays
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation (``ddof=0``; 1 if constant) of columns.

    Both (1, 1, width), or (R, 1, width) where each replica has its own.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, rows: Sequence[np.ndarray] | None = None) -> Self:
        """Measure (1 or R, n, width) on all rows, or each replica's own."""
        parts = list(values)
        if rows is not None:
            wide = np.broadcast_to(values, (len(rows), *values.shape[1:]))
            parts = [one[r] for one, r in zip(wide, rows, strict=True)]
        mean = np.stack([part.mean(0, keepdims=True) for part in parts])
        deviation = np.stack([part.std(0, keepdims=True) for part in parts])
        # rounding leaves a constant column a deviation of about 1e-16 of its size
        size = np.stack([np.abs(part).max(0, keepdims=True) for part in parts])
        constant = deviation <= 1e-12 * size
        return cls(mean, np.where(constant, 1.0, deviation))

    def scale(self, values: Tensor) -> Tensor:
        """Standardise values (1 or R, n, width)."""
        mean, deviation = self._like(values)
        return (values - mean) / deviation

    def unscale(self, values: Tensor) -> Tensor:
        """Take standardised values back to their units."""
        mean, deviation = self._like(values)
        return values * deviation + mean

    def _like(self, values: Tensor) -> list[Tensor]:
        both = (self.mean, self.deviation)
        return [torch.as_tensor(one, dtype=values.dtype) for one in both]

    def take(self, places: Sequence[int]) -> "Scaler":
        """Return it for some replicas; a shared one stays as it is."""
        shared = len(self.mean) == 1
        return self if shared else Scaler(self.mean[places], self.deviation[places])


Scalers = Mapping[str, Scaler]


class History(NamedTuple):
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
    values: Mapping[str, Arrays]


@dataclass(frozen=True)
class Fitted:
    """A trained scale: declaration, replicas, parameters (R, rows, columns).

    ``scalers`` for every standardised block or target; ``lower_scalers``, by
    lower scale, where its inputs were standardised anew with this scale's
    table.  The history is not saved.
    """

    scale: Scale
    replicas: Replicas
    parameters: Arrays
    scalers: Scalers = field(default_factory=dict)
    lower_scalers: Mapping[str, Scalers] = field(default_factory=dict)
    history: History | None = None

    def at_end(self, kind: str, metric: str) -> np.ndarray:
        """Return a metric after the last epoch, (R,)."""
        assert self.history, "read from a file"
        return self.history.values[kind][metric][:, -1].astype(float)

    def together(self, values: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return parameters and values (1 or R, n, width), both of R replicas."""
        count = max(len(values), len(self.replicas))
        p = {
            name: torch.as_tensor(value, dtype=values.dtype).expand(count, -1, -1)
            for name, value in self.parameters.items()
        }
        return p, values.expand(count, -1, -1)

    def take(self, places: Sequence[int]) -> "Fitted":
        """Return it with these replicas, without history."""
        own = list(places)
        p = {k: v[own] for k, v in self.parameters.items()}
        every = {"": self.scalers, **self.lower_scalers}.items()
        lower = {key: {k: v.take(own) for k, v in some.items()} for key, some in every}
        return Fitted(self.scale, self.replicas.take(own), p, lower.pop(""), lower)
