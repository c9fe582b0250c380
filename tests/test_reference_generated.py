"""The pages that are made from the notebooks and the package; two diagrams."""

import ast
import importlib
import inspect
import re
import shlex
import xml.etree.ElementTree as ET

import papermill
import pytest
import yaml
from conftest import ROOT
from papermill.cli import _resolve_type

from nestedae_utils.book import parameters

PACKAGE = ROOT / "nestedae_utils"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if not path.stem.startswith("__")
)
NAMES = parameters.chapters()
EACH_NOTEBOOK = pytest.mark.parametrize("name", NAMES)
DIAGRAMS = {
    "house.svg": "errors model data study book own chapters rerun",
    "nested_autoencoder.svg": "block scaler encoder latents head target",
    "data_flow.svg": "file table arrays scales results figures",
}


def text(name):
    return (ROOT / "reference" / name).read_text(encoding="utf-8")


# --- parameters ------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    """Return the names that the code of the page of parameters defines."""
    pattern = re.compile(r":tags: \[remove-cell\]\n(.*?)```\n", re.DOTALL)
    (code,) = pattern.findall(text("parameters.md"))
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
def test_the_table_has_every_parameter(page, name):
    table = page["parameters_of"](name).data
    rows = re.findall(r"<tr>\s*(<td>.*?)</tr>", table, re.DOTALL)
    known = parameters.find(name).parameters
    assert len(rows) == len(known)
    for row, one in zip(rows, known.values(), strict=True):
        key, *cells, default, allowed = re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
        assert (key, allowed) == (one.name, one.allowed)
        assert cells == [one.help, one.kind.__name__]
        # bool("False") is true
        read = {"True": True, "False": False}.get if one.kind is bool else one.kind
        assert read(default) == one.default


@EACH_NOTEBOOK
def test_the_command_gives_the_defaults(page, name):
    """As papermill itself reads it."""
    line = page["command"](name).replace("\\\n", "")
    program, notebook, _, *options = shlex.split(line)
    assert program.endswith("papermill")
    known = papermill.inspect_notebook(ROOT / notebook)
    flags = zip(options[::3], options[1::3], options[2::3], strict=True)
    given = {k: _resolve_type(v) if flag == "-p" else v for flag, k, v in flags}
    defaults = {k: ast.literal_eval(v["default"]) for k, v in known.items()}
    assert repr(given) == repr(defaults)


# --- the package -----------------------------------------------------------


def test_the_page_of_the_package_has_every_module_with_all_its_names():
    modules = re.findall(r"automodule:: (\S+)", text("api.md"))
    assert sorted(modules) == MODULES
    sphinx = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]
    assert "sphinx.ext.autodoc" in sphinx["extra_extensions"]
    assert sphinx["config"]["autodoc_default_options"]["members"] is True
    assert not re.search(r"^ *:[\w-]+:", text("api.md"), re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_autodoc_finds_every_public_name(name):
    """It shows what has a docstring and is not hidden by ``__all__``."""
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    assert not hasattr(module, "__all__")
    for node in ast.parse(inspect.getsource(module)).body:
        named = isinstance(node, ast.FunctionDef | ast.ClassDef)
        if named and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
            # a wrapper would hide it from autodoc
            assert getattr(module, node.name).__module__ == name


# --- the diagrams ----------------------------------------------------------


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagram_is_a_vector_on_an_opaque_plate(name):
    root = ET.parse(ROOT / "images" / name).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    _, _, width, height = root.get("viewBox").split()
    plate = root.find(f"{svg}rect")
    assert (plate.get("width"), plate.get("height")) == (width, height)
    assert plate.get("fill") == "#fff"
    assert not list(root.iter(f"{svg}image"))
    words = " ".join(part.text for part in root.iter(f"{svg}text"))
    for word in DIAGRAMS[name].split():
        assert re.search(rf"\b{word}\b", words), word
    pattern = rf"```\{{figure\}} \.\./images/{name}\n(.*?)```"
    (body,) = re.findall(pattern, text("design.md"), re.DOTALL)
    assert len(re.search(r"^:alt: (.*)$", body, re.MULTILINE)[1]) > 40
    assert len(body.rpartition("\n\n")[2]) > 40
