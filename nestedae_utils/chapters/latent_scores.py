"""Rows and scores of the target-learning chapter: folds, errors, latents.

What doi:10.21428/594757db.07402193 scores in its Sec. 3.2 and 3.3: block by
block, by regression and by classes, and how a latent space is organised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import r2_score

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


def auc(kind: NDArray, score: NDArray) -> float:
    """Return the area under the ROC curve; one half where all are alike.

    The Mann-Whitney statistic: the share of pairs in the right order.
    """
    kind = np.asarray(kind, bool)
    ones, zeros = int(kind.sum()), int((~kind).sum())
    if not ones * zeros:
        return 0.5
    above = rankdata(score)[kind].sum() - ones * (ones + 1) / 2
    return float(above / (ones * zeros))


def metrics(threshold: float) -> dict[str, Callable[[NDArray, NDArray], float]]:
    """Return MAE, RMSE (eV/atom), R2, F1 and AUC of energies and predictions (n,).

    Stable is what lies at or below the threshold; the AUC is that of minus
    the energy.
    """

    def f1(energy: NDArray, predicted: NDArray) -> float:
        true, said = energy <= threshold, predicted <= threshold
        return 2 * float((true & said).sum()) / max(1, int(true.sum() + said.sum()))

    return {
        "mae": lambda e, p: float(np.abs(p - e).mean()),
        "rmse": lambda e, p: float(np.sqrt(((p - e) ** 2).mean())),
        "r2": r2_score,
        "f1": f1,
        "auc": lambda e, p: auc(e <= threshold, -p),
    }


def scores(energy: NDArray, predicted: NDArray, threshold: float) -> dict[str, float]:
    """Return all `metrics` of predicted energies (n,) by name."""
    return {n: score(energy, predicted) for n, score in metrics(threshold).items()}


def neighbours(
    z: NDArray, values: NDArray, seen: NDArray, held: NDArray, count: int = 10
) -> float:
    """Return R2 of the mean value of each held-out row's nearest training rows."""
    apart = torch.cdist(torch.tensor(z[held]), torch.tensor(z[seen]))
    near = apart.topk(min(count, len(seen)), largest=False).indices.numpy()
    return float(r2_score(values[held], values[seen][near].mean(1)))


def axes(z: NDArray, stable: NDArray) -> NDArray:
    """Return each latent's AUC for stability, of either sign, (latent,)."""
    found = np.array([auc(stable, column) for column in z.T])
    return np.maximum(found, 1 - found)


def best_axes(z: NDArray, stable: NDArray, seen: NDArray) -> tuple[NDArray, NDArray]:
    """Return the two latents that part the training rows best, and their sum (n,).

    The sum is of both, turned so that stable rows lie high, in standard
    deviations of the training rows.
    """
    best = axes(z[seen], stable[seen]).argsort()[-2:]
    own, good = z[seen][:, best], stable[seen]
    up = np.where(own[good].mean(0) > own[~good].mean(0), 1, -1)
    return best, (z[:, best] * up / own.std(0)).sum(1)
