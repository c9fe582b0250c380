"""What may become the reference, and what is never written."""

import json
import runpy
import sys

import pytest

from nestedae_utils.book import records, reference
from nestedae_utils.book.reference import PICTURES, picture, refresh
from nestedae_utils.data import files as datasets
from nestedae_utils.errors import DataError

GAP = "gap_mae_train_as_made"


def results(name, value=0.15, **changes):
    """Return the results of a chapter that ran as in the paper."""
    found = records.record(GAP, value, 0.01, 5)
    return {
        "chapter": name,
        "data_source": "paper",
        "parameters": {"epochs": 1500},
        "as_in_paper": True,
        "seconds": 1.5,
        "date": "2026-01-31",
        "versions": {"python": "3.11.7"},
        "checksums": {"table.csv": "0" * 64},
        "records": records.as_dicts([found]),
        **changes,
    }


@pytest.fixture
def folders(tmp_path):
    """Return the folder of a run, two chapters in it, and the reference."""
    ran, kept = tmp_path / "run", tmp_path / "reference"
    records.write_json(ran / "03_a.json", results("03_a", data_source="none"))
    records.write_json(ran / "05_b.json", results("05_b"))
    return ran, kept


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def test_refresh_keeps_our_own_numbers(folders):
    ran, kept = folders
    assert refresh(ran, kept) == [kept / "03_a.json", kept / "05_b.json"]
    assert set(listing(kept)) == {"03_a.json", "05_b.json"}
    for name, content in records.results_of(ran).items():
        written = json.loads((kept / f"{name}.json").read_text())
        assert written == records.own_numbers(content)
        assert records.differences(content, written) == []
        for key in ("date", "versions", "checksums", "parameters"):
            assert written[key] == content[key]
    text = (kept / "05_b.json").read_text()
    for word in ("paper", "where", "tolerance", "verdict"):
        assert f'"{word}":' not in text
    # again, with another value: the old one is gone
    records.write_json(ran / "05_b.json", results("05_b", 0.1625))
    refresh(ran, kept)
    (one,) = json.loads((kept / "05_b.json").read_text())["records"]
    assert one["value"] == 0.1625


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data_source": "twin"}, "05_b: run on 'twin' data"),
        ({"as_in_paper": False}, "05_b: run on 'paper' data with {'epochs'"),
    ],
)
def test_refresh_refuses_the_twin_and_other_settings(folders, changes, told):
    ran, kept = folders
    for already in (False, True):
        if already:
            refresh(ran, kept)
        before = listing(kept)
        records.write_json(ran / "05_b.json", results("05_b", 9, **changes))
        with pytest.raises(DataError) as caught:
            refresh(ran, kept)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
        # the first chapter, which is as it should be, is not written either
        assert listing(kept) == before
        records.write_json(ran / "05_b.json", results("05_b"))


@pytest.mark.parametrize("there", [True, False])
def test_refresh_of_an_empty_folder(tmp_path, there):
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(DataError, match=r"no results there.*make reference"):
        refresh(tmp_path / "run", tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_refresh_of_a_damaged_file(folders):
    ran, kept = folders
    path = ran / "05_b.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="not a chapter's results"):
        refresh(ran, kept)
    assert not kept.exists()


# --- the README's pictures -------------------------------------------------


def notebook(path, output, name="fig-07-map"):
    """Write an executed notebook with one figure."""
    mystnb = {"figure": {"name": name}}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "Maps."},
        {"cell_type": "code", "metadata": {}, "source": "1", "outputs": []},
        {
            "cell_type": "code",
            "metadata": {"mystnb": mystnb},
            "source": "chapter.show(figure)",
            "outputs": [{"output_type": "stream", "text": "a"}, output],
        },
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def drawn(svg):
    return {"output_type": "display_data", "data": {"image/svg+xml": svg}}


def test_picture_is_the_svg_of_the_figure(tmp_path):
    for svg in ("<svg>\n</svg>", ["<svg>\n", "</svg>"]):
        path = notebook(tmp_path / "a.ipynb", drawn(svg))
        assert picture(path, "fig-07-map") == "<svg>\n</svg>"


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (drawn("<svg/>"), "fig-07-halves"),
        ({"output_type": "display_data", "data": {"image/png": ""}}, None),
        ({"output_type": "stream", "text": "b"}, None),
    ],
)
def test_picture_that_is_not_there(tmp_path, output, name):
    path = notebook(tmp_path / "a.ipynb", output, name or "fig-07-map")
    with pytest.raises(DataError, match="no figure 'fig-07-map'") as caught:
        picture(path, "fig-07-map")
    assert "\n" not in str(caught.value)


# --- python -m nestedae_utils.book.reference ---------------------------------


@pytest.fixture
def run(monkeypatch, folders, tmp_path):
    """Return a function that runs the module as a program does."""
    monkeypatch.setattr(records, "REFERENCE", folders[1])
    monkeypatch.setattr(datasets, "DATA", tmp_path / "data")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["reference", *map(str, arguments)])
        runpy.run_path(reference.__file__, run_name="__main__")

    return call


def test_program_tells_what_it_wrote(run, folders, tmp_path, capsys):
    ran, kept = folders
    images = []
    for place, (name, (from_, figure)) in enumerate(PICTURES.items()):
        path = ran / f"{from_}.ipynb"
        notebook(path, drawn(f"<svg id='{place}'/>"), figure)
        images.append(tmp_path / "images" / f"{name}.svg")
    run(ran)
    told = capsys.readouterr()
    written = [kept / "03_a.json", kept / "05_b.json", *images]
    assert told.out.splitlines() == [str(path) for path in written]
    assert told.err == ""
    assert all(path.is_file() for path in written)
    for place, image in enumerate(images):
        assert image.read_text(encoding="utf-8") == f"<svg id='{place}'/>"


def failure(run, *arguments):
    """Return what the program says when it fails, one line."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    # a text: python prints it to stderr and exits with status 1
    told = caught.value.code
    assert isinstance(told, str)
    assert "\n" not in told
    return told


def test_program_fails_with_one_line(run, folders, tmp_path):
    ran, kept = folders
    told = failure(run, tmp_path / "nowhere")
    assert told.startswith("reference: ")
    assert "no results there" in told
    twin = results("05_b", data_source="twin")
    records.write_json(ran / "05_b.json", twin)
    assert "run on 'twin' data" in failure(run, ran)
    assert not kept.exists()
    assert not (tmp_path / "images").exists()


def test_program_without_the_notebook_of_a_picture(run, folders, tmp_path):
    (first, figure), *_ = PICTURES.values()
    assert f"{first}.ipynb" in failure(run, folders[0])
    notebook(folders[0] / f"{first}.ipynb", drawn("<svg/>"), figure)
    told = failure(run, folders[0])
    assert any(f"{name}.ipynb" in told for name, _ in PICTURES.values())
    assert not (tmp_path / "images").exists()


def test_program_without_a_folder_asks_for_it(run, folders):
    assert "FOLDER" in failure(run)
    assert not folders[1].exists()
