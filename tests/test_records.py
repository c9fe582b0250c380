"""Quantities, results on disk, and what is told of them."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import NOTEBOOKS, told

from nestedae_utils.book import claims, records, reference
from nestedae_utils.book.records import record

KNOWN = claims.quantities()
# one with a paper's value, one with an exact one, one without, one limit
GAP, ROWS, OURS = "gap_mae_train_as_made", "band_gap_rows", "device_inputs"
RAREST = "rarest_layer_share"
REPEAT = KNOWN[GAP].repeat
ENDS = ("low", "high")


def results(*found, source="paper", chapter="05_bandgap_scale", same=True):
    """Return a chapter's results as they are written."""
    return {
        **{"chapter": chapter, "data_source": source, "as_in_paper": same},
        **{"parameters": {"epochs": 1500}, "seconds": 1.5, "trainings": {}},
        **{"date": "2026-01-31", "versions": {"python": "3.11.7"}},
        **{"checksums": {"table.csv": "0" * 64}, "records": list(found)},
    }


# --- the quantities and the reference --------------------------------------


def test_the_reference_is_ours_alone_and_complete():
    kept = records.results_of(records.REFERENCE)
    assert list(kept) == [path.stem for path in NOTEBOOKS]
    names = []
    for chapter, content in kept.items():
        assert (content["chapter"], content["as_in_paper"]) == (chapter, True)
        assert content["data_source"] != "twin"
        assert {"date", "versions", "checksums"} <= content.keys()
        assert {tuple(one) for one in content["records"]} == {records.OURS}
        names += [one["quantity"] for one in content["records"]]
    assert sorted(names) == sorted(KNOWN), "each is measured once"


def test_a_record_has_ours_and_what_the_paper_states():
    assert record(GAP, 0.15, 0.01, 5, cell=3) == {
        **{"quantity": GAP, "value": 0.15, "spread": 0.01, "unit": "eV"},
        **{
            "replicas": 5,
            "low": None,
            "high": None,
            "paper": 0.156,
            "where": "Table 1",
            "tolerance": 0.007,
        },
        **{"verdict": claims.REPRODUCED, "cell": 3},
    }


def test_a_record_has_the_ends_of_its_interval_and_is_judged_by_them():
    one = record(GAP, 0.15, 0.01, 5, ends=(0.14, 0.16))
    assert (one["low"], one["high"]) == (0.14, 0.16)
    assert one["verdict"] == claims.UNDECIDED
    (here,) = records.table([one])["here"]
    assert here == "0.15 ± 0.01 (0.14 to 0.16)"
    # one draw has none
    one = record(GAP, 0.15, ends=(math.nan, math.nan))
    assert (one["low"], one["verdict"]) == (None, claims.REPRODUCED)


def test_every_inexact_quantity_of_the_reference_has_an_interval():
    for content in records.results_of(records.REFERENCE).values():
        for one in content["records"]:
            name, value, low, high = (
                one[key] for key in ("quantity", "value", "low", "high")
            )
            if KNOWN[name].exact:
                assert low is high is None, name
            else:
                assert low <= value <= high, name
                assert KNOWN[name].repeat == reference.repeat(one), name


def copies(one, random, count=1000):
    """Draw values as an interval says, to either side of the value."""
    low, high = ((one[end] - one["value"]) / 1.96 for end in ("low", "high"))
    away = random.normal(size=count)
    return one["value"] + np.where(away < 0, -low, high) * away


def test_copies_of_the_references_draws_agree_with_it():
    """Drawn as the intervals say: 95 whole copies in 100 within ``repeat``.

    A copy, with an interval as wide as its original, can be undecided, but has
    not the opposite verdict.
    """
    random, agree = np.random.default_rng(0), np.ones(1000, bool)
    kept = records.results_of(records.REFERENCE)
    ours = {r["quantity"]: r for c in kept.values() for r in c["records"]}
    drawn = {n: one for n, one in ours.items() if one["low"] is not None}
    for name, one in drawn.items():
        away = np.abs(copies(one, random, len(agree)) - one["value"])
        agree &= away <= KNOWN[name].repeat
    assert len(drawn) > 100
    assert agree.mean() >= 0.95
    for claim in claims.claims().values():
        for name in {claim.as_made, claim.as_should} & set(drawn):
            one = drawn[name]
            held = claims.holds(claim, (one["value"], one["low"], one["high"]))
            found = [
                claims.holds(
                    claim, (copy, *(one[e] + copy - one["value"] for e in ENDS))
                )
                for copy in copies(one, random, 200)
            ]
            if held is not None:
                assert np.mean([other is (not held) for other in found]) <= 0.01, name


def test_a_table_is_written_to_be_read():
    rows = [record(GAP, 0.15432, 0.0068, 5), record(ROWS, 494), record(OURS, 343)]
    rows += [record(RAREST, 13), record(GAP, 0.15432, source="twin")]
    found = records.table(rows)
    assert found.pop("meaning")[0] == KNOWN[GAP].meaning
    good, bad, ours = claims.REPRODUCED, claims.NOT_REPRODUCED, "ours alone"
    assert found.to_numpy().tolist() == [
        ["0.1543 ± 0.0068", "0.156 ± 0.007", good, "0.007", "eV", 5, "Table 1", GAP],
        ["494", "499", bad, "0", "rows", 1, "Sec. 3.2", ROWS],
        ["343", "", ours, "", KNOWN[OURS].unit, 1, "", OURS],
        ["13", "≥ 5", good, "", "%", 1, "Sec. 3.2", RAREST],
        ["0.1543", "", "TWIN", "", "eV", 1, "", GAP],
    ]
    assert list(records.table([]).columns) == ["meaning", *found.columns]


def test_differences_are_told_one_by_one():
    kept = results(record(GAP, 0.15), record(ROWS, 494), record(OURS, 343))
    near = results(record(GAP, 0.15 + 0.99 * REPEAT), *kept["records"][1:])
    assert records.differences(near, kept) == records.differences(kept, near) == []
    far, more = record(GAP, 0.15 - 1.01 * REPEAT), record("device_rows", 2018)
    fresh = results(far, more, record(OURS, 343))
    assert records.differences(fresh, kept) == [
        f"{ROWS}: only in the reference",
        "device_rows: only in the run",
        f"{GAP}: {claims.written(far)} now, 0.15 in the reference, {REPEAT:g} allowed",
    ]


# --- results on disk -------------------------------------------------------


def test_write_and_read(tmp_path):
    content = results(record(GAP, 0.15, 0.01, 5), record(ROWS, 494))
    path = tmp_path / "deep" / "down" / "05_bandgap_scale.json"
    for changed in (content, content | {"date": "première"}):
        assert records.write_json(path, changed) == path
        assert records.read_results(path) == changed
    assert os.listdir(path.parent) == [path.name]
    (path.parent / "benchmark.json").write_text("{}")
    assert list(records.results_of(path.parent)) == [path.stem]
    text = path.read_text(encoding="utf-8")
    assert "première" in text
    assert text.endswith("}\n")
    assert list(records.results_of(path.parent)) == ["05_bandgap_scale"]
    assert records.results_of(tmp_path / "nowhere") == {}


def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = records.write_json(tmp_path / "a.json", {"value": 1.0})
    before = path.read_bytes()

    def no_room(path, text, **settings):
        path.write_bytes(text[:10].encode())
        raise OSError("no space left on device")

    with pytest.raises(ValueError, match="JSON"):
        records.write_json(path, {"value": math.nan})
    monkeypatch.setattr(Path, "write_text", no_room)
    for name in ("a.json", "b.json"):
        with pytest.raises(OSError, match="no space"):
            records.write_json(tmp_path / name, {"value": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def altered(where, **changes):
    """Return the text of results with a change at the top or in a record."""
    content = results(record(GAP, 0.15))
    (content if where == "top" else content["records"][0]).update(changes)
    return json.dumps(content)


WHOLE = json.dumps(results(record(GAP, 0.15)))
KEYS = "chapter data_source parameters as_in_paper seconds date records value"


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", "null", "{}", "<html>", '"text"', "\ud800{}"),
        *(WHOLE[:end] for end in range(1, len(WHOLE), 61)),
        *(WHOLE.replace(f'"{key}"', '"other"') for key in KEYS.split()),
        *(altered("top", records=value) for value in (None, 3, [3], [{}])),
        altered("record", quantity="a_quantity_of_old"),
        *(altered("record", value=one) for one in ("0.15", None, math.nan)),
    ],
)
def test_results_that_are_none(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    line = told(records.read_results, path)
    assert path.name in line
    assert "run the chapter again" in line
