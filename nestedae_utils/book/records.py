"""Results as records: a quantity, its value here, and the paper's value.

What a record says of the paper, its value, place, tolerance and verdict, is
said by the claim that the quantity tests as made; see
:mod:`nestedae_utils.book.claims`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nestedae_utils import errors as checks
from nestedae_utils.book import claims
from nestedae_utils.book.claims import (
    NOT_REPRODUCED,
    OTHER_SETTINGS,
    REPRODUCED,
    TWIN,
    plus_minus,
    quantities,
)
from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError, ParameterError

REFERENCE = DATA / "reference"

NO_PAPER_VALUE = "ours alone"

_KEYS = (
    "chapter data_source parameters as_in_paper seconds date records".split()
)
_OWN = ("quantity", "value", "spread", "unit", "replicas")
_SHOWN = "meaning here paper verdict tolerance unit n where quantity".split()


@dataclass(frozen=True)
class Record:
    """One result of a chapter.

    ``replicas`` is the number of trainings, folds or rows behind ``value``;
    ``spread`` their standard deviation, where there is one; ``cell`` the
    count of the notebook's cell that recorded it.
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
    cell: int | None = None


def record(
    name: str,
    value: float,
    spread: float | None = None,
    replicas: int = 1,
    *,
    source: str = "paper",
    protocol: bool = True,
    cell: int | None = None,
) -> Record:
    """Return a record of a quantity that ``data/quantities.csv`` knows.

    Only what was computed on the paper's data (``source``) and with its
    settings (``protocol``) is compared; on the twin a record has no paper's
    value.

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
    claim = claims.by_quantity().get(name)
    if source == "twin":
        claim, verdict = None, TWIN
    elif claim is None:
        verdict = NO_PAPER_VALUE
    elif not protocol:
        verdict = OTHER_SETTINGS
    else:
        held = claims.holds(claim, value)
        verdict = REPRODUCED if held else NOT_REPRODUCED
    return Record(
        quantity=name,
        value=value,
        spread=None if spread is None else float(spread),
        unit=quantities()[name].unit,
        replicas=checks.whole("replicas", replicas, 1),
        paper=claim and claim.paper,
        where=claim.where if claim else "",
        tolerance=claim and claim.tolerance,
        verdict=verdict,
        cell=cell,
    )


def table(records: Iterable[Record]) -> pd.DataFrame:
    """Return records as a table to be read, one row each."""
    rows = []
    for one in records:
        rows.append(
            {
                "quantity": one.quantity,
                "meaning": quantities()[one.quantity].meaning,
                "here": plus_minus(one.value, one.spread),
                "paper": ""
                if one.paper is None
                else claims.by_quantity()[one.quantity].stated,
                "tolerance": ""
                if one.tolerance is None
                else f"{one.tolerance:g}",
                "unit": one.unit,
                "n": one.replicas,
                "where": one.where,
                "verdict": one.verdict,
            }
        )
    return pd.DataFrame(rows, columns=_SHOWN)


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


def unclaimed(
    results: Mapping[str, Mapping[str, Any]],
    reference: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Gather the records that no claim of the paper is tested by.

    Returns
    -------
    pandas.DataFrame
        Columns chapter, and those of :func:`table`; with ``reference``
        (the reference run on the paper's data) if any chapter used the
        twin.
    """
    named = {
        name
        for claim in claims.claims().values()
        for name in (claim.as_made, claim.as_should)
    }
    parts = []
    for chapter, content in results.items():
        records = [
            Record(**one)
            for one in content["records"]
            if one["quantity"] not in named
        ]
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
    """Gather the records that were compared with a number of the paper.

    Returns
    -------
    pandas.DataFrame
        Columns quantity, value, paper, scale and verdict; ``scale`` is the
        tolerance, or one where the comparison is exact.  Claims that state
        a limit have no tolerance and are left out.
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
        and one["tolerance"] is not None
    ]
    columns = ["quantity", "value", "paper", "scale", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def as_dicts(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return records as plain mappings, ready for JSON."""
    return [asdict(one) for one in records]
