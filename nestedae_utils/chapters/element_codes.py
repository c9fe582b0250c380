"""Codes of the elements: their autoencoders, and what a code knows.

A code set is what one seed gives: two numbers for each element, (elements, 2).
Sets of several seeds (sets, elements, 2) are never averaged: a rotation of a
code loses nothing, so that its single numbers have no meaning of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestedae_utils.model.cache import together
from nestedae_utils.model.chain import NestedAutoencoder, fit
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study.codes import before, nearest_rows

KINDS = {"ELBO": "gaussian", "MMD": "mmd", "VQ": "vq"}
"""The paper's three algorithms, by their names in `Scale.code`."""
HIDDEN = (48, 32)


def declare(code: str, weight: float, latent: int, width: int, rows: int) -> Scale:
    """Declare the scale of the elements: curves in, curves out.

    Shape, activation and optimiser are ours; the paper's main text has none.
    """
    head = Head("curves", width, loss="mse", hidden=HIDDEN[::-1], activation="elu")
    return Scale(
        *("element", (Block("curves", width, "none"),), latent, (head,)),
        hidden=HIDDEN,
        activation="elu",
        latent_activation="linear",
        code=code,
        code_weight=weight,
        codebook=rows,
    )


def fit_all(
    bank: NDArray,
    elements: int,
    weights: Mapping[str, float],
    *,
    sets: int,
    latent: int,
    rows: int,
    **settings: Any,
) -> dict[str, NestedAutoencoder]:
    """Fit every kind of code, side by side; one replica for each set.

    They learn from the copies in the ``bank`` (n, 1024), and are measured on
    its first rows, the elements as they are.
    """
    every = np.arange(len(bank))
    replicas = Replicas.cross([(every[elements:], every[:elements])], sets)
    table = {"curves": bank}

    def one(kind: str) -> Callable[[], NestedAutoencoder]:
        scale = declare(KINDS[kind], weights[kind], latent, bank.shape[1], rows)
        return lambda: fit(scale, table, replicas, **settings)

    return dict(zip(weights, together(*map(one, weights)), strict=True))


def codes_of(
    chains: Mapping[str, NestedAutoencoder], clean: NDArray, latent: int
) -> dict[str, NDArray]:
    """Return the four kinds of codes, (sets, elements, latent), by name.

    ELBO's are the means; VQ's stand before (VQ_o) and after (VQ_q) they are
    moved to the nearest row of the codebook.
    """
    found = {}
    for name, chain in chains.items():
        columns = before(chain, "element", {"curves": clean})[..., :latent].numpy()
        found["VQ_o" if name == "VQ" else name] = columns
    found["VQ_q"] = chains["VQ"].encode({"curves": clean})
    return found


def distinct_rows(chain: NestedAutoencoder, clean: NDArray) -> NDArray:
    """Return how many rows of the codebook the elements use, (sets,)."""
    z = before(chain, "element", {"curves": clean})
    p, _ = chain.fitted["element"].together(z)
    return np.array([len(np.unique(own)) for own in nearest_rows(z, p).numpy()])


def errors(truth: NDArray, rebuilt: NDArray) -> tuple[NDArray, NDArray]:
    """Return mean square and mean absolute error per point, (sets,)."""
    away = rebuilt - truth
    return (away**2).mean((-1, -2)), np.abs(away).mean((-1, -2))


def pca(values: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Return principal components (n, count) of rows, and the rows rebuilt."""
    mean = values.mean(0)
    left, sizes, right = np.linalg.svd(values - mean, full_matrices=False)
    scores = left[:, :count] * sizes[:count]
    return scores, scores @ right[:count] + mean


# --- what a code knows -------------------------------------------------------


def r2(codes: NDArray, values: NDArray) -> NDArray:
    """Return R2 of a property (n,) on all numbers of codes (..., n, d).

    No rotation of a code changes it.  Elements without a value are left out.
    """
    given = np.isfinite(values)
    x = np.concatenate([codes, np.ones((*codes.shape[:-1], 1))], -1)[..., given, :]
    y = np.broadcast_to(values[given], x.shape[:-1])[..., None]
    rest = y - x @ (np.linalg.pinv(x) @ y)
    spread = y - y.mean(-2, keepdims=True)
    return 1 - (rest**2).sum((-1, -2)) / (spread**2).sum((-1, -2))


def correlations(codes: NDArray, values: NDArray) -> NDArray:
    """Return absolute correlations of a property with each number, (..., d).

    The stronger of them first.
    """
    given = np.isfinite(values)
    x, y = codes[..., given, :], values[given]
    x = x - x.mean(-2, keepdims=True)
    y = y - y.mean()
    size = np.sqrt((x**2).sum(-2) * (y**2).sum())
    size = np.where(size > 0, size, np.inf)  # a number that is dead
    r = np.abs(np.einsum("...ij,i->...j", x, y)) / size
    return np.sort(r, -1)[..., ::-1]


def rotated(codes: NDArray, seed: int = 0) -> NDArray:
    """Turn each set of codes (sets, n, d) at random, about its mean."""
    random, (sets, _, size) = np.random.default_rng(seed), codes.shape
    turn, _ = np.linalg.qr(random.standard_normal((sets, size, size)))
    return (codes - codes.mean(1, keepdims=True)) @ turn


def distances(codes: NDArray) -> NDArray:
    """Return the distances between elements, (..., n, n), in the codes' plane."""
    apart = codes[..., :, None, :] - codes[..., None, :, :]
    return np.sqrt((apart**2).sum(-1))


def step_along(codes: NDArray) -> NDArray:
    """Return the mean step to the next element over the mean distance, (...)."""
    apart = distances(codes)
    count = apart.shape[-1]
    steps = np.diagonal(apart, 1, -2, -1).mean(-1)
    return steps / (apart.sum((-1, -2)) / (count * (count - 1)))


def same_group(codes: NDArray, group: NDArray) -> NDArray:
    """Return the share of elements whose nearest one is of their group, (...)."""
    apart = distances(codes)
    apart[..., np.arange(len(group)), np.arange(len(group))] = np.inf
    return (group[apart.argmin(-1)] == group).mean(-1)


def permuted(codes: NDArray, seed: int = 0) -> NDArray:
    """Deal the codes (sets, n, d) out to the elements anew, set by set."""
    random = np.random.default_rng(seed)
    return np.stack([own[random.permutation(len(own))] for own in codes])


def by_chance(
    measure: Callable[[NDArray], NDArray], codes: NDArray, draws: int
) -> NDArray:
    """Return a measure of one set's codes (n, d), dealt out anew, (draws, ...)."""
    every = np.broadcast_to(codes, (draws, *codes.shape))
    return measure(permuted(every))


def traversed(
    chain: NestedAutoencoder, codes: NDArray, steps: int
) -> tuple[NDArray, NDArray]:
    """Decode a line through the first set's codes along each number.

    Returns the points (d, steps, d) and their curves (d, steps, 1024); the
    other numbers stay at their medians.
    """
    low, high = np.quantile(codes[0], [0.05, 0.95], axis=0)
    size = codes.shape[-1]
    points = np.broadcast_to(np.median(codes[0], 0), (size, steps, size)).copy()
    for axis in range(size):
        points[axis, :, axis] = np.linspace(low[axis], high[axis], steps)
    one = chain.take([0])
    flat = one.decode(points.reshape(-1, size))["element"]["curves"][0]
    return points, flat.reshape(size, steps, -1)
