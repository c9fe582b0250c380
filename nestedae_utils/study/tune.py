"""From plentiful tables to a scarce one: folds, few rows, baselines.

Tables at several fidelities share materials. What is held out must be held
out by material, in all of them at once or in the scarce one alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    ConstantKernel,
    Matern,
    WhiteKernel,
)

from nestedae_utils import errors as checks
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import FittedScale, NestedAutoencoder, Table
from nestedae_utils.model.scales import LOSSES, Network
from nestedae_utils.model.training import Split, one_thread

LARGEST = 120
"""Rows from which a Gaussian process learns its kernel; it is conditioned on
all of them. The search takes the cube of this number for each step."""


def common_groups(
    fractions: Mapping[str, np.ndarray], decimals: int = 2
) -> dict[str, np.ndarray]:
    """Give the compositions of several tables numbers, alike in all.

    Parameters
    ----------
    fractions
        For every table the site fractions, shape (n, 14).
    decimals
        Compositions are one where they agree to so many decimals.

    Returns
    -------
    dict
        For every table whole numbers from 0, shape (n,).
    """
    checks.whole("decimals", decimals, 0)
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
    """Give every group one fold, the same in all tables.

    Table by table in the order given, the scarcest first: groups without a
    fold, the largest first and equal ones in random order, go to the fold
    that has the fewest of the table's rows.

    Parameters
    ----------
    groups
        For every table its rows' groups, shape (n,); see `common_groups`.
    folds
        Number of folds, at most the groups of the first table.
    seed
        Seed of the order.

    Returns
    -------
    dict
        For every table its rows' folds, shape (n,), from 0 to folds - 1.

    Raises
    ------
    ParameterError
        If there are fewer than two folds, or more than groups.
    """
    checks.whole("folds", folds, 2)
    first = next(iter(groups.values()))
    if folds > len(np.unique(first)):
        raise ParameterError(
            f"folds: {folds} given for {len(np.unique(first))} groups of the "
            "first table, at most one fold a group is allowed."
        )
    random = np.random.default_rng(checks.whole("seed", seed, 0))
    fold_of: dict[int, int] = {}
    for own in groups.values():
        names, counts = np.unique(own, return_counts=True)
        filled_up = np.zeros(folds, dtype=int)
        for name, count in zip(names, counts, strict=True):
            if name in fold_of:
                filled_up[fold_of[name]] += count
        order = random.permutation(len(names))
        for place in order[np.argsort(-counts[order], kind="stable")]:
            if names[place] not in fold_of:
                fold_of[names[place]] = int(filled_up.argmin())
                filled_up[fold_of[names[place]]] += counts[place]
    return {
        table: np.array([fold_of[name] for name in own])
        for table, own in groups.items()
    }


def few_rows(
    fold: np.ndarray, sizes: Sequence[int], draws: int
) -> list[Split]:
    """Return splits whose training rows are few, for learning curves.

    Parameters
    ----------
    fold
        The rows' folds, shape (n,), from 0.
    sizes
        Numbers of training rows; where a fold leaves fewer, all of these.
    draws
        Number of random orders of the rows. The training rows of a fold, a
        draw and a size are the first of that order that the fold does not
        hold out, so that a larger size contains the smaller ones.

    Returns
    -------
    list
        Pairs of training and held-out rows: folds within draws within
        sizes.

    Raises
    ------
    ParameterError
        If a size or the number of draws is below 1.
    """
    checks.whole("draws", draws, 1)
    orders = [
        np.random.default_rng(draw).permutation(len(fold))
        for draw in range(draws)
    ]
    return [
        (
            np.sort(order[fold[order] != held][: checks.whole("size", n, 1)]),
            np.flatnonzero(fold == held),
        )
        for n in sizes
        for order in orders
        for held in range(fold.max() + 1)
    ]


def filled(values: np.ndarray, splits: Sequence[Split]) -> np.ndarray:
    """Put each replica's training median where a target is missing.

    Parameters
    ----------
    values
        Shape (n, 1), NaN where missing.
    splits
        For every replica its (training, held-out) rows.

    Returns
    -------
    numpy.ndarray
        Shape (R, n, 1).

    Raises
    ------
    DataError
        If no training row of a replica has a value.
    """
    made = np.repeat(values[None], len(splits), axis=0)
    for own, (seen, _) in zip(made, splits, strict=True):
        known = values[seen][~np.isnan(values[seen])]
        if not known.size:
            raise DataError(
                "target: none of a replica's training rows has a value; use "
                "more rows."
            )
        own[np.isnan(values)] = np.median(known)
    return made


@cached
def gaussian_process(
    features: np.ndarray,
    target: np.ndarray,
    training: Sequence[np.ndarray],
    asked: np.ndarray,
) -> np.ndarray:
    """Predict by Gaussian processes, one for each set of training rows.

    The kernel is a Matérn of smoothness 3/2, with one length for all
    columns, and white noise (scikit-learn), fitted by maximum likelihood;
    the target is standardised on the training rows. A multi-fidelity
    process is one whose features have the lower fidelity's prediction in
    them (doi:10.1098/rspa.2016.0751).

    Parameters
    ----------
    features
        Shape (n, width), or (K, n, width) where they differ between the K
        sets.
    target
        Shape (n,), or (K, n).
    training
        K sets of rows.
    asked
        Features of the rows to predict, shape (m, width) or (K, m, width).

    Returns
    -------
    numpy.ndarray
        Shape (K, m), in the target's units.

    Raises
    ------
    DataError
        If the shapes do not belong together.
    """
    sets = len(training)
    parts = []
    for what, wide in (
        ("features", features[None] if features.ndim == 2 else features),
        ("target", target[None] if target.ndim == 1 else target),
        ("asked", asked[None] if asked.ndim == 2 else asked),
    ):
        if len(wide) not in (1, sets):
            raise DataError(
                f"{what}: {len(wide)} sets given for {sets} sets of training "
                "rows; one or as many are allowed."
            )
        parts.append(np.broadcast_to(wide, (sets, *wide.shape[1:])))
    if (
        parts[0].shape[:2] != parts[1].shape
        or parts[0].shape[2] != parts[2].shape[2]
    ):
        raise DataError(
            f"features: shape {features.shape} given with a target of shape "
            f"{target.shape} and asked rows of shape {asked.shape}; the same "
            "rows and columns are needed."
        )
    made = np.empty((sets, parts[2].shape[1]))
    with warnings.catch_warnings():
        # a length or a noise at the end of its range is no fault here
        warnings.simplefilter("ignore", ConvergenceWarning)
        for place, rows in enumerate(training):
            x, y = parts[0][place][rows], parts[1][place][rows]
            made[place] = _process(x, y).predict(parts[2][place])
    return made


def _process(x: np.ndarray, y: np.ndarray) -> GaussianProcessRegressor:
    """Return a fitted process; its kernel from `LARGEST` rows at most."""
    kernel = ConstantKernel(1.0) * Matern(4.0, nu=1.5) + WhiteKernel(0.05)
    some = np.random.default_rng(0).permutation(len(x))[:LARGEST]
    found = GaussianProcessRegressor(kernel, normalize_y=True)
    found.fit(x[some], y[some])
    if len(some) == len(x):
        return found
    fixed = GaussianProcessRegressor(
        found.kernel_, optimizer=None, normalize_y=True
    )
    return fixed.fit(x, y)


@cached
def fine_tune(
    chain: NestedAutoencoder,
    tables: Mapping[str, Table],
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    epochs: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
) -> NestedAutoencoder:
    """Train all weights of a fitted chain together.

    The loss is the sum of the scales' losses, each on its own table, so that
    the lower scales stay true to theirs while the upper ones pull on them.
    Dropout and L1 are off.

    Parameters
    ----------
    chain
        All scales fitted, with R replicas each; scalers stay as they are.
    tables
        For every scale its table, with the blocks of the scales whose
        latents it takes.
    rows
        For every scale the training rows of each replica; a batch is drawn
        from them with replacement.
    epochs, steps, batch_size, learning_rate
        Adam takes ``epochs * steps`` steps.
    seed
        Seed of the batches.

    Returns
    -------
    NestedAutoencoder
        A new chain, without histories.

    Raises
    ------
    ParameterError
        If a parameter is not allowed, a scale is not fitted or has another
        number of replicas, or standardises a lower scale's inputs anew, a
        table lacks a column, or the loss is not finite.
    """
    checks.whole("epochs", epochs, 1)
    checks.whole("steps", steps, 1)
    checks.whole("batch_size", batch_size, 1)
    checks.real("learning_rate", learning_rate, positive=True)
    checks.whole("seed", seed, 0)
    replicas = _check_chain(chain, tables, rows)
    names = list(chain.scales)
    flats = {
        name: torch.tensor(part.parameters)
        for name, part in chain.fitted.items()
    }
    networks = {
        name: Network(chain.scales[name], flat) for name, flat in flats.items()
    }
    known = {name: _Scaled(chain, tables[name], replicas) for name in names}
    # Leaves are the layers' weights: a slice of one flat leaf would give a
    # gradient of the flat one's size for every layer.
    leaves, places = [], []
    for network in networks.values():
        for key, pair in network.weights.items():
            own = tuple(part.clone().requires_grad_() for part in pair)
            network.weights[key] = own
            leaves += own
            places += pair
    adam = torch.optim.Adam(leaves, lr=learning_rate)
    random = np.random.default_rng(seed)
    with one_thread():
        for _ in range(epochs * steps):
            loss = torch.zeros(())
            for name in names:
                drawn = np.stack(
                    [random.choice(own, batch_size) for own in rows[name]]
                )
                loss = loss + known[name].loss(
                    name, networks, torch.tensor(drawn)
                )
            adam.zero_grad()
            loss.backward()
            adam.step()
            if not torch.isfinite(loss):
                raise ParameterError(
                    "tables: the loss is not finite; fill in missing values, "
                    "or lower learning_rate."
                )
    with torch.no_grad():
        for place, value in zip(places, leaves, strict=True):
            place.copy_(value)
    tuned = NestedAutoencoder(list(chain.scales.values()))
    for name, part in chain.fitted.items():
        tuned.attach(
            replace(
                part.select(range(replicas)), parameters=flats[name].numpy()
            )
        )
    return tuned


def _check_chain(
    chain: NestedAutoencoder,
    tables: Mapping[str, Table],
    rows: Mapping[str, Sequence[np.ndarray]],
) -> int:
    """Return the number of replicas of a chain that can be tuned."""
    counts = {}
    for name, scale in chain.scales.items():
        if name not in chain.fitted or name not in rows:
            raise ParameterError(
                f"scale {name!r}: not fitted, or no training rows given; "
                "both are needed for tuning."
            )
        own = tables.get(name, {})
        lacking = [key for key in _needed(chain, name) if key not in own]
        if lacking:
            raise ParameterError(
                f"tables: {', '.join(lacking)} missing for scale {name!r}; "
                "give it a table with all its blocks and targets."
            )
        counts[name] = chain.fitted[name].replicas
        counts[f"rows of {name}"] = len(rows[name])
        if any(block.lower_scaler == "refitted" for block in scale.inputs):
            raise ParameterError(
                f"scale {name!r}: lower_scaler 'refitted' given, only "
                "'carried' is allowed for tuning."
            )
    if len(set(counts.values())) != 1:
        raise ParameterError(
            f"chain: the replicas {counts} given, the same number everywhere "
            "is allowed."
        )
    return next(iter(counts.values()))


def _needed(
    chain: NestedAutoencoder, name: str, targets: bool = True
) -> list[str]:
    """Return what a scale's table needs, with the blocks of those below."""
    scale = chain.scales[name]
    needed = [head.name for head in scale.predicted] if targets else []
    for block in scale.inputs:
        if block.latents_of:
            needed += _needed(chain, block.latents_of, targets=False)
        else:
            needed.append(block.name)
    return needed


class _Scaled:
    """One table, standardised by the scalers of every scale it reaches."""

    def __init__(
        self, chain: NestedAutoencoder, table: Table, replicas: int
    ) -> None:
        self.fitted = chain.fitted
        self.parts: dict[tuple[str, str], torch.Tensor] = {}
        self.each = torch.arange(replicas)[:, None]
        for name, part in chain.fitted.items():
            targets = [head.name for head in part.scale.predicted]
            blocks = [b.name for b in part.scale.inputs if not b.latents_of]
            for key in (*blocks, *targets):
                if key in table:
                    values = self._scale(part, key, table[key])
                    self.parts[name, key] = values.expand(replicas, -1, -1)

    @staticmethod
    def _scale(
        part: FittedScale, key: str, values: np.ndarray
    ) -> torch.Tensor:
        wide = values[None] if values.ndim == 2 else values
        if key in part.scalers:
            wide = part.scalers[key].scale(wide)
        return torch.tensor(wide, dtype=torch.float32)

    def loss(
        self,
        name: str,
        networks: Mapping[str, Network],
        drawn: torch.Tensor,
    ) -> torch.Tensor:
        """Return a scale's loss on a batch, summed over the replicas."""
        blocks = self._inputs(name, networks, drawn)
        network = networks[name]
        z = network.encode(torch.cat(list(blocks.values()), -1))
        total = torch.zeros(())
        for head in network.scale.heads:
            own = network.scale.blocks_of(head)
            if own:
                # what is below must not move to be easier to reconstruct
                target = torch.cat([blocks[b].detach() for b in own], -1)
            else:
                target = self.parts[name, head.name][self.each, drawn]
            rows = LOSSES[head.loss].rows(network.head(head, z), target)
            total = total + head.weight * rows.mean(1).sum()
        return total

    def _inputs(
        self, name: str, networks: Mapping[str, Network], drawn: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return a scale's scaled blocks for some rows, (R, batch, width)."""
        part = self.fitted[name]
        blocks = {}
        for block in part.scale.inputs:
            if not block.latents_of:
                blocks[block.name] = self.parts[name, block.name][
                    self.each, drawn
                ]
                continue
            below = self._inputs(block.latents_of, networks, drawn)
            z = networks[block.latents_of].encode(
                torch.cat(list(below.values()), -1)
            )
            if block.name in part.scalers:
                scaler = part.scalers[block.name]
                mean, deviation = (
                    torch.tensor(value, dtype=torch.float32)
                    for value in (scaler.mean, scaler.deviation)
                )
                z = (z - mean) / deviation
            blocks[block.name] = z
        return blocks
