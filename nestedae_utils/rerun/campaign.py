"""A campaign: instruments measure, a learner chooses what is next.

Instruments are threads of this process, or the workers of a Dask scheduler.
The folder of a campaign is its state.  ``order.jsonl`` has each arm before it
is measured, and ``measured/NNNN.json`` each result, written whole by whoever
made it where the folder can be reached, else when it arrives.  So a campaign
that was killed goes on: what was measured is not measured again, and what was
being measured is.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from nestedae_utils.book.records import write_json
from nestedae_utils.errors import ParameterError
from nestedae_utils.model.cache import fingerprint
from nestedae_utils.rerun.execution import RunError, one_line
from nestedae_utils.rerun.runs import held
from nestedae_utils.rerun.pools import Measure, Pool
from nestedae_utils.rerun.sweeps import Tell, connected
from nestedae_utils.study import policies

RECORD, ORDER, MEASURED = "campaign.json", "order.jsonl", "measured"


@dataclass(frozen=True)
class Settings:
    """What a campaign is: its policy, first random arms, budget and seed.

    ``rounds``: wait for all instruments before choosing again.  ``retries``:
    attempts of a measurement after one that failed.
    """

    policy: str = "improvement"
    first: int = 5
    budget: int = 20
    instruments: int = 1
    rounds: bool = False
    retries: int = 2
    seed: int = 0

    def check(self, arms: int) -> None:
        """Raise a ParameterError for settings that a pool of arms forbids."""
        policies.check(self.policy)
        least = {"first": 2, "budget": 1, "instruments": 1, "retries": 0, "seed": 0}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                words = f"{value} given, a whole number of at least {low} is allowed."
                raise ParameterError(f"{name}: {words}")
        for name in ("first", "budget"):
            if (value := getattr(self, name)) > arms:
                raise ParameterError(
                    f"{name}: {value} given for a pool of {arms} arms, at most "
                    f"{arms} is allowed; give fewer or a larger pool."
                )


def measured(
    folder: str, number: int, arm: dict[str, str], measure: Measure, retries: int
) -> dict[str, Any]:
    """Measure an arm once and for all; runs on a worker.

    Where the folder can be reached, a result that stands in it is the result.
    """
    path = Path(folder, MEASURED, f"{number:04}.json")
    if not path.parent.is_dir():
        return _attempts(number, arm, measure, retries)
    # a worker that was given up may still be at it
    with filelock.FileLock(path.with_suffix(".lock")):
        if not path.exists():
            write_json(path, _attempts(number, arm, measure, retries))
        return json.loads(path.read_text(encoding="utf-8"))


def _attempts(
    number: int, arm: dict[str, str], measure: Measure, retries: int
) -> dict[str, Any]:
    from distributed import get_worker

    result: dict[str, Any] = {"number": number, "value": None, "faults": []}
    result |= {"worker": str(get_worker().name), "begin": time.time()}
    for attempt in range(retries + 1):
        try:
            value = float(measure(arm, attempt))
            if not math.isfinite(value):
                raise ValueError(f"{value} measured, a finite number is needed")
            result["value"] = value
            break
        except Exception as error:
            result["faults"].append(one_line(repr(error)))
    return result | {"end": time.time()}


def run(
    pool: Pool,
    settings: Settings,
    folder: Path,
    measure: Measure,
    scheduler: str | None = None,
    tell: Tell = lambda line: None,
) -> pd.DataFrame:
    """Run a campaign in its folder, or go on with it; return its measurements.

    One row a measurement, in the order of asking: arm, value (NaN where all
    attempts failed), begin and end (s), worker, faults.  A folder of another
    pool, policy, seed or number of first arms is a RunError; the budget of a
    campaign may be raised.
    """
    from distributed import as_completed

    settings.check(len(pool.features))
    folder = Path(os.path.abspath(folder))
    pool_key = fingerprint([pool.features, pool.arms.astype(str).to_numpy().tolist()])
    # a budget may grow, and instruments may come and go
    fixed = {name: getattr(settings, name) for name in ("policy", "first", "seed")}
    content = {"pool": pool.name, "key": pool_key, "settings": fixed}
    with held(folder, RECORD) as scratch:
        _same(folder / RECORD, content)
        (folder / MEASURED).mkdir(exist_ok=True)
        order = _order(folder / ORDER)
        with connected(scheduler, settings.instruments, scratch) as client:
            learner = policies.Learner(pool.features)
            results: dict[int, dict[str, Any]] = {}
            running: dict[Any, int] = {}
            ended = as_completed(loop=client.loop)

            def ask(number: int) -> None:
                arm = pool.arms.iloc[order[number]].astype(str).to_dict()
                words = (str(folder), number, arm, measure, settings.retries)
                key = f"{pool_key[:8]}-{folder.name}-{number}"
                future = client.submit(measured, *words, key=key, pure=False)
                running[future] = number
                ended.add(future)

            for number in range(len(order)):
                path = folder / MEASURED / f"{number:04}.json"
                if path.exists():
                    results[number] = json.loads(path.read_text(encoding="utf-8"))
                else:
                    ask(number)
            while True:
                ready = not (settings.rounds and running)
                while ready and len(running) < settings.instruments:
                    if len(order) >= settings.budget:
                        break
                    order.append(_next(learner, settings, order, results))
                    with open(folder / ORDER, "a", encoding="utf-8") as file:
                        file.write(f"{json.dumps(order[-1])}\n")
                        file.flush()
                        os.fsync(file.fileno())
                    ask(len(order) - 1)
                if not running:
                    break
                future = next(ended)
                number = running.pop(future)
                results[number] = _arrived(future, folder, number)
                tell(f"{len(results)} of {settings.budget}: {_told(results[number])}")
        rows = [results[number] for number in range(len(order))]
        frame = pd.DataFrame(rows).assign(arm=order)
        frame["value"] = frame["value"].astype(float)
        arms = pool.arms.iloc[order].reset_index(drop=True).add_prefix("arm: ")
        table = pd.concat([frame, arms], axis=1)
        table.to_csv(folder / "campaign.csv", index=False, lineterminator="\n")
        return frame


def _same(path: Path, content: Mapping[str, Any]) -> None:
    if not path.exists():
        write_json(path, dict(content))
    elif json.loads(path.read_text(encoding="utf-8")) != content:
        raise RunError(
            f"{path.parent}: holds a campaign on another pool or with other "
            "settings; give another folder with -o."
        )


def _order(path: Path) -> list[int]:
    """Return the arms asked for so far; a line cut short was never asked."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [int(line) for line in whole.splitlines()]


def _next(
    learner: policies.Learner,
    settings: Settings,
    order: list[int],
    results: Mapping[int, Mapping[str, Any]],
) -> int:
    if len(order) < settings.first:
        begun = np.random.default_rng(settings.seed)
        return int(begun.permutation(len(learner.features))[len(order)])
    known = [n for n in sorted(results) if results[n]["value"] is not None]
    learner.arms = [order[n] for n in known]
    learner.values = [results[n]["value"] for n in known]
    # what failed for good counts as pending: it is not asked for again
    others = [arm for n, arm in enumerate(order) if n not in known]
    rng = np.random.default_rng([settings.seed, len(order)])
    return learner.suggest(settings.policy, rng, others)


def _arrived(future: Any, folder: Path, number: int) -> dict[str, Any]:
    try:
        result = future.result()
    except Exception as error:
        raise RunError(
            f"{folder.name}: measurement {number} was lost ({one_line(repr(error))}); "
            "start the campaign again, it goes on."
        ) from None
    path = folder / MEASURED / f"{number:04}.json"
    if not path.exists():
        write_json(path, result)
    return result


def _told(result: Mapping[str, Any]) -> str:
    if result["value"] is None:
        return f"measurement {result['number']} failed: {result['faults'][-1]}"
    return f"measurement {result['number']}: {result['value']:.6g}"
