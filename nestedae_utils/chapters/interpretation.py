"""What a fitted model knows: its latents and its encoder's weights.

A latent is free in its place and, with a tanh, in its sign: negate its
weights on both sides and nothing else changes.  So the latents of several
replicas are matched before they are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from scipy.optimize import linear_sum_assignment
from sklearn.feature_selection import mutual_info_regression

from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.networks import initial

WEIGHTS = "encoder.0.weight"
"""The parameter with the weights from the inputs to the latents, of a scale
without hidden layers in its encoder: (R, inputs, latents)."""


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlations of two sets of columns on equal rows.

    Of (..., n, F) and (..., n, G), shape (..., F, G); zero where a column is
    constant.
    """
    parts = []
    for values in (first, second):
        away = values - values.mean(-2, keepdims=True)
        size = np.linalg.norm(away, axis=-2, keepdims=True)
        # rounding leaves a constant column a size just above zero
        small = size <= 1e-9 * np.linalg.norm(values, axis=-2, keepdims=True)
        parts.append(np.where(small, 0.0, away / np.where(small, 1.0, size)))
    return parts[0].swapaxes(-1, -2) @ parts[1]


@dataclass(frozen=True)
class Matched:
    """Latents of R replicas in the order and with the signs of the first.

    Attributes
    ----------
    order
        Shape (R, L): which latent of the replica takes each place.
    signs, agreement
        Shape (R, L): the sign, 1 or -1, and the size of the correlation with
        the first one's latent.
    """

    order: np.ndarray
    signs: np.ndarray
    agreement: np.ndarray

    def apply(self, latents: np.ndarray) -> np.ndarray:
        """Return latents (R, n, L) in the common order and sign."""
        placed = np.take_along_axis(latents, self.order[:, None], axis=-1)
        return placed * self.signs[:, None]


def match(latents: np.ndarray) -> Matched:
    """Match the latents (R, n, L) of all replicas with those of the first.

    One to one, such that the sum of the absolute correlations over the rows
    is largest (a linear assignment).
    """
    found = correlations(latents[0], latents)
    order = np.stack([linear_sum_assignment(-np.abs(one))[1] for one in found])
    placed = np.take_along_axis(found, order[:, None], axis=-1)
    matched = placed.diagonal(axis1=-2, axis2=-1)
    return Matched(order, np.where(matched < 0, -1, 1), np.abs(matched))


def agreement(latents: np.ndarray) -> float:
    """Return the mean absolute correlation of matched latents (R, n, L).

    Over all latents and all pairs of replicas, so that no replica is
    preferred; 1 if they differ in order and sign only.
    """
    R, _, L = latents.shape
    wide = np.hstack(list(latents))
    size = np.abs(correlations(wide, wide)).reshape(R, L, R, L)
    matched = []
    for first, second in combinations(range(R), 2):
        pair = size[first, :, second]
        matched.append(pair[linear_sum_assignment(-pair)].mean())
    return float(np.mean(matched))


def shared(latents: np.ndarray) -> float:
    """Return how much of one replica's latents another's give, linearly.

    For every ordered pair of replicas (R, n, L) the mean over latents of the
    R2 of a linear regression on all latents of the other, then the mean over
    pairs; constant latents are left out.  Unlike `agreement` it is 1 also
    where the same space has other axes.  It is taken on the rows that the
    regression is fitted to, and so close to 1 by itself unless n is much
    larger than L.
    """
    away = latents - latents.mean(1, keepdims=True)
    sizes = np.linalg.norm(away, axis=1)
    moving = sizes > 1e-9 * np.linalg.norm(latents, axis=1)
    bases, units = [], []
    for one, size, moves in zip(away, sizes, moving, strict=True):
        left, values, _ = np.linalg.svd(one, full_matrices=False)
        bases.append(left[:, values > 1e-9 * values[0]])
        units.append(one[:, moves] / size[moves])
    return float(
        np.mean(
            [
                np.mean(np.sum((basis.T @ unit) ** 2, axis=0))
                for i, unit in enumerate(units)
                for j, basis in enumerate(bases)
                if i != j
            ]
        )
    )


@cached
def information(
    latents: np.ndarray, values: np.ndarray, neighbours: int = 3
) -> np.ndarray:
    """Return the mutual information of every latent with every quantity.

    Of latents (R, n, L) and quantities (n, K), shape (R, L, K), in nats, one
    latent and one quantity at a time; from nearest neighbours (scikit-learn;
    Kraskov et al., doi:10.1103/PhysRevE.69.066138), of which more lower the
    variance and raise the bias.
    """
    found = [
        mutual_info_regression(one, column, n_neighbors=neighbours, random_state=0)
        for one in latents
        for column in values.T
    ]
    shape = len(latents), values.shape[1], latents.shape[2]
    return np.reshape(found, shape).swapaxes(1, 2)


def rank(values: np.ndarray, share: float = 1.0) -> int:
    """Return how many directions hold a share of the columns' variance.

    Columns (n, width) are standardised, constant ones count nothing.  With
    the share 1 it is the numerical rank: directions above 1e-9 of the
    largest standard deviation.
    """
    deviation = values.std(0)
    moving = deviation > 1e-9 * np.abs(values).max(0)
    away = values[:, moving] - values[:, moving].mean(0)
    sizes = np.linalg.svd(away / deviation[moving], compute_uv=False)
    if share == 1:
        return int(np.sum(sizes > 1e-9 * sizes[0]))
    held = np.cumsum(sizes**2) / np.sum(sizes**2)
    return int(np.searchsorted(held, share) + 1)


# --- encoders that are not as they were trained -----------------------------


def with_parameters(
    chain: NestedAutoencoder, name: str, changed: Mapping[str, np.ndarray]
) -> NestedAutoencoder:
    """Return the chain with other parameters (R, rows, columns) in a scale."""
    other = NestedAutoencoder(chain.scales.values())
    fitted = chain.fitted[name]
    parameters = {**fitted.parameters, **changed}
    other.fitted = dict(chain.fitted)
    other.fitted[name] = replace(fitted, parameters=parameters)
    return other


def pruned(chain: NestedAutoencoder, name: str, cut: float) -> NestedAutoencoder:
    """Return the chain with a scale's weights below a cut set to zero."""
    weights = chain.fitted[name].parameters[WEIGHTS]
    chosen = np.where(np.abs(weights) < cut, 0, weights)
    return with_parameters(chain, name, {WEIGHTS: chosen})


def exchanged(chain: NestedAutoencoder, name: str) -> NestedAutoencoder:
    """Return encoders whose inputs changed places within their blocks."""
    random = np.random.default_rng(0)
    weights = chain.fitted[name].parameters[WEIGHTS].copy()
    edges = np.cumsum([block.width for block in chain.scales[name].inputs])
    for one in weights:
        for block in np.split(np.arange(edges[-1]), edges[:-1]):
            one[block] = one[random.permutation(block)]
    return with_parameters(chain, name, {WEIGHTS: weights})


def untrained(chain: NestedAutoencoder, name: str) -> NestedAutoencoder:
    """Return a scale as it was before training, from each replica's seed."""
    seeds = chain.fitted[name].replicas.labels["seed"]
    drawn = [initial(chain.scales[name], int(seed)) for seed in seeds]
    stacked = {key: np.stack([one[key] for one in drawn]) for key in drawn[0]}
    return with_parameters(chain, name, stacked)


def agreements(
    chain: NestedAutoencoder, name: str, table: Table
) -> dict[str, list[float]]:
    """Return the agreement of a scale's latents for several kinds of pairs.

    Of replicas of one fold (other seeds), of one seed (other folds), and of
    those of one fold as they would agree by chance.
    """
    z, replicas = chain.encode(table), chain.fitted[name].replicas
    random = np.random.default_rng(0)
    kinds = {
        "other seeds": z,
        "inputs exchanged": exchanged(chain, name).encode(table),
        "untrained": untrained(chain, name).encode(table),
        "rows shuffled": np.stack([random.permutation(one) for one in z]),
    }
    found = {
        kind: [
            agreement(values[replicas.where(fold=fold)])
            for fold in replicas.levels("fold")
        ]
        for kind, values in kinds.items()
    }
    found["other folds, same seed"] = [
        agreement(z[replicas.where(seed=seed)]) for seed in replicas.levels("seed")
    ]
    return found


def heat(
    ax: Axes, values: np.ndarray, columns: Sequence[str], **span: Any
) -> AxesImage:
    """Draw values with named columns, a line behind each site's five."""
    drawn = ax.imshow(values, aspect="auto", **span)
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    for edge in (4.5, 9.5, 14.5):
        ax.axvline(edge, color="k", linewidth=1)
    ax.grid(False)
    return drawn
