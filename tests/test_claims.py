"""The paper's claims: their tables, their verdicts and what tests them."""

import csv
import math
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_records import record, results

from nestedae_utils.book import claims, records
from nestedae_utils.book.claims import assess, verdict
from nestedae_utils.data.files import DATA

REPRODUCED, ONLY_AS_MADE, NOT_REPRODUCED, _, NOT_TESTABLE, NOT_RUN, *_ = claims.MARKS
ALL = claims.claims()
TESTED = [one for one in ALL.values() if one.relation]
OTHERWISE = claims.settled_otherwise()
# both quantities, each on its own, neither
NAMES = "pce_mae_val nested_below_single gaps_close single_shape spiro_high"
PCE, BELOW, CLOSE, SHAPE, HTL = (ALL[name] for name in NAMES.split())
numbers = st.floats(-1e3, 1e3)
NAME = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"


def exact(paper, tolerance):
    return PCE._replace(paper=paper, tolerance=tolerance)


@pytest.fixture(autouse=True)
def one_arithmetic(monkeypatch):
    """Judge by values alone, not by what another arithmetic gave."""
    monkeypatch.setattr(claims, "settled_otherwise", frozenset)


# --- the tables ------------------------------------------------------------


def rows(name, columns):
    """Return the names in a table of texts; look at its cells."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == list(columns)
    names = [line[0] for line in lines]
    assert len(set(names)) == len(names)
    for line in lines:
        assert len(line) == len(header), line
        assert re.fullmatch(NAME, line[0]), line
        assert all(cell == cell.strip() for cell in line), line
    return names


def faults(claim):
    """Return the fields of a claim that do not fit together."""
    known = claims.quantities()
    names = [name for name in (claim.as_made, claim.as_should) if name]

    def number(value, wanted, minimum=-math.inf):
        if value is None or not wanted:
            return value is None and not wanted
        return minimum <= value < math.inf

    spread = claim.paper_spread is not None
    place = r"(Fig\. |Sec\. |Table )\S+( .*)?|title|abstract|conclusions"
    good = {
        "words": claim.words and claim.words[-1] not in ".,;",
        "where": re.match(place, claim.where),
        "as_made": claim.as_made in ("", *known),
        "as_should": claim.as_should in ("", *known),
        "relation": claim.relation in (claims.SIGNS if names else ("",)),
        "paper": number(claim.paper, names),
        "paper_spread": number(claim.paper_spread, names and spread, 0),
        "tolerance": number(claim.tolerance, claim.relation == "=", 0),
        "reason": names or claim.reason,
    }
    return [name for name, passed in good.items() if not passed]


def test_the_tables_are_well_formed():
    known = claims.quantities()
    lines = rows("quantities.csv", claims.Quantity._fields)
    assert lines == list(known)
    for one in known.values():
        assert one.meaning, one
        assert 0 <= one.repeat < math.inf, one
        # a number without a unit is a count: an exact one
        assert one.unit or one.repeat == 0, one
    fields = claims.Claim._fields[:-1]  # the source is the file's
    paths = sorted(DATA.glob("claims*.csv"))
    lines = [name for path in paths for name in rows(path.name, fields)]
    assert lines == list(ALL)
    for claim in ALL.values():
        assert faults(claim) == [], claim.claim
        units = {known[n].unit for n in (claim.as_made, claim.as_should) if n}
        # both are compared with the same number
        assert len(units) == (claim in TESTED), claim.claim
    made = Counter(one.as_made for one in TESTED if one.as_made)
    assert set(made.values()) == {1}, "a quantity as made tests one claim"
    assert claims.by_quantity().keys() == made.keys()
    ours = (one for one in ALL.values() if one.source == claims.PAPER)
    stated = Counter(one.where for one in ours)
    assert (stated["Fig. 2"], stated["Table 1"]) == (8, 18)


def test_each_place_of_a_claim_is_in_the_index():
    holds = {}
    for path in DATA.glob("places*.csv"):
        source = path.stem.partition("_")[2] or claims.PAPER
        lines = list(csv.DictReader(path.open(encoding="utf-8")))
        assert all(line["holds"] for line in lines)
        holds[source] = {line["place"]: line["holds"] for line in lines}
        assert len(lines) == len(holds[source])
    for claim in ALL.values():
        places = claim.place.split("; ")
        assert set(places) <= holds[claim.source].keys(), claim.claim
        if claim.where != "conclusions":  # Sec. 4
            assert places[0].startswith(claim.where.split(" to ")[0]), claim.claim
    # each number of the table and of the figure once, none of what has none
    known = holds[claims.PAPER]
    numbers = {place for place in known if re.match(r"(Table 1|Fig\. 2),", place)}
    none = {place for place, what in known.items() if what == "not applicable"}
    ours = [one for one in ALL.values() if one.source == claims.PAPER]
    cells = [one.place for one in ours if one.where in ("Fig. 2", "Table 1")]
    assert sorted(cells) == sorted(numbers - none)


def test_tolerances_are_the_papers_own_spreads():
    """Where it gives one; half a unit of the last digit where that is zero."""
    for one in TESTED:
        if one.paper_spread is not None:
            assert one.tolerance == (one.paper_spread or 0.5), one.claim
        elif one.tolerance:
            assert "tolerance" in one.reason, f"{one.claim}: whose is it?"
            assert "ours" in one.reason, one.claim


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (0.27123, 0.02849, "0.2712 ± 0.028"),
        *((494.0, None, "494"), (1e6, None, "1e+06"), (3.0, 1e-9, "3 ± 0")),
        (2.6645e-15, None, "2.664e-15"),
    ],
)
def test_plus_minus(value, spread, text):
    assert claims.plus_minus(value, spread) == text


# --- verdicts --------------------------------------------------------------


@given(numbers, numbers, st.floats(0, 1e3))
def test_a_relation_is_what_it_says_but_for_the_last_digits(value, paper, tolerance):
    def holds(claim, value):
        return claims.holds(claim, (value, value, value))

    near = holds(exact(paper, tolerance), value)
    assert holds(exact(value, tolerance), paper) == near
    if abs(abs(value - paper) - tolerance) > 1e-9:
        assert near == (abs(value - paper) < tolerance)
    signs = ("<", "<=", ">", ">=")
    held = {s: holds(BELOW._replace(paper=paper, relation=s), value) for s in signs}
    assert held["<"] != held[">="]
    assert held[">"] != held["<="]
    assert held["<"] <= held["<="]
    if abs(value - paper) > 1e-9:
        assert held["<"] == (value < paper)
    # 2.35 - 2.3 is above 0.05
    assert holds(exact(2.3, 0.05), 2.35)
    assert not holds(BELOW._replace(paper=0.3, relation="<"), 0.3 - 1e-16)


@pytest.mark.parametrize("claim", TESTED, ids=lambda one: one.claim)
def test_a_changed_value_changes_the_verdict(claim):
    away = {"=": 1.0 + (claim.tolerance or 0.0), "<=": 1.0, ">=": -1.0}
    bad = claim.paper + away.get(claim.relation, 0.0)
    good = claim.paper + {"<": -1.0, ">": 1.0}.get(claim.relation, 0.0)
    names = {name for name in (claim.as_made, claim.as_should) if name}
    for value, expected in ((good, REPRODUCED), (bad, NOT_REPRODUCED)):
        ran = results(*(record(name, value) for name in names))
        judged = row(assess({"0": ran}), claim)["verdict"]
        assert verdict(claim, [(value,) * 3]) == judged == expected
    assert verdict(claim, [(good,) * 3, (bad,) * 3]) == ONLY_AS_MADE
    assert verdict(claim, [(bad,) * 3, (good,) * 3]) == NOT_REPRODUCED
    # an interval that reaches over the limit decides nothing
    open_one = (good, min(good, bad), max(good, bad))
    assert verdict(claim, [open_one]) == claims.UNDECIDED
    assert verdict(claim, [(good,) * 3, open_one]) == claims.UNDECIDED
    assert verdict(claim, [(bad,) * 3, open_one]) == NOT_REPRODUCED


@pytest.mark.parametrize(
    ("claim", "values", "given", "expected"),
    [
        (SHAPE, [], {}, NOT_TESTABLE),
        (SHAPE, [], {"source": "twin", "protocol": False}, NOT_TESTABLE),
        (PCE, [None, None], {}, NOT_RUN),
        # not even where the missing value could not change the verdict
        (PCE, [(9, 9, 9), None], {}, NOT_RUN),
        (PCE, [(2, 2, 2)] * 2, {"source": "twin", "protocol": False}, claims.TWIN),
        (PCE, [(2.38,) * 3, None], {"protocol": False}, claims.OTHER_SETTINGS),
        (None, [(1, 1, 1)], {"protocol": False}, claims.NO_PAPER_VALUE),
        (None, [(1, 1, 1)], {"source": "twin"}, claims.TWIN),
    ],
)
def test_what_is_not_compared(claim, values, given, expected):
    assert verdict(claim, values, **given) == expected


# --- all claims and the chapters' results ----------------------------------


def row(found, claim):
    """Return one claim's row of what `assess` found."""
    (line,) = found[found["claim"] == claim.claim].to_dict("records")
    return line


def test_assess_takes_each_value_with_its_chapter_and_cell():
    made = record(PCE.as_made, 2.38, 0.06) | {"cell": 6}
    should = record(PCE.as_should, 2.62) | {"cell": 9}
    close = record(CLOSE.as_should, 70.0)
    ran = {"06_a": results(made, chapter="06_a")}
    found = assess(ran | {"08_b": results(should, close, chapter="08_b")})
    pce, near, htl, shape = (row(found, one) for one in (PCE, CLOSE, HTL, SHAPE))
    assert PCE._asdict().items() <= {**pce, "paper": 2.384}.items()
    assert (pce["paper"], pce["verdict"]) == ("2.384 ± 0.034 % points", ONLY_AS_MADE)
    assert (pce["as made"], pce["as it should be"]) == ("2.38 ± 0.06", "2.62")
    assert (pce["made at"], pce["should at"]) == (("06_a", 6), ("08_b", 9))
    assert (near["paper"], near["verdict"]) == ("> 50 %", REPRODUCED)
    # run outside a notebook, or read from the reference
    assert (near["made at"], near["should at"]) == (None, ("08_b", None))
    # a unit of one is none
    assert (htl["paper"], htl["verdict"]) == ("> 1", NOT_RUN)
    assert near["as made"] == shape["paper"] == shape["as made"] == ""
    assert shape["verdict"] == NOT_TESTABLE


@pytest.mark.parametrize("first", ["as_made", "as_should"])
def test_assess_says_twin_and_other_settings(first):
    names = {PCE.as_made, PCE.as_should}
    last = getattr(PCE, first)
    (other,) = names - {last}

    def judged(**given):
        ran = results(record(last, 2.38), chapter="08", **given)
        kept = results(record(other, 2.38), chapter="06")
        return row(assess({"06": kept, "08": ran}), PCE)

    assert judged()["verdict"] == REPRODUCED
    changed = judged(same=False)
    assert changed["verdict"] == claims.OTHER_SETTINGS
    assert changed["paper"].startswith("2.384")
    on_twin = judged(source="twin", same=False)
    assert (on_twin["verdict"], on_twin["paper"]) == (claims.TWIN, "")
    assert on_twin["as made"] == on_twin["as it should be"] == "2.38"


def test_the_references_findings():
    """Some by name, and by a rule of its own every claim that can be tested."""
    kept = records.results_of(records.REFERENCE)
    found = assess(kept)
    ours = {r["quantity"]: r for c in kept.values() for r in c["records"]}
    for claim in TESTED:
        one, held = ours[claim.as_made or claim.as_should], set()
        low, high = (
            one["value"] if one[e] is None else one[e] for e in ("low", "high")
        )
        if claim.relation == "=":
            low, high = (round(end - claim.paper, 9) for end in (low, high))
            held = {low >= -claim.tolerance and high <= claim.tolerance}
            if low <= claim.tolerance and high >= -claim.tolerance:
                held.add(True)
        else:
            for end in (low, high):
                held.add(eval(f"{end!r} {claim.relation} {claim.paper!r}"))
        judged = row(found, claim)["verdict"]
        if held == {False}:
            assert judged == NOT_REPRODUCED, claim.claim
        elif held == {True}:
            assert judged != NOT_REPRODUCED, claim.claim
        else:
            assert judged == claims.UNDECIDED, claim.claim
    assert set(found["verdict"]) == {*list(claims.MARKS)[:5]}
    for expected, names in {
        REPRODUCED: "device_rows",
        ONLY_AS_MADE: "gap_mae_train",
        NOT_REPRODUCED: "gap_rows",
        NOT_TESTABLE: "fig3_points on_par_gap",
    }.items():
        for name in names.split():
            assert row(found, ALL[name])["verdict"] == expected, name
    there = assess(kept, OTHERWISE)
    for name in OTHERWISE:
        assert row(there, ALL[name])["verdict"] == claims.UNDECIDED, name
