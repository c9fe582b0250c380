"""What notebooks declare, and how the command's parameters are read."""

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import papermill
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nestedae_utils.book import parameters
from nestedae_utils.book.parameters import RULES, Parameter, Rule
from nestedae_utils.data import tables
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.study import protocol

NAMES = parameters.chapters()
EACH = pytest.mark.parametrize("name", NAMES)


def of(kind, **rule):
    return Parameter("name", kind, None, "", Rule(kind, **rule))


# --- what notebooks say ----------------------------------------------------


@EACH
def test_declared_is_what_papermill_finds(name):
    one = parameters.find(name)
    told = papermill.inspect_notebook(one.path)
    assert list(one.parameters) == list(told)
    for key, parameter in one.parameters.items():
        assert parameter.default == ast.literal_eval(told[key]["default"])
        assert parameter.kind.__name__ == told[key]["inferred_type_name"]
        assert parameter.help == told[key]["help"]
        assert parameter.rule is RULES[key]


@EACH
def test_every_chapter_says_what_it_is(name):
    one = parameters.find(name)
    assert len(one.title) > 5
    assert len(one.summary) > 60
    assert one.run_time.startswith("Run time: about")
    text = one.title + one.summary + one.run_time
    assert not set("{}`\n") & set(text)


@EACH
def test_defaults_are_allowed_and_are_what_a_run_takes(name):
    one = parameters.find(name)
    texts = {
        key: parameters.written(each.default)
        for key, each in one.parameters.items()
    }
    values = parameters.parse(one, texts)
    assert values == parameters.effective(one, {})
    assert parameters.effective(one, values) == values


def test_choices_are_those_of_their_modules():
    assert RULES["settings"].choices == protocol.SETTINGS
    assert RULES["data_source"].choices == tables.SOURCES


@pytest.mark.parametrize("word", ["05", "5", "05_bandgap_scale"])
def test_a_chapter_is_found_by_number_or_name(word):
    assert parameters.find(word).name == "05_bandgap_scale"


@pytest.mark.parametrize(
    "word",
    [
        "99",
        "",
        "../x",
        "/etc/passwd",
        "0",
        "005",
        "05_",
        "٠٥",
        "5.0",
        "x" * 999,
    ],
)
def test_a_chapter_that_does_not_exist(word):
    with pytest.raises(ParameterError, match="chapter: ") as caught:
        parameters.find(word)
    assert "05_bandgap_scale" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_misspelt_chapter_is_suggested():
    with pytest.raises(ParameterError, match="mean '05_bandgap_scale'"):
        parameters.find("05_bandgap")


def cell(source):
    """Return a notebook whose parameters cell has a source."""
    content = {"source": source, "metadata": {"tags": ["parameters"]}}
    return json.dumps({"cells": [content]})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        cell("x = 1"),
        cell("x: int = f()"),
        cell("x: list = []"),
        cell("x: int ="),
        cell("x: int = '"),
    ],
)
def test_what_is_no_notebook(content, tmp_path):
    path = tmp_path / "01_x.ipynb"
    path.write_text(content)
    with pytest.raises(DataError, match="01_x.ipynb: not a notebook"):
        parameters.find("01", tmp_path)


def test_the_command_line_loads_nothing_heavy():
    code = (
        "import sys, nestedae_utils.cli\n"
        "heavy = {'torch', 'pandas', 'numpy', 'papermill', 'distributed'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# --- values ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "300", 300),
        (int, "+3", 3),
        (int, "-3", -3),
        (int, "007", 7),
        (float, "1e-4", 1e-4),
        (float, "3", 3.0),
        (float, ".5", 0.5),
        (float, "-0.0", 0.0),
        (bool, "true", True),
        (bool, "False", False),
        (str, "8", "8"),
        (str, "a=b", "a=b"),
        (str, "__import__('os')", "__import__('os')"),
    ],
)
def test_values_by_type(kind, text, value):
    found = of(kind).parse(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "3.0"),
        (int, "1e3"),
        (int, "1_000"),
        (int, "ten"),
        (int, "true"),
        (int, " 3"),
        (int, "٣"),
        (int, "0x10"),
        (int, "[1,2]"),
        (int, "9" * 5000),
        (float, "nan"),
        (float, "inf"),
        (float, "-Infinity"),
        (float, "1e999"),
        (float, "1,5"),
        (float, "1_0.0"),
        (float, "false"),
        (float, "1e"),
        (float, "1/3"),
        (bool, "1"),
        (bool, "yes"),
        (bool, "None"),
        (str, "two\nlines"),
        (str, "\x1b[31m"),
        (str, "\udcff"),
        (str, "x" * 201),
    ],
)
def test_what_is_no_value(kind, text):
    with pytest.raises(ParameterError, match=r"^name: .* given, ") as caught:
        of(kind).parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_go_there_and_back(value):
    text = parameters.written(value)
    found = of(type(value)).parse(text)
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)


@given(st.booleans())
def test_truth_goes_there_and_back(value):
    assert of(bool).parse(parameters.written(value)) is value


@given(st.text(max_size=200).filter(str.isprintable))
def test_texts_go_there_and_back(value):
    assert of(str).parse(parameters.written(value)) == value


def outcome(function, *arguments):
    """Return a result, or None and the line of its ParameterError."""
    try:
        return function(*arguments), ""
    except ParameterError as error:
        return None, str(error)


@given(st.sampled_from(NAMES), st.data(), st.text())
@settings(max_examples=300)
@example("05_bandgap_scale", None, "[1]")
def test_any_text_is_a_value_or_one_line(name, data, text):
    """Whatever is given, no other error, and nothing is evaluated."""
    one = parameters.find(name)
    keys = list(one.parameters)
    key = keys[0] if data is None else data.draw(st.sampled_from(keys))
    value, line = outcome(parameters.parse, one, {key: text})
    if value is None:
        assert len(line.splitlines()) == 1
        assert line.startswith(key)
        return
    assert type(value[key]) is one.parameters[key].kind
    again = parameters.parse(one, {key: parameters.written(value[key])})
    assert again == value


@given(st.lists(st.text()))
def test_any_words_are_assignments_or_one_line(words):
    found, line = outcome(parameters.assignments, words)
    if found is None:
        assert len(line.splitlines()) == 1
    else:
        assert [f"{k}={v}" for k, v in found.items()] == words


@given(st.text())
def test_an_unknown_name_is_refused_whatever_it_is(name):
    one = parameters.find("05")
    if name not in one.parameters:
        with pytest.raises(ParameterError, match="unknown parameter"):
            parameters.parse(one, {name: "1"})


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lr", "learning_rate"),
        ("bs", "batch_size"),
        ("epoch", "epochs"),
        ("latents", "latent"),
        ("zzz", None),
    ],
)
def test_the_nearest_name_is_suggested(name, near):
    with pytest.raises(ParameterError) as caught:
        parameters.parse(parameters.find("05"), {name: "1"})
    if near is None:
        assert "Did you mean" not in str(caught.value)
    else:
        assert f"Did you mean {near!r}?" in str(caught.value)


def test_effective_checks_what_does_not_come_from_a_text():
    one = parameters.find("05")
    with pytest.raises(ParameterError, match="epochs"):
        parameters.effective(one, {"epochs": 1.5})
    with pytest.raises(ParameterError, match="unknown"):
        parameters.effective(one, {"epoch": 1})


def test_reading_a_notebook_runs_nothing(tmp_path):
    source = "x: int = (open('made', 'w'), 1)[1]  # no literal"
    (tmp_path / "01_x.ipynb").write_text(cell(source))
    with pytest.raises(DataError):
        parameters.find("1", tmp_path)
    assert not Path("made").exists()
