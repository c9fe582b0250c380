"""Rows and scores of the target-learning chapter: folds, errors, latents.

What doi:10.21428/594757db.07402193 scores in its Sec. 3.2 and 3.3: block by
block, by regression and by classes, and how a latent space is organised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score, r2_score, roc_auc_score

from nestedae_utils.errors import DataError
from nestedae_utils.model.replicas import Replicas, Split

ELEMENTS = ("element1", "element2", "element3")
ROLES = ("role1", "role2", "role3")
NUMBERS = ("cell", "coordinates")


# --- rows ---------------------------------------------------------------------


def classes(energy: NDArray, threshold: float) -> NDArray:
    """Return what is stable, one-hot (n, 2); DataError if all rows are alike."""
    stable = (np.asarray(energy) <= threshold).astype(int)
    if len(set(stable.tolist())) < 2:
        told = f"threshold: {threshold:g} eV/atom leaves one class; a value within "
        low, high = np.min(energy), np.max(energy)
        raise DataError(f"{told}{low:.3g} to {high:.3g} is allowed.")
    return np.eye(2)[stable]


def folds(groups: NDArray, count: int = 5, seed: int = 0) -> list[Split]:
    """Return for every fold its (training, held-out) rows, by whole groups.

    The groups are dealt in a random order to the fold with the fewest rows.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    held = np.zeros(count)
    of_group = np.empty(len(sizes), int)
    for one in np.random.default_rng(seed).permutation(len(sizes)):
        of_group[one] = held.argmin()
        held[of_group[one]] += sizes[one]
    fold = of_group[group]
    return [
        (np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(count)
    ]


def thirds(splits: Sequence[Split], count: int, seeds: int = 1) -> Replicas:
    """Return replicas trained on three folds of five, and tested on another.

    The fold that follows the tested one is left for validation.
    """
    some = []
    for k in range(count):
        spared = splits[(k + 1) % len(splits)][1]
        some.append((np.setdiff1d(splits[k][0], spared), splits[k][1]))
    return Replicas.cross(some, seeds)


# --- scores of what is rebuilt ------------------------------------------------


def same_size(
    truth: Mapping[str, NDArray], atoms: NDArray, seen: NDArray
) -> dict[str, NDArray]:
    """Return for every row the mean of the training rows of its size."""
    found = {}
    for name, values in truth.items():
        mean = np.zeros(values.shape)
        for size in np.unique(atoms):
            own = seen[atoms[seen] == size]
            mean[atoms == size] = values[own if len(own) else seen].mean(0)
        found[name] = mean
    return found


def table1(
    decoded: Mapping[str, NDArray], truth: Mapping[str, NDArray], atoms: NDArray
) -> dict[str, NDArray]:
    """Return absolute errors, block by block of the paper's Table 1, (n, width).

    One-hot entries are rounded; NaN behind the last atom where padding does
    not count.
    """

    def side(names: Sequence[str], of: Mapping[str, NDArray]) -> NDArray:
        return np.hstack([of[name] > 0.5 for name in names]).astype(float)

    away = {name: np.abs(decoded[name] - truth[name]) for name in NUMBERS}
    inside = np.arange(60) < 3 * atoms[:, None]
    found = {
        word: np.abs(side(names, decoded) - side(names, truth))
        for word, names in (("atomic number", ELEMENTS), ("site", ROLES))
    }
    return found | {
        "lattice vectors (Å)": away["cell"][:, :9],
        "angles (degrees)": away["cell"][:, 9:],
        "coordinates, padded": away["coordinates"],
        "coordinates, atoms": np.where(inside, away["coordinates"], np.nan),
        "number of atoms": np.abs(side(["size"], decoded) - side(["size"], truth)),
    }


# --- scores of what is predicted ---------------------------------------------


def scores(energy: NDArray, predicted: NDArray, threshold: float) -> dict[str, float]:
    """Return MAE, RMSE (eV/atom), R2, F1 and AUC of predicted energies (n,).

    Stable is what lies at or below the threshold; the AUC is that of minus
    the energy.
    """
    away, stable = predicted - energy, energy <= threshold
    return {
        "mae": float(np.abs(away).mean()),
        "rmse": float(np.sqrt((away**2).mean())),
        "r2": float(r2_score(energy, predicted)),
        "f1": float(f1_score(stable, predicted <= threshold)),
        "auc": float(roc_auc_score(stable, -predicted)),
    }


def auc(kind: NDArray, score: NDArray) -> float:
    """Return the area under the ROC curve; one half where all are alike."""
    return float(roc_auc_score(kind, score)) if len(set(kind.tolist())) > 1 else 0.5


def resampled(
    statistic: Callable[..., float | NDArray],
    groups: NDArray,
    *columns: NDArray,
    draws: int = 300,
) -> tuple[NDArray, NDArray]:
    """Return the ends of the 95 % interval of a statistic of columns (n,).

    Groups of rows are drawn together; the statistic may be several numbers.
    """
    _, group = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.bincount(group).cumsum())
    random, found = np.random.default_rng(0), []
    for _ in range(draws):
        some = random.integers(0, len(members) - 1, len(members) - 1)
        rows = np.concatenate([members[one] for one in some])
        found.append(statistic(*(column[rows] for column in columns)))
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return low, high


def of_neighbours(
    z: NDArray, values: NDArray, seen: NDArray, held: NDArray, count: int = 10
) -> NDArray:
    """Return the mean value of each held-out row's nearest training rows."""
    apart = torch.cdist(torch.tensor(z[held]), torch.tensor(z[seen]))
    near = apart.topk(min(count, len(seen)), largest=False).indices.numpy()
    return values[seen][near].mean(1)


def neighbours(
    z: NDArray, values: NDArray, seen: NDArray, held: NDArray, count: int = 10
) -> float:
    """Return R2 of what :func:`of_neighbours` gives."""
    guess = of_neighbours(z, values, seen, held, count)
    return float(r2_score(values[held], guess))


def axes(z: NDArray, stable: NDArray) -> NDArray:
    """Return each latent's AUC for stability, of either sign, (latent,)."""
    found = np.array([roc_auc_score(stable, column) for column in z.T])
    return np.maximum(found, 1 - found)
