"""Completion: one scale of a material known, the other searched for.

And its test: the models that held a composition out complete it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import cross_val_predict
from torch import Tensor

from nestedae_utils.data.perovskites import ETL, HTL
from nestedae_utils.model.chain import Table
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.study.inverse import Points, Search, decode, last
from nestedae_utils.study.protocol import same

PAIRS = len(ETL) * len(HTL)
"""Pairs of contact layers, numbered ETL by ETL."""


def complete(
    search: Search, known: Mapping[str, NDArray], tolerance: float = 0.1
) -> Points:
    """Search for points that decode to what is known.

    The block of lower latents may be known (the paper's first task), the
    contact layers and the efficiency (its converse), or anything decoded.

    Parameters
    ----------
    search, known
        By name (n, width), or (R, n, width) where the replicas differ in it
        (in latents of a lower scale they do), in its own units; categories
        one-hot.
    tolerance
        Largest misfit of a solution: over the known names the largest root
        mean square difference, in units of the last scale's scaler (without
        one, in standard deviations of what is decoded at training points);
        of categories one minus the probability of the known one.
    """
    targets = {
        name: torch.tensor(np.asarray(values), dtype=torch.float32)
        .expand(len(search.around.points), -1, -1)
        .repeat_interleave(search.starts, 1)
        for name, values in known.items()
    }
    rows = next(iter(targets.values())).shape[1] // search.starts
    units = _units(search, targets)

    def parts(decoded: Mapping[str, Tensor]) -> Iterator[list[Tensor]]:
        for name, target in targets.items():
            if name in units:
                away = (decoded[name] - target) / units[name]
                square = away.square().mean(-1)
                yield [square, square.sqrt()]
            else:
                likely = (decoded[name] * target).sum(-1).clamp(min=1e-12)
                yield [-likely.log(), 1 - likely]

    def misfits(decoded: Mapping[str, Tensor]) -> Tensor:
        return sum((loss for loss, _ in parts(decoded)), torch.zeros(()))

    z = search.lowest(misfits, rows, targets)
    with torch.no_grad():
        decoded = decode(search.chain, z, targets)
        misfit = torch.stack([misfit for _, misfit in parts(decoded)]).amax(0)
    return search.points(z, misfit, rows, tolerance)


def _units(search: Search, names: Collection[str]) -> dict[str, Tensor]:
    """Return what a misfit is measured in, for all but categories."""
    fitted, around = last(search.chain), search.around
    kinds = {head.name: head.loss for head in fitted.scale.heads}
    with torch.no_grad():
        z = around.draw(around.points.shape[1], seed=0)
        decoded = decode(search.chain, z, names)
    units = {}
    for name in names:
        unit = decoded[name].std(1, keepdim=True)
        unit = torch.where(unit > 1e-6, unit, 1.0)
        if name in fitted.scalers:
            unit = torch.tensor(fitted.scalers[name].deviation).to(unit)
        if kinds.get(name) != "cross_entropy":
            units[name] = unit
    return units


def pairs(table: Table) -> NDArray[np.int_]:
    """Return the number of the most probable pair of contact layers."""
    etl, htl = (np.asarray(table[name]).argmax(-1) for name in ("etl", "htl"))
    return len(HTL) * etl + htl


def layers(numbers: NDArray[np.int_]) -> dict[str, NDArray]:
    """Return pairs of contact layers as one-hot blocks."""
    etl, htl = np.divmod(numbers, len(HTL))
    return {"etl": np.eye(len(ETL))[etl], "htl": np.eye(len(HTL))[htl]}


def in_words(number: int) -> str:
    """Return a pair of contact layers in words."""
    etl, htl = divmod(int(number), len(HTL))
    return f"{ETL[etl]} / {HTL[htl]}"


@dataclass(frozen=True)
class Answer:
    """What a method says of C compositions, for each of S seeds.

    Three ``pairs`` of contact layers (S, C, 3); the PCE (%) of the
    ``median`` and of the ``best`` device, (S, C).
    """

    pairs: NDArray[np.int_]
    median: NDArray
    best: NDArray


@dataclass(frozen=True)
class Compositions:
    """The C compositions of the device table, and who held them out.

    Attributes
    ----------
    numbers, rows
        Shape (n,): the composition of each device; (C,): a device of each.
    share, size, median, best
        The share of its devices with each pair of layers, (C, 28); their
        number, median and best PCE in %, (C,).
    replicas
        Their rows are compositions, not devices.
    """

    numbers: NDArray[np.int_]
    rows: NDArray[np.int_]
    share: NDArray
    size: NDArray[np.int_]
    median: NDArray
    best: NDArray
    replicas: Replicas

    @classmethod
    def of(cls, devices: Table, replicas: Replicas) -> Compositions:
        """Gather them; the folds are by composition."""
        numbers = same(np.asarray(devices["fractions"]))
        share = pd.crosstab(numbers, pairs(devices), normalize="index")
        pce = pd.Series(devices["pce"][:, 0]).groupby(numbers)
        size, median, best = pce.agg(["size", "median", "max"]).to_numpy().T
        splits = tuple(
            (np.unique(numbers[seen]), np.unique(numbers[held]))
            for seen, held in replicas.splits
        )
        rows = np.unique(numbers, return_index=True)[1]
        share = share.reindex(columns=range(PAIRS), fill_value=0.0).to_numpy()
        by_row = Replicas(splits, replicas.labels)
        return cls(numbers, rows, share, size, median, best, by_row)

    @property
    def _held(self) -> NDArray[np.int_]:
        """Return what each replica held out, (R, H), some of it repeated."""
        held = [rows for _, rows in self.replicas.splits]
        return np.stack([np.resize(h, max(map(len, held))) for h in held])

    def held(self, values: NDArray) -> NDArray:
        """Return what each replica held out of values (1 or R, C, ...)."""
        replica = np.arange(len(self.replicas))[:, None] % len(values)
        return values[replica, self._held]

    def by_seed(self, values: NDArray) -> NDArray:
        """Return values (R, H, ...) as (seeds, C, ...)."""
        shape = len(self.replicas), len(self.rows), *values.shape[2:]
        wide = np.zeros(shape)
        wide[np.arange(len(wide))[:, None], self._held] = values
        return self.replicas.out_of_fold(wide, keep="seed")

    def answer(self, order: NDArray[np.int_], pce: NDArray) -> Answer:
        """Answer by points (R, H, P) in order: their pairs, the PCE there.

        The first three different pairs; the first PCE, and the highest.
        """
        order, pce = self.by_seed(order).astype(int), self.by_seed(pce)

        def three(row: NDArray) -> NDArray:
            return np.resize(np.sort(np.unique(row, return_index=True)[1]), 3)

        first = np.apply_along_axis(three, 2, order)
        there = np.take_along_axis(pce, first, 2)
        named = np.take_along_axis(order, first, 2)
        return Answer(named, there[..., 0], there.max(-1))

    def recovered(self, answer: Answer) -> NDArray:
        """Return the share of devices that have a named pair, (S, C)."""
        named = np.zeros((*answer.median.shape, PAIRS), bool)
        np.put_along_axis(named, answer.pairs, True, 2)
        return (named * self.share).sum(-1)

    def imputed(
        self, model: BaseEstimator, features: NDArray, targets: NDArray
    ) -> NDArray:
        """Return what a model of the other folds' compositions says."""
        folds = self.replicas.pick(seed=0).splits
        return cross_val_predict(model, features, targets, cv=folds)

    def answered_by(self, model: BaseEstimator, features: NDArray) -> Answer:
        """Return what a model says that is fitted to shares and PCE."""
        targets = np.column_stack([self.share, self.median, self.best])
        values = self.imputed(model, features, targets)
        usual = self.imputed(DummyRegressor(), features, targets)
        # pairs that no neighbour has follow in the usual order
        order = (-values - 1e-6 * usual)[:, :PAIRS].argsort(1, kind="stable")
        return Answer(order[None, :, :3], *values.T[PAIRS:, None])

    def scores(self, answers: Mapping[str, Answer]) -> pd.DataFrame:
        """Return every method's scores, means and spreads over the seeds."""
        kinds = {"all": self.size > 0, "three or more": self.size >= 3}
        rows = [
            {
                "method": name,
                "compositions": kind,
                "number": chosen.sum(),
                "top3": 100 * recovered[chosen].mean(),
                "rank_median": rank(median[chosen], self.median[chosen]),
                "rank_best": rank(best[chosen], self.best[chosen]),
            }
            for name, said in answers.items()
            for kind, chosen in kinds.items()
            for recovered, median, best in zip(
                self.recovered(said), said.median, said.best, strict=True
            )
        ]
        groups = pd.DataFrame(rows).groupby(list(rows[0])[:3], sort=False)
        spreads = groups.std().add_suffix(" sd")
        return groups.mean().join(spreads).reset_index()


def rank(values: NDArray, observed: NDArray) -> float:
    """Return Spearman's rank correlation, NaN for equal values."""
    equal = np.ptp(values) < 1e-9
    return np.nan if equal else float(spearmanr(values, observed)[0])
