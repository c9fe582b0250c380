"""What a fitted model knows: its latents, and its inputs by block.

A latent is free in its place and, with a tanh, in its sign: negate its
weights on both sides and nothing else changes.  So the latents of several
replicas are matched before they are compared.  The inputs are attributed to
by a few blocks, for which Shapley's values (Contributions to the Theory of
Games II, 307, 1953) can be summed exactly over all coalitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.feature_selection import mutual_info_regression

from nestedae_utils import errors as checks
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.training import Split, one_thread

Predict = Callable[[np.ndarray], np.ndarray]
"""From rows (m, width) to predictions (..., m), one model or several."""


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlations of two sets of columns on equal rows.

    Parameters
    ----------
    first, second
        Shapes (..., n, F) and (..., n, G).

    Returns
    -------
    numpy.ndarray
        Shape (..., F, G); zero where a column is constant.
    """
    parts = []
    for values in (first, second):
        values = np.asarray(values, dtype=float)
        away = values - values.mean(-2, keepdims=True)
        size = np.linalg.norm(away, axis=-2, keepdims=True)
        # rounding leaves a constant column a size just above zero
        small = size <= 1e-9 * np.linalg.norm(values, axis=-2, keepdims=True)
        parts.append(np.where(small, 0.0, away / np.where(small, 1.0, size)))
    return parts[0].swapaxes(-1, -2) @ parts[1]


@dataclass(frozen=True)
class Matched:
    """Latents of R replicas in the order and with the signs of a reference.

    Attributes
    ----------
    order
        Shape (R, L): which latent of the replica takes each place.
    signs
        Shape (R, L), 1 or -1.
    agreement
        Shape (R, L): the absolute correlation with the reference's latent;
        1 for the reference itself.
    """

    order: np.ndarray
    signs: np.ndarray
    agreement: np.ndarray

    def apply(self, latents: np.ndarray) -> np.ndarray:
        """Return latents (R, n, L) in the common order and sign."""
        placed = np.take_along_axis(latents, self.order[:, None], axis=-1)
        return placed * self.signs[:, None]


def match(latents: np.ndarray, reference: int = 0) -> Matched:
    """Match every replica's latents with those of one of them.

    Each latent is given to one of the reference's such that the sum of the
    absolute correlations over the rows is largest (a linear assignment); its
    sign is that of the correlation.

    Parameters
    ----------
    latents
        Shape (R, n, L), of the same n rows in all replicas.
    reference
        The replica that the others are matched with.

    Raises
    ------
    ParameterError
        If the shape is another one, a value is not finite, or there is no
        such replica.
    """
    latents = _three("match", latents)
    checks.whole("reference", reference, 0, len(latents) - 1)
    found = correlations(latents[reference], latents)
    order = np.stack([linear_sum_assignment(-np.abs(one))[1] for one in found])
    own = np.take_along_axis(found, order[:, None], axis=-1)
    matched = own.diagonal(axis1=-2, axis2=-1)
    return Matched(order, np.where(matched < 0, -1, 1), np.abs(matched))


def agreement(latents: np.ndarray) -> float:
    """Return the mean absolute correlation of matched latents.

    The mean is over all latents and all pairs of replicas, so that no
    replica is preferred; 1 if they differ in order and sign only.

    Parameters
    ----------
    latents
        Shape (R, n, L), at least two replicas.

    Raises
    ------
    ParameterError
        As :func:`match`, or if there is one replica only.
    """
    latents = _several("agreement", latents)
    pairs = [
        match(latents[place:]).agreement[1:].mean(1)
        for place in range(len(latents) - 1)
    ]
    return float(np.concatenate(pairs).mean())


def shared(latents: np.ndarray) -> float:
    """Return how much of one replica's latents another's give, linearly.

    For every ordered pair of replicas the mean over latents of the R2 of a
    linear regression on all latents of the other; then the mean over pairs.
    Unlike :func:`agreement` it is 1 also where the replicas have the same
    latent space with other axes.  It is taken on the rows that the
    regression is fitted to, and so close to 1 by itself unless n is much
    larger than L.

    Parameters
    ----------
    latents
        Shape (R, n, L), at least two replicas; constant latents are left
        out.

    Raises
    ------
    ParameterError
        As :func:`match`, if there is one replica only, or all latents are
        constant.
    """
    latents = _several("shared", latents)
    away = latents - latents.mean(1, keepdims=True)
    sizes = np.linalg.norm(away, axis=1)
    moving = sizes > 1e-9 * np.linalg.norm(latents, axis=1)
    bases = []
    for one in away:
        left, values, _ = np.linalg.svd(one, full_matrices=False)
        bases.append(left[:, values > 1e-9 * max(values[0], 1e-300)])
    found = []
    for whose, one in enumerate(away):
        unit = one[:, moving[whose]] / sizes[whose][moving[whose]]
        found += [
            np.mean(np.sum((basis.T @ unit) ** 2, axis=0))
            for other, basis in enumerate(bases)
            if other != whose and unit.size
        ]
    if not found:
        raise ParameterError(
            "shared: latents that are all constant given, at least one that "
            "varies is needed."
        )
    return float(np.mean(found))


@cached
def information(
    latents: np.ndarray, values: np.ndarray, neighbours: int = 3
) -> np.ndarray:
    """Return the mutual information of every latent with every quantity.

    Estimated from nearest neighbours (scikit-learn's
    ``mutual_info_regression``; Kraskov et al., doi:10.1103/PhysRevE.69.066138)
    in nats, one latent and one quantity at a time.

    Parameters
    ----------
    latents
        Shape (R, n, L).
    values
        Shape (n, K).
    neighbours
        Number of neighbours; more of them lower the variance and raise the
        bias.

    Returns
    -------
    numpy.ndarray
        Shape (R, L, K), at least zero.

    Raises
    ------
    ParameterError
        If the shapes do not belong together or a value is not finite.
    """
    latents = _three("information", latents)
    values = np.asarray(values, dtype=float)
    good = values.ndim == 2 and len(values) == latents.shape[1]
    if not good or not np.isfinite(values).all():
        raise ParameterError(
            f"information: values of shape {values.shape} given, finite ones "
            f"of shape ({latents.shape[1]}, quantities) are allowed."
        )
    checks.whole("neighbours", neighbours, 1, len(values) - 1)
    return np.stack(
        [
            np.stack(
                [
                    mutual_info_regression(
                        one, column, n_neighbors=neighbours, random_state=0
                    )
                    for column in values.T
                ],
                axis=-1,
            )
            for one in latents
        ]
    )


def shapley(
    predict: Predict,
    rows: np.ndarray,
    background: np.ndarray,
    blocks: Mapping[str, Sequence[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact Shapley values of blocks of input columns.

    The worth of a coalition of blocks is the mean prediction if these blocks
    are the row's own and all other columns are those of a background row,
    over all background rows.  These are interventional values (Janzing et
    al., arXiv:1910.13413): what is absent is drawn independently of what is
    present, so that mixed rows need not exist.
    All coalitions are enumerated.

    Parameters
    ----------
    predict
        The model or models; called once for each coalition with
        n * b rows.
    rows
        Shape (n, width): what is explained.
    background
        Shape (b, width): rows to draw absent blocks from.
    blocks
        For each block its columns; each column in exactly one block.

    Returns
    -------
    values : numpy.ndarray
        Shape (..., n, K), one value a block, in the prediction's units.
        Their sum is the row's prediction minus ``base``.
    base : numpy.ndarray
        Shape (...): the mean prediction over the background.

    Raises
    ------
    ParameterError
        If the blocks do not divide the columns, or the shapes differ.
    """
    rows, background = _pair("shapley", rows, background)
    columns = _columns("shapley", blocks, rows.shape[1])
    count = len(columns)
    worth = {}
    for size in range(count + 1):
        for present in combinations(range(count), size):
            mixed = np.repeat(rows[:, None], len(background), axis=1)
            for block, own in enumerate(columns):
                if block not in present:
                    mixed[..., own] = background[:, own]
            made = np.asarray(predict(mixed.reshape(-1, rows.shape[1])))
            made = made.reshape(*made.shape[:-1], *mixed.shape[:2])
            worth[frozenset(present)] = made.mean(-1)
    parts = []
    for block in range(count):
        others = [other for other in range(count) if other != block]
        total = 0.0
        for size in range(count):
            weight = 1 / (count * math.comb(count - 1, size))
            for present in map(frozenset, combinations(others, size)):
                gain = worth[present | {block}] - worth[present]
                total = total + weight * gain
        parts.append(total)
    return np.stack(parts, axis=-1), worth[frozenset()].mean(-1)


def permutation(
    predict: Predict,
    rows: np.ndarray,
    target: np.ndarray,
    blocks: Mapping[str, Sequence[int]],
    repeats: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Return by how much the error rises if a block's rows are shuffled.

    The columns of a block are shuffled together (Breiman,
    doi:10.1023/A:1010933404324; scikit-learn's function shuffles one column
    at a time).

    Parameters
    ----------
    predict
        The model or models.
    rows, target
        Shapes (n, width) and (n,): held-out rows.
    blocks
        For each block its columns; not all columns need be in one.
    repeats, seed
        Number of shuffles and the seed they are drawn with; all blocks are
        shuffled alike.

    Returns
    -------
    numpy.ndarray
        Shape (..., K): mean absolute error with the block shuffled, mean
        over the repeats, minus the error without; in the target's units.

    Raises
    ------
    ParameterError
        If the shapes do not belong together or a parameter is not allowed.
    """
    rows = np.asarray(rows, dtype=float)
    target = np.asarray(target, dtype=float)
    if rows.ndim != 2 or target.shape != rows.shape[:1]:
        raise ParameterError(
            f"permutation: rows of shape {rows.shape} and target of shape "
            f"{target.shape} given, (n, width) and (n,) are allowed."
        )
    checks.whole("repeats", repeats, 1)
    checks.whole("seed", seed, 0)

    random = np.random.default_rng(seed)
    orders = np.concatenate(
        [random.permutation(len(rows)) for _ in range(repeats)]
    )
    before = np.abs(np.asarray(predict(rows)) - target).mean(-1)
    risen = []
    for own in blocks.values():
        # all shuffles in one call: many small calls take far longer
        mixed = np.tile(rows, (repeats, 1))
        mixed[:, list(own)] = rows[orders][:, list(own)]
        missed = np.asarray(predict(mixed)) - np.tile(target, repeats)
        risen.append(np.abs(missed).mean(-1) - before)
    return np.stack(risen, axis=-1)


@dataclass(frozen=True)
class Attribution:
    """What held-out predictions owe to each block of inputs.

    Attributes
    ----------
    shapley
        Shape (S, n, K): for each seed, row and block the Shapley value by
        the model whose training left the row out, in the target's units.
    base
        Shape (S, n): the mean prediction that the values add to.
    blocks, columns
        Shapes (folds, S, K) and (folds, S, width): by how much the error of
        the held-out rows rises if a block, or a single column, is shuffled.
    """

    shapley: np.ndarray
    base: np.ndarray
    blocks: np.ndarray
    columns: np.ndarray


@cached
def attributed(
    chain: NestedAutoencoder,
    table: Table,
    target: str,
    blocks: Mapping[str, Sequence[int]],
    splits: Sequence[Split],
    *,
    background: int,
    repeats: int,
    parts: Sequence[str] = ("ions",),
) -> Attribution:
    """Attribute the held-out predictions of a chain's last scale.

    Parameters
    ----------
    chain
        Fitted, its last scale with seeds within folds.
    table
        The arrays of ``parts`` and ``target``.
    target
        Name of the predicted target, one column wide.
    blocks
        For each block its columns among those of all parts, side by side.
    splits
        One for each fold.
    background
        Number of training rows of the fold that absent blocks are drawn
        from, always the same ones; all of them if there are fewer.
    repeats
        Shuffles of each block and of each column.
    parts
        Names of the table's arrays that the inputs are made of.

    Raises
    ------
    ParameterError
        If the replicas are no multiple of the folds, the target has more
        than one column, or as :func:`shapley`.
    """
    checks.whole("background", background, 1)
    replicas = list(chain.fitted.values())[-1].replicas
    seeds, rest = divmod(replicas, len(splits))
    if rest:
        raise ParameterError(
            f"splits: {len(splits)} folds given for {replicas} replicas, a "
            "divisor of their number is allowed."
        )
    values = np.hstack([np.asarray(table[name], float) for name in parts])
    ends = np.cumsum([np.shape(table[name])[1] for name in parts])[:-1]
    wanted = np.asarray(table[target], dtype=float)
    if wanted.shape != (len(values), 1):
        raise ParameterError(
            f"target: {target!r} of shape {wanted.shape} given, one column "
            f"for {len(values)} rows is allowed."
        )
    wanted = wanted[:, 0]
    explained = np.full((seeds, len(values), len(blocks)), np.nan)
    base = np.full((seeds, len(values)), np.nan)
    by_block, by_column = [], []
    random = np.random.default_rng(0)
    with one_thread():
        for fold, (seen, held_out) in enumerate(splits):
            own = _only(chain, range(fold * seeds, (fold + 1) * seeds))

            def predict(rows: np.ndarray, own=own) -> np.ndarray:
                cut = np.split(rows, ends, axis=1)
                given = dict(zip(parts, cut, strict=True))
                return own.predict(given)[target][..., 0]

            few = min(background, len(seen))
            drawn = values[random.choice(seen, few, replace=False)]
            # equal rows have equal values
            rows, place = np.unique(
                values[held_out], axis=0, return_inverse=True
            )
            found, mean = shapley(predict, rows, drawn, blocks)
            explained[:, held_out] = found[:, place.reshape(-1)]
            base[:, held_out] = mean[:, None]
            single = {str(at): [at] for at in range(values.shape[1])}
            for kinds, into in ((blocks, by_block), (single, by_column)):
                into.append(
                    permutation(
                        predict,
                        values[held_out],
                        wanted[held_out],
                        kinds,
                        repeats,
                    )
                )
    return Attribution(
        explained, base, np.stack(by_block), np.stack(by_column)
    )


def rank(values: np.ndarray, share: float = 1.0) -> int:
    """Return how many directions hold a share of the columns' variance.

    Parameters
    ----------
    values
        Shape (n, width); standardised here, constant columns count nothing.
    share
        Share of the variance; with 1, the numerical rank (directions above
        1e-9 of the largest standard deviation).

    Raises
    ------
    ParameterError
        If the share is not above 0 and at most 1.
    DataError
        If all columns are constant.
    """
    checks.real("share", share, maximum=1, positive=True)
    values = np.asarray(values, dtype=float)
    deviation = values.std(0)
    moving = deviation > 1e-9 * np.abs(values).max(0)
    if not moving.any():
        raise DataError("rank: every column is constant; give others.")
    away = values[:, moving] - values[:, moving].mean(0)
    sizes = np.linalg.svd(away / deviation[moving], compute_uv=False)
    if share == 1:
        return int(np.sum(sizes > 1e-9 * sizes[0]))
    held = np.cumsum(sizes**2) / np.sum(sizes**2)
    return int(np.searchsorted(held, share) + 1)


def _only(
    chain: NestedAutoencoder, replicas: Sequence[int]
) -> NestedAutoencoder:
    """Return a chain with some replicas; one that serves all stays."""
    chosen = NestedAutoencoder(list(chain.scales.values()))
    for part in chain.fitted.values():
        chosen.attach(part if part.replicas == 1 else part.select(replicas))
    return chosen


def _three(what: str, latents: np.ndarray) -> np.ndarray:
    latents = np.asarray(latents, dtype=float)
    if latents.ndim != 3 or 0 in latents.shape:
        raise ParameterError(
            f"{what}: latents of shape {latents.shape} given, (replicas, "
            "rows, latents) is allowed."
        )
    if not np.isfinite(latents).all():
        raise ParameterError(f"{what}: a latent is not finite.")
    return latents


def _several(what: str, latents: np.ndarray) -> np.ndarray:
    latents = _three(what, latents)
    if len(latents) < 2:
        raise ParameterError(
            f"{what}: 1 replica given, at least 2 are needed to compare."
        )
    return latents


def _pair(
    what: str, rows: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.asarray(rows, dtype=float)
    background = np.asarray(background, dtype=float)
    if (
        rows.ndim != 2
        or background.ndim != 2
        or rows.shape[1] != background.shape[1]
        or not len(rows)
        or not len(background)
    ):
        raise ParameterError(
            f"{what}: rows of shape {rows.shape} and background of shape "
            f"{background.shape} given, tables of the same columns and at "
            "least one row are allowed."
        )
    return rows, background


def _columns(
    what: str, blocks: Mapping[str, Sequence[int]], width: int
) -> list[list[int]]:
    columns = [list(own) for own in blocks.values()]
    if sorted(sum(columns, [])) != list(range(width)):
        raise ParameterError(
            f"{what}: blocks {list(blocks)} given, blocks that hold each of "
            f"{width} columns once are allowed."
        )
    return columns
