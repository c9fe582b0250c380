"""The project as a whole: versions, citation, notebooks, spelling, style."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import nbformat
import pytest
import yaml
from conftest import EACH_NOTEBOOK, NOTEBOOKS, ROOT, pages
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from pybtex.database import parse_file

CUDA = re.compile(r"(nvidia|cuda)-|triton$")
MACHINE = re.compile(
    r"(?<![\w.>-])/(?:home|root|Users|work)(?:/|\b)"
    r"|(?:index-url|find-links)[ =]+['\"]?(?:https?|file):"
)


def test_every_citation_is_in_the_list_of_references():
    listed = set(parse_file(str(ROOT / "references.bib")).entries)
    texts = "".join(map(read, ["index.md", *(p.relative_to(ROOT) for p in NOTEBOOKS)]))
    cited = set(",".join(re.findall(r"\{cite\}`([\w,]+)`", texts)).split(","))
    assert len(cited) > 10
    assert cited <= listed


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def pins(lines):
    """Return requirement by name, each pinned to one exact version."""
    pinned = {}
    for requirement in map(Requirement, lines):
        operators = [part.operator for part in requirement.specifier]
        assert operators == ["=="], f"{requirement} is not pinned"
        assert "*" not in str(requirement.specifier), requirement
        name = canonicalize_name(requirement.name)
        assert name not in pinned, f"{name} stands twice"
        pinned[name] = requirement
    return pinned


TABLES = tomllib.loads(read("pyproject.toml"))
PROJECT = TABLES["project"]
PYTHONS = SpecifierSet(PROJECT["requires-python"])


@pytest.fixture(scope="module")
def lock():
    lines = read("requirements.lock").splitlines()
    return pins(line for line in lines if line and line[0] not in "# ")


def test_lock_holds_what_the_project_states(lock):
    """The same versions, torch first and without CUDA."""
    extra = PROJECT["optional-dependencies"]["test"]
    for name, requirement in pins(PROJECT["dependencies"] + extra).items():
        assert lock[name].specifier == requirement.specifier, name
    (build,) = TABLES["build-system"]["requires"]
    assert Requirement(build).specifier == lock["setuptools"].specifier
    assert next(iter(lock)) == "torch"
    assert not list(filter(CUDA.match, lock))


def test_the_whole_tree_is_locked_and_installed(lock):
    """Walk what is installed here, from our package down to the leaves."""
    waiting, seen = [Requirement(f"{PROJECT['name']}[test]")], set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen or CUDA.match(name):
                continue
            seen.add((name, extra))
            for needed in map(Requirement, metadata.requires(name) or []):
                marker = needed.marker
                if marker is None or marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    for name in {name for name, _ in seen} - {PROJECT["name"]}:
        assert lock[name].specifier.contains(metadata.version(name)), name


def test_environment_takes_every_version_from_the_lock():
    environment = yaml.safe_load(read("environment.yml"))
    python, *others = environment["dependencies"]
    assert others == ["pip", {"pip": ["-r requirements.lock", "-e ."]}]
    assert environment["channels"][0] == "conda-forge"
    name, version = python.split("=")
    assert name == "python"
    assert PYTHONS.contains(version)


def test_makefile_offers_the_pythons_of_the_project():
    every = (f"3.{minor}" for minor in range(30))
    offered = re.findall(r"\bpython(3\.\d+)\b", read("Makefile"))
    assert set(offered) == set(filter(PYTHONS.contains, every))


def test_citation_agrees_with_the_project_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    paper = citation["preferred-citation"]
    assert str(citation["version"]) == PROJECT["version"]
    assert f"## {PROJECT['version']}" in read("CHANGELOG.md")
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (paper["volume"], paper["start"], paper["year"]) == (11, 700, 2024)
    assert paper["doi"] in read("references.bib")


def test_the_readmes_badges_are_true():
    badges = re.findall(r"badge/(\w+)-([^-)]+)", read("README.md"))
    minors = [n for n in range(30) if f"3.{n}" in PYTHONS]
    assert dict(badges) == {
        "python": f"3.{min(minors)}%20to%203.{max(minors)}",
        "licence": PROJECT["license"],
    }


def test_the_book_hides_no_failure_and_no_clock_stops_it():
    assert yaml.safe_load(read("_config.yml"))["execute"] == {
        **{"execute_notebooks": "force", "raise_on_error": True},
        **{"allow_errors": False, "stderr_output": "remove-warn", "timeout": -1},
    }


def test_contents_list_exactly_the_notebooks():
    listed = [page for page in pages() if page.startswith("notebooks/")]
    assert listed == [f"notebooks/{path.stem}" for path in NOTEBOOKS]
    assert len(set(pages())) == len(pages())


@EACH_NOTEBOOK
def test_notebook_stores_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    tags = [tag for c in notebook.cells for tag in c.metadata.get("tags", [])]
    assert tags.count("parameters") == 1
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert {(len(c.outputs), c.execution_count) for c in code} == {(0, None)}


@EACH_NOTEBOOK
def test_the_text_names_every_figure_and_reads_in_jupyterlab(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    figures = [c.metadata.get("mystnb", {}).get("figure", {}) for c in cells]
    names = {one["name"] for one in figures if "name" in one}
    assert not names - set(re.findall(r"\{numref\}`([\w-]+)`", text))
    # JupyterLab knows no role that goes on in a second line
    assert not re.findall(r"\{[a-z:]+\}`[^`\n]*\n[^`]*`", text)


def test_the_options_of_every_pages_cells_are_yaml():
    """A page that cannot be read would fail after all chapters have run."""
    files = [*ROOT.glob("*.md"), *(ROOT / "reference").glob("*.md")]
    option = re.compile(r"^```\{code-cell\}.*\n---\n((?:.*\n)*?)---$", re.M)
    options = [one for path in files for one in option.findall(read(path))]
    assert options
    for one in options:
        assert isinstance(yaml.safe_load(one), dict), one


def test_the_readmes_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert blocks
    for block in blocks:
        names = {}
        exec(block, names)
        assert list(names["chain"].scales) == ["fine", "coarse"]


def test_no_file_names_a_machine():
    """Neither a folder of one machine nor a registry's address."""
    git = "git ls-files -coz --exclude-standard".split()
    listing = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("no git checkout")
    for path in (ROOT / name for name in listing.stdout.split("\0") if name):
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in content:
            for number, line in enumerate(content.decode().splitlines(), 1):
                assert not MACHINE.search(line), f"{path}:{number}: {line}"


@pytest.mark.parametrize(
    "command", ["ruff check .", "ruff format --check .", "codespell_lib"]
)
def test_style_and_spelling(command):
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
