"""Will nesting pay?  A forecast from what can be measured before nesting.

A rule that is linear in a few numbers forecasts the gain: the error of the
nested minus that of a single model, in deviations of the target.  Chapter 19
fits and tests it; its weights are among that chapter's reference numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.metrics import r2_score

from nestedae_utils.book import records
from nestedae_utils.errors import DataError
from nestedae_utils.model import chain
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.own.declaration import Declaration
from nestedae_utils.own.fit import Kinds, Units, network_of, task_of

FEATURES = ("advantage",)  # what the rule sees
SURE = 0.8  # chance from which a sign is called likely
PROBED, MOST = 2, 1000  # members whose latents are asked; rows of a probe
NOISE = 0.3  # variance of the probe's noise over that of its signal
Evidence = dict[str, float]


def shift(fine: Sequence[np.ndarray], inputs: Sequence[np.ndarray]) -> float:
    """Return the largest shift between tables (m, width) and (n, width).

    Root mean square over the columns, in deviations of the former.
    """
    return max(
        float(np.sqrt((((y.mean(0) - x.mean(0)) / np.where(d > 0, d, 1)) ** 2).mean()))
        for x, y in zip(fine, inputs, strict=True)
        for d in [x.std(0)]
    )


def measure(
    inputs: np.ndarray,
    latents: np.ndarray,
    target: np.ndarray,
    folds: Sequence[Split],
    beside: np.ndarray,
) -> Evidence:
    """Measure what one coarse table says before anything is nested.

    ``inputs`` (n, width) stand in place of ``latents`` (members, n, latent),
    ``beside`` (n, more) goes in with either; ``target`` (n,).  Returns ``rows``,
    the skills (1 - error / error of the median, by folds) of a Gaussian process,
    its kernel fixed, that sees the one or the other, the ``advantage`` of the
    latents', and ``noise``, the target's deviation among rows of equal inputs
    over that of all, NaN where none are.
    """

    def skill(known: np.ndarray) -> float:
        x = np.hstack([known, beside])
        x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
        missed = usual = 0.0
        for seen, held in folds:
            # its time grows with the cube of the rows
            some = seen[:: -(-len(seen) // MOST)]
            y, middle = target[some], target[some].mean()
            near, far = (
                np.exp(-cdist(rows, x[some], "sqeuclidean") / (2 * x.shape[1]))
                for rows in (x[some], x[held])
            )
            weights = np.linalg.solve(near + NOISE * np.eye(len(some)), y - middle)
            missed += np.abs(middle + far @ weights - target[held]).sum()
            usual += np.abs(np.median(y) - target[held]).sum()
        return float(1 - missed / usual)

    rows = np.hstack([inputs, beside])
    rows = pd.DataFrame(
        (rows / np.where(np.ptp(rows, 0) > 0, np.ptp(rows, 0), 1)).round(8)
    )
    alike = pd.Series(target).groupby(rows.groupby(list(rows)).ngroup())
    residue, free = target - alike.transform("mean"), len(target) - alike.ngroups
    noise = np.sqrt((residue**2).sum() / free) / target.std() if free else np.nan
    skills = float(np.mean([*map(skill, latents)])), skill(inputs)
    known = {"rows": len(target), "latents": skills[0], "inputs": skills[1]}
    return known | {"advantage": skills[0] - skills[1], "noise": noise}


@dataclass(frozen=True)
class Rule:
    """A linear forecast of the gain.

    ``weights``: the constant, then those of `FEATURES`; ``spread``, the
    deviation of what it misses; ``low``, ``high``: the features it was fitted on.
    """

    weights: np.ndarray
    spread: float
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def known(cls) -> "Rule":
        """Return the rule of the book's last full run; DataError without one."""
        path = records.REFERENCE / "19_when_nesting_helps.json"
        if not path.exists():
            raise DataError(f"{path}: no such file; run `make reference`.")
        rows = records.read_results(path)["records"]
        value = {one["quantity"]: one["value"] for one in rows}

        def of(ending: str, *more: str) -> np.ndarray:
            names = [*more, *(f"{name}{ending}" for name in FEATURES)]
            return np.array([value[f"nesting_rule_{name}"] for name in names])

        spread = value["nesting_rule_spread"]
        return cls(of("", "constant"), spread, of("_least"), of("_most"))

    def forecast(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gains (below 0 nesting pays) and their chances, of features."""
        gain = self.weights[0] + seen @ self.weights[1:]
        return gain, norm.cdf(-gain / self.spread)

    def line(self, evidence: Evidence) -> dict[str, object]:
        """Return evidence and forecast as a line of a table."""
        seen = np.array([evidence[name] for name in FEATURES])
        gain, chance = map(float, self.forecast(seen))
        likely = "likely to pay" if chance > 0.5 else "not likely to pay"
        outside = (seen < self.low) | (seen > self.high)
        sure = abs(chance - 0.5) >= SURE - 0.5 and not outside.any()
        return {
            **evidence,
            **{"gain": gain, "low": gain - 1.96 * self.spread},
            **{"high": gain + 1.96 * self.spread, "chance": chance},
            "nesting is": likely if sure else "open",
            "beyond the rule": ", ".join(np.array(FEATURES)[outside]),
        }


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
    rule, scales = rule or Rule.known(), declaration.scales
    both = kinds, units = Kinds(), Units()
    tasks = {one.name: task_of(declaration, one.name, *both, "") for one in scales}
    settings = declaration.training.model_dump(exclude={"seeds"})
    settings |= {"device": device, "standardise_on": "train"}
    below: NestedAutoencoder | None = None
    r2: dict[str, float] = {}
    lines = []
    for scale in scales:
        task, lower = tasks[scale.name], list(scale.latents().values())
        numbers = [key for key in task.truth if key not in kinds]
        if below and lower:
            seen = [
                np.hstack([task.table[key] for key in declaration.blocks(one)])
                for one in lower
            ]
            fine = [tasks[one].features for one in lower]
            latents = [below.encode(task.table, one)[:PROBED] for one in lower]
            known = {"fine_rows": min(map(len, fine)), "shift": shift(fine, seen)}
            known["fine_r2"] = min(r2[one] for one in lower)
            own = [task.features[:, :0], *(task.table[k] for k in scale.blocks())]
            beside, codes = np.hstack(own), np.concatenate(latents, -1)
            for key in numbers:
                truth, columns = task.truth[key], np.hstack(seen)
                told = measure(columns, codes, truth, task.folds, beside)
                line, target = rule.line(known | told), key.partition(".")[2]
                lines.append({"scale": scale.name, "target": target} | line)
        if scale is not scales[-1]:
            network = network_of(declaration, scale.name, kinds)
            replicas = Replicas.cross(task.folds)
            below = chain.fit(network, task.table, replicas, below, **settings)
            predicted = below.predict(task.table, scale.name)
            held = {key: replicas.out_of_fold(predicted[key]) for key in numbers}
            scores = [r2_score(task.table[key], held[key]) for key in numbers]
            # a scale that is taught no number has nothing to show
            r2[scale.name] = float(np.mean(scores)) if scores else 0.0
    if not lines:
        words = "no scale that takes latents predicts a number, which a rule needs."
        raise declaration.fault(words, "scales")
    return pd.DataFrame(lines)
