"""What notebooks declare, and how parameters are read and refused."""

import ast
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import papermill
import pytest
from conftest import told
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nestedae_utils.book import parameters
from nestedae_utils.errors import ParameterError
from nestedae_utils.study import protocol

NAMES = parameters.chapters()
NAN, INF = float("nan"), float("inf")
DEVICE = "auto, cpu, cuda, cuda:N or mps"
# a line of each kind, its range in words, what is allowed, and what is not
LINES = {
    "n: int = 5  # seeds; of both; 1 to 200": (
        *("a whole number from 1 to 200", (1, 200)),
        (0, 201, -(10**90), 2.0, True, None, "10", [3], NAN),
    ),
    "x: float = 0.5  # noise; -1.5 to 100": (
        *("a number from -1.5 to 100", (-1.5, 0, 7, 100.0)),
        (-1.6, 100.1, "1", True, None, NAN, -INF, 10**400),
    ),
    "x: float = 1.0e-3  # step; above 0, up to 1e6": (
        *("a number above 0 up to 1000000", (5e-324, 10, 1e6)),
        (0, 0.0, -1e-9, 1000001, INF, "1e-4"),
    ),
    'c: str = "a"  # which; one of a, b c': (
        *("one of a, b c", ("a", "b c")),
        ("b", "", "A", 3, None, ["a"]),
    ),
    's: str = "2,4"  # sizes; each 1 to 9': (
        "different whole numbers from 1 to 9, separated by commas",
        ("1", "9, 1", "3,2,1"),
        ("0", "3,10", "2, 2", "a", "", "3,", "1.5", "[2, 4]", 3, [3]),
    ),
    f'd: str = "cpu"  # where; {DEVICE}': (DEVICE, ("cpu", "cuda:7"), (0,)),
    't: str = "é"  # what; any text': ("any text", ("", "x=y"), (None, 1)),
    "f: bool = False  # whether; true or false": (
        *("true or false", (True, False)),
        ("true", 0, 1, None),
    ),
}
NO_LINES = """\
x = 1  # no type; 0 to 9
x: int = f()  # no literal; 0 to 9
x: int = (open('made', 'w'), 1)[1]  # code; 0 to 9
x: list = []  # no scalar; any text
x: int =
x: int = '
x: int = 1
x: int = 1  # no range
x: int = 1  # no range; whichever
x: int = 1  # a comma, 0 to 9
x: int = 1  # half a range; 0 to
x: int = 1  # of floats; 0.5 to 9
x: int = 1  # of floats; above 0, up to 9
x: float = 1.0  # half a range; above 0
x: float = 1.0  # of texts; any text
x: str = "1"  # of numbers; 0 to 9
x: bool = True  # of numbers; 0 to 9
x: int = 10  # a default outside; 0 to 9
x: int = 1.0  # a default of another type; 0 to 9
x: str = "c"  # a default outside; one of a, b"""


def cell(source):
    """Return a notebook whose parameters cell has a source."""
    content = {"source": source, "metadata": {"tags": ["parameters"]}}
    return json.dumps({"cells": [content]})


def read(line):
    """Return the one parameter that a line declares."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "01_x.ipynb")
        path.write_text(cell(line), encoding="utf-8")
        (one,) = parameters.read(path).parameters.values()
    return one


def outcome(function, *arguments):
    """Return a result, or None and the line of its ParameterError."""
    try:
        return function(*arguments), ""
    except ParameterError as error:
        line = str(error)
    assert len(line.splitlines()) == 1
    return None, line


# --- what notebooks say ----------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_declares_what_papermill_finds(name):
    one = parameters.find(name)
    known = papermill.inspect_notebook(one.path)
    assert list(one.parameters) == list(known)
    for key, parameter in one.parameters.items():
        assert parameter.default == ast.literal_eval(known[key]["default"])
        assert parameter.kind.__name__ == known[key]["inferred_type_name"]
        assert parameter.help == known[key]["help"].rpartition("; ")[0]
        assert len(parameter.help) > 10
        # the command line cannot ask these modules: they load torch
        if key in ("settings", "data_source"):
            assert parameter.choices in (protocol.SETTINGS, ("auto", "paper", "twin"))
    texts = {n: parameters.written(p.default) for n, p in one.parameters.items()}
    assert parameters.parse(one, texts) == parameters.effective(one, {})
    assert len(one.title) > 5
    assert len(one.summary) > 60
    assert one.run_time.startswith("Run time: ")
    assert not set("{}`\n") & set(one.title + one.summary + one.run_time)


def test_a_chapter_is_found_by_number_or_name():
    for word in ("05", "5", "05_bandgap_scale"):
        assert parameters.find(word).name == "05_bandgap_scale"
    for word in ("99", "", "../x", "/etc/passwd", "005", "٠٥", "x" * 999):
        _, line = outcome(parameters.find, word)
        assert line.startswith("chapter: ")
        assert "05_bandgap_scale" in line
        assert len(line) < 600
    assert "mean '05_bandgap_scale'" in outcome(parameters.find, "05_band")[1]


def test_a_copy_of_a_chapter_does_not_stand_in_for_it(tmp_path):
    copy = parameters.find("05").path
    for name in (copy.name, "05_a_copy.ipynb", "._05_bandgap_scale.ipynb"):
        shutil.copy(copy, tmp_path / name)
    assert parameters.find(copy.stem, tmp_path).name == copy.stem
    with pytest.raises(ParameterError, match="may be 05_a_copy or 05_bandgap_scale;"):
        parameters.find("05", tmp_path)


@pytest.mark.parametrize("line", LINES)
def test_a_line_declares_name_type_default_meaning_and_range(line):
    one, (words, good, bad) = read(line), LINES[line]
    assert line.startswith(f"{one.name}: {one.kind.__name__} = ")
    assert f"  # {one.help}; " in line
    assert (one.allowed, one.listed) == (words, "each" in line)
    for value in good:
        checked = one.check(value)
        assert (checked, type(checked)) == (value, one.kind)
    for value in bad:
        _, told = outcome(one.check, value)
        assert told.startswith(f"{one.name}: ")
        assert any(w in told for w in ("is allowed", "are allowed", "once"))


NO_CELLS = ["", "[]", "{}", '{"cells": [3]}']


@pytest.mark.parametrize("content", [*NO_CELLS, *map(cell, NO_LINES.splitlines())])
def test_what_declares_nothing_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "01_x.ipynb"
    path.write_text(content)
    assert "01_x.ipynb: not a notebook" in told(parameters.find, "01", tmp_path)
    assert list(tmp_path.iterdir()) == [path], "nothing is executed"


def test_the_command_line_loads_nothing_heavy():
    code = (
        "import sys, nestedae_utils.cli\n"
        "from nestedae_utils.book import parameters\n"
        "parameters.find('05')\n"
        "heavy = {'torch', 'pandas', 'numpy', 'papermill', 'distributed'}\n"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- values ----------------------------------------------------------------

ANY = {
    int: read("x: int = 0  # any; -1000000000000 to 1000000000000"),
    float: read("x: float = 0.0  # any; -1e308 to 1e308"),
    bool: read("x: bool = True  # any; true or false"),
    str: read('x: str = ""  # any; any text'),
}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, {"+3": 3, "007": 7}, ["3.0", "1e3", "1_000", "ten", " 3", "٣"]),
        (int, {}, ["", "0x10", "true", "[1,2]", "9" * 5000]),
        (float, {"1e-4": 1e-4, "3": 3.0, ".5": 0.5}, ["nan", "inf", "1e999"]),
        (float, {}, ["-Infinity", "1,5", "1_0.0", "1/3"]),
        (bool, {"False": False}, ["1", "yes", "None", ""]),
        (str, {"8": "8", "f()": "f()"}, ["two\nlines", "\x1b", "x" * 201]),
    ],
)
def test_texts_by_type(kind, good, bad):
    for text, value in good.items():
        assert repr(ANY[kind].parse(text)) == repr(value)
    for text in bad:
        _, line = outcome(ANY[kind].parse, text)
        assert line.startswith("x: ")
        assert len(line) < 400


@given(
    st.integers(-(10**12), 10**12)
    | st.floats(-1e308, 1e308)
    | st.booleans()
    | st.text(max_size=200).filter(str.isprintable)
)
def test_values_go_there_and_back(value):
    found = ANY[type(value)].parse(parameters.written(value))
    assert repr(found) == repr(value)


@given(st.sampled_from(NAMES), st.data(), st.text())
@settings(max_examples=200)
def test_any_text_is_a_value_or_one_line(name, data, text):
    """Whatever is given, no other error, and nothing is evaluated."""
    one = parameters.find(name)
    key = data.draw(st.sampled_from(list(one.parameters)))
    value, line = outcome(parameters.parse, one, {key: text})
    if line:
        assert line.startswith(key)
        return
    assert type(value[key]) is one.parameters[key].kind
    again = parameters.parse(one, {key: parameters.written(value[key])})
    assert again == value


@given(st.lists(st.text()))
@example(["=3", "a="])
@example(["a=1", "a=2"])
def test_any_words_are_assignments_or_one_line(words):
    values, line = outcome(parameters.assignments, words)
    if not line:
        assert [f"{name}={text}" for name, text in values.items()] == words


def test_the_nearest_name_is_suggested():
    one = parameters.find("05")
    near = {"lr": "learning_rate", "bs": "batch_size", "epoch": "epochs"}
    for name in (*near, "zzz"):
        _, line = outcome(parameters.effective, one, {name: 1})
        assert line == outcome(parameters.parse, one, {name: "1"})[1]
        assert line.startswith(f"{name}: unknown parameter of chapter 05_b")
        assert line.endswith(f"mean {near.get(name)!r}?") == (name in near)


def test_effective_checks_what_is_given_and_adds_the_defaults():
    one = parameters.find("05")
    _, line = outcome(parameters.effective, one, {"epochs": 1.5})
    assert "epochs: 1.5 given" in line
    found = parameters.effective(one, {"l1": 1, "latent_sizes": "3, 1"})
    assert repr(found["l1"]) == "1.0"
    assert parameters.numbers(found["latent_sizes"]) == (3, 1)
    assert list(found) == list(one.parameters)
