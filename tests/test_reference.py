"""What may become the reference, and what is never written."""

import json
import subprocess
import sys

import pytest
from test_records import record, results

from nestedae_utils.book import records, reference
from nestedae_utils.errors import DataError

GAP = "gap_mae_train_as_made"


@pytest.fixture
def folders(tmp_path):
    """Return the folder of a run, two chapters in it, and the reference."""
    for name, source in (("03_a", "none"), ("05_b", "paper")):
        write(tmp_path / "run", name, record(GAP, 0.15, 0.01, 5), source=source)
    return tmp_path / "run", tmp_path / "reference"


def write(folder, name, one, **given):
    content = results(one, chapter=name, **given)
    return records.write_json(folder / f"{name}.json", content)


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def test_refresh_keeps_our_own_numbers(folders):
    ran, kept = folders
    paths = [kept / "03_a.json", kept / "05_b.json"]
    assert reference.refresh(ran, kept) == paths
    for name, content in records.results_of(ran).items():
        written = json.loads((kept / f"{name}.json").read_text())
        (one,) = written["records"]
        assert tuple(one) == records.OURS
        assert {**written, "records": None} == {**content, "records": None}
        assert records.differences(content, written) == []
    # again, with another value: the old one is gone
    write(ran, "05_b", record(GAP, 0.1625))
    reference.refresh(ran, kept)
    (one,) = json.loads((kept / "05_b.json").read_text())["records"]
    assert one["value"] == 0.1625


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": "twin"}, "05_b: run on 'twin' data"),
        ({"same": False}, "05_b: run on 'paper' data with {'epochs'"),
    ],
)
def test_refresh_refuses_the_twin_and_other_settings(folders, changes, told):
    ran, kept = folders
    reference.refresh(ran, kept)
    before = listing(kept)
    for name, given in (("03_a", {}), ("05_b", changes)):
        write(ran, name, record(GAP, 9), **given)
    with pytest.raises(DataError, match=told):
        reference.refresh(ran, kept)
    # the first chapter, which is as it should be, is not written either
    assert listing(kept) == before


@pytest.mark.parametrize("fault", ["nothing", "damage"])
def test_refresh_of_what_is_no_run(folders, fault, tmp_path):
    ran, kept = folders
    if fault == "nothing":
        ran, told = tmp_path / "nowhere", r"no results there.*make reference"
    else:
        path, told = ran / "05_b.json", "not a chapter's results"
        path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=told):
        reference.refresh(ran, kept)
    assert not kept.exists()


def test_repeat_is_twice_as_far_as_the_farther_end(tmp_path):
    """To two digits, rounded up; exact ones stay exact."""

    def of(value, *ends):
        return reference.repeat(record(GAP, value, ends=ends or None))

    assert of(0.15, 0.1431, 0.16) == 0.02
    assert of(0.15, 0.1381, 0.16) == 0.024
    assert of(150, 27.9, 160) == 250
    same = {"ends": (100, 100)}
    assert reference.repeat(record(GAP, 100, 0, 10, **same)) == 1
    assert reference.repeat(record(GAP, 100, None, 10, **same)) == 30
    assert of(0, 0, 0) == 1e-6
    assert of(0.15) == 0
    # four seeds that are close by chance
    few = record(GAP, 0.15, 0.02, 4, ends=(0.149, 0.151))
    assert reference.repeat(few) == 0.04
    table = tmp_path / "quantities.csv"
    table.write_text(f'quantity,meaning,unit,repeat\n{GAP},"a, b",eV,9\nc,d,,0\n')
    ran = results(record(GAP, 0.15, ends=(0.1431, 0.16)))
    reference.write_repeats([ran], table)
    lines = table.read_text().splitlines()
    assert lines[1:] == [f'{GAP},"a, b",eV,0.02', "c,d,,0"]


def notebook(path, **data):
    """Write an executed notebook with one figure."""
    figure = {"mystnb": {"figure": {"name": "fig-07-map"}}}
    cells = [
        {"metadata": {}, "source": "Maps."},
        {"metadata": {}, "source": "1", "outputs": []},
        {"metadata": figure, "outputs": [{"text": "a"}, {"data": data}]},
    ]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def test_picture_is_the_svg_of_the_figure(tmp_path):
    for svg in ("<svg>\n</svg>", ["<svg>\n", "</svg>"]):
        path = notebook(tmp_path / "a.ipynb", **{"image/svg+xml": svg})
        assert reference.picture(path, "fig-07-map") == "<svg>\n</svg>"
    with pytest.raises(DataError, match="no figure 'fig-07-halves'"):
        reference.picture(path, "fig-07-halves")
    path = notebook(tmp_path / "a.ipynb", **{"image/png": ""})
    with pytest.raises(DataError, match="execute the notebook"):
        reference.picture(path, "fig-07-map")


@pytest.mark.parametrize(("words", "told"), [([], "usage: "), (["no"], "reference: ")])
def test_the_program_fails_with_one_line(tmp_path, words, told):
    program = [sys.executable, "-m", "nestedae_utils.book.reference", *words]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith(told)
