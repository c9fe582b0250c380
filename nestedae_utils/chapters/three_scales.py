"""From plentiful tables to a scarce one: folds, few rows, fits, processes.

The tables share materials.  What is held out is held out by composition, in
all of them at once (strict) or in the scarce one alone (open).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import chain
from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.model.scales import Block, Head, Scale

LARGEST = 120
"""Rows from which a Gaussian process learns its kernel; it is conditioned on
all of them.  The search takes the cube of this number for each step."""


def common_groups(
    fractions: Mapping[str, np.ndarray], decimals: int = 2
) -> dict[str, np.ndarray]:
    """Give the compositions of several tables numbers, alike in all.

    Compositions (n, 14) are one where they agree to so many decimals; the
    numbers (n,) begin at 0.
    """
    rows = np.concatenate(list(fractions.values()))
    # first without the last bits, so that a half is one in every table
    rows = rows.round(8).round(decimals)
    numbers = np.unique(rows, axis=0, return_inverse=True)[1]
    ends = np.cumsum([len(part) for part in fractions.values()])[:-1]
    parts = np.split(numbers.reshape(-1), ends)
    return dict(zip(fractions, parts, strict=True))


def shared_folds(
    groups: Mapping[str, np.ndarray], folds: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Give every group one fold, the same in all tables; return rows' folds.

    Table by table in the order given, the scarcest first: groups without a
    fold, the largest first and equal ones in random order, go to the fold
    that has the fewest of the table's rows.

    Raises
    ------
    ParameterError
        If there are more folds than groups in the first table.
    """
    count = len(np.unique(next(iter(groups.values()))))
    if folds > count:
        raise ParameterError(
            f"folds: {folds} given for {count} groups of the first table, at "
            "most one fold a group is allowed."
        )
    random = np.random.default_rng(seed)
    fold_of: dict[int, int] = {}
    for own in groups.values():
        names, counts = np.unique(own, return_counts=True)
        taken = [fold_of[name] for name in own if name in fold_of]
        rows = np.bincount(np.array(taken, int), minlength=folds)
        order = random.permutation(len(names))
        for at in order[np.argsort(-counts[order], kind="stable")]:
            if names[at] not in fold_of:
                fold_of[names[at]] = int(rows.argmin())
                rows[fold_of[names[at]]] += counts[at]
    return {
        table: np.array([fold_of[name] for name in own])
        for table, own in groups.items()
    }


def by_fold(fold: np.ndarray) -> list[Split]:
    """Return a split for each fold, from the rows' folds (n,)."""
    return [
        (np.flatnonzero(fold != held), np.flatnonzero(fold == held))
        for held in range(fold.max() + 1)
    ]


def few_rows(
    fold: np.ndarray, sizes: Sequence[int], draws: int, seeds: int = 1
) -> Replicas:
    """Return replicas whose training rows are few, for learning curves.

    They are the first of a draw's random order that the fold does not hold
    out, all where it leaves fewer; so a larger size contains the smaller
    ones.  The labels are ``size``, slowest, ``draw``, ``fold`` and ``seed``.
    """
    ranges = map(range, (draws, fold.max() + 1, seeds))
    labels = np.array(list(product(sizes, *ranges)))
    splits = []
    for size, draw, held, _ in labels:
        order = np.random.default_rng(draw).permutation(len(fold))
        seen = order[fold[order] != held][:size]
        splits.append((np.sort(seen), np.flatnonzero(fold == held)))
    names = ("size", "draw", "fold", "seed")
    return Replicas(tuple(splits), dict(zip(names, labels.T, strict=True)))


def by_size(few: Replicas, values: np.ndarray) -> np.ndarray:
    """Gather held-out values (R, n), means over seeds: (sizes, draws, n)."""
    found = []
    for size in few.levels("size"):
        own = values[few.where(size=size)]
        found.append(few.pick(size=size).out_of_fold(own, keep="draw"))
    return np.stack(found)


def filled(values: np.ndarray, replicas: Replicas) -> np.ndarray:
    """Put each replica's training median where a target (n, 1) is missing.

    Returns (R, n, 1); a DataError where no training row has a value.
    """
    wide = np.repeat(values[None], len(replicas), axis=0)
    for own, (seen, _) in zip(wide, replicas.splits, strict=True):
        known = values[seen][~np.isnan(values[seen])]
        if not known.size:
            raise DataError(
                "target: none of a replica's training rows has a value; use more rows."
            )
        own[np.isnan(values)] = np.median(known)
    return wide


# --- scales ------------------------------------------------------------------


def declare(
    name: str, seen: Sequence[Block], targets: Sequence[str], latent: int
) -> Scale:
    """Declare a scale by what it sees and what it predicts."""
    heads = [Head(target, 1, hidden=(50,), scaling="standard") for target in targets]
    for block in seen:
        kind = "cross_entropy" if block.name in ("etl", "htl") else "mae"
        heads.append(Head(block.name, block.width, loss=kind))
    return Scale(name, tuple(seen), latent, tuple(heads))


def below(lower: NestedAutoencoder, replicas: Replicas) -> NestedAutoencoder:
    """Return a chain with, for each replica, the member it stands on.

    That of its fold, or the one that has learnt from all rows, and its seed.
    """
    known = list(lower.fitted.values())[-1].replicas
    several = len(known.levels("fold")) > 1
    folds = replicas.labels["fold"] * several
    return lower.take(
        [
            known.where(fold=fold, seed=seed)[0]
            for fold, seed in zip(folds, replicas.labels["seed"], strict=True)
        ]
    )


def fit(
    scale: Scale,
    table: Table,
    replicas: Replicas,
    lower: NestedAutoencoder | None = None,
    learning_rate: float = 5e-3,
    **settings: Any,
) -> NestedAutoencoder:
    """Fit a scale, each replica on its member `below`, on training rows."""
    settings |= {"standardise_on": "train", "learning_rate": learning_rate}
    lower = below(lower, replicas) if lower else None
    return chain.fit(scale, table, replicas, lower, **settings)


# --- Gaussian processes ------------------------------------------------------


@cached
def gaussian_process(
    features: np.ndarray,
    target: np.ndarray,
    training: Sequence[np.ndarray],
    asked: np.ndarray,
) -> np.ndarray:
    """Predict by Gaussian processes, one for each of K sets of rows.

    The kernel is a Matérn of smoothness 3/2, with one length for all
    columns, and white noise (scikit-learn), fitted by maximum likelihood;
    the target is standardised on the training rows.  A multi-fidelity
    process is one whose features have the lower fidelity's prediction in
    them (doi:10.1098/rspa.2016.0751).

    Parameters
    ----------
    features, target, asked
        Shapes (n, width), (n,) and (m, width), or with a leading axis K.
    training
        The K sets of rows.

    Returns
    -------
    numpy.ndarray
        Shape (K, m), in the target's units.
    """
    K = len(training)
    x = np.broadcast_to(features, (K, *features.shape[-2:]))
    y = np.broadcast_to(target, (K, *target.shape[-1:]))
    asked = np.broadcast_to(asked, (K, *asked.shape[-2:]))
    # several threads take several times as long for so small matrices
    with threadpool_limits(1), warnings.catch_warnings():
        # a length or a noise at the end of its range is no fault here
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.stack(
            [
                _process(x[k][rows], y[k][rows]).predict(asked[k])
                for k, rows in enumerate(training)
            ]
        )


def _process(x: np.ndarray, y: np.ndarray) -> GaussianProcessRegressor:
    """Return a fitted process; its kernel from `LARGEST` rows at most."""
    kernel = ConstantKernel(1.0) * Matern(4.0, nu=1.5) + WhiteKernel(0.05)
    some = np.random.default_rng(0).permutation(len(x))[:LARGEST]
    process = GaussianProcessRegressor(kernel, normalize_y=True)
    process.fit(x[some], y[some])
    if len(some) == len(x):
        return process
    return GaussianProcessRegressor(
        process.kernel_, optimizer=None, normalize_y=True
    ).fit(x, y)
