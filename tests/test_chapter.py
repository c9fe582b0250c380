"""Parameters, records, notices and results of a chapter."""

import importlib
import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import nbformat
import pandas as pd
import pytest
from conftest import EACH_NOTEBOOK, ROOT, told
from docutils import nodes
from docutils.utils import new_document
from matplotlib.figure import Figure
from test_records import record

from nestedae_utils.book import chapter, claims, readings, records
from nestedae_utils.book.chapter import NOTICE, Chapter
from nestedae_utils.data.tables import Tables
from nestedae_utils.errors import DataError, ParameterError

CELL = """
seeds: int = 2  # seeds; 1 to 200
epochs: int = 100  # epochs; 1 to 100000
learning_rate: float = 1.0e-3  # step size; above 0, up to 10
latent_sizes: str = "1, 2,12"  # numbers of latents; each 1 to 200
inputs: str = "random"  # which; one of grid, random
device: str = "cpu"  # where; auto, cpu, cuda, cuda:N or mps
data_source: str = "auto"  # which; one of auto, paper, twin
"""
GAP = "gap_mae_train_as_made"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Write nowhere but to a folder of the test's own; open no window."""
    monkeypatch.setenv("NESTEDAE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(chapter.plt, "show", lambda: None)
    cells = [{"source": CELL, "metadata": {"tags": ["parameters"]}}]
    path = tmp_path / "05_bandgap_scale.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    with mpl.rc_context():
        yield tmp_path


def names(injected="", cell=CELL):
    """Return a notebook's names after its parameters cell."""
    space = {"__name__": "__main__", "In": [""], "Out": {}, "_i": ""}
    exec(cell, space)
    # papermill puts its own cell after it, without annotations
    exec(injected, space)
    return space


@pytest.fixture
def start(folder):
    def call(injected="", **given):
        return Chapter("05_bandgap_scale", names(injected), notebooks=folder, **given)

    return call


def twin(source="twin"):
    frame = pd.DataFrame({"gap": [1.5]})
    return Tables(frame, frame, source, {f"{source}/table": "ab" * 32})


def written():
    (content,) = records.results_of(chapter.results_folder()).values()
    return content


# --- parameters ------------------------------------------------------------


def test_parameters_are_those_declared(start):
    # what is no scalar is none, nor is what has an underscore
    found = start("seeds = 7\nlearning_rate = 1\n_a = 3\nA = {}\ndef f(): 0")
    expected = [7, 100, 1.0, "1, 2,12", "random", "cpu", "auto"]
    assert list(found.parameters.values()) == expected
    assert isinstance(found.parameters["learning_rate"], float)
    assert (found.records, found.source) == ([], "none")


@pytest.mark.parametrize(
    ("injected", "words"),
    [
        ("epoch = 10", "epoch: unknown parameter of chapter 05_bandgap_scale"),
        ("epoch = None", "Did you mean 'epochs'?"),
        # what papermill makes of lists, by -y or -f
        ("latent_size = [2, 4]", "Did you mean 'latent_sizes'?"),
        ("lr = 0.1", "Did you mean 'learning_rate'?"),
        ("gpu = True", "one of seeds, epochs, learning_rate, latent_sizes,"),
        ("seeds = '10'", "seeds: '10' given, a whole number from 1 to 200"),
        ("seeds = 0", "seeds: 0 given"),
        ("learning_rate = float('nan')", "learning_rate: nan given"),
        ("inputs = 'gird'", "Did you mean 'grid'?"),
        ("latent_sizes = '2,2'", "each number may stand only once."),
        ("device = 'cudaa'", "Did you mean 'cuda'?"),
        ("device = 'cuda:99'", "use 'auto' or 'cpu'."),
    ],
)
def test_what_is_not_allowed_is_refused(start, injected, words):
    assert words in told(start, injected, error=ParameterError)


def test_what_stood_there_before_the_notebook_is_no_parameter(start, monkeypatch):
    """The names of a start-up file of IPython, unless the notebook changes them."""
    shell = SimpleNamespace(user_ns_hidden={"DEBUG": "yes", "NTHREADS": [4]})
    monkeypatch.setattr(chapter, "get_ipython", lambda: shell)
    start("DEBUG = 'yes'")
    with pytest.raises(ParameterError, match="NTHREADS: unknown parameter"):
        start("NTHREADS = [4]")


def test_results_may_lie_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("NESTEDAE_RESULTS", "~/results")
    assert chapter.results_folder() == Path.home() / "results"


def test_the_cell_can_run_again_in_a_live_session(start):
    later = "chapter = 0\nbest = 3\nsizes = [1, 2]\nnothing = None\n"
    again = start(f"{later}epochs = 20")
    assert (again.parameters["epochs"], "best" in again.parameters) == (20, False)
    with pytest.raises(ParameterError, match="seeds: 0 given"):
        start(f"{later}seeds = 0")


@pytest.mark.parametrize(
    ("injected", "always", "same"),
    [
        ("", False, True),
        ("device = 'auto'\ndata_source = 'twin'", False, True),
        *((one, False, False) for one in ("seeds = 3", "learning_rate = 0.01")),
        ("inputs = 'grid'", False, False),
        ("seeds = 3", True, True),
    ],
)
def test_settings_of_the_book_are_the_defaults_of_its_cell(
    start, injected, always, same
):
    assert start(injected, always_compared=always).as_in_paper == same


@pytest.mark.parametrize("injected", ["", "device = 'auto'", "epochs = 7\nseeds = 3"])
def test_other_settings_than_the_books_are_told_first(start, injected, monkeypatch):
    shown = []
    keep = lambda one, **how: shown.append((one, how))  # noqa: E731
    monkeypatch.setattr(readings, "display", keep)
    start(injected)
    if "seeds" not in injected:
        assert not shown
        return
    ((told, how),) = shown
    assert how == {"metadata": {readings.SETTINGS: True}}
    for words in ("`seeds` 3 (the book: 2)", "`epochs` 7 (the book: 100)"):
        assert words in told.data
    assert "device" not in told.data


@EACH_NOTEBOOK
def test_a_notebook_starts_and_finishes_its_chapter(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    first, second, *others = code
    # chapter 2 states nothing of the paper that depends on a parameter
    more = ", always_compared=True" if path.stem[:2] == "02" else ""
    call = f'chapter = Chapter("{path.stem}", globals(){more})'
    assert call in second.splitlines()
    found = Chapter(path.stem, names(cell=first))
    assert found.as_in_paper
    assert found.parameters.items() <= names(cell=first).items()
    ends = [one.rstrip().endswith("chapter.finish()") for one in others]
    assert ends.count(True) == 1
    assert "chapter.record(" not in "".join(others[ends.index(True) + 1 :])


ENDS = (math.nan, math.nan)  # of one draw


# --- records and results ---------------------------------------------------


def test_finish_writes_the_results(start):
    ran = start()
    ran.use(twin("paper"))
    ran.note({"more.csv": "cd" * 32})
    ran.record(GAP, 0.15, 0.01, 10, (0.15, 0.151))
    ran.record("device_inputs", 343)
    page = ran.finish().data
    content = written()
    assert 0 <= content.pop("seconds") < 60
    assert {"python", "torch", "numpy"} <= content.pop("versions").keys()
    pd.Timestamp(content.pop("date"))
    assert content == {
        **{"chapter": "05_bandgap_scale", "data_source": "paper"},
        **{"parameters": ran.parameters, "as_in_paper": True, "trainings": {}},
        "trained": [],
        "checksums": {"paper/table": "ab" * 32, "more.csv": "cd" * 32},
        "records": [
            record(GAP, 0.15, 0.01, 10, ends=(0.15, 0.151)),
            record("device_inputs", 343),
        ],
    }
    assert GAP in page
    assert "Data: paper, settings: the book’s" in page
    assert "rained" not in page


def test_finish_tells_what_was_trained(start, monkeypatch):
    tally = Counter({"dense replicas": 7, "found replicas": 2})
    monkeypatch.setattr(chapter.training, "tally", tally)
    ran = start()
    tally.update({"dense replicas": 60, "dense steps": 2_400_000})
    tally.update({"found replicas": 5, "found steps": 9})
    page = ran.finish().data
    told = "Trained 60 replicas, 2.4 million replica-steps, on the fast path; 5 found"
    assert f"{told} in the cache.</p>" in page
    assert written()["trainings"]["dense replicas"] == 60
    ran = start()
    tally.update({"reference replicas": 1, "reference steps": 3000})
    told = "Trained 1 replicas, 0.003 million replica-steps, on the reference"
    assert told in ran.finish().data


def test_finish_with_other_settings(start):
    ran = start("seeds = 3")
    ran.record(GAP, 0.156, ends=ENDS)
    assert ran.records[0]["verdict"] == claims.OTHER_SETTINGS
    assert ran.records[0]["paper"] == 0.156
    assert "settings: others than the book’s" in ran.finish().data
    assert written()["as_in_paper"] is False
    always = start("seeds = 3", always_compared=True)
    always.record(GAP, 0.2, ends=ENDS)
    assert always.records[0]["verdict"] == claims.NOT_REPRODUCED
    assert "settings: " not in always.finish().data


def test_a_record_names_its_cell_and_can_be_made_again(start, monkeypatch):
    """As the book's pages count, which the shell is one ahead of; or none."""
    ran = start()
    ran.record("device_inputs", 343)
    for count in (7, 9):
        shell = SimpleNamespace(execution_count=count)
        monkeypatch.setattr(chapter, "get_ipython", lambda shell=shell: shell)
        ran.record(GAP, 0.15, ends=ENDS)
        ran.record("device_inputs", 344)
    ran.finish()
    found = [(r["quantity"], r["value"], r["cell"]) for r in written()["records"]]
    assert found == [(GAP, 0.15, 8), ("device_inputs", 344.0, 8)]


def test_a_training_that_diverged_leaves_no_record(start):
    ran = start()
    with pytest.raises(ParameterError, match=f"value of {GAP}: nan given"):
        ran.record(GAP, math.nan, ends=ENDS)
    assert ran.records == []
    # the spread of one fold
    ran.record(GAP, 0.15, math.nan, ends=ENDS)
    assert ran.records[0]["spread"] is None
    assert ran.records[0]["low"] is None


def test_only_what_is_exact_has_no_interval(start):
    ran = start()
    for name, ends, needed in (
        (GAP, None, "an inexact quantity"),
        ("device_inputs", ENDS, "an exact quantity"),
    ):
        with pytest.raises(ParameterError, match=f"{name}.*{needed}"):
            ran.record(name, 3, ends=ends)
    assert ran.records == []


# --- the twin --------------------------------------------------------------


@pytest.mark.parametrize("source", ["twin", "paper"])
def test_the_twin_and_nothing_else_is_marked(start, source, monkeypatch):
    displayed = []
    monkeypatch.setattr(chapter, "display", displayed.append)
    ran, tables, figure = start(), twin(source), Figure()
    assert ran.use(tables) is tables
    assert ran.checksums == tables.checksums
    ran.show(figure, keep="drawn")
    assert (chapter.results_folder() / "drawn.svg").stat().st_size > 100
    table = ran.table(pd.DataFrame({"x": ["<a>"]}, index=["first"])).data
    assert '<div class="scrolling" tabindex="0"><table' in table
    assert "&lt;a&gt;" in table
    assert "first" not in table
    ran.record(GAP, 0.156, ends=ENDS)
    page = ran.finish().data
    judged = ran.records[0]["verdict"], ran.records[0]["paper"]
    if source == "twin":
        assert [shown.data for shown in displayed] == [NOTICE]
        assert [text.get_text() for text in figure.texts] == ["TWIN"]
        assert judged == (claims.TWIN, None)
        assert page.index("<strong>TWIN</strong>") < page.index(GAP)
        assert "0.007" not in page
    else:
        assert (displayed, figure.texts) == ([], [])
        assert judged == (claims.REPRODUCED, 0.156)
    assert ("TWIN" in table) == ("TWIN" in page) == (source == "twin")
    assert written()["data_source"] == source


# --- what the book does with it: _ext/companion.py -------------------------


@pytest.fixture(scope="module")
def companion():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "_ext")
        return importlib.import_module("companion")


def page():
    """Return a page as Sphinx has it: a section with its title and text."""
    document = new_document("page")
    section = nodes.section("", nodes.title("", "Maps"))
    section += [nodes.paragraph("", "Text."), nodes.section("")]
    section[-1] += nodes.title("", "Further down")
    document += section
    return document


def test_the_landing_page_is_read_last_and_cells_have_addresses(companion):
    app = SimpleNamespace(config=SimpleNamespace(root_doc="index"))
    for docnames in (["index", "b", "a"], ["b", "a", "b"]):
        companion.read_index_last(app, SimpleNamespace(), docnames)
        assert docnames == ["a", "b", "index"]
    document, code = page(), "cell_code"
    for element, count in ((code, 1), (code, None), ("x", None), (code, 12)):
        document[0] += nodes.container(nb_element=element, exec_count=count)
    companion.name_the_cells(None, document)
    found = [node["ids"] for node in document.findall(nodes.container)]
    assert found == [["cell-1"], [], [], ["cell-12"]]


def test_readings_are_marked_on_a_page_of_the_twin(companion, start):
    """A glued value, a figure, what was learnt, what a comment says; no others."""
    name = "05_bandgap_scale"
    ran = start()
    for source, labels in (("paper", 0), ("twin", 4)):
        ran.source = source
        ran.finish()
        document = page()
        section, learnt = document[0], nodes.section(ids=["what-was-learnt"])
        glued = nodes.inline("", "0.1", classes=["pasted-text"])
        figure = nodes.inline("", "Fig. 1", reftype="numref")
        output = nodes.container("", nodes.paragraph("", "", glued.deepcopy()))
        learnt += nodes.paragraph("", "Much.")
        section += [nodes.paragraph("", "", glued), nodes.paragraph("", "", figure)]
        section += [nodes.raw("", readings.READING), nodes.paragraph("", "Better.")]
        section += [nodes.paragraph("", "How."), output, learnt]
        where = SimpleNamespace(docname=f"notebooks/{name}")
        companion.mark_its_readings(SimpleNamespace(env=where), document)
        said = [one.astext() for one in document.findall(nodes.paragraph)]
        marked = [one for one in said if one.startswith(f"{readings.LABEL} ")]
        assert len(marked) == labels
        assert not {"Text.", "How.", "0.1"} - set(said)


@pytest.mark.parametrize("source", ["twin", "paper", "none", None])
def test_a_page_of_the_twin_says_so_below_its_title(companion, start, source):
    name = "05_bandgap_scale"
    if source:
        ran = start()
        ran.source = source
        ran.finish()
    document, other, bare = page(), page(), new_document("page")
    before = document.pformat()
    for each, docname in ((document, name), (other, "07_maps"), (bare, name)):
        companion.warn_of_the_twin(None, each, f"notebooks/{docname}")
    assert (other.pformat(), len(bare)) == (before, 0)
    if source != "twin":
        assert document.pformat() == before
        return
    title, warning, *rest = document[0]
    assert (title.astext(), len(rest)) == ("Maps", 2)
    assert warning.astext() == NOTICE.replace("**", "")
    path = chapter.results_folder() / f"{name}.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="run the chapter again"):
        companion.warn_of_the_twin(None, page(), f"notebooks/{name}")
