"""The one reader and its refusals, the twin, and the choice of a source."""

import csv
import gzip
import io
import os
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import told
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.data import files, perovskites, tables, twin
from nestedae_utils.data.perovskites import IONS, SITES, site_fractions
from nestedae_utils.errors import DataUnavailable

READERS = {"band_gaps": tables.BAND_GAPS[1], "devices": tables.DEVICES[1]}


def published(name: str) -> pd.DataFrame:
    """Return rows of the twin as the published file would hold them."""
    frame, schema = getattr(twin, name)().head(200), perovskites.BAND_GAPS
    if name == "devices":
        schema = perovskites.DEVICE_FILE
        for site, members in SITES.items():
            whole = 3 if site == "X" else 1
            rows = frame[list(members)].to_dict("records")
            held = [{i: n for i, n in row.items() if n} for row in rows]
            frame[f"{site}_ions"] = ["; ".join(row) for row in held]
            frame[f"{site}_coefficients"] = [
                "; ".join(f"{whole * n:.15g}" for n in row.values()) for row in held
            ]
    titles = {n: c.title for n, c in schema.columns.items() if c.title}
    return frame[list(titles)].rename(columns=titles).astype(object)


def fault(read, path) -> str:
    line = told(read, path)
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", READERS)
def test_a_faultless_table_comes_back(name, tmp_path):
    path, raw = tmp_path / "t.csv", published(name)
    raw.sample(frac=1, axis=1, random_state=0).assign(more="x").to_csv(
        path, index=False, encoding="utf-8-sig"
    )
    pd.testing.assert_frame_equal(READERS[name](path), getattr(twin, name)().head(200))


@pytest.mark.parametrize("read", [*READERS.values(), tables.read_text])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"a,b\n", "a header, but no rows"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not a CSV table"),
        (b"a,b\n1,2\n1,2,3\n", "not a CSV table"),
        (b'a,b\n"1,2\n', "not a CSV table"),
        ("é,b\n1,2\n".encode("latin1"), "save it as UTF-8"),
    ],
)
def test_what_is_no_table(read, content, message, tmp_path):
    assert "no such file" in fault(read, tmp_path)
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    assert message in fault(read, tmp_path / "t.csv")


def test_texts_stand_as_in_the_file(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf a,b,b\n NA,01,\n1e3\n")
    frame = tables.read_text(tmp_path / "t.csv")
    assert list(frame.columns) == ["a", "b", "b"]
    assert frame.to_numpy().tolist() == [[" NA", "01", ""], ["1e3", "", ""]]


numbers = st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e9, 1e9))


@given(
    st.lists(st.tuples(numbers, numbers, st.sampled_from("xyz")), min_size=1),
    st.sampled_from(",;\t|"),
    st.sampled_from(",."),
    st.lists(st.integers(0, 9), max_size=3),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(max_examples=60)
def test_a_table_is_the_same_in_each_dialect(rows, separator, sign, empty, code):
    """Whatever separates fields, is a decimal sign, or stands empty between."""
    # what "1,234" is, another number of the table tells
    rows = [["0.5", "7", "x"], *([str(a), str(b), c] for a, b, c in rows)]
    lines = [["a  b", "c\u00a0\nd, e;f", "g"]]
    lines += [[text.replace(".", sign) for text in row] for row in rows]
    for place in sorted(empty, reverse=True):
        lines.insert(1 + place, ["", "", ""])
    kept = [n for n, line in enumerate(lines[1:]) if any(line)]
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(file.getvalue().encode(code))
        frame = tables.read_text(path)
    assert list(frame.columns) == ["a b", "c d, e;f", "g"]
    assert frame.to_numpy().tolist() == rows
    assert list(frame.index) == kept


@pytest.mark.parametrize(
    ("text", "rows", "told"),
    [
        # quoted thousands, as spreadsheets write them
        (
            'a,b\n"1,234",1.5\n"12,345",2\n',
            [["1234", "1.5"], ["12345", "2"]],
            "commas di",
        ),
        ("a;b\n1.234;1,5\n", [["1234", "1.5"]], "semicolons; the decimal sign is a co"),
        # it may be either, and stays
        ("a;b\n1,234;x\n", [["1,234", "x"]], "separated by semicolons."),
        # words with commas and semicolons are words
        ('a,b\n"Cs;MA","1,5 x"\n', [["Cs;MA", "1,5 x"]], ""),
        ("a,nm;b,nm\n1,5;2,5\n", [["1.5", "2.5"]], "semicolons"),
        # more separators at the end of each line
        ("a,b,,\n1,2,,\n3,4,,,,\n,,,\n", [["1", "2"], ["3", "4"]], "left out: 1"),
    ],
)
def test_what_was_read_is_told(text, rows, told, tmp_path, caplog):
    (tmp_path / "t.csv").write_text(text)
    with caplog.at_level("INFO"):
        assert tables.read_text(tmp_path / "t.csv").to_numpy().tolist() == rows
    assert len(caplog.messages) == bool(told)
    assert told in "".join(caplog.messages)


def test_a_pipe_is_read_and_what_is_no_text_is_named(tmp_path):
    end, begin = os.pipe()
    os.write(begin, b"a,b\n1,2\n")
    os.close(begin)
    assert tables.read_text(f"/dev/fd/{end}").to_numpy().tolist() == [["1", "2"]]
    os.close(end)
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as file:
        file.writestr("xl/workbook.xml", "x")
    assert "spreadsheet" in fault(tables.read_text, tmp_path / "t.xlsx")
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert "compressed" in fault(tables.read_text, tmp_path / "t.gz")


SITE = "Perovskite_composition_b_ions"
EITHER = [
    ("A_EA", "high", "'high' found, a number from -300 to 500 kJ/mol is all"),
    ("A_EA", "", "nothing found"),
    ("A_EA", "NaN", "nothing found"),
    ("A_EA", "inf", "'inf' found"),
    ("A_EA", -1000, "'-1000' found"),
]
FAULTS = {
    "band_gaps": [
        *EITHER,
        ("Pb", 1.5, "'1.5' found, a number from 0 to 1 is allowed"),
        ("Gap", 1600, "'1600' found, a number from 0 to 10 eV is allowed"),
        ("Formula", None, "nothing found, a text is allowed"),
    ],
    "devices": [
        *EITHER,
        ("ETL_stack_sequence", "TiO2", "'TiO2' found, one of 'TiO2-c | TiO"),
        ("HTL_stack_sequence", None, "nothing found, one of 'Spiro-MeOTAD'"),
        ("JV_reverse_scan_PCE", 91.0, "'91.0' found, a number from 0 to 33.7"),
        ("Perovskite_band_gap", "1.6 eV", "'1.6 eV' found"),
        (SITE, "", "nothing found, a text is allowed"),
    ],
}


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [(name, *fault) for name, faults in FAULTS.items() for fault in faults],
)
def test_a_faulty_value(name, column, value, message, tmp_path):
    read, path, raw = READERS[name], tmp_path / "t.csv", published(name)
    for rows, more in (([3], ""), ([3, 7, 9], " (and 2 more)")):
        raw.loc[rows, column] = value
        raw.to_csv(path, index=False)
        told = fault(read, path)
        assert told.startswith(f"column {column!r}, line 5: ")
        assert message in told
        assert told.endswith(f" is allowed{more}.")
    raw.drop(columns=column).to_csv(path, index=False)
    assert fault(read, path).startswith(f"column {column!r} is missing.")
    pd.concat([raw, raw[[column]]], axis=1).to_csv(path, index=False)
    assert fault(read, path) == f"column {column!r} stands twice."


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (SITE, "Bi", "unknown ion 'Bi'"),
        (SITE, "Pb; Sn", "the B site .* sums to 2, 1 is expected"),
        (f"{SITE}_coefficients", "half", "unknown ion"),
        (f"{SITE}_coefficients", "-1", "'-1I.*' cannot be read"),
        (f"{SITE}_coefficients", "0.5; 0.5", "cannot be read"),
        (f"{SITE}_coefficients", "0.9", "the B site .* sums to 0.9, 1"),
    ],
)
def test_a_faulty_composition(column, value, message, tmp_path):
    raw = published("devices").iloc[[0] * 4]
    raw[[SITE, f"{SITE}_coefficients"]] = ["Pb", "1"]
    raw.iloc[2, raw.columns.get_loc(column)] = value
    raw.to_csv(tmp_path / "t.csv", index=False)
    told = fault(tables.read_devices, tmp_path / "t.csv")
    assert re.match(f"line 4: formula '.*{message}", told)


def test_fractions_that_do_not_add_up_and_a_truncated_file(tmp_path):
    read, path = READERS["band_gaps"], tmp_path / "t.csv"
    raw = published("band_gaps")
    text = raw.to_csv(index=False)
    path.write_text(text[: text.rindex("\n", 0, -1) + 40])
    assert "line 201: nothing found" in fault(read, path)
    raw.loc[4, ["Cl", "Br", "I"]] = [0.5, 0.4, 0.0]
    raw.to_csv(path, index=False)
    assert fault(read, path) == (
        "column 'Cl', 'Br', 'I', line 6: '0.5', '0.4', '0.0' found, a sum of "
        "1 within 0.005 is allowed."
    )


@pytest.mark.parametrize("seed", [0, 2**32])
def test_the_twin_is_like_the_published_tables(seed):
    gaps, devices = twin.band_gaps(seed), twin.devices(seed)
    perovskites.BAND_GAPS.validate(gaps)
    perovskites.DEVICES.validate(devices)
    assert (gaps.shape, devices.shape) == ((494, 31), (2018, 41))
    assert not gaps.duplicated(list(IONS)).any()
    mixed, several = (
        sum((frame[list(on)] > 0).sum(axis=1) > 1 for on in SITES.values())
        for frame in (gaps, devices)
    )
    assert mixed.value_counts().to_dict() == {1: 404, 0: 90}
    assert (several > 1).sum() > 300
    assert devices["composition"].nunique() == 235
    assert devices["composition"].mode()[0] == "MAPbI3"
    assert 500 < devices["reported_gap"].isna().sum() < 700
    product = devices[["voc", "jsc", "fill_factor"]].prod(axis=1)
    assert (product - devices["pce"]).abs().max() < 0.1
    counts = pd.crosstab(devices["etl"], devices["htl"])
    upright = counts.index.isin(list(twin.UPRIGHT["etl"]))
    assert ((counts["PEDOT:PSS"] == 0) == upright).all()
    assert ((counts["Spiro-MeOTAD"] > 0) == upright).all()
    for frame, column in ((gaps, "formula"), (devices, "composition")):
        frame = frame.drop_duplicates(column).head(60)
        named = np.array([site_fractions(text) for text in frame[column]])
        np.testing.assert_allclose(named, frame[list(IONS)], atol=1e-6)
    assert devices.equals(twin.devices(seed))
    assert not devices.equals(twin.devices(seed + 1))


def test_the_twins_law_is_not_the_papers(paper_tables):
    rows = [site_fractions(f) for f in ("MAPbI3", "MAPb0.5Sn0.5I3")]
    expected = [1.1 + 0.2 + 0.3, 1.1 + 0.2 + 0.0 - 0.3 * (1 - 0.5)]
    assert twin.law_gap(pd.DataFrame(rows)).tolist() == pytest.approx(expected)
    both = twin.band_gaps().merge(paper_tables.band_gaps, on=list(IONS))
    assert len(both) >= 90
    assert (both["gap_x"] - both["gap_y"]).abs().mean() > 0.2


def test_without_a_file_all_tables_are_the_twins(monkeypatch, paper_tables):
    assert tables.load("auto").source == paper_tables.source == "paper"
    keys = {tables.BAND_GAPS[0], tables.DEVICES[0]}
    assert set(paper_tables.checksums) == keys

    def refuse(key):
        if key == tables.DEVICES[0]:
            raise DataUnavailable(f"{key}: no network")
        return files.fetch(key)

    monkeypatch.setattr(tables, "fetch", refuse)
    loaded = tables.load()
    assert loaded.source == "twin"
    assert loaded.devices.equals(twin.devices())
    assert set(loaded.checksums) == {"twin/band_gaps", "twin/devices"}
    assert tables.load("twin").checksums == loaded.checksums
    with pytest.raises(DataUnavailable):
        tables.load("paper")


def test_a_damaged_file_is_not_covered_up(tmp_path, monkeypatch):
    path = tmp_path / "data" / tables.BAND_GAPS[0]
    path.parent.mkdir(parents=True)
    path.write_text("Formula,Gap\n")
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path))
    assert "truncated" in told(tables.load, "auto")
