"""Will nesting pay?  A forecast from what can be measured before nesting.

A rule that is linear in a few numbers forecasts the gain: the error of the
nested minus that of a single model, in deviations of the target.  Chapter 19
fits and tests it; its weights are among that chapter's reference numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import r2_score

from nestedae_utils.book import records
from nestedae_utils.errors import DataError
from nestedae_utils.model import chain
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.own.declaration import Declaration
from nestedae_utils.own.fit import Kinds, network_of, task_of
from nestedae_utils.study import baselines

FEATURES = ("rows", "rows_squared", "fine_r2", "latents", "inputs", "shift")
SURE = 0.8  # chance from which a sign is called likely
PROBE, PROBED = "SVR, C = 10", 2  # asked by it, the latents of so many members


@dataclass(frozen=True)
class Evidence:
    """What is measured before anything is nested.

    ``rows`` of both tables; ``fine_r2``, the fine model's R2 on held-out rows;
    ``latents`` and ``inputs``, the skill (1 - error / error of the median, by
    folds) at the coarse target of a support vector machine that sees these;
    ``shift`` of the inputs' means, root mean square, in deviations of the fine
    table; ``noise``, the target's deviation among rows of equal inputs over
    that of all, NaN where no inputs are equal.
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
        rest = self.fine_r2, self.latents, self.inputs, self.shift
        return np.array([*(np.log10(self.rows) ** np.array([1, 2])), *rest])


def shift(fine: Sequence[np.ndarray], inputs: Sequence[np.ndarray]) -> float:
    """Return the largest shift between tables (m, width) and (n, width)."""
    deviations = [np.where(x.std(0) > 0, x.std(0), 1) for x in fine]
    away = [y.mean(0) - x.mean(0) for x, y in zip(fine, inputs, strict=True)]
    both = zip(away, deviations, strict=True)
    return float(max(np.sqrt(((a / d) ** 2).mean()) for a, d in both))


def measure(
    inputs: np.ndarray,
    latents: np.ndarray,
    target: np.ndarray,
    folds: Sequence[Split],
    beside: np.ndarray,
    **below: Any,
) -> Evidence:
    """Measure the evidence on one coarse table.

    ``inputs`` (n, width) stand in place of ``latents`` (members, n, latent),
    ``beside`` (n, more) goes in with either; ``target`` (n,).  Of the fine
    scale ``below``: ``fine_rows``, ``fine_r2``, ``shift``.
    """

    def miss(name: str, known: np.ndarray) -> float:
        known = np.hstack([known, beside])
        predicted = baselines.predict(name, known, target, folds)
        return float(np.abs(predicted - target).mean())

    usual = miss("median", inputs)
    first, *rest = (1 - miss(PROBE, known) / usual for known in (inputs, *latents))
    rows = pd.DataFrame(np.hstack([inputs, beside]).round(8))
    alike = pd.Series(target).groupby(rows.groupby(list(rows)).ngroup())
    residue, free = target - alike.transform("mean"), len(target) - alike.ngroups
    noise = np.sqrt((residue**2).sum() / free) / target.std() if free else np.nan
    known = {"latents": float(np.mean(rest)), "inputs": first, "noise": float(noise)}
    return Evidence(rows=len(target), **known, **below)


@dataclass(frozen=True)
class Rule:
    """A linear forecast of the gain.

    ``weights`` (7,): the constant, then `FEATURES`; ``spread``, the deviation
    of what it misses; ``low``, ``high`` (6,): the features it was fitted on.
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
        weights, leverage = inverse @ gains, np.diag(x @ inverse)
        spread = float(np.sqrt(np.mean(((gains - x @ weights) / (1 - leverage)) ** 2)))
        return cls(weights, spread, seen.min(0), seen.max(0))

    @classmethod
    def known(cls) -> Rule:
        """Return the rule of the book's last full run; DataError without one."""
        path = records.REFERENCE / "19_when_nesting_helps.json"
        if not path.exists():
            raise DataError(f"{path}: no such file; run `make reference`.")
        kept = records.read_results(path)["records"]
        value = {one["quantity"]: one["value"] for one in kept}

        def named(names: Iterable[str], end: str = "") -> np.ndarray:
            return np.array([value[f"nesting_rule_{name}{end}"] for name in names])

        ends = named(FEATURES, "_least"), named(FEATURES, "_most")
        return cls(named(("constant", *FEATURES)), value["nesting_rule_spread"], *ends)

    def forecast(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gains (below 0 nesting pays) and their chances, of features."""
        gain = self.weights[0] + seen @ self.weights[1:]
        return gain, norm.cdf(-gain / self.spread)

    def line(self, evidence: Evidence) -> dict[str, object]:
        """Return evidence and forecast as a line of a table."""
        seen = evidence.features()
        gain, chance = map(float, self.forecast(seen))
        sure = "likely to pay" if chance > 0.5 else "not likely to pay"
        far = zip(FEATURES, (seen < self.low) | (seen > self.high), strict=True)
        ends = {"low": gain - 1.96 * self.spread, "high": gain + 1.96 * self.spread}
        said = {"nesting is": sure if abs(chance - 0.5) >= SURE - 0.5 else "open"}
        said["beyond the rule"] = ", ".join(name for name, out in far if out)
        return {**vars(evidence), "gain": gain, **ends, "chance": chance, **said}


def advise(
    declaration: Declaration, *, device: str = "cpu", rule: Rule | None = None
) -> pd.DataFrame:
    """Forecast for every scale that takes latents whether it should.

    One row for each target that is a number, as `Rule.line`; the ``rule`` is
    the book's if none is given.  Only scales whose latents are needed are
    trained, one model a fold.  A `DataError` tells of a fault in a table, or
    if no scale takes latents.
    """
    if not any(scale.latents() for scale in declaration.scales):
        words = "no scale takes latents; there is nothing to nest."
        raise declaration.fault(words, "scales")
    rule, kinds, scales = rule or Rule.known(), Kinds(), declaration.scales
    tasks = {one.name: task_of(declaration, one.name, kinds, "") for one in scales}
    settings = declaration.training.model_dump(exclude={"seeds"}) | {"device": device}
    below: NestedAutoencoder | None = None
    r2: dict[str, float] = {}
    lines = []
    for scale in scales:
        task, lower = tasks[scale.name], list(scale.latents().values())
        numbers = [key for key in task.truth if key not in kinds]
        if below and lower:
            blocks = [list(declaration.blocks(one)) for one in lower]
            seen = [np.hstack([task.table[key] for key in keys]) for keys in blocks]
            latents = [below.encode(task.table, one)[:PROBED] for one in lower]
            fine = [tasks[one].features for one in lower]
            known = {"fine_rows": min(map(len, fine)), "shift": shift(fine, seen)}
            known["fine_r2"] = min(r2[one] for one in lower)
            both = np.hstack(seen), np.concatenate(latents, -1)
            own = [task.features[:, :0], *(task.table[key] for key in scale.blocks())]
            for key in numbers:
                rest = task.truth[key], task.folds, np.hstack(own)
                named = {"scale": scale.name, "target": key.partition(".")[2]}
                lines.append(named | rule.line(measure(*both, *rest, **known)))
        if scale is not scales[-1]:
            network = network_of(declaration, scale.name, kinds)
            replicas = Replicas.cross(task.folds)
            fit = partial(chain.fit, standardise_on="train", **settings)
            below = fit(network, task.table, replicas, below)
            told = below.predict(task.table, scale.name)
            held = {key: replicas.out_of_fold(told[key]) for key in numbers}
            scores = [r2_score(task.truth[key], held[key]) for key in numbers]
            # a scale that is taught no number has nothing to show
            r2[scale.name] = float(np.mean(scores)) if scores else 0.0
    if not lines:
        words = "no scale that takes latents predicts a number, which a rule needs."
        raise declaration.fault(words, "scales")
    return pd.DataFrame(lines)
