"""What predictions owe to blocks of inputs.

Shapley's values (Contributions to the Theory of Games II, 307, 1953), for few
enough blocks to be summed exactly over all coalitions; and the importance of
a block or column by shuffling it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.stats import rankdata

from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.reference import one_thread

Predict = Callable[[np.ndarray], np.ndarray]
"""From rows (m, width) to predictions (..., m), one model or several."""
Blocks = Mapping[str, Sequence[int]]
"""For each block its columns."""


def shapley(
    predict: Predict, rows: np.ndarray, background: np.ndarray, blocks: Blocks
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact Shapley values of blocks of input columns.

    The worth of a coalition of blocks is the mean prediction if these blocks
    are the row's own and all others those of a background row, over all
    background rows.  These are interventional values (Janzing et al.,
    arXiv:1910.13413): what is absent is drawn independently of what is
    present, so that mixed rows need not exist.

    Parameters
    ----------
    predict
        The model or models.
    rows, background
        Shapes (n, width), what is explained, and (b, width).
    blocks
        K blocks that hold each column once.

    Returns
    -------
    values : numpy.ndarray
        Shape (..., n, K), in the prediction's units; their sum is the row's
        prediction minus ``base``.
    base : numpy.ndarray
        Shape (...): the mean prediction over the background.
    """
    every = range(len(blocks))
    coalitions = [
        frozenset(some)
        for size in range(len(blocks) + 1)
        for some in combinations(every, size)
    ]
    worth = {
        present: _worth(predict, rows, background, blocks, present)
        for present in coalitions
    }
    values = []
    for block in every:
        total = np.zeros_like(worth[frozenset()])
        for others in coalitions:
            if block not in others:
                ways = len(blocks) * math.comb(len(blocks) - 1, len(others))
                total += (worth[others | {block}] - worth[others]) / ways
        values.append(total)
    return np.stack(values, axis=-1), worth[frozenset()][..., 0]


def _worth(
    predict: Predict,
    rows: np.ndarray,
    background: np.ndarray,
    blocks: Blocks,
    present: frozenset[int],
) -> np.ndarray:
    """Return a coalition's worth for every row, (..., n)."""
    from_row = np.zeros(rows.shape[1], bool)
    for number, columns in enumerate(blocks.values()):
        from_row[list(columns)] = number in present
    # what is equal is predicted once
    ours, at, _ = _distinct(rows[:, from_row])
    theirs, _, often = _distinct(background[:, ~from_row])
    mixed = np.empty((len(ours), len(theirs), rows.shape[1]))
    mixed[..., from_row] = ours[:, None]
    mixed[..., ~from_row] = theirs
    predicted = predict(mixed.reshape(-1, rows.shape[1]))
    predicted = predicted.reshape(*predicted.shape[:-1], len(ours), -1)
    return np.average(predicted, axis=-1, weights=often)[..., at]


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct rows, where each row is among them, and how often."""
    if not rows.shape[1]:
        return rows[:1], np.zeros(len(rows), int), np.array([len(rows)])
    some, at, often = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    return some, at.reshape(-1), often


def permutation(
    predict: Predict,
    rows: np.ndarray,
    target: np.ndarray,
    blocks: Blocks,
    repeats: int = 10,
) -> np.ndarray:
    """Return by how much the error rises if a block's rows are shuffled.

    The columns of a block are shuffled together (Breiman,
    doi:10.1023/A:1010933404324; scikit-learn's function shuffles one column
    at a time), all blocks alike.

    Parameters
    ----------
    predict
        The model or models.
    rows, target
        Shapes (n, width) and (n,): held-out rows.
    blocks
        K blocks; not all columns need be in one.
    repeats
        Number of shuffles.

    Returns
    -------
    numpy.ndarray
        Shape (..., K): mean absolute error with the block shuffled, mean
        over the repeats, minus the error without; in the target's units.
    """
    random = np.random.default_rng(0)
    orders = [random.permutation(len(rows)) for _ in range(repeats)]
    order = np.concatenate(orders)
    before = np.abs(predict(rows) - target).mean(-1)
    risen = []
    for columns in map(list, blocks.values()):
        # all shuffles in one call: many small calls take far longer
        mixed = np.tile(rows, (repeats, 1))
        mixed[:, columns] = rows[order][:, columns]
        away = predict(mixed) - np.tile(target, repeats)
        risen.append(np.abs(away).mean(-1) - before)
    return np.stack(risen, axis=-1)


def alike(values: np.ndarray, some: np.ndarray | None = None) -> float:
    """Return the mean rank correlation of all pairs of models (R, K).

    Or of the places of some models; the same one twice is no pair.
    """
    pairs = np.corrcoef(rankdata(values, axis=1))
    some = np.arange(len(values)) if some is None else some
    return float(pairs[np.ix_(some, some)][some[:, None] != some].mean())


@dataclass(frozen=True)
class Attribution:
    """What held-out predictions of R replicas owe to each block of inputs.

    Attributes
    ----------
    shapley
        Shape (R, n, K), in the target's units; NaN for the rows that a
        replica does not hold out.
    base
        Shape (R,): the mean prediction that the values add to.
    blocks, columns
        Shapes (R, K) and (R, width): by how much the error of the held-out
        rows rises if a block, or a single column, is shuffled.
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
    blocks: Blocks,
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
    table, parts
        The arrays that the inputs are made of are named in ``parts``.
    target
        Name of the predicted target, one column wide.
    blocks
        For each block its columns among those of all parts, side by side.
    background
        Number of training rows of a fold that absent blocks are drawn from,
        the same ones for all its seeds; all if there are fewer.
    repeats
        Shuffles of each block and of each column.
    """
    name, fitted = list(chain.fitted.items())[-1]
    values = np.hstack([np.asarray(table[part], float) for part in parts])
    widths = [np.shape(table[part])[1] for part in parts]
    single = {str(column): [column] for column in range(values.shape[1])}
    truth, replicas = np.asarray(table[target], float)[:, 0], fitted.replicas
    explained = np.full((len(replicas), len(values), len(blocks)), np.nan)
    found = []
    random = np.random.default_rng(0)
    for fold in replicas.levels("fold"):
        own = replicas.where(fold=fold)
        members = chain.take(own.tolist())
        seen, held = replicas.splits[own[0]]

        def predict(
            rows: np.ndarray, members: NestedAutoencoder = members
        ) -> np.ndarray:
            cut = torch.tensor(rows, dtype=torch.float32).split(widths, 1)
            z = members.latents(name, dict(zip(parts, cut, strict=True)))
            predicted = members.outputs(name, z, wanted=[target])[target]
            return predicted[..., 0].numpy().astype(float)

        count = min(background, len(seen))
        drawn = values[random.choice(seen, count, replace=False)]
        with one_thread():
            own_values, base = shapley(predict, values[held], drawn, blocks)
            explained[own[:, None], held] = own_values
            risen = [
                permutation(predict, values[held], truth[held], kind, repeats)
                for kind in (blocks, single)
            ]
        found.append((base, *risen))
    stacked = map(np.concatenate, zip(*found, strict=True))
    return Attribution(explained, *stacked)
