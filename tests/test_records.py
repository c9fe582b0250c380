"""Quantities, records, results on disk and what is gathered from them."""

import ast
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.book import claims, records
from nestedae_utils.book.records import (
    NO_PAPER_VALUE,
    NOT_REPRODUCED,
    OTHER_SETTINGS,
    REPRODUCED,
    TWIN,
    differences,
    own_numbers,
    plus_minus,
    read_results,
    record,
    unclaimed,
    write_json,
)
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.study import protocol

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KNOWN = records.quantities()
# one with a paper's value, one with an exact one, one without
GAP, ROWS, OURS = "gap_mae_train_as_made", "band_gap_rows", "device_inputs"
LATENTS = "latents_needed_gap"
PAPER = claims.by_quantity()
COLUMNS = "meaning here paper verdict tolerance unit n where quantity".split()


def results(*found, source="paper", chapter="05_bandgap_scale"):
    """Return a chapter's results as they are written and read."""
    content = {
        "chapter": chapter,
        "data_source": source,
        "parameters": {"epochs": 1500},
        "as_in_paper": True,
        "seconds": 1.5,
        "date": "2026-01-31",
        "versions": {"python": "3.11.7"},
        "checksums": {"table.csv": "0" * 64},
        "records": records.as_dicts(found),
    }
    return json.loads(json.dumps(content))


def message(kind, call, *arguments, **settings):
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- data/quantities.csv ---------------------------------------------------


def test_quantities_are_well_formed():
    table = pd.read_csv(
        ROOT / "data" / "quantities.csv", dtype=str, keep_default_na=False
    )
    assert list(table.columns) == "quantity meaning unit repeat".split()
    assert table["quantity"].is_unique
    assert len(KNOWN) == len(table)
    assert all(cell == cell.strip() for cell in table.to_numpy().ravel())
    for one in KNOWN.values():
        name = one.quantity
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name), name
        assert one.meaning, name
        assert 0 <= one.repeat < math.inf, name
        # a number without a unit is a count: an exact one
        assert one.unit or one.repeat == 0, name


def recorded(path):
    """Return a pattern for each name that a notebook records.

    Whatever is put into a name stands somewhere else in the notebook.
    """
    source = "\n".join(
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    )
    nodes = list(ast.walk(ast.parse(source)))
    words = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words |= set(protocol.SETTINGS)
    inserted = "|".join([r"\d+", *map(re.escape, sorted(words))])
    patterns = []
    for node in nodes:
        if not (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "chapter.record"
        ):
            continue
        parts = getattr(node.args[0], "values", [node.args[0]])
        patterns.append(
            "".join(
                re.escape(part.value)
                if isinstance(part, ast.Constant)
                else f"(?:{inserted})"
                for part in parts
            )
        )
    return patterns


def test_notebooks_record_the_known_quantities_and_all_of_them():
    patterns = [(path, one) for path in NOTEBOOKS for one in recorded(path)]
    assert len(patterns) > len(NOTEBOOKS)
    found = set()
    for path, pattern in patterns:
        names = {name for name in KNOWN if re.fullmatch(pattern, name)}
        assert names, f"{path.name}: {pattern[:60]} is not in quantities.csv"
        found |= names
    nowhere = sorted(KNOWN.keys() - found)
    assert nowhere == [], "in quantities.csv, but no notebook records it"


def test_the_reference_is_ours_alone_and_complete():
    kept = records.results_of(records.REFERENCE)
    if not kept:
        pytest.skip("there is no data/reference yet: make reference")
    names = []
    for chapter, content in kept.items():
        assert content["chapter"] == chapter
        assert content["data_source"] != "twin"
        assert content["as_in_paper"]
        assert own_numbers(content) == content
        assert {"date", "versions", "checksums"} <= content.keys()
        names += [one["quantity"] for one in content["records"]]
    assert len(set(names)) == len(names)
    assert set(names) <= KNOWN.keys()
    assert set(kept) == {path.stem for path in NOTEBOOKS}
    assert set(names) == KNOWN.keys()


# --- records ---------------------------------------------------------------


def test_record_takes_the_rest_from_the_tables():
    one = record(
        GAP, np.float32(0.15625), np.float64(0.01), np.int64(5), cell=7
    )
    assert one == records.Record(
        quantity=GAP,
        value=0.15625,
        spread=0.01,
        unit=KNOWN[GAP].unit,
        replicas=5,
        paper=PAPER[GAP].paper,
        where=PAPER[GAP].where,
        tolerance=PAPER[GAP].tolerance,
        verdict=REPRODUCED,
        cell=7,
    )
    (plain,) = records.as_dicts([one])
    assert json.loads(json.dumps(plain)) == plain
    assert record(GAP, 0.2).verdict == NOT_REPRODUCED
    other = record(GAP, 0.156, protocol=False)
    assert (other.verdict, other.paper) == (OTHER_SETTINGS, PAPER[GAP].paper)
    assert record(OURS, 343).verdict == NO_PAPER_VALUE
    assert record(OURS, 343, protocol=False).verdict == NO_PAPER_VALUE


def test_record_respects_the_relation():
    few, enough = record(LATENTS, 11), record(LATENTS, 12)
    assert (few.verdict, enough.verdict) == (NOT_REPRODUCED, REPRODUCED)
    assert record(LATENTS, 15).verdict == REPRODUCED
    assert (enough.paper, enough.tolerance) == (12.0, None)


@given(st.sampled_from(sorted(KNOWN)), st.floats(-1e3, 1e3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_record_is_compared_where_a_claim_is_tested_by_it(
    name, value, as_in_paper
):
    one = record(name, value, protocol=as_in_paper)
    compared = one.verdict in (REPRODUCED, NOT_REPRODUCED)
    assert compared == (as_in_paper and name in PAPER)
    if compared:
        held = claims.holds(PAPER[name], value)
        assert (one.verdict == REPRODUCED) == held


def test_record_on_the_twin_has_no_papers_value():
    for name in KNOWN:
        paper = PAPER[name].paper if name in PAPER else 0.0
        one = record(name, paper, source="twin")
        assert one.verdict == TWIN
        assert (one.paper, one.where, one.tolerance) == (None, "", None)


def test_record_of_an_unknown_quantity():
    told = message(ParameterError, record, "gap_mae_train_as_mad", 0.1)
    assert "'gap_mae_train_as_mad' given" in told
    assert "quantities.csv" in told
    assert f"Did you mean '{GAP}'?" in told
    assert "Did you" not in message(ParameterError, record, "@", 0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_record_of_no_number(value):
    told = message(ParameterError, record, GAP, value)
    assert f"value of {GAP}: {value} given" in told
    # the spread of one fold
    assert record(GAP, 0.15, value).spread is None


@pytest.mark.parametrize("replicas", [0, -1, 2.0, True, "5"])
def test_record_of_no_replicas(replicas):
    told = message(ParameterError, record, GAP, 0.1, None, replicas)
    assert "replicas: " in told


# --- what is read ----------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (0.27123, None, "0.2712"),
        (0.27123, 0.02849, "0.2712 ± 0.028"),
        (494.0, None, "494"),
        (999_999.0, None, "999999"),
        (1e6, None, "1e+06"),
        (12, 1.5, "12 ± 1.5"),
        (0.0, 0.0, "0 ± 0"),
        (-3.0, None, "-3"),
        (-0.04567, None, "-0.04567"),
        (2.6645e-15, None, "2.664e-15"),
        (81.84999, 9.3, "81.85 ± 9.3"),
    ],
)
def test_plus_minus(value, spread, text):
    assert plus_minus(value, spread) == text


def test_table_is_written_to_be_read():
    found = records.table(
        [
            record(GAP, 0.15432, 0.0068, 5),
            record(ROWS, 494),
            record(OURS, 343, protocol=False),
            record(LATENTS, 13),
            record(GAP, 0.15432, source="twin"),
        ]
    )
    assert list(found.columns) == COLUMNS
    assert found.drop(columns="meaning").to_numpy().tolist() == [
        ["0.1543 ± 0.0068", "0.156 ± 0.007", REPRODUCED, "0.007", "eV", 5,
         "Table 1", GAP],
        ["494", "499", NOT_REPRODUCED, "0", "rows", 1, "Sec. 3.2", ROWS],
        ["343", "", NO_PAPER_VALUE, "", KNOWN[OURS].unit, 1, "", OURS],
        ["13", "≥ 12", REPRODUCED, "", "latents", 1, "Sec. 3.2", LATENTS],
        ["0.1543", "", TWIN, "", "eV", 1, "", GAP],
    ]  # fmt: skip
    assert found["meaning"].tolist() == [
        KNOWN[name].meaning for name in (GAP, ROWS, OURS, LATENTS, GAP)
    ]


def test_an_empty_table_has_the_same_columns():
    assert list(records.table([]).columns) == COLUMNS


# --- results on disk -------------------------------------------------------


def test_write_and_read(tmp_path):
    content = results(record(GAP, 0.15, 0.01, 5), record(ROWS, 494))
    path = tmp_path / "deep" / "down" / "05_bandgap_scale.json"
    assert write_json(path, content) == path
    assert read_results(path) == content
    assert os.listdir(path.parent) == [path.name]
    assert path.read_text(encoding="utf-8").endswith("}\n")
    changed = content | {"date": "première"}
    write_json(path, changed)
    assert read_results(path) == changed
    assert "première" in path.read_text(encoding="utf-8")


def no_room(path, text, **settings):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text[:10])
    raise OSError("no space left on device")


def no_rename(*paths):
    raise OSError("permission denied")


@pytest.mark.parametrize(
    "fault", ["nan", "infinity", "no JSON", "no room", "no rename"]
)
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, fault):
    path = write_json(tmp_path / "a.json", {"value": 1.0})
    before = path.read_bytes()
    value = {"nan": math.nan, "infinity": math.inf, "no JSON": {1, 2}}
    if fault == "no room":
        monkeypatch.setattr(Path, "write_text", no_room)
    if fault == "no rename":
        monkeypatch.setattr(records.os, "replace", no_rename)
    with pytest.raises((ValueError, TypeError, OSError)):
        write_json(path, {"value": value.get(fault, 2.0)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    # nor is there half a file where there was none
    with pytest.raises((ValueError, TypeError, OSError)):
        write_json(tmp_path / "b.json", {"value": value.get(fault, 2.0)})
    assert os.listdir(tmp_path) == [path.name]


def not_read(path):
    told = message(DataError, read_results, path)
    assert path.name in told
    assert "run the chapter again" in told
    return told


def test_results_cut_short_anywhere(tmp_path):
    path = write_json(tmp_path / "a.json", results(record(GAP, 0.15)))
    whole = path.read_bytes().rstrip()
    for end in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:end])
        not_read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"3", b"null", b"{}", b"\xff\xfe{}", b"<html>", b'"text"'],
)
def test_results_of_something_else(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    not_read(path)


@pytest.mark.parametrize(
    "key",
    "chapter data_source parameters as_in_paper seconds date records".split(),
)
def test_results_without_a_key(tmp_path, key):
    content = results(record(GAP, 0.15))
    del content[key]
    assert key in not_read(write_json(tmp_path / "a.json", content))


@pytest.mark.parametrize(
    "change",
    [
        {"records": None},
        {"records": 3},
        {"records": [3]},
        {"records": [{}]},
        {"records": [{"quantity": GAP}]},
        {"quantity": "a_quantity_of_old"},
        {"value": "0.15"},
        {"value": None},
        {"value": math.nan},
    ],
    ids=str,
)
def test_results_with_an_altered_record(tmp_path, change):
    content = results(record(GAP, 0.15))
    if "records" in change:
        content |= change
    else:
        content["records"][0] |= change
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    not_read(path)


def test_results_of_a_folder(tmp_path):
    assert records.results_of(tmp_path / "nowhere") == {}
    for name in ("07_b", "03_a"):
        content = results(record(GAP, 0.15), chapter=name)
        write_json(tmp_path / f"{name}.json", content)
    (tmp_path / ".03_a.json.4711").write_text("half a f", encoding="utf-8")
    found = records.results_of(tmp_path)
    assert list(found) == ["03_a", "07_b"]
    assert found["07_b"]["chapter"] == "07_b"


# --- the reference ---------------------------------------------------------


def test_own_numbers_leave_the_paper_out():
    content = results(record(GAP, 0.15, 0.01, 5, cell=7), record(ROWS, 494))
    before = json.dumps(content)
    kept = own_numbers(content)
    assert json.dumps(content) == before
    assert kept["records"] == [
        {"quantity": GAP, "value": 0.15, "spread": 0.01, "unit": "eV",
         "replicas": 5},
        {"quantity": ROWS, "value": 494.0, "spread": None, "unit": "rows",
         "replicas": 1},
    ]  # fmt: skip
    assert {**kept, "records": None} == {**content, "records": None}
    assert own_numbers(kept) == kept


def test_differences_are_told_one_by_one():
    values = {GAP: 0.15, ROWS: 494.0, OURS: 343.0}
    kept = own_numbers(
        results(*(record(name, value) for name, value in values.items()))
    )
    same = results(*(record(name, value) for name, value in values.items()))
    assert differences(same, kept) == []
    assert differences(own_numbers(same), kept) == []
    fresh = results(
        record(GAP, 0.25), record("device_rows", 2018), record(OURS, 343)
    )
    assert differences(fresh, kept) == [
        f"{ROWS}: only in the reference",
        "device_rows: only in the run",
        f"{GAP}: 0.25 now, 0.15 in the reference, "
        f"{KNOWN[GAP].repeat:g} allowed",
    ]


@given(
    st.sampled_from(sorted(KNOWN)),
    st.floats(-100, 100),
    st.floats(0, 1),
    st.floats(1e-6, 10),
    st.sampled_from([-1, 1]),
)
@settings(max_examples=60, deadline=None)
def test_differences_within_repeat_are_none(name, value, share, more, side):
    repeat = KNOWN[name].repeat
    kept = own_numbers(results(record(name, value)))
    near = results(record(name, value + side * share * repeat))
    assert differences(near, kept) == []
    far = results(record(name, value + side * (repeat + more)))
    (line,) = differences(far, kept)
    assert line.startswith(f"{name}: ")


# --- what is gathered ------------------------------------------------------

BOUND = "gap_r2_val_per_sample"


def test_unclaimed_leaves_out_what_tests_a_claim():
    first = results(
        record(GAP, 0.15, 0.01, 5),
        record("gap_mae_val_per_sample", 0.17),
        record(BOUND, 0.95, None, 494),
    )
    second = results(record(ROWS, 494), record(OURS, 343))
    reference = {"05": own_numbers(results(record(BOUND, 0.1234)))}
    found = unclaimed({"04": second, "05": first}, reference)
    assert list(found.columns) == ["chapter", *COLUMNS]
    assert found["chapter"].tolist() == ["04", "05"]
    assert found["quantity"].tolist() == [OURS, BOUND]
    assert found["n"].tolist() == [1, 494]
    # no twin was used: nothing stands beside what was computed
    assert "0.1234" not in found.to_string()


def test_unclaimed_sets_the_reference_beside_the_twin():
    ran = results(
        record(GAP, 0.31, 0.02, 5, source="twin"),
        record(BOUND, 0.5, 0.02, 5, source="twin"),
        record(OURS, 1999, source="twin"),
        source="twin",
    )
    loud = "synthetic_loud_functions"
    reference = {
        "02": own_numbers(results(record(loud, 6))),
        "05": own_numbers(results(record(BOUND, 0.95, 0.0071, 5))),
    }
    synthetic = results(record(loud, 5), source="none")
    found = unclaimed({"02": synthetic, "05": ran}, reference)
    assert list(found.columns) == ["chapter", *COLUMNS, "reference"]
    by_name = found.set_index("quantity")
    assert by_name["here"].tolist() == ["5", "0.5 ± 0.02", "1999"]
    # only beside what the twin gave, and where the reference has a value
    assert by_name["reference"].tolist() == ["", "0.95 ± 0.0071", ""]
    assert by_name["verdict"].tolist() == [NO_PAPER_VALUE, TWIN, TWIN]
    without = unclaimed({"05": ran}, {})
    assert without["reference"].tolist() == ["", ""]


def test_unclaimed_of_nothing_has_its_columns():
    for found in ({}, {"02": results()}, {"04": results(record(ROWS, 494))}):
        table = unclaimed(found, {})
        assert len(table) == 0
        assert list(table.columns) == ["chapter", *COLUMNS]


def test_compared_takes_what_was_compared_and_nothing_else():
    columns = ["quantity", "value", "paper", "scale", "verdict"]
    good = record(GAP, 0.15)
    found = records.compared(
        {
            "04": results(record(ROWS, 494), record(OURS, 343)),
            # a limit has no scale to be drawn with
            "05": results(good, record(LATENTS, 6)),
            "06": results(
                record("pce_mae_train_as_made", 2.5, protocol=False)
            ),
            "07": results(
                record("gap_mode_refitted", 2.5, source="twin"), source="twin"
            ),
        }
    )
    assert list(found.columns) == columns
    assert found.to_numpy().tolist() == [
        # an exact comparison has a scale to be drawn with all the same
        [ROWS, 494.0, 499.0, 1.0, NOT_REPRODUCED],
        [GAP, 0.15, 0.156, PAPER[GAP].tolerance, REPRODUCED],
    ]
    empty = records.compared({})
    assert list(empty.columns) == columns
    assert len(empty) == 0


def test_quantities_and_records_cannot_be_altered():
    with pytest.raises(AttributeError):
        KNOWN[GAP].repeat = 0.1
    one = record(GAP, 0.15)
    with pytest.raises(AttributeError):
        one.value = 0.156
    assert replace(one, value=0.156) != one
