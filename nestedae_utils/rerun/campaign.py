"""A campaign: instruments measure, a learner chooses what is next.

Instruments are threads of this process, or the workers of a Dask scheduler.
The folder of a campaign is its state: ``measured/NNNN.json`` has an arm before
it is measured and its result after, written whole by whoever made it where the
folder can be reached, else when it arrives.  So a campaign that was killed
goes on: what was measured is not measured again, what was being measured is.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
from distributed import Future, as_completed, get_worker

from nestedae_utils.book.records import write_json
from nestedae_utils.errors import ParameterError
from nestedae_utils.model.cache import fingerprint
from nestedae_utils.rerun.execution import RunError, one_line
from nestedae_utils.rerun.pools import Measure, Pool
from nestedae_utils.rerun.runs import held
from nestedae_utils.rerun.sweeps import Tell, await_workers, connected
from nestedae_utils.study import policies

RECORD, MEASURED = "campaign.json", "measured"


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
            value, most = getattr(self, name), arms if low and name[0] in "fb" else None
            if value < low or (most and value > most):
                limits = f"from {low} to {most}" if most else f"of at least {low}"
                raise ParameterError(
                    f"{name}: {value} given for a pool of {arms} arms, a whole number "
                    f"{limits} is allowed."
                )


def measured(
    folder: str, number: int, arm: dict[str, str], measure: Measure, retries: int
) -> dict[str, Any]:
    """Measure an arm once and for all; runs on a worker.

    Where the folder can be reached, a result that stands in it is the result.
    """
    path = _path(folder, number)
    if not path.exists():
        return _attempts(arm, measure, retries)
    # a worker that was given up may still be at it
    with filelock.FileLock(path.with_suffix(".lock")):
        if "value" not in (one := _read(path)):
            write_json(path, one | _attempts(arm, measure, retries))
        return _read(path)


def _attempts(arm: dict[str, str], measure: Measure, retries: int) -> dict[str, Any]:
    begin, value, faults = time.time(), None, list[str]()
    while value is None and len(faults) <= retries:
        try:
            value = float(measure(arm, len(faults)))
            if not math.isfinite(value):
                words, value = f"{value} measured, a finite number is needed", None
                raise ValueError(words)
        except Exception as error:
            faults.append(one_line(repr(error)))
    worker = {"worker": str(get_worker().name), "begin": begin, "end": time.time()}
    return {"value": value, "faults": faults, **worker}


def _path(folder: str | Path, number: int) -> Path:
    return Path(folder, MEASURED, f"{number:04}.json")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def asked(folder: Path) -> list[dict[str, Any]]:
    """Return what stands in a campaign's folder, in the order of asking."""
    return [_read(path) for path in sorted((folder / MEASURED).glob("*.json"))]


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
    pool, policy, seed or number of first arms is a RunError; budget and
    instruments may change.
    """
    settings.check(len(pool.features))
    folder, texts = Path(os.path.realpath(folder)), pool.arms.astype(str)
    key = fingerprint([pool.features, texts.to_numpy().tolist()])
    fixed = {name: getattr(settings, name) for name in ("policy", "first", "seed")}
    content = {"pool": pool.name, "key": key, **fixed}
    with held(folder, RECORD) as scratch:
        if (folder / RECORD).exists() and _read(folder / RECORD) != content:
            raise RunError(
                f"{folder}: holds a campaign on another pool or with other "
                "settings; give another folder with -o."
            )
        write_json(folder / RECORD, content)
        learner, found = policies.Learner(pool.features), asked(folder)
        with connected(scheduler, settings.instruments, scratch) as client:
            await_workers(client, tell)
            running: dict[Future, int] = {}
            ended = as_completed(loop=client.loop)

            def ask(number: int) -> None:
                arm = texts.iloc[found[number]["arm"]].to_dict()
                words = (str(folder), number, arm, measure, settings.retries)
                future = client.submit(measured, *words, pure=False)
                running[future] = number
                ended.add(future)

            for number, one in enumerate(found):
                if "value" not in one:
                    ask(number)
            while True:
                ready = not (settings.rounds and running)
                while ready and len(running) < settings.instruments:
                    if len(found) >= settings.budget:
                        break
                    found.append({"arm": _next(learner, settings, found)})
                    write_json(_path(folder, len(found) - 1), found[-1])
                    ask(len(found) - 1)
                if not running:
                    break
                number = running.pop(future := next(ended))
                one = found[number] = found[number] | _arrived(future, number)
                write_json(_path(folder, number), one)
                told = one["faults"][-1] if one["value"] is None else one["value"]
                done = sum("value" in each for each in found)
                tell(f"{done} of {settings.budget}: measurement {number}: {told}")
        frame = pd.DataFrame(found).astype({"value": float})
        arms = pool.arms.iloc[frame["arm"]].reset_index(drop=True).add_prefix("arm: ")
        table = pd.concat([frame, arms], axis=1)
        table.to_csv(folder / "campaign.csv", index=False, lineterminator="\n")
        return frame


def _next(
    learner: policies.Learner, settings: Settings, found: Sequence[Mapping[str, Any]]
) -> int:
    if len(found) < settings.first:
        begun = np.random.default_rng(settings.seed)
        return int(begun.permutation(len(learner.features))[len(found)])
    known = [one for one in found if one.get("value") is not None]
    learner.arms = [one["arm"] for one in known]
    learner.values = [one["value"] for one in known]
    # what failed for good counts as pending: it is not asked for again
    others = [one["arm"] for one in found if one.get("value") is None]
    rng = np.random.default_rng([settings.seed, len(found)])
    return learner.suggest(settings.policy, rng, others)


def _arrived(future: Future, number: int) -> dict[str, Any]:
    try:
        return future.result()
    except Exception as error:
        raise RunError(
            f"measurement {number} was lost ({one_line(repr(error))}); "
            "start the campaign again, it goes on."
        ) from None
