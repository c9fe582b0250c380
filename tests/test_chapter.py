"""Parameters, records, notices and results of a chapter."""

import ast
import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import nbformat
import pandas as pd
import pytest
from docutils import nodes
from docutils.utils import new_document
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from nestedae_utils import errors as checks
from nestedae_utils.book import chapter, records
from nestedae_utils.book.chapter import NOTICE, Chapter
from nestedae_utils.book.parameters import RULES, Rule
from nestedae_utils.data.tables import Tables
from nestedae_utils.errors import DataError, ParameterError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EACH_NOTEBOOK = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.stem
)
CELL = """
seeds: int = 2  # seeds
folds: int = 5  # folds
epochs: int = 100  # epochs
learning_rate: float = 1.0e-3  # step size
noise: float = 0.0  # noise
latent_sizes: str = "1, 2,12"  # numbers of latents
inputs: str = "random"  # random or grid
settings: str = "inputs"  # inputs or text
device: str = "cpu"  # where
data_source: str = "auto"  # auto, paper or twin
"""
PROTOCOL = {"seeds": 2, "learning_rate": 1e-3, "settings": "inputs"}
GAP = "gap_mae_train_as_made"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Write nowhere but to a folder of the test's own; open no window."""
    monkeypatch.setenv("NESTEDAE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(chapter.plt, "show", lambda: None)
    with mpl.rc_context():
        yield


@pytest.fixture
def displayed(monkeypatch):
    """Return the list of what the chapter displays."""
    shown = []
    monkeypatch.setattr(chapter, "display", shown.append)
    return shown


def names(injected="", cell=CELL):
    """Return a notebook's names after its parameters cell."""
    space = {"__name__": "__main__", "In": [""], "Out": {}, "_i": ""}
    exec(cell, space)
    # papermill puts its own cell after it, without annotations
    exec(injected, space)
    return space


def start(injected="", **given):
    return Chapter("05_bandgap_scale", names(injected), **given)


def refused(injected, cell=CELL):
    with pytest.raises(ParameterError) as caught:
        Chapter("05_bandgap_scale", names(injected, cell))
    told = str(caught.value)
    assert "\n" not in told
    assert any(word in told for word in ("allowed", "may stand", "use 'auto'"))
    return told


def twin(source="twin"):
    frame = pd.DataFrame({"gap": [1.5]})
    return Tables(frame, frame, source, {f"{source}/table": "ab" * 32})


# --- parameters ------------------------------------------------------------


def test_parameters_are_the_annotated_names():
    found = start("seeds = 7\nlearning_rate = 1\nlatent_sizes = '3'")
    assert found.parameters == {
        "seeds": 7,
        "folds": 5,
        "epochs": 100,
        "learning_rate": 1.0,
        "noise": 0.0,
        "latent_sizes": "3",
        "inputs": "random",
        "settings": "inputs",
        "device": "cpu",
        "data_source": "auto",
    }
    assert isinstance(found.parameters["learning_rate"], float)
    assert not found.records
    assert found.source == "none"


@pytest.mark.parametrize(
    ("injected", "name", "meant"),
    [
        ("epoch = 10", "epoch", "epochs"),
        ("sed = 1", "sed", "seeds"),
        ("learning_rates = 0.1", "learning_rates", "learning_rate"),
        ("latent_size = '2,4'", "latent_size", "latent_sizes"),
        ("datasource = 'twin'", "datasource", "data_source"),
        ("gpu = True", "gpu", None),
        # what papermill makes of lists and of null, by -y or -f
        ("latent_size = [2, 4]", "latent_size", "latent_sizes"),
        ("epoch = None", "epoch", "epochs"),
    ],
)
def test_an_unknown_name_is_refused(injected, name, meant):
    told = refused(injected)
    assert told.startswith(f"{name}: unknown parameter of chapter 05_bandgap")
    assert "seeds, folds, epochs" in told
    if meant is None:
        assert "Did you mean" not in told
    else:
        assert told.endswith(f"Did you mean '{meant}'?")


@pytest.mark.parametrize(
    "injected",
    [
        # types
        'seeds = "10"',
        "seeds = 1.5",
        "seeds = 2.0",
        "seeds = True",
        "seeds = float('nan')",
        "seeds = None",
        "epochs = [10]",
        'learning_rate = "1e-4"',
        "learning_rate = True",
        "learning_rate = None",
        "inputs = 3",
        "device = 0",
        "data_source = None",
        "latent_sizes = 12",
        "latent_sizes = [2, 4]",
        # ranges
        "seeds = 0",
        "seeds = -1",
        "seeds = 201",
        "folds = 1",
        "folds = 495",
        "epochs = 0",
        "learning_rate = 0.0",
        "learning_rate = -1.0e-3",
        "learning_rate = 11.0",
        "learning_rate = float('nan')",
        "learning_rate = float('inf')",
        "noise = -0.1",
        "noise = float('nan')",
        # choices
        'inputs = "gird"',
        'inputs = ""',
        'settings = "Text"',
        'data_source = "twins"',
        # lists
        'latent_sizes = "2,2"',
        'latent_sizes = "2, 2"',
        'latent_sizes = "a,b"',
        'latent_sizes = "2;4"',
        'latent_sizes = "0,3"',
        'latent_sizes = "3,201"',
        'latent_sizes = "3,"',
        'latent_sizes = "1.5"',
        'latent_sizes = "[2, 4]"',
        'latent_sizes = ""',
        # devices
        'device = "gpu"',
        'device = "cuda:-1"',
        'device = "cuda:99"',
        'device = "cpu:0"',
        'device = ""',
    ],
)
def test_a_wrong_value_is_refused(injected):
    assert refused(injected).startswith(injected.split(" = ")[0] + ": ")


def test_a_choice_is_suggested():
    assert "Did you mean 'grid'?" in refused('inputs = "gird"')
    assert "Did you mean 'cuda'?" in refused('device = "cudaa"')


@pytest.mark.parametrize("value", ["false", "true", 0, 1, None, 0.0])
def test_only_true_and_false_are_a_bool(value):
    rule = Rule(bool)
    assert rule.check("flag", True) is True
    assert rule.check("flag", False) is False
    with pytest.raises(ParameterError, match=r"flag: .* true or false") as at:
        rule.check("flag", value)
    assert "-y" in str(at.value)


@given(
    st.none()
    | st.booleans()
    | st.integers(-10, 300)
    | st.floats()
    | st.text(max_size=6),
    st.sampled_from(sorted(RULES)),
)
@settings(max_examples=100, deadline=None)
def test_a_rule_returns_its_type_or_refuses(value, name):
    rule = RULES[name]
    told = ""
    try:
        found = rule.check(name, value)
    except ParameterError as error:
        told = str(error)
    if told:
        assert told.startswith(f"{name}: ")
        return
    assert type(found) is rule.kind
    assert found == value
    if rule.kind is not str:
        assert math.isfinite(found)
        assert rule.minimum is None or found >= rule.minimum
        assert rule.maximum is None or found <= rule.maximum
        assert found > 0 or not rule.positive
    elif rule.choices:
        assert found in rule.choices


def test_a_cell_can_be_run_again():
    """Later names, the chapter among them, are no parameters."""
    space = names()
    space["chapter"] = Chapter("05_bandgap_scale", space)
    exec("best = 3\nlabel = 'gap'\nsizes = [1, 2]\nnothing = None", space)
    exec("epochs = 20", space)
    again = Chapter("05_bandgap_scale", space)
    assert again.parameters["epochs"] == 20
    assert "best" not in again.parameters
    space["seeds"] = 0
    with pytest.raises(ParameterError, match="seeds: 0 given"):
        Chapter("05_bandgap_scale", space)


def test_what_is_no_parameter_is_let_be():
    space = names("import math\n_private = 3\ndef f(): pass")
    space |= {"COLOURS": {"a": "b"}, "MARKERS": ("o", "s"), "DATA": ROOT}
    assert "_private" not in Chapter("05_bandgap_scale", space).parameters


def test_settings_of_the_paper():
    assert start().as_in_paper
    assert start(protocol=PROTOCOL).as_in_paper
    # neither stands in the protocol
    assert start("device = 'auto'\nfolds = 3", protocol=PROTOCOL).as_in_paper
    for injected in ("seeds = 3", "learning_rate = 0.01", "settings = 'text'"):
        assert not start(injected, protocol=PROTOCOL).as_in_paper
    assert not start(protocol={"no_parameter": 1}).as_in_paper


# --- the notebooks ---------------------------------------------------------


def code(path):
    return [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]


def parameters_of(path):
    """Return the defaults in a notebook's parameters cell."""
    (cell,) = [
        cell
        for cell in code(path)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    return {
        statement.target.id: ast.literal_eval(statement.value)
        for statement in ast.parse(cell.source).body
    }, cell.source


def call_of(path):
    """Return name and protocol in a notebook's ``Chapter(...)``."""
    (call,) = [
        node
        for cell in code(path)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] == "Chapter"
    ]
    name, space = call.args
    assert ast.unparse(space) == "globals()"
    given = {word.arg: word.value for word in call.keywords}
    assert given.keys() <= {"protocol"}
    stated = given.get("protocol")
    protocol = {} if stated is None else ast.literal_eval(stated)
    return ast.literal_eval(name), protocol


@EACH_NOTEBOOK
def test_the_defaults_of_a_notebook_pass(path):
    defaults, source = parameters_of(path)
    name, protocol = call_of(path)
    assert name == path.stem
    assert defaults.keys() <= RULES.keys()
    found = Chapter(name, names(cell=source), protocol)
    assert found.parameters == defaults
    # "10" and 10, True and 1, 1 and 1.0 would pass for equal or the other way
    for key, value in found.parameters.items():
        assert type(value) is type(defaults[key]) is RULES[key].kind, key


@EACH_NOTEBOOK
def test_the_protocol_of_a_notebook_is_its_defaults(path):
    defaults, source = parameters_of(path)
    name, protocol = call_of(path)
    assert protocol == {key: defaults.get(key) for key in protocol}
    assert Chapter(name, names(cell=source), protocol).as_in_paper
    for key, value in protocol.items():
        other = "text" if isinstance(value, str) else value + 1
        changed = names(f"{key} = {other!r}", source)
        if key in ("latent_sizes", "sizes"):
            changed = names(f"{key} = '7'", source)
        assert not Chapter(name, changed, protocol).as_in_paper, key


@EACH_NOTEBOOK
def test_with_any_other_setting_nothing_is_compared(path):
    defaults, _ = parameters_of(path)
    _, protocol = call_of(path)
    if protocol:
        # where it runs, and what it says of its own data, are no settings
        settings = defaults.keys() - {"device", "data_source"}
        assert protocol.keys() == settings


def test_every_rule_is_used():
    used = set()
    for path in NOTEBOOKS:
        used |= parameters_of(path)[0].keys()
    assert used == RULES.keys()
    for name, rule in RULES.items():
        assert rule.kind in (int, float, str, bool), name
        assert not rule.choices or rule.kind is str, name
        assert not rule.listed or rule.kind is str, name


@EACH_NOTEBOOK
def test_a_notebook_starts_and_finishes_its_chapter(path):
    first, second, *others = code(path)
    assert "parameters" in first.metadata.get("tags", [])
    assert "Chapter(" in second.source
    sources = [cell.source.rstrip() for cell in others]
    (end,) = [
        place
        for place, source in enumerate(sources)
        if source.endswith("chapter.finish()")
    ]
    assert not any("chapter.record(" in one for one in sources[end + 1 :])


# --- records and results ---------------------------------------------------


def test_results_folder(monkeypatch, tmp_path):
    assert chapter.results_folder() == tmp_path / "results"
    for unset in (None, ""):
        if unset is None:
            monkeypatch.delenv("NESTEDAE_RESULTS")
        else:
            monkeypatch.setenv("NESTEDAE_RESULTS", unset)
        assert chapter.results_folder() == ROOT / "results"


def test_finish_writes_the_results(tmp_path):
    ran = start("epochs = 200", protocol=PROTOCOL)
    ran.use(twin("paper"))
    ran.note({"more.csv": "cd" * 32})
    ran.record(GAP, 0.15, 0.01, 10)
    ran.record("device_inputs", 343)
    page = ran.finish().data
    path = tmp_path / "results" / "05_bandgap_scale.json"
    assert [path] == list(path.parent.iterdir())
    content = json.loads(path.read_text(encoding="utf-8"))
    assert records.read_results(path) == content
    assert content["chapter"] == "05_bandgap_scale"
    assert content["data_source"] == "paper"
    assert content["parameters"] == ran.parameters
    assert content["parameters"]["epochs"] == 200
    assert content["as_in_paper"] is True
    assert 0 <= content["seconds"] < 60
    assert set(content["checksums"]) == {"paper/table", "more.csv"}
    assert {"python", "torch", "numpy"} <= content["versions"].keys()
    pd.Timestamp(content["date"])
    assert [list(row) for row in content["records"]] == 2 * [
        "quantity value spread unit replicas paper where tolerance "
        "verdict cell".split()
    ]
    assert content["records"] == records.as_dicts(ran.records)
    assert content["records"][0]["verdict"] == records.REPRODUCED
    assert content["records"][0]["replicas"] == 10
    assert GAP in page
    assert "Data: paper, settings: the book’s" in page
    assert "TWIN" not in page


def test_finish_with_other_settings():
    ran = start("seeds = 3", protocol=PROTOCOL)
    ran.record(GAP, 0.156)
    assert ran.records[0].verdict == records.OTHER_SETTINGS
    page = ran.finish().data
    assert "settings: others than the book’s" in page
    (content,) = records.results_of(chapter.results_folder()).values()
    assert content["as_in_paper"] is False
    assert len(records.compared({"05": content})) == 0


def test_finish_without_records_and_again():
    ran = start()
    assert "Data: none" in ran.finish().data
    assert "settings: " not in ran.finish().data
    (content,) = records.results_of(chapter.results_folder()).values()
    assert content["records"] == []


def test_a_record_can_be_made_again():
    """In a live session a cell runs again; its last value stands."""
    ran = start()
    ran.record("device_inputs", 343)
    ran.record(GAP, 0.15)
    ran.record("device_inputs", 344)
    found = {one.quantity: one.value for one in ran.records}
    assert found == {"device_inputs": 344, GAP: 0.15}
    assert len(ran.records) == 2


def test_a_record_names_its_cell(monkeypatch):
    """By the execution count, as the book's pages do; none outside IPython."""
    ran = start()
    ran.record(GAP, 0.15)
    assert ran.records[-1].cell is None
    for count in (7, 9):
        shell = SimpleNamespace(execution_count=count)
        monkeypatch.setattr(chapter, "get_ipython", lambda shell=shell: shell)
        ran.record(GAP, 0.15)
        assert [one.cell for one in ran.records] == [count]
    ran.finish()
    (content,) = records.results_of(chapter.results_folder()).values()
    assert [one["cell"] for one in content["records"]] == [9]
    assert "cell" not in records.own_numbers(content)["records"][0]


def test_a_failed_record_leaves_nothing():
    ran = start()
    with pytest.raises(ParameterError):
        ran.record("no_such_quantity", 1.0)
    with pytest.raises(ParameterError):
        ran.record(GAP, math.nan)
    assert ran.records == []


# --- the twin --------------------------------------------------------------


def test_the_twin_is_marked_everywhere(displayed):
    ran = start(protocol=PROTOCOL)
    tables = twin()
    assert ran.use(tables) is tables
    (notice,) = displayed
    assert notice.data == NOTICE
    assert NOTICE.startswith("**TWIN.**")
    assert ran.checksums == tables.checksums

    figure = Figure()
    ran.show(figure)
    assert [text.get_text() for text in figure.texts] == ["TWIN"]
    assert "TWIN" in ran.table(pd.DataFrame({"a": [1]})).data

    ran.record(GAP, 0.156)
    (one,) = ran.records
    assert (one.verdict, one.paper) == (records.TWIN, None)
    page = ran.finish().data
    assert page.index("<strong>TWIN</strong>") < page.index(GAP)
    assert "Data: twin" in page
    assert "0.007" not in page
    (content,) = records.results_of(chapter.results_folder()).values()
    assert content["data_source"] == "twin"


@pytest.mark.parametrize("source", ["paper", None])
def test_the_paper_is_not_marked(displayed, source):
    ran = start()
    if source:
        ran.use(twin(source))
    figure = Figure()
    ran.show(figure)
    assert displayed == []
    assert figure.texts == []
    assert "TWIN" not in ran.table(pd.DataFrame({"a": [1]})).data


def test_tables_scroll_and_escape():
    frame = pd.DataFrame({"x": ["<a>", "b"]}, index=["first", "second"])
    page = start().table(frame).data
    assert page.startswith('<div class="scrolling" tabindex="0"><table')
    assert "first" not in page
    assert "&lt;a&gt;" in page


# --- what the book does with it: _ext/companion.py -------------------------


@pytest.fixture(scope="module")
def companion():
    path = ROOT / "_ext" / "companion.py"
    spec = importlib.util.spec_from_file_location("companion", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page():
    """Return a page as Sphinx has it: a section with its title and text."""
    document = new_document("page")
    section = nodes.section("", nodes.title("", "Maps"))
    section += [nodes.paragraph("", "Text."), nodes.section("")]
    section[-1] += nodes.title("", "Further down")
    document += section
    return document


def written(name, source):
    ran = Chapter(name, names())
    ran.source = source
    ran.finish()


@pytest.mark.parametrize(
    "docnames", [["index", "b", "a"], ["b", "a"], ["a", "index", "b", "a"]]
)
def test_the_landing_page_is_read_last(companion, docnames):
    app = SimpleNamespace(config=SimpleNamespace(root_doc="index"))
    same = docnames
    companion.read_index_last(app, SimpleNamespace(), docnames)
    assert docnames is same
    assert docnames == ["a", "b", "index"]


def test_nothing_changed_but_the_landing_page(companion):
    app = SimpleNamespace(config=SimpleNamespace(root_doc="index"))
    docnames = []
    companion.read_index_last(app, SimpleNamespace(), docnames)
    assert docnames == ["index"]


def test_a_page_of_the_twin_says_so_below_its_title(companion):
    written("07_latent_maps", "twin")
    document = page()
    companion.warn_of_the_twin(None, document, "notebooks/07_latent_maps")
    title, warning, *rest = document[0]
    assert title.astext() == "Maps"
    assert isinstance(warning, nodes.warning)
    assert warning.astext() == NOTICE.replace("**", "")
    assert warning.astext().startswith("TWIN.")
    assert len(rest) == 2
    assert len(list(document.findall(nodes.warning))) == 1


@pytest.mark.parametrize("source", ["paper", "none", None])
def test_other_pages_stay_as_they_are(companion, source):
    if source:
        written("07_latent_maps", source)
    # another chapter's twin is none of this page's
    written("05_bandgap_scale", "twin")
    document = page()
    before = document.pformat()
    companion.warn_of_the_twin(None, document, "notebooks/07_latent_maps")
    companion.warn_of_the_twin(None, document, "index")
    assert document.pformat() == before


def test_a_page_without_a_title(companion):
    written("07_latent_maps", "twin")
    document = new_document("page")
    companion.warn_of_the_twin(None, document, "notebooks/07_latent_maps")
    assert len(document) == 0


def test_damaged_results_stop_the_book(companion):
    folder = chapter.results_folder()
    folder.mkdir(parents=True)
    (folder / "07_latent_maps.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="run the chapter again"):
        companion.warn_of_the_twin(None, page(), "notebooks/07_latent_maps")


def test_executed_cells_have_an_address(companion):
    document = page()
    for element, count in (
        ("cell_code", 1),
        ("cell_code", None),
        ("cell_code_output", None),
        ("cell_code", 12),
    ):
        document[0] += nodes.container(nb_element=element, exec_count=count)
    document[0] += nodes.container("", classes=["admonition"])
    companion.name_the_cells(None, document)
    found = [node["ids"] for node in document.findall(nodes.container)]
    assert found == [["cell-1"], [], [], ["cell-12"], []]


@pytest.mark.parametrize("url", ["", None, "https://example.org/a/b"])
def test_what_is_not_published_is_not_launched(companion, url):
    buttons = {"binderhub_url": "https://mybinder.org"}
    options = {"repository_url": url, "launch_buttons": buttons}
    config = SimpleNamespace(html_theme_options=options)
    companion.launch_only_what_is_published(None, config)
    assert options.get("launch_buttons") == (buttons if url else None)


def test_setup_registers_all(companion):
    connected = {}
    app = SimpleNamespace(connect=connected.__setitem__)
    told = companion.setup(app)
    assert connected == {
        "config-inited": companion.launch_only_what_is_published,
        "env-before-read-docs": companion.read_index_last,
        "doctree-read": companion.name_the_cells,
        "doctree-resolved": companion.warn_of_the_twin,
        "builder-inited": companion.offer_plotly,
        "html-page-context": companion.load_plotly,
    }
    assert told["parallel_read_safe"] is False


# --- lists -----------------------------------------------------------------


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8, unique=True))
@settings(max_examples=40, deadline=None)
def test_a_list_travels_as_text(sizes):
    for separator in (",", ", "):
        text = separator.join(map(str, sizes))
        assert RULES["latent_sizes"].check("latent_sizes", text) == text
        assert checks.wholes("latent_sizes", text, 1) == tuple(sizes)
