"""The paper's claims, and what is measured to check them.

``data/claims.csv`` has one row for each claim of this paper, and
``data/claims_<key>.csv`` for each of a related one, by its key in
``references.bib``: its places, of those in ``data/places.csv`` or
``data/places_<key>.csv``, the number and the relation that it states (``tolerance``
belongs to "="), and the quantities that test it: ``as_made``, the way the
authors did, and ``as_should``, as it should be.  ``data/quantities.csv`` has
what the book can state, and ``repeat``, within which a second run must agree:
0 says that a quantity is exact, all else follows from the reference's intervals
(`nestedae_utils.book.reference.repeat`) and is never typed.
"""

import csv
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from nestedae_utils.data.files import DATA

PAPER = "thota2024"
"""The paper that this book executes, by its key in ``references.bib``."""
REPRODUCED = "reproduced"
ONLY_AS_MADE = "reproduced only as made"
NOT_REPRODUCED = "not reproduced"
UNDECIDED = "undecided"
NOT_TESTABLE = "not testable"
NOT_RUN = "not run"
OTHER_SETTINGS = "other settings"
TWIN = "TWIN"
NO_PAPER_VALUE = "ours alone"
MARKS = {
    **{REPRODUCED: "✓", ONLY_AS_MADE: "◐", NOT_REPRODUCED: "✗", UNDECIDED: "?"},
    **{NOT_TESTABLE: "–", NOT_RUN: "…", OTHER_SETTINGS: "≠", TWIN: "≈"},
}
"""The verdicts on claims, in the order in which they are told."""
SIGNS = {"=": "", "<": "< ", "<=": "≤ ", ">": "> ", ">=": "≥ "}
"""The relations that a claim can state, as they are read."""
WAYS = (
    ("as_made", "as made", "made at"),
    ("as_should", "as it should be", "should at"),
)
"""The fields of the quantities that test a claim; the columns of value and cell."""


class Quantity(NamedTuple):
    """What the book can state; see the module's text for the fields."""

    quantity: str
    meaning: str
    unit: str
    repeat: float

    @property
    def exact(self) -> bool:
        """Whether nothing is drawn for it: a count in a published table, say."""
        return self.repeat == 0


class Claim(NamedTuple):
    """One claim of the paper; see the module's text for the fields."""

    claim: str
    words: str
    where: str
    place: str
    paper: float | None
    paper_spread: float | None
    relation: str
    tolerance: float | None
    as_made: str
    as_should: str
    reason: str
    source: str

    @property
    def stated(self) -> str:
        """The paper's number with its relation and spread, to be read."""
        if self.paper is None:
            return ""
        return SIGNS[self.relation] + plus_minus(self.paper, self.paper_spread)


def _rows(name: str) -> list[dict[str, Any]]:
    numbers = {"repeat", "paper", "paper_spread", "tolerance"}
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row |= {n: float(row[n]) if row[n] else None for n in numbers & row.keys()}
    return rows


@functools.cache
def quantities() -> dict[str, Quantity]:
    """Return ``data/quantities.csv`` by name."""
    return {row["quantity"]: Quantity(**row) for row in _rows("quantities.csv")}


@functools.cache
def claims() -> dict[str, Claim]:
    """Return all papers' claims by name; ``source`` is the paper's key."""
    return {
        row["claim"]: Claim(**row, source=path.stem.partition("_")[2] or PAPER)
        for path in sorted(DATA.glob("claims*.csv"))
        for row in _rows(path.name)
    }


@functools.cache
def by_quantity() -> dict[str, Claim]:
    """Return the claims by the quantity that tests them as made."""
    return {one.as_made: one for one in claims().values() if one.as_made}


@functools.cache
def settled_otherwise() -> frozenset[str]:
    """Return the claims of ``data/turned.csv``.

    They came out otherwise in another arithmetic or training path, as
    ``make arithmetic`` found: what hangs on that is undecided.
    """
    return frozenset(row["claim"] for row in _rows("turned.csv"))


Measured = tuple[float, float, float]
"""A value and the ends of its 95 % interval, which are the value if it has none."""


def holds(claim: Claim, measured: Measured) -> bool | None:
    """Tell whether an interval stands in a claim's relation; None if a part does."""
    nearest = sorted((*measured[1:], claim.paper or 0.0))[1]
    found = {_holds(claim, value) for value in (*measured, nearest)}
    return found.pop() if len(found) == 1 else None


def _holds(claim: Claim, value: float) -> bool:
    # decimal inputs: 0.05 apart must not fail on the last binary digit
    away, margin = value - (claim.paper or 0.0), 1e-12
    if claim.relation == "=":
        return abs(away) <= (claim.tolerance or 0.0) + margin
    side = away if claim.relation.startswith(">") else -away
    return side >= -margin if "=" in claim.relation else side > margin


def verdict(
    claim: Claim | None,
    values: Sequence[Measured | None],
    source: str = "paper",
    protocol: bool = True,
    otherwise: frozenset[str] | None = None,
) -> str:
    """Judge a claim by the values of the quantities that it names.

    The first is the value as made, or the only one; None was not measured.
    Nothing is compared on the twin, nor without the book's settings.  What
    came out otherwise in another arithmetic, of claims ``otherwise``, is
    undecided.
    """
    if otherwise is None:
        otherwise = settled_otherwise()
    held = [holds(claim, value) if claim and value else False for value in values]
    rules = {
        NOT_TESTABLE: not values,
        TWIN: source == "twin",
        NO_PAPER_VALUE: claim is None,
        OTHER_SETTINGS: not protocol,
        NOT_RUN: None in values,
        UNDECIDED: (claim is not None and claim.claim in otherwise)
        or (None in held and held[0] is not False),
        NOT_REPRODUCED: held[:1] == [False],
        ONLY_AS_MADE: not all(held),
    }
    return next((word for word, applies in rules.items() if applies), REPRODUCED)


def assess(
    results: Mapping[str, Mapping[str, Any]], otherwise: frozenset[str] | None = None
) -> pd.DataFrame:
    """Judge every claim by the chapters' results: one row a claim.

    ``made at`` and ``should at`` are the chapter and the count of the cell
    that computed a value, or None.  Beside the twin stands no paper's number.
    ``otherwise`` is that of `verdict`.
    """
    measured = {
        one["quantity"]: {**content, **one}
        for content in results.values()
        for one in content["records"]
    }
    rows = []
    for claim in claims().values():
        row = claim._asdict()
        names = [row[field] for field, *_ in WAYS if row[field]]
        used = [measured[name] for name in names if name in measured]
        values = [
            _measured(measured[name]) if name in measured else None for name in names
        ]
        source = "twin" if "twin" in {one["data_source"] for one in used} else "paper"
        protocol = all(one["as_in_paper"] for one in used)
        row["verdict"] = verdict(claim, values, source, protocol, otherwise)
        unit = quantities()[names[0]].unit if names else ""
        stated = f"{claim.stated} {'' if unit == '1' else unit}".strip()
        row["paper"] = "" if row["verdict"] == TWIN else stated
        for field, column, at in WAYS:
            one = measured.get(row[field])
            row[column] = written(one) if one else ""
            row[at] = (one["chapter"], one.get("cell")) if one else None
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _measured(record: Mapping[str, Any]) -> Measured:
    value, ends = record["value"], (record.get("low"), record.get("high"))
    return value, *(value if end is None else end for end in ends)


def turned(
    results: Mapping[str, Mapping[str, Any]],
    others: Mapping[str, Mapping[str, Any]],
    otherwise: frozenset[str] | None = None,
) -> dict[str, str]:
    """Say of each claim that two runs tested, and differ in, how."""
    now, then = (assess(one, otherwise).set_index("claim") for one in (results, others))
    lines = {}
    ran = (now["verdict"] != NOT_RUN) & (then["verdict"] != NOT_RUN)
    for name in now.index[ran & (now["verdict"] != then["verdict"])]:
        both = [
            f"{MARKS[one.verdict]} {one.verdict} ({one['as made']}; "
            f"{one['as it should be']})"
            for one in (now.loc[name], then.loc[name])
        ]
        lines[name] = f"{both[0]} now, {both[1]} before"
    return lines


def written(record: Mapping[str, Any]) -> str:
    """Write a record's value, its spread, and the ends of its interval."""
    text = plus_minus(record["value"], record["spread"])
    if record.get("low") is None:
        return text
    return f"{text} ({plus_minus(record['low'])} to {plus_minus(record['high'])})"


def plus_minus(value: float, spread: float | None = None) -> str:
    """Write a value, and its spread, with four significant digits."""
    whole = value == int(value) and abs(value) < 1e6
    text = f"{value:.0f}" if whole else f"{value:.4g}"
    if spread is None:
        return text
    # what rounding leaves of equal values
    alike = spread < 1e-6 * max(1.0, abs(value))
    return f"{text} ± {0.0 if alike else spread:.2g}"
