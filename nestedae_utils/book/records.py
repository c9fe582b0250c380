"""Results as records: a quantity, its value here, and the paper's value.

A record is a mapping.  Ours are ``quantity``, ``value``, ``spread`` (a
standard deviation, or None), ``unit`` and ``replicas`` (trainings, folds or
rows behind the value).  The claim that the quantity tests as made states
``paper``, ``where`` and ``tolerance``; ``verdict`` compares; ``cell`` is the
count of the notebook's cell that recorded it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nestedae_utils.book import claims
from nestedae_utils.book.claims import plus_minus, quantities
from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError, replacing

REFERENCE = DATA / "reference"

OURS = ("quantity", "value", "spread", "unit", "replicas")
"""What of a record is measured here, and kept as reference."""
_KEYS = "chapter data_source parameters as_in_paper seconds date".split()
_SHOWN = "meaning here paper verdict tolerance unit n where quantity".split()


def table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records as a table to be read, one row each."""
    rows = []
    for one in records:
        name, limit = one["quantity"], one["tolerance"]
        row = {**one, "n": one["replicas"]}
        row["meaning"] = quantities()[name].meaning
        row["here"] = plus_minus(one["value"], one["spread"])
        stated = one["paper"] is not None and claims.by_quantity()[name].stated
        row["paper"] = stated or ""
        row["tolerance"] = "" if limit is None else f"{limit:g}"
        rows.append(row)
    return pd.DataFrame(rows, columns=_SHOWN)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")
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
            _, value, *_ = (one[key] for key in OURS)
            if not math.isfinite(value):
                raise ValueError(f"{one['quantity']} is not finite")
            quantities()[one["quantity"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a chapter's results ({type(error).__name__}: "
            f"{error}); remove it and run the chapter again."
        ) from None
    return content


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all chapters' results in a folder, by chapter, in order."""
    paths = sorted(folder.glob("*.json"))
    return {path.stem: read_results(path) for path in paths}


def differences(results: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Say, a line each, where a run leaves the reference's repeat tolerance.

    A quantity that is missing in either has a line too.
    """
    now, kept = (
        {one["quantity"]: one["value"] for one in content["records"]}
        for content in (results, reference)
    )
    lines = [
        f"{name}: only in {'the run' if name in now else 'the reference'}"
        for name in sorted(now.keys() ^ kept.keys())
    ]
    for name in sorted(now.keys() & kept.keys()):
        allowed = quantities()[name].repeat
        if abs(now[name] - kept[name]) > allowed + 1e-12:
            lines.append(
                f"{name}: {now[name]:.6g} now, {kept[name]:.6g} in the "
                f"reference, {allowed:g} allowed"
            )
    return lines
