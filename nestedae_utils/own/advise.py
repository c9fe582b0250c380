"""Will nesting pay?  A forecast from what can be measured before nesting.

A rule that is linear in a few numbers forecasts the gain: the error of the
nested model minus that of a single one, in standard deviations of the target.
Chapter 19 fits it on generated worlds, where both models are trained, and
tests it on others and on real tables; its weights stand among the reference
numbers of that chapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import r2_score

from nestedae_utils.book import records
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import chain
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.own.declaration import Declaration
from nestedae_utils.own.fit import Kinds, network_of, task_of
from nestedae_utils.study import baselines

CHAPTER = "19_when_nesting_helps"
FEATURES = ("rows", "rows_squared", "fine_r2", "latents", "inputs", "shift")
SURE = 0.8
"""Chance from which a sign is called likely."""
PROBE, PROBED = "SVR, C = 10", 2
"""The model that asks latents and inputs; the latents of how many members."""


@dataclass(frozen=True)
class Evidence:
    """What is measured before anything is nested.

    ``rows`` of the coarse and of the fine table; ``fine_r2``, the fine
    model's R2 on held-out rows; ``latents`` and ``inputs``, the skill
    (1 - error / error of the median, held out by folds) at the coarse target
    of a support vector machine that sees these; ``shift``, how far the means
    of the coarse inputs lie from those of the fine ones, root mean square, in
    deviations of the latter; ``noise``, the target's deviation among rows of
    equal inputs over that of all, NaN where no inputs are equal.
    """

    rows: int
    fine_rows: int
    fine_r2: float
    latents: float
    inputs: float
    shift: float
    noise: float

    def features(self) -> np.ndarray:
        """Return what the rule sees, (6,), as `FEATURES`; log10 of the rows."""
        rows, skills = np.log10(self.rows), (self.latents, self.inputs)
        return np.array([rows, rows**2, self.fine_r2, *skills, self.shift])


def shift(fine: np.ndarray, inputs: np.ndarray) -> float:
    """Return the shift of `Evidence` between tables (m, width) and (n, width)."""
    deviation = fine.std(0)
    away = (inputs.mean(0) - fine.mean(0)) / np.where(deviation > 0, deviation, 1)
    return float(np.sqrt((away**2).mean()))


def measure(
    inputs: np.ndarray,
    latents: np.ndarray,
    target: np.ndarray,
    folds: Sequence[Split],
    beside: np.ndarray | None = None,
    **below: float,
) -> Evidence:
    """Measure the evidence on one coarse table.

    ``inputs`` (n, width), what a single model sees in place of ``latents``
    (members, n, latent); ``beside`` (n, more) goes in with either; ``target``
    (n,).  Of the fine scale ``below``: ``fine_rows``, ``fine_r2``, ``shift``.
    """
    more = np.zeros((len(target), 0)) if beside is None else beside

    def miss(name: str, known: np.ndarray) -> float:
        known = np.hstack([known, more])
        predicted = baselines.predict(name, known, target, folds)
        return float(np.abs(predicted - target).mean())

    usual = miss("median", inputs)
    first, *rest = (1 - miss(PROBE, known) / usual for known in (inputs, *latents))
    rows = pd.DataFrame(np.hstack([inputs, more]).round(8))
    alike = pd.Series(target).groupby(rows.groupby(list(rows)).ngroup())
    residue, free = target - alike.transform("mean"), len(target) - alike.ngroups
    noise = np.sqrt((residue**2).sum() / free) / target.std() if free else np.nan
    skills = {"latents": float(np.mean(rest)), "inputs": first}
    return Evidence(rows=len(target), noise=float(noise), **skills, **below)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rule:
    """A linear forecast of the gain.

    ``weights`` (7,) are the constant and those of `FEATURES`; ``spread`` is
    the deviation of what it misses on worlds it was not fitted on; ``low``
    and ``high`` (6,) are the ends of the features of those it was fitted on.
    """

    weights: np.ndarray
    spread: float
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, seen: np.ndarray, gains: np.ndarray) -> Rule:
        """Fit least squares to features (n, 6); each row's miss leaves it out."""
        x = np.hstack([np.ones((len(seen), 1)), seen])
        inverse = np.linalg.pinv(x)
        weights, leverage = inverse @ gains, np.einsum("ij,ji->i", x, inverse)
        missed = (gains - x @ weights) / (1 - leverage)
        spread = float(np.sqrt((missed**2).mean()))
        return cls(weights, spread, seen.min(0), seen.max(0))

    @classmethod
    def known(cls) -> Rule:
        """Return the rule of the book's last full run; DataError without one."""
        path = records.REFERENCE / f"{CHAPTER}.json"
        if not path.exists():
            raise DataError(f"{path}: no such file; run `make reference`.")
        content = records.read_results(path)
        value = {one["quantity"]: one["value"] for one in content["records"]}
        weights, low, high = (
            np.array([value[f"nesting_rule_{name}{end}"] for name in names])
            for names, end in (
                *((("constant", *FEATURES), ""), (FEATURES, "_least")),
                (FEATURES, "_most"),
            )
        )
        return cls(weights, value["nesting_rule_spread"], low, high)

    def gain(self, seen: np.ndarray) -> np.ndarray:
        """Forecast the gain for features (..., 6); below 0 nesting pays."""
        return self.weights[0] + seen @ self.weights[1:]

    def chance(self, seen: np.ndarray) -> np.ndarray:
        """Return the chance that nesting pays, its misses taken as normal."""
        return norm.cdf(-self.gain(seen) / self.spread)

    def line(self, evidence: Evidence) -> dict[str, object]:
        """Return evidence and forecast as a line of a table."""
        seen = evidence.features()
        gain, chance = float(self.gain(seen)), float(self.chance(seen))
        words = "likely to pay" if chance >= SURE else "open"
        words = "not likely to pay" if chance <= 1 - SURE else words
        beyond = (seen < self.low) | (seen > self.high)
        out = [name for name, far in zip(FEATURES, beyond, strict=True) if far]
        ends = {"low": gain - 1.96 * self.spread, "high": gain + 1.96 * self.spread}
        said = {
            "chance": chance,
            "nesting is": words,
            "beyond the rule": ", ".join(out),
        }
        return {**vars(evidence), "gain": gain, **ends, **said}


def advise(
    declaration: Declaration, *, device: str = "cpu", rule: Rule | None = None
) -> pd.DataFrame:
    """Forecast for every scale that takes latents whether it should.

    One row for each of its targets that are numbers, as `Rule.line`; the
    ``rule`` is the book's where none is given.  Only the scales whose latents
    are needed are trained, one model a fold.  A `DataError` tells in one line
    where a table is not what the declaration says, or if none takes latents.
    """
    if not any(scale.latents() for scale in declaration.scales):
        words = "no scale takes latents; there is nothing to nest."
        raise declaration.fault(words, "scales")
    rule, kinds, tasks = rule or Rule.known(), Kinds(), {}
    for scale in declaration.scales:
        tasks[scale.name] = task_of(declaration, scale.name, kinds, "")
    settings = declaration.training.model_dump(exclude={"seeds"}) | {"device": device}
    below: NestedAutoencoder | None = None
    r2, lines = {}, []
    for name, task in tasks.items():
        lower = list(declaration.scale(name).latents().values())
        targets = [key for key in task.truth if key not in kinds]
        if below and lower:
            blocks = [list(declaration.blocks(one)) for one in lower]
            known = [np.hstack([task.table[key] for key in keys]) for keys in blocks]
            latents = [below.encode(task.table, one)[:PROBED] for one in lower]
            own = [task.table[key] for key in declaration.scale(name).blocks()]
            fine = {
                "fine_rows": min(len(tasks[one].features) for one in lower),
                "fine_r2": min(r2[one] for one in lower),
                "shift": max(map(shift, [tasks[one].features for one in lower], known)),
            }
            seen = np.hstack(known), np.concatenate(latents, -1)
            more = np.hstack(own) if own else None
            for key in targets:
                found = measure(*seen, task.truth[key], task.folds, more, **fine)
                named = {"scale": name, "target": key.partition(".")[2]}
                lines.append(named | rule.line(found))
        if name != declaration.scales[-1].name:
            network = network_of(declaration, name, kinds)
            replicas = Replicas.cross(task.folds)
            try:
                below = chain.fit(
                    network, task.table, replicas, below,
                    standardise_on="train", **settings,
                )  # fmt: skip
            except ParameterError as error:
                raise declaration.fault(str(error), "training") from None
            held_out = {
                key: replicas.out_of_fold(values)[:, 0]
                for key, values in below.predict(task.table, name).items()
            }
            # a scale that is taught no number has nothing to show
            scores = [r2_score(task.truth[key], held_out[key]) for key in targets]
            r2[name] = float(np.mean(scores)) if scores else 0.0
    return pd.DataFrame(lines)
