"""Results as records: a quantity, its value here, and the paper's value.

``data/quantities.csv`` lists every quantity that the book states: its
meaning and unit, the paper's value and its place, the tolerance of the
comparison, and ``repeat``, the tolerance within which a second run, on
another machine, must agree with the first.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nestedae_utils import checks
from nestedae_utils.checks import DataError, ParameterError
from nestedae_utils.datasets import DATA

REFERENCE = DATA / "reference"

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
NO_PAPER_VALUE = "ours alone"
OTHER_SETTINGS = "other settings"
TWIN = "TWIN"

_KEYS = (
    "chapter data_source parameters as_in_paper seconds date records".split()
)
_OWN = ("quantity", "value", "spread", "unit", "replicas")
_SHOWN = "meaning here paper verdict tolerance unit n where quantity".split()


@dataclass(frozen=True)
class Quantity:
    """What the book can state; see the module's text for the fields."""

    quantity: str
    meaning: str
    unit: str
    paper: float | None
    paper_spread: float | None
    where: str
    tolerance: float | None
    repeat: float


@dataclass(frozen=True)
class Record:
    """One result of a chapter.

    ``replicas`` is the number of trainings, folds or rows behind ``value``;
    ``spread`` their standard deviation, where there is one.
    """

    quantity: str
    value: float
    spread: float | None
    unit: str
    replicas: int
    paper: float | None
    where: str
    tolerance: float | None
    verdict: str


@functools.cache
def quantities() -> dict[str, Quantity]:
    """Return ``data/quantities.csv`` by name."""
    table = pd.read_csv(DATA / "quantities.csv", keep_default_na=False)
    known = {}
    for row in table.to_dict("records"):
        numbers = {
            key: float(row[key]) if row[key] != "" else None
            for key in ("paper", "paper_spread", "tolerance", "repeat")
        }
        known[row["quantity"]] = Quantity(**{**row, **numbers})
    return known


def verdict(
    value: float,
    paper: float | None,
    tolerance: float | None,
    *,
    source: str = "paper",
    protocol: bool = True,
) -> str:
    """Compare a value with the paper's.

    Parameters
    ----------
    value, paper, tolerance
        Reproduced means: no further from ``paper`` than ``tolerance``.
    source
        On the ``"twin"`` nothing is compared.
    protocol
        Was it computed with the paper's settings?  Else nothing is
        compared either.

    Returns
    -------
    str
        One of the five verdicts named at the top of this module.
    """
    if source == "twin":
        return TWIN
    if paper is None or tolerance is None:
        return NO_PAPER_VALUE
    if not protocol:
        return OTHER_SETTINGS
    # Decimal inputs: 0.05 apart must not fail on the last binary digit.
    near = abs(value - paper) <= tolerance + 1e-12
    return REPRODUCED if near else NOT_REPRODUCED


def record(
    name: str,
    value: float,
    spread: float | None = None,
    replicas: int = 1,
    *,
    source: str = "paper",
    protocol: bool = True,
) -> Record:
    """Return a record of a quantity that ``data/quantities.csv`` knows.

    On the twin it has no paper's value.

    Raises
    ------
    ParameterError
        If the name is unknown or the value is not finite.
    """
    if name not in quantities():
        raise ParameterError(
            f"quantity: {name!r} given, a name in data/quantities.csv is "
            "allowed; add a line there." + checks.nearest(name, quantities())
        )
    value = checks.real(f"value of {name}", float(value))
    if spread is not None and not math.isfinite(spread):
        spread = None
    known = quantities()[name]
    compared = source != "twin"
    return Record(
        quantity=name,
        value=value,
        spread=None if spread is None else float(spread),
        unit=known.unit,
        replicas=checks.whole("replicas", replicas, 1),
        paper=known.paper if compared else None,
        where=known.where if compared else "",
        tolerance=known.tolerance if compared else None,
        verdict=verdict(
            value,
            known.paper,
            known.tolerance,
            source=source,
            protocol=protocol,
        ),
    )


def table(records: Iterable[Record]) -> pd.DataFrame:
    """Return records as a table to be read, one row each."""
    rows = []
    for one in records:
        meaning = quantities()[one.quantity]
        rows.append(
            {
                "quantity": one.quantity,
                "meaning": meaning.meaning,
                "here": plus_minus(one.value, one.spread),
                "paper": ""
                if one.paper is None
                else plus_minus(one.paper, meaning.paper_spread),
                "tolerance": ""
                if one.tolerance is None or one.paper is None
                else f"{one.tolerance:g}",
                "unit": one.unit,
                "n": one.replicas,
                "where": one.where,
                "verdict": one.verdict,
            }
        )
    return pd.DataFrame(rows, columns=_SHOWN)


def plus_minus(value: float, spread: float | None = None) -> str:
    """Write a value, and its spread, with four significant digits."""
    text = f"{value:.4g}"
    if value == int(value) and abs(value) < 1e6:
        text = f"{value:.0f}"
    return text if spread is None else f"{text} ± {spread:.2g}"


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file beside and then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def read_results(path: Path) -> dict[str, Any]:
    """Read a chapter's results.

    Raises
    ------
    DataError
        If the file is cut short, lacks a key, or has a record whose
        quantity is unknown or whose value is not finite.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in _KEYS:
            content[key]
        for one in content["records"]:
            for key in _OWN:
                one[key]
            quantities()[one["quantity"]]
            if not math.isfinite(one["value"]):
                raise ValueError(f"{one['quantity']} is not finite")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a chapter's results ({type(error).__name__}: "
            f"{error}); remove it and run the chapter again."
        ) from None
    return content


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all chapters' results in a folder, by chapter, in order."""
    return {
        path.stem: read_results(path) for path in sorted(folder.glob("*.json"))
    }


def own_numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results without the paper's values, to be kept as reference."""
    return {
        **{key: value for key, value in results.items() if key != "records"},
        "records": [
            {key: one[key] for key in _OWN} for one in results["records"]
        ],
    }


def differences(
    results: Mapping[str, Any], reference: Mapping[str, Any]
) -> list[str]:
    """Say where a fresh run leaves the reference's repeat tolerance.

    Returns
    -------
    list of str
        One line for each quantity that differs or is missing in either.
    """
    fresh = {one["quantity"]: one["value"] for one in results["records"]}
    kept = {one["quantity"]: one["value"] for one in reference["records"]}
    lines = [
        f"{name}: only in {'the run' if name in fresh else 'the reference'}"
        for name in sorted(fresh.keys() ^ kept.keys())
    ]
    for name in sorted(fresh.keys() & kept.keys()):
        allowed = quantities()[name].repeat
        if abs(fresh[name] - kept[name]) > allowed + 1e-12:
            lines.append(
                f"{name}: {fresh[name]:.6g} now, {kept[name]:.6g} in the "
                f"reference, {allowed:g} allowed"
            )
    return lines


def scoreboard(
    results: Mapping[str, Mapping[str, Any]],
    reference: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Gather all records; where a build used the twin, also the reference.

    Returns
    -------
    pandas.DataFrame
        Columns chapter, and those of :func:`table`; with ``reference``
        (the reference run on the paper's data) if any chapter used the
        twin.
    """
    parts = []
    for chapter, content in results.items():
        records = [Record(**one) for one in content["records"]]
        part = table(records)
        part.insert(0, "chapter", chapter)
        if content["data_source"] == "twin":
            kept = {
                one["quantity"]: plus_minus(one["value"], one["spread"])
                for one in reference.get(chapter, {}).get("records", [])
            }
            part["reference"] = [kept.get(r.quantity, "") for r in records]
        parts.append(part)
    if not parts:
        return pd.DataFrame(columns=["chapter", *table([]).columns])
    return pd.concat(parts, ignore_index=True).fillna("")


def compared(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Gather the records that were compared with the paper.

    Returns
    -------
    pandas.DataFrame
        Columns quantity, value, paper, scale and verdict; ``scale`` is the
        tolerance, or one where the comparison is exact.
    """
    rows = [
        {
            "quantity": one["quantity"],
            "value": one["value"],
            "paper": one["paper"],
            "scale": one["tolerance"] or 1.0,
            "verdict": one["verdict"],
        }
        for content in results.values()
        for one in content["records"]
        if one["verdict"] in (REPRODUCED, NOT_REPRODUCED)
    ]
    columns = ["quantity", "value", "paper", "scale", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def as_dicts(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return records as plain mappings, ready for JSON."""
    return [asdict(one) for one in records]
