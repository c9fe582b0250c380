"""A pool of arms from a CSV, and the instruments that measure them.

An instrument of one's own is a function ``measure(arm, attempt) -> float``:
``arm`` maps the columns of the pool, but not the target, to the texts of its
row; ``attempt`` is 0, 1, ... .  It raises whatever it likes if it fails.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nestedae_utils.data import tables
from nestedae_utils.errors import DataError, ParameterError, nearest, shown
from nestedae_utils.model.cache import fingerprint
from nestedae_utils.rerun.execution import one_line

Measure = Callable[[Mapping[str, str], int], float]


@dataclass(frozen=True)
class Pool:
    """Arms as texts, their features (n, d), and the target (n,) if known."""

    arms: pd.DataFrame
    features: np.ndarray
    target: np.ndarray | None
    name: str = "pool"


def read(path: Path, target: str = "") -> Pool:
    """Read a pool from a CSV: each row an arm, each column a feature.

    Columns of numbers are features as they are, those of texts one-hot.  The
    ``target`` column, if there is one, is what simulated instruments look up.
    A DataError tells of a column of one value, or a target without a number.
    """
    frame = tables.read_text(path)
    numbers, values = frame.apply(tables.numbers), None
    if target:
        if target not in frame:
            words = f"column {target!r} is missing.{nearest(target, frame.columns)}"
            raise DataError(f"{path}: {words}")
        values = numbers.pop(target).to_numpy(float)
        words = frame.pop(target)
        if not np.isfinite(values).all():
            row = frame.index[~np.isfinite(values)][0]
            raise DataError(
                f"{path}: column {target!r}, line {row + 2}: {words[row]!r} found, "
                "a finite number is allowed; remove the row or fill it in."
            )
    for name in frame.columns[frame.nunique() < 2]:
        raise DataError(
            f"{path}: column {name!r}: one value in all rows, a column that varies "
            "is allowed; remove it."
        )
    frame = frame.reset_index(drop=True)
    numbers = numbers.reset_index(drop=True)
    texts = numbers.columns[numbers.isna().any()]
    coded = pd.get_dummies(numbers.drop(columns=texts).join(frame[texts]))
    return Pool(frame, coded.to_numpy(float), values, Path(path).name)


def instrument(words: str) -> Measure:
    """Return the function that "module:function" names, or a ParameterError."""
    module, _, name = words.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ParameterError(
            f"instrument: {shown(words)} given, module:function of a module that "
            f"can be imported is allowed ({one_line(repr(error))})."
        ) from None


@dataclass(frozen=True)
class Simulated:
    """An instrument that looks up a pool's target after a while, and may fail.

    Durations are lognormal (0, 0.5) times ``seconds``, and a share ``failing``
    of attempts fails; both are drawn for an arm and an attempt, so that a
    campaign has them again.  Two stages share the time: synthesis, and
    characterisation.
    """

    pool: Pool
    seconds: float = 0.0
    failing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, high in (("seconds", np.inf), ("failing", 0.99)):
            if not 0 <= (value := getattr(self, name)) <= high:
                words = f"{value} given, a number from 0 to {high:g} is allowed."
                raise ParameterError(f"{name}: {words}")
        if self.pool.target is None:
            raise ParameterError(
                "target: none given, a column of the pool to look up is needed, or "
                "an instrument."
            )

    def __call__(self, arm: Mapping[str, str], attempt: int) -> float:
        """Make the arm and measure it; RuntimeError if a stage fails."""
        digest = fingerprint([list(arm.values()), attempt, self.seed])
        rng = np.random.default_rng(int(digest[:8], 16))
        for stage, share in (("synthesis", 0.7), ("characterisation", 0.3)):
            time.sleep(share * self.seconds * rng.lognormal(0, 0.5))
            if rng.random() < self.failing / 2:
                raise RuntimeError(f"{stage} failed")
        same = (self.pool.arms == pd.Series(arm)).all(axis=1)
        return float(self.pool.target[same.to_numpy()][0])  # type: ignore[index]
