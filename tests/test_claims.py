"""The paper's claims: their table, their verdicts and what tests them."""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.book import claims, records
from nestedae_utils.book.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    NOT_TESTABLE,
    ONLY_AS_MADE,
    OTHER_SETTINGS,
    REPRODUCED,
    SIGNS,
    TWIN,
    Claim,
    assess,
    holds,
    read_claims,
    verdict,
)
from nestedae_utils.errors import DataError

TABLE = Path(__file__).parents[1] / "data" / "claims.csv"
ALL = claims.claims()
TESTED = [one for one in ALL.values() if one.relation]
EACH = pytest.mark.parametrize("claim", TESTED, ids=lambda one: one.claim)
# both quantities, each on its own, neither
PCE, BELOW, ON_PAR, SHAPE = (
    ALL[name]
    for name in "pce_mae_val nested_below_single on_par_gap "
    "single_shape".split()
)
numbers = st.floats(-1e3, 1e3)
tolerances = st.floats(0, 1e3)


def exact(paper, tolerance):
    return replace(PCE, paper=paper, tolerance=tolerance)


def inside(claim):
    """Return a value at which a claim holds."""
    step = {"=": 0.0, "<": -1.0, "<=": 0.0, ">": 1.0, ">=": 0.0}
    return claim.paper + step[claim.relation]


def outside(claim):
    """Return a value at which a claim does not hold."""
    away = {
        "=": 1.0 + (claim.tolerance or 0.0),
        "<": 0.0,
        "<=": 1.0,
        ">": 0.0,
        ">=": -1.0,
    }
    return claim.paper + away[claim.relation]


def message(call, *arguments, **given):
    with pytest.raises(DataError) as caught:
        call(*arguments, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- data/claims.csv -------------------------------------------------------


def test_the_table_is_complete():
    assert len(ALL) >= 25
    assert list(ALL) == [one.claim for one in ALL.values()]
    named = Counter(one.as_made for one in TESTED if one.as_made)
    assert set(named.values()) == {1}, "a quantity as made tests one claim"
    assert claims.by_quantity().keys() == named.keys()
    assert claims.by_quantity()["pce_mae_val_as_made"] is PCE
    places = Counter(one.where for one in ALL.values())
    assert places["Fig. 2"] == 9
    assert places["Table 1"] == 14


def test_the_table_is_well_formed():
    known = claims.quantities()
    for claim in ALL.values():
        name = claim.claim
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name), name
        assert re.match(
            r"(Fig\. |Sec\. |Table )\S|(title|abstract|conclusions)$",
            claim.where,
        )
        assert claim.words[-1] not in ".,;", name
        units = {
            known[one].unit for one in (claim.as_made, claim.as_should) if one
        }
        # both are compared with the same number
        assert len(units) == (claim in TESTED), name
        assert claim in TESTED or claim.reason, name
        for field in fields(Claim):
            value = getattr(claim, field.name)
            assert not isinstance(value, str) or value == value.strip(), name


def test_claims_cannot_be_altered():
    with pytest.raises(AttributeError):
        PCE.paper = 0.1


def test_stated_is_written_to_be_read():
    assert PCE.stated == "2.384 ± 0.034"
    for relation, sign in SIGNS.items():
        tolerance = 0.5 if relation == "=" else None
        claim = replace(
            PCE, relation=relation, tolerance=tolerance, paper_spread=None
        )
        assert claim.stated == f"{sign}2.384"
    assert SHAPE.stated == SHAPE.unit == ""
    assert (PCE.unit, ON_PAR.unit) == ("% points", "eV")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"relation": "≈"}, "relation"),
        ({"relation": ""}, "relation"),
        ({"tolerance": None}, "tolerance"),
        ({"relation": "<"}, "tolerance"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"tolerance": math.inf}, "tolerance"),
        ({"paper": None}, "paper"),
        ({"paper": math.nan}, "paper"),
        ({"paper_spread": -1.0}, "paper_spread"),
        ({"as_made": "pce_mae_val_as_mad"}, "as_made"),
        ({"as_should": "pce"}, "as_should"),
        ({"as_made": "", "as_should": ""}, "relation"),
        ({"words": ""}, "words"),
        ({"where": ""}, "where"),
    ],
    ids=str,
)
def test_a_claim_that_does_not_fit_is_refused(changes, field):
    told = message(replace, PCE, **changes)
    assert told.startswith(f"data/claims.csv, pce_mae_val: {field} ")
    assert "allowed; correct that line" in told


def test_a_claim_without_quantities_has_a_reason_and_nothing_else():
    assert "reason '' given" in message(replace, SHAPE, reason="")
    for field in ("paper", "paper_spread", "tolerance"):
        assert field in message(replace, SHAPE, **{field: 1.0})
    assert "relation '='" in message(replace, SHAPE, relation="=")


def altered(path, change):
    """Write the table of claims with its lines changed."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows.append(rows[-1]), "claim 'supplement_components'"),
        (
            lambda rows: rows.append(["again", *rows[1][1:]]),
            "as_made 'fig2_clean_single_train' given twice",
        ),
        (
            lambda rows: rows[1].__setitem__(3, "0,271"),
            "fig2_clean_single_train: paper '0,271' given, a number",
        ),
        (lambda rows: rows[0].__setitem__(1, "claims"), "columns claim"),
    ],
    ids=["name twice", "quantity twice", "no number", "no column"],
)
def test_a_damaged_table_is_refused(tmp_path, change, told):
    found = message(read_claims, altered(tmp_path / "claims.csv", change))
    assert found.startswith("claims.csv")
    assert told in found
    assert "allowed" in found
    same = altered(tmp_path / "same.csv", lambda rows: None)
    assert read_claims(same) == ALL


# --- does a value hold? ----------------------------------------------------


@given(numbers, numbers, tolerances, tolerances)
@settings(deadline=None)
def test_equality_is_symmetric_and_grows_with_the_tolerance(
    value, paper, tolerance, more
):
    found = holds(exact(paper, tolerance), value)
    assert holds(exact(value, tolerance), paper) == found
    assert holds(exact(-paper, tolerance), -value) == found
    if found:
        assert holds(exact(paper, tolerance + more), value)


@given(
    numbers,
    tolerances,
    st.floats(-1, 1),
    st.floats(1e-6, 1e3),
    st.sampled_from([-1, 1]),
)
@settings(deadline=None)
def test_equality_ends_at_the_tolerance(paper, tolerance, share, away, side):
    claim = exact(paper, tolerance)
    assert holds(claim, paper + share * tolerance)
    assert not holds(claim, paper + side * (tolerance + away))


@given(numbers, numbers)
@settings(deadline=None)
def test_limits_are_each_others_opposites(value, paper):
    def held(relation):
        claim = replace(BELOW, paper=paper, relation=relation, tolerance=None)
        return holds(claim, value)

    assert held("<") != held(">=")
    assert held(">") != held("<=")
    assert held("<") <= held("<=")
    assert held(">") <= held(">=")
    if abs(value - paper) > 1e-9:
        assert held("<") == (value < paper)
        assert held(">") == (value > paper)


def test_the_last_binary_digit_does_not_decide():
    assert 2.35 - 2.3 > 0.05
    assert holds(exact(2.3, 0.05), 2.35)
    assert holds(exact(2.3, 0.05), 2.25)
    assert holds(exact(499, 0), 499)
    assert not holds(exact(499, 0), 494)
    limit = replace(BELOW, paper=0.3, relation="<", tolerance=None)
    assert 0.1 + 0.2 > 0.3 > 0.3 - 1e-16
    assert not holds(limit, 0.1 + 0.2)
    assert not holds(limit, 0.3 - 1e-16)
    assert holds(replace(limit, relation="<="), 0.1 + 0.2)


# --- verdicts --------------------------------------------------------------


@EACH
def test_a_changed_value_changes_the_verdict(claim):
    good, bad = inside(claim), outside(claim)
    assert holds(claim, good)
    assert not holds(claim, bad)
    assert verdict(claim, good, good) == REPRODUCED
    assert verdict(claim, bad, bad) == NOT_REPRODUCED
    if claim.as_made and claim.as_should:
        assert verdict(claim, good, bad) == ONLY_AS_MADE
        assert verdict(claim, bad, good) == NOT_REPRODUCED


@given(st.sampled_from(TESTED), numbers, numbers)
@settings(deadline=None)
def test_a_verdict_depends_on_what_holds_only(claim, made, should):
    plain = [
        inside(claim) if holds(claim, value) else outside(claim)
        for value in (made, should)
    ]
    assert verdict(claim, made, should) == verdict(claim, *plain)


@given(numbers, numbers, numbers, tolerances, tolerances)
@settings(deadline=None)
def test_a_larger_tolerance_never_worsens_a_verdict(
    made, should, paper, tolerance, more
):
    order = (NOT_REPRODUCED, ONLY_AS_MADE, REPRODUCED)
    first = verdict(exact(paper, tolerance), made, should)
    second = verdict(exact(paper, tolerance + more), made, should)
    assert order.index(second) >= order.index(first)


def test_a_claim_with_one_quantity():
    assert verdict(BELOW, 4.0) == REPRODUCED
    assert verdict(BELOW, 3.0) == NOT_REPRODUCED
    assert verdict(ON_PAR, None, 0.01) == REPRODUCED
    assert verdict(ON_PAR, None, 0.03) == NOT_REPRODUCED


def test_what_has_not_run_is_not_judged():
    assert verdict(PCE) == NOT_RUN
    assert verdict(PCE, 2.38) == NOT_RUN
    # not even where the missing value could not change the verdict
    assert verdict(PCE, 9.0) == NOT_RUN
    assert verdict(PCE, None, 2.38) == NOT_RUN
    assert verdict(BELOW) == verdict(ON_PAR) == NOT_RUN
    assert verdict(BELOW, 0.0) == NOT_REPRODUCED


@given(
    st.sampled_from(list(ALL.values())),
    st.none() | numbers,
    st.none() | numbers,
    st.booleans(),
)
@settings(deadline=None)
def test_only_the_papers_data_and_settings_are_compared(
    claim, made, should, protocol
):
    on_twin = verdict(claim, made, should, source="twin", protocol=protocol)
    other = verdict(claim, made, should, protocol=False)
    if claim in TESTED:
        assert (on_twin, other) == (TWIN, OTHER_SETTINGS)
    else:
        assert on_twin == other == NOT_TESTABLE
        assert verdict(claim, made, should) == NOT_TESTABLE


# --- all claims and the chapters' results ----------------------------------


def results(*found, source="paper", as_in_paper=True):
    """Return what of a chapter's results is assessed, as read from disk."""
    content = {
        "data_source": source,
        "as_in_paper": as_in_paper,
        "records": records.as_dicts(found),
    }
    return json.loads(json.dumps(content))


def row(found, claim):
    """Return one claim's row of what `assess` found."""
    (line,) = found[found["claim"] == claim.claim].to_dict("records")
    return line


def test_assess_before_anything_ran():
    found = assess({})
    assert found["claim"].tolist() == list(ALL)
    for claim, judged in zip(ALL.values(), found["verdict"], strict=True):
        assert judged == (NOT_RUN if claim in TESTED else NOT_TESTABLE)
    assert set(found["as made"]) == set(found["as it should be"]) == {""}
    assert found["made at"].isna().all()
    assert row(found, SHAPE)["paper"] == ""
    assert row(found, SHAPE)["reason"]


def test_assess_takes_each_value_with_its_chapter_and_cell():
    found = assess(
        {
            "06_a": results(
                records.record(PCE.as_made, 2.38, 0.06, 5, cell=6)
            ),
            "08_b": results(
                records.record(PCE.as_should, 2.62, cell=9),
                records.record(ON_PAR.as_should, 0.01),
            ),
        }
    )
    assert row(found, PCE) == {
        "claim": "pce_mae_val",
        "words": PCE.words,
        "where": "Table 1",
        "paper": "2.384 ± 0.034 % points",
        "as made": "2.38 ± 0.06",
        "as it should be": "2.62",
        "verdict": ONLY_AS_MADE,
        "reason": PCE.reason,
        "made at": ("06_a", 6),
        "should at": ("08_b", 9),
    }
    on_par = row(found, ON_PAR)
    assert on_par["paper"] == "< 0.02 eV"
    assert (on_par["verdict"], on_par["as made"]) == (REPRODUCED, "")
    assert on_par["made at"] is None
    # run outside a notebook, or read from the reference
    assert on_par["should at"] == ("08_b", None)
    assert row(found, BELOW)["verdict"] == NOT_RUN
    # a unit of one is none
    assert row(found, ALL["best_htl"])["paper"] == "> 1"


@EACH
def test_assess_judges_by_this_runs_values(claim):
    good, bad = inside(claim), outside(claim)
    names = [name for name in (claim.as_made, claim.as_should) if name]
    for value, expected in ((good, REPRODUCED), (bad, NOT_REPRODUCED)):
        ran = results(*(records.record(name, value) for name in {*names}))
        assert row(assess({"0": ran}), claim)["verdict"] == expected
    if len(set(names)) == 2:
        ran = results(
            records.record(names[0], good), records.record(names[1], bad)
        )
        assert row(assess({"0": ran}), claim)["verdict"] == ONLY_AS_MADE


@pytest.mark.parametrize("which", ["as_made", "as_should"])
def test_assess_says_twin_and_other_settings(which):
    names = {"as_made": PCE.as_made, "as_should": PCE.as_should}
    last = records.record(names.pop(which), 2.38)
    (first,) = (records.record(name, 2.38) for name in names.values())

    def judged(**given):
        ran = {"06": results(first), "08": results(last, **given)}
        return row(assess(ran), PCE)

    assert judged()["verdict"] == REPRODUCED
    other = judged(as_in_paper=False)
    assert (other["verdict"], other["paper"][:5]) == (OTHER_SETTINGS, "2.384")
    on_twin = judged(source="twin")
    assert (on_twin["verdict"], on_twin["paper"]) == (TWIN, "")
    assert on_twin["as made"] == on_twin["as it should be"] == "2.38"
    assert judged(source="twin", as_in_paper=False)["verdict"] == TWIN


# --- the reference ---------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    kept = records.results_of(records.REFERENCE)
    if not kept:
        pytest.skip("there is no data/reference yet: make reference")
    return kept


def test_the_references_values_and_verdicts_agree(reference):
    """By a rule of its own, on every claim that the reference can test."""
    values = {
        one["quantity"]: one["value"]
        for content in reference.values()
        for one in content["records"]
    }
    compared = 0
    for line in assess(reference).to_dict("records"):
        claim = ALL[line["claim"]]
        made = values.get(claim.as_made)
        if made is None:
            continue
        compared += 1
        if claim.relation == "=":
            held = round(abs(made - claim.paper), 9) <= claim.tolerance
        else:
            held = eval(f"{made!r} {claim.relation} {claim.paper!r}")
        alone = records.record(claim.as_made, made).verdict
        assert alone == (REPRODUCED if held else NOT_REPRODUCED), claim.claim
        if line["verdict"] != NOT_RUN:
            as_made = line["verdict"] in (REPRODUCED, ONLY_AS_MADE)
            assert as_made == held, claim.claim
    assert compared >= 25


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("fig2_clean_single_test", REPRODUCED),
        ("gap_mae_val", REPRODUCED),
        ("device_rows", REPRODUCED),
        ("pce_mae_val", ONLY_AS_MADE),
        ("single_pce_mae_val", ONLY_AS_MADE),
        ("etl_accuracy_val", ONLY_AS_MADE),
        ("gap_rows", NOT_REPRODUCED),
        ("missing_gaps", NOT_REPRODUCED),
        ("latents_gap", NOT_REPRODUCED),
        ("fig3_points", NOT_TESTABLE),
    ],
)
def test_the_references_findings(reference, claim, expected):
    assert row(assess(reference), ALL[claim])["verdict"] == expected
