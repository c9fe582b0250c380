"""Results as records: a quantity, its value here, and the paper's value.

A record is a mapping.  Ours are ``quantity``, ``value``, ``spread`` (a
standard deviation, or None), ``low`` and ``high`` (the ends of a 95 % interval
of the value itself, or None), ``unit`` and ``replicas`` (trainings, folds or
rows behind the value).  The claim that the quantity tests as made states
``paper``, ``where`` and ``tolerance``; ``verdict`` compares; ``cell`` is the
count of the notebook's cell that recorded it.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from nestedae_utils.book.claims import by_quantity, quantities, verdict, written
from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError, ParameterError, replacing

REFERENCE = DATA / "reference"
OURS = ("quantity", "value", "spread", "unit", "replicas", "low", "high")
"""What of a record is measured here, and kept as reference."""
_KEYS = "chapter data_source parameters as_in_paper seconds date".split()
_SHOWN = "meaning here paper verdict tolerance unit n where quantity".split()


def record(
    quantity: str,
    value: float,
    spread: float | None = None,
    replicas: int = 1,
    source: str = "paper",
    as_in_paper: bool = True,
    cell: int | None = None,
    ends: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return a record; its value must be finite, its quantity known."""
    if not math.isfinite(value):  # a training diverged
        told = f"value of {quantity}: {value} given, a finite number is allowed."
        raise ParameterError(told)
    claim = None if source == "twin" else by_quantity().get(quantity)
    known = bool(ends) and all(map(math.isfinite, ends or ()))
    low, high = map(float, ends if ends and known else (value, value))
    if quantities()[quantity].unit == "%":  # Student's t knows no end of a share
        low, high = max(low, 0.0), min(high, 100.0)
    return {
        "quantity": quantity,
        "value": float(value),
        "spread": None
        if spread is None or not math.isfinite(spread)
        else float(spread),
        "unit": quantities()[quantity].unit,
        "replicas": int(replicas),
        "low": low if known else None,
        "high": high if known else None,
        "paper": claim and claim.paper,
        "where": claim.where if claim else "",
        "tolerance": claim and claim.tolerance,
        "verdict": verdict(claim, [(float(value), low, high)], source, as_in_paper),
        "cell": cell,
    }


def table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records as a table to be read, one row each."""
    rows = []
    for one in records:
        name, limit = one["quantity"], one["tolerance"]
        row = {**one, "n": one["replicas"], "meaning": quantities()[name].meaning}
        row["here"] = written(one)
        row["paper"] = "" if one["paper"] is None else by_quantity()[name].stated
        row["tolerance"] = "" if limit is None else f"{limit:g}"
        rows.append(row)
    return pd.DataFrame(rows, columns=_SHOWN)


def told(content: Mapping[str, Any], always_compared: bool = False) -> str:
    """Say of results in a line what they come from: data, settings, training."""
    same = "the book’s" if content["as_in_paper"] else "others than the book’s"
    ran = [
        f"Data: {content['data_source']}",
        *([] if always_compared else [f"settings: {same}"]),
        *(content["date"], f"{content['seconds']} s"),
        *(f"{name} {number}" for name, number in content["versions"].items()),
    ]
    tally = Counter(content["trainings"])
    trained = " and ".join(
        f"{count} replicas, {tally[f'{path} steps'] / 1e6:.2g} million "
        f"replica-steps, on the {words} path"
        for path, words in (("dense", "fast"), ("reference", "reference"))
        if (count := tally[f"{path} replicas"])
    )
    said = [f"Trained {trained}"] if trained else []
    if cached := tally["found replicas"]:
        said.append(f"{cached} found in the cache")
    return ". ".join([", ".join(ran), *filter(None, ["; ".join(said)])]) + "."


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")
    return path


def read_results(path: Path) -> dict[str, Any]:
    """Read a chapter's results.

    It is a `DataError` if the file is cut short, lacks a key, or has a
    record whose quantity is unknown or whose value is not finite.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        itemgetter(*_KEYS)(content)
        for one in content["records"]:
            name, value, *_ = itemgetter(*OURS[:5])(one)
            if not math.isfinite(value):
                raise ValueError(f"{name} is not finite")
            quantities()[name]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a chapter's results ({type(error).__name__}: "
            f"{error}); remove it and run the chapter again."
        ) from None
    return content


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all chapters' results in a folder, by chapter, in order."""
    # beside them lies what `make bench` measured
    paths = [path for path in folder.glob("*.json") if path.stem != "benchmark"]
    return {path.stem: read_results(path) for path in sorted(paths)}


def differences(results: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Say, a line each, where a run leaves the reference's repeat tolerance.

    A quantity that is missing in either has a line too.
    """
    now, then = (
        {one["quantity"]: one for one in content["records"]}
        for content in (results, reference)
    )
    lines = [
        f"{name}: only in {'the run' if name in now else 'the reference'}"
        for name in sorted(now.keys() ^ then.keys())
    ]
    for name in sorted(now.keys() & then.keys()):
        allowed, before = quantities()[name].repeat, then[name]["value"]
        # exact ones are equal but for rounding
        if abs(now[name]["value"] - before) > allowed + 1e-9 * max(1, abs(before)):
            both = f"{written(now[name])} now, {written(then[name])} in the reference"
            lines.append(f"{name}: {both}, {allowed:g} allowed")
    return lines
