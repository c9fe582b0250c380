"""The pages that are made from the notebooks and the package; two diagrams."""

import ast
import importlib
import inspect
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import papermill
import pytest
import yaml
from papermill.cli import _resolve_type
from test_project import ORDER

from nestedae_utils.book.parameters import RULES, Rule
from nestedae_utils.errors import ParameterError

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "reference"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
EACH_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
DIAGRAMS = {
    "nested_autoencoder.svg": "block scaler encoder latents head target",
    "data_flow.svg": "file table arrays scales results figures",
}


def text(name):
    return (PAGES / name).read_text(encoding="utf-8")


# --- parameters ------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(int, 1, 200), "a whole number from 1 to 200"),
        (Rule(int, 0, 2**31), "a whole number from 0 to 2147483648"),
        (Rule(int, 2), "a whole number from 2"),
        (Rule(float, 0.0, 100.0), "a number from 0 to 100"),
        (Rule(float, 0.5, 1e-3), "a number from 0.5 to 0.001"),
        (Rule(float, positive=True, maximum=10), "a number above 0 up to 10"),
        (Rule(float), "a number"),
        (Rule(bool), "true or false"),
        (Rule(str), "text"),
        (Rule(str, words="cpu or cuda"), "cpu or cuda"),
        (Rule(str, choices=("auto", "paper")), "one of auto, paper"),
        (
            Rule(str, 1, 9, listed=True),
            "different whole numbers from 1 to 9, separated by commas",
        ),
    ],
)
def test_allowed_values_in_words(rule, words):
    assert rule.allowed == words


@pytest.mark.parametrize("name", RULES)
def test_the_words_agree_with_the_check(name):
    """The bounds that the words name pass, and what lies beyond does not."""
    rule = RULES[name]
    number = r"(above|from|up to|to) ([\d.]+)"
    for word, bound in re.findall(number, rule.allowed):
        bound = float(bound) if rule.kind is float else int(bound)
        step = -1 if word in ("above", "from") else 1
        as_given = str if rule.listed else rule.kind
        with pytest.raises(ParameterError):
            rule.check(name, as_given(bound + step))
        if word == "above":
            with pytest.raises(ParameterError):
                rule.check(name, as_given(bound))
        else:
            rule.check(name, as_given(bound))
    for option in rule.choices:
        assert option in rule.allowed
    if name not in ("inputs", "settings", "data_source", "device"):
        assert re.search(number, rule.allowed)


@pytest.fixture(scope="module")
def page():
    """Return the names that the code of the page of parameters defines."""
    (code,) = re.findall(
        r":tags: \[remove-cell\]\n(.*?)```\n", text("parameters.md"), re.DOTALL
    )
    space = {}
    exec(code, space)
    return space


def test_the_page_has_a_section_for_every_notebook(page):
    source = text("parameters.md")
    assert re.findall(r"^## `(.*)`$", source, re.MULTILINE) == NAMES
    assert re.findall(r"\{doc\}`/notebooks/(.*)`", source) == NAMES
    assert re.findall(r'^parameters_of\("(.*)"\)', source, re.M) == NAMES
    assert list(page["known"]) == NAMES


@EACH_NOTEBOOK
def test_the_table_has_every_parameter(page, path):
    table = page["parameters_of"](path.stem).data
    rows = re.findall(r"<tr>\s*(<td>.*?)</tr>", table, re.DOTALL)
    cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows]
    known = papermill.inspect_notebook(path)
    assert [row[0] for row in cells] == list(known)
    for name, _, kind, default, allowed in cells:
        assert kind == known[name]["inferred_type_name"]
        assert allowed == RULES[name].allowed
        given = ast.literal_eval(known[name]["default"])
        assert type(given)(default) == given


@EACH_NOTEBOOK
def test_the_command_gives_the_defaults(page, path):
    """As papermill itself reads it."""
    line = page["command"](path.stem).replace("\\\n", "")
    program, notebook, _, *options = shlex.split(line)
    assert program.endswith("papermill")
    assert (ROOT / notebook).samefile(path)
    known = papermill.inspect_notebook(path)
    given = {
        name: _resolve_type(value) if flag == "-p" else value
        for flag, name, value in zip(
            options[::3], options[1::3], options[2::3], strict=True
        )
    }
    for name, one in known.items():
        default = ast.literal_eval(one["default"])
        assert given[name] == default
        assert type(given[name]) is type(default)
    assert set(given) == set(known)


# --- the package -----------------------------------------------------------


def test_the_page_of_the_package_has_every_module_in_order():
    source = text("api.md")
    assert re.findall(r"^## (\w+)$", source, re.MULTILINE) == ORDER
    found = re.findall(r"automodule:: nestedae_utils\.(\w+)", source)
    assert found == ORDER


@pytest.mark.parametrize("name", ORDER)
def test_autodoc_finds_every_public_name(name):
    """It shows what has a docstring and is not hidden by ``__all__``."""
    module = importlib.import_module(f"nestedae_utils.{name}")
    assert inspect.getdoc(module)
    assert not hasattr(module, "__all__")
    source = ast.parse(inspect.getsource(module))
    public = [
        node
        for node in source.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    ]
    for node in public:
        assert ast.get_docstring(node), node.name
        # a wrapper would hide it from autodoc
        assert getattr(module, node.name).__module__ == module.__name__


def test_the_page_leaves_out_no_public_name():
    """One automodule each, with all members and without exceptions."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    sphinx = config["sphinx"]
    assert "sphinx.ext.autodoc" in sphinx["extra_extensions"]
    assert sphinx["config"]["autodoc_default_options"]["members"] is True
    assert text("api.md").count(".. automodule::") == len(ORDER)
    assert not re.search(r"^ *:[\w-]+:", text("api.md"), re.MULTILINE)


# --- the diagrams ----------------------------------------------------------


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagram_is_a_vector_on_an_opaque_plate(name):
    root = ET.parse(ROOT / "images" / name).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    _, _, width, height = root.get("viewBox").split()
    plate = root.find(f"{svg}rect")
    assert (plate.get("width"), plate.get("height")) == (width, height)
    assert plate.get("fill") == "#fff"
    assert root.get("font-family") == "sans-serif"
    assert not list(root.iter(f"{svg}image"))
    words = " ".join(part.text for part in root.iter(f"{svg}text"))
    for word in DIAGRAMS[name].split():
        assert re.search(rf"\b{word}\b", words), word


def test_diagram_of_the_data_flow_names_every_module():
    root = ET.parse(ROOT / "images" / "data_flow.svg").getroot()
    words = " ".join(part.text or "" for part in root.iter())
    source = text("design.md")
    for module in ORDER:
        assert re.search(rf"\b{module}\b", words) or f"`{module}`" in source


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagram_has_a_caption_and_an_alternative_text(name):
    pattern = rf"```\{{figure\}} \.\./images/{name}\n(.*?)```"
    (body,) = re.findall(pattern, text("design.md"), re.DOTALL)
    assert len(re.search(r"^:alt: (.*)$", body, re.MULTILINE)[1]) > 40
    assert len(body.rpartition("\n\n")[2]) > 40
