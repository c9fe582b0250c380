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
    ran, kept = tmp_path / "run", tmp_path / "reference"
    for name, source in (("03_a", "none"), ("05_b", "paper")):
        one = record(GAP, 0.15, 0.01, 5)
        content = results(one, source=source, chapter=name)
        records.write_json(ran / f"{name}.json", content)
    return ran, kept


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
    changed = results(record(GAP, 0.1625), chapter="05_b")
    records.write_json(ran / "05_b.json", changed)
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
        content = results(record(GAP, 9), chapter=name, **given)
        records.write_json(ran / f"{name}.json", content)
    with pytest.raises(DataError) as caught:
        reference.refresh(ran, kept)
    assert told in str(caught.value)
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


def notebook(path, **data):
    """Write an executed notebook with one figure."""
    mystnb = {"figure": {"name": "fig-07-map"}}
    cells = [
        {"metadata": {}, "source": "Maps."},
        {"metadata": {}, "source": "1", "outputs": []},
        {
            "metadata": {"mystnb": mystnb},
            "outputs": [{"text": "a"}, {"data": data}],
        },
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


def test_the_program_fails_with_one_line(tmp_path):
    program = [sys.executable, "-m", "nestedae_utils.book.reference"]
    for arguments, told in (
        ([], "usage: "),
        ([tmp_path / "nowhere"], "reference: "),
    ):
        done = subprocess.run([*program, *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith(told)
        assert len(done.stderr.splitlines()) == 1
