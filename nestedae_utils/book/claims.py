"""The paper's claims, and what is measured to check them.

``data/claims.csv`` has one row for each claim: its place in the paper, the
number and the relation that it states, and the two quantities that test it:
``as_made``, computed the way the authors did, and ``as_should``, measured as
it should be.  ``data/quantities.csv`` has one row for each quantity of the
book: its meaning, its unit, and ``repeat``, the tolerance within which a
second run, on another machine, must agree with the first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError

REPRODUCED = "reproduced"
ONLY_AS_MADE = "reproduced only as made"
NOT_REPRODUCED = "not reproduced"
NOT_TESTABLE = "not testable"
NOT_RUN = "not run"
OTHER_SETTINGS = "other settings"
TWIN = "TWIN"
MARKS = {
    REPRODUCED: "✓",
    ONLY_AS_MADE: "◐",
    NOT_REPRODUCED: "✗",
    NOT_TESTABLE: "–",
    NOT_RUN: "…",
    OTHER_SETTINGS: "≠",
    TWIN: "≈",
}
"""The verdicts, in the order in which they are told, each with its mark."""

SIGNS = {"=": "", "<": "< ", "<=": "≤ ", ">": "> ", ">=": "≥ "}
"""The relations that a claim can state, as they are read."""

# Decimal inputs: 0.05 apart must not fail on the last binary digit.
_MARGIN = 1e-12
_HOLDS = {
    "<": lambda value, paper: value < paper - _MARGIN,
    "<=": lambda value, paper: value <= paper + _MARGIN,
    ">": lambda value, paper: value > paper + _MARGIN,
    ">=": lambda value, paper: value >= paper - _MARGIN,
}
_ASSESSED = (
    *("claim", "words", "where", "paper", "as made", "as it should be"),
    *("verdict", "reason", "made at", "should at"),
)


@dataclass(frozen=True)
class Quantity:
    """What the book can state; see the module's text for the fields."""

    quantity: str
    meaning: str
    unit: str
    repeat: float


@functools.cache
def quantities() -> dict[str, Quantity]:
    """Return ``data/quantities.csv`` by name."""
    table = pd.read_csv(DATA / "quantities.csv", keep_default_na=False)
    return {
        row["quantity"]: Quantity(**{**row, "repeat": float(row["repeat"])})
        for row in table.to_dict("records")
    }


@dataclass(frozen=True)
class Claim:
    """One claim of the paper; see the module's text for the fields.

    ``tolerance`` belongs to the relation "=" and to no other.  A claim that
    no quantity tests has neither number nor relation, but a reason; with
    other claims ``reason`` is a remark, or empty.

    Raises
    ------
    DataError
        If the fields do not fit together.
    """

    claim: str
    words: str
    where: str
    paper: float | None
    paper_spread: float | None
    relation: str
    tolerance: float | None
    as_made: str
    as_should: str
    reason: str

    def __post_init__(self) -> None:
        names = ("", *quantities())
        tested = bool(self.as_made or self.as_should)
        spread = self.paper_spread is not None
        rules = {
            "words": (bool(self.words), "a text"),
            "where": (bool(self.where), "a place in the paper"),
            "as_made": (self.as_made in names, "a known quantity or none"),
            "as_should": (self.as_should in names, "a known quantity or none"),
            "relation": (
                self.relation in (SIGNS if tested else ("",)),
                f"one of {' '.join(SIGNS)} if a quantity is named, else none,",
            ),
            "paper": (
                _fits(self.paper, tested),
                "a number if a quantity is named, else none,",
            ),
            "paper_spread": (
                _fits(self.paper_spread, tested and spread, 0),
                "a number from 0 beside the paper's, or none,",
            ),
            "tolerance": (
                _fits(self.tolerance, self.relation == "=", 0),
                "a number from 0 with =, else none,",
            ),
            "reason": (
                tested or bool(self.reason),
                "a text if no quantity is named",
            ),
        }
        for name, (good, allowed) in rules.items():
            if not good:
                raise DataError(
                    f"data/claims.csv, {self.claim}: {name} "
                    f"{getattr(self, name)!r} given, {allowed} is allowed; "
                    "correct that line."
                )

    @property
    def stated(self) -> str:
        """The paper's number with its relation and spread, to be read."""
        if self.paper is None:
            return ""
        return SIGNS[self.relation] + plus_minus(self.paper, self.paper_spread)

    @property
    def unit(self) -> str:
        """The unit of the quantities that test it."""
        name = self.as_made or self.as_should
        return quantities()[name].unit if name else ""


def _fits(
    number: float | None, wanted: bool, minimum: float = -math.inf
) -> bool:
    """Tell whether a finite number is there exactly if it is wanted."""
    if number is None or not wanted:
        return number is None and not wanted
    return math.isfinite(number) and number >= minimum


def read_claims(path: Path) -> dict[str, Claim]:
    """Read a table of claims.

    Raises
    ------
    DataError
        If a column is missing, a cell is no number that should be one, a
        name stands twice, or a claim's fields do not fit together.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    columns = [field.name for field in fields(Claim)]
    if list(table.columns) != columns:
        raise DataError(
            f"{path.name}: columns {', '.join(table.columns)} given, "
            f"{', '.join(columns)} are allowed; correct its first line."
        )
    for name in ("claim", "as_made"):
        given = table[name][table[name] != ""]
        for twice in given[given.duplicated()]:
            raise DataError(
                f"{path.name}: {name} {twice!r} given twice, once is allowed; "
                "remove one of the lines."
            )
    found = {}
    for row in table.to_dict("records"):
        for key in ("paper", "paper_spread", "tolerance"):
            try:
                row[key] = float(row[key]) if row[key] else None
            except ValueError:
                raise DataError(
                    f"{path.name}, {row['claim']}: {key} {row[key]!r} given, "
                    "a number or nothing is allowed; correct that line."
                ) from None
        found[row["claim"]] = Claim(**row)
    return found


@functools.cache
def claims() -> dict[str, Claim]:
    """Return ``data/claims.csv`` by name."""
    return read_claims(DATA / "claims.csv")


@functools.cache
def by_quantity() -> dict[str, Claim]:
    """Return the claims by the quantity that tests them as made."""
    return {one.as_made: one for one in claims().values() if one.as_made}


def holds(claim: Claim, value: float) -> bool:
    """Tell whether a value stands in the claim's relation to the paper's."""
    if claim.relation == "=":
        return abs(value - claim.paper) <= claim.tolerance + _MARGIN
    return _HOLDS[claim.relation](value, claim.paper)


def verdict(
    claim: Claim,
    made: float | None = None,
    should: float | None = None,
    *,
    source: str = "paper",
    protocol: bool = True,
) -> str:
    """Judge a claim by what was measured.

    Parameters
    ----------
    claim
        The claim.
    made, should
        Values of its quantities ``as_made`` and ``as_should``; None where
        the claim names none, or where its chapter has not run.
    source
        On the ``"twin"`` nothing is compared.
    protocol
        Were they computed with the paper's settings?  Else nothing is
        compared either.

    Returns
    -------
    str
        One of :data:`MARKS`.
    """
    named = [
        (name, value)
        for name, value in ((claim.as_made, made), (claim.as_should, should))
        if name
    ]
    if not named:
        return NOT_TESTABLE
    if source == "twin":
        return TWIN
    if not protocol:
        return OTHER_SETTINGS
    if any(value is None for _, value in named):
        return NOT_RUN
    # named[0] is the value as made, or the only one
    if not holds(claim, named[0][1]):
        return NOT_REPRODUCED
    return REPRODUCED if holds(claim, named[-1][1]) else ONLY_AS_MADE


def assess(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Judge every claim by the chapters' results.

    Parameters
    ----------
    results
        Results, or the reference, by chapter.

    Returns
    -------
    pandas.DataFrame
        One row a claim.  ``made at`` and ``should at`` are the chapter and
        the count of the cell that computed the value, or None.  Beside what
        was computed on the twin stands no number of the paper.
    """
    found = {
        one["quantity"]: (chapter, one)
        for chapter, content in results.items()
        for one in content["records"]
    }
    rows = []
    for claim in claims().values():
        pair = [found.get(name) for name in (claim.as_made, claim.as_should)]
        used = [results[one[0]] for one in pair if one]
        twin = any(content["data_source"] == "twin" for content in used)
        unit = "" if claim.unit == "1" else claim.unit
        judged = verdict(
            claim,
            *(one and one[1]["value"] for one in pair),
            source="twin" if twin else "paper",
            protocol=all(content["as_in_paper"] for content in used),
        )
        rows.append(
            (
                *(claim.claim, claim.words, claim.where),
                "" if judged == TWIN else f"{claim.stated} {unit}".strip(),
                *(
                    plus_minus(one[1]["value"], one[1]["spread"])
                    if one
                    else ""
                    for one in pair
                ),
                *(judged, claim.reason),
                *(one and (one[0], one[1].get("cell")) for one in pair),
            )
        )
    return pd.DataFrame(rows, columns=_ASSESSED)


def plus_minus(value: float, spread: float | None = None) -> str:
    """Write a value, and its spread, with four significant digits."""
    text = f"{value:.4g}"
    if value == int(value) and abs(value) < 1e6:
        text = f"{value:.0f}"
    if spread is None:
        return text
    # what rounding leaves of equal values
    alike = spread < 1e-6 * max(1.0, abs(value))
    return f"{text} ± {0.0 if alike else spread:.2g}"
