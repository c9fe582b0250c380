"""The project as a whole: versions, notebooks, imports, spelling, style."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EACH_NOTEBOOK = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.stem
)
# A module imports only from those before it.
ORDER = (
    "checks datasets parameters cache synthetic perovskites twin tables "
    "solvents scales training nested metrics claims records protocol "
    "inverse baselines selection transfer declaration own_data interpret "
    "figures live chapter reference execution runs sweeps cli"
).split()


def load(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return (
        tomllib.loads(text) if name.endswith(".toml") else yaml.safe_load(text)
    )


def pins(lines):
    """Return requirement by name, each pinned to one exact version."""
    found = {}
    for requirement in map(Requirement, lines):
        operators = [part.operator for part in requirement.specifier]
        assert operators == ["=="], f"{requirement} is not pinned"
        assert "*" not in str(requirement.specifier), requirement
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} stands twice"
        found[name] = requirement
    return found


@pytest.fixture(scope="module")
def project():
    return load("pyproject.toml")["project"]


@pytest.fixture(scope="module")
def lock():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return pins(
        line for line in text.splitlines() if line and line[0] not in "# "
    )


# --- one set of versions ---------------------------------------------------


def test_lock_holds_what_the_project_states(project, lock):
    stated = pins(
        project["dependencies"] + project["optional-dependencies"]["test"]
    )
    for name, requirement in stated.items():
        assert lock[name].specifier == requirement.specifier, name
    assert str(lock["torch"].specifier) == "==2.13.0"


def test_torch_stands_first_and_brings_no_cuda(lock):
    assert next(iter(lock)) == "torch"
    assert not [
        name for name in lock if re.match(r"(nvidia|cuda)-|triton$", name)
    ]


def test_the_build_uses_the_locked_setuptools(lock):
    (build,) = load("pyproject.toml")["build-system"]["requires"]
    assert Requirement(build).specifier == lock["setuptools"].specifier


def test_environment_takes_every_version_from_the_lock(project):
    environment = load("environment.yml")
    python, pip, by_pip = environment["dependencies"]
    assert pip == "pip"
    assert by_pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert environment["channels"][0] == "conda-forge"
    name, version = python.split("=")
    assert name == "python"
    assert SpecifierSet(project["requires-python"]).contains(version)


def test_makefile_offers_the_pythons_of_the_project(project):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    offered = set(re.findall(r"\bpython(3\.\d+)\b", makefile))
    allowed = SpecifierSet(project["requires-python"])
    assert offered == {
        f"3.{minor}" for minor in range(30) if allowed.contains(f"3.{minor}")
    }


def test_the_whole_tree_is_locked_and_installed(project, lock):
    """Walk what is installed here, from our package down to the leaves."""
    waiting = [Requirement(f"{project['name']}[test]")]
    seen = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in metadata.requires(name) or []:
                needed = Requirement(line)
                marker = needed.marker
                if marker is None or marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    tree = {name for name, _ in seen} - {canonicalize_name(project["name"])}
    # CUDA's packages come and go with the build of torch
    tree -= {n for n in tree if re.match(r"(nvidia|cuda)-|triton$", n)}
    assert tree <= set(lock)
    wrong = {
        name: metadata.version(name)
        for name in tree
        if not lock[name].specifier.contains(metadata.version(name))
    }
    assert not wrong


# --- citation and licence --------------------------------------------------


def test_citation_has_the_required_fields(project):
    citation = load("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    for key in ("message", "title", "authors"):
        assert citation[key], key
    assert citation["type"] == "software"
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"] == "MIT"

    paper = citation["preferred-citation"]
    for key in ("type", "title", "authors"):
        assert paper[key], key
    assert paper["type"] == "article"
    assert (paper["volume"], paper["start"], paper["year"]) == (11, 700, 2024)
    assert re.fullmatch(r"10\.\d{4,9}(\.\d+)?/\S+", paper["doi"])
    bibliography = (ROOT / "references.bib").read_text(encoding="utf-8")
    assert paper["doi"] in bibliography

    for author in citation["authors"] + paper["authors"]:
        # an entity has a name, a person has name parts, and nothing else
        person = {"family-names", "given-names"}
        assert set(author) in ({"name"}, person)


# --- the book --------------------------------------------------------------


def test_contents_list_exactly_the_notebooks():
    toc = load("_toc.yml")
    files = [
        chapter["file"]
        for part in toc["parts"]
        for chapter in part["chapters"]
    ]
    assert len(set(files)) == len(files)
    listed = [file for file in files if file.startswith("notebooks/")]
    assert listed == [f"notebooks/{path.stem}" for path in NOTEBOOKS]


def test_the_book_hides_no_failure():
    execute = load("_config.yml")["execute"]
    assert execute["execute_notebooks"] == "force"
    assert execute["raise_on_error"] is True
    assert execute["allow_errors"] is False
    assert execute["stderr_output"] == "remove-warn"


@EACH_NOTEBOOK
def test_notebook_stores_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@EACH_NOTEBOOK
def test_parameters_are_annotated_literals_with_a_comment(path):
    tagged = [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    source = tagged[0].source
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and token.start[1] > 0
    }
    names = []
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        name = statement.target.id
        kind = ast.unparse(statement.annotation)
        assert kind in ("int", "float", "str", "bool"), name
        # a value that papermill can replace, of the type that it announces
        assert type(ast.literal_eval(statement.value)).__name__ == kind, name
        assert statement.lineno == statement.end_lineno, name
        assert statement.lineno in commented, f"{name} has no comment"
        names.append(name)
    assert names
    # what `papermill --help-notebook` shows
    told = papermill.inspect_notebook(str(path))
    assert list(told) == names
    for name, parameter in told.items():
        assert parameter["help"].strip(), name


# --- the code --------------------------------------------------------------


def test_modules_import_only_downwards():
    package = ROOT / "nestedae_utils"
    present = {path.stem for path in package.glob("*.py")}
    present -= {"__init__", "__main__"}
    assert present <= set(ORDER), "give each new module its place in ORDER"
    for name in present:
        tree = ast.parse((package / f"{name}.py").read_text(encoding="utf-8"))
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = f"nestedae_utils.{base}".rstrip(".")
                imported |= {base}
                imported |= {f"{base}.{alias.name}" for alias in node.names}
        ours = {
            parts[1]
            for parts in (module.split(".") for module in imported)
            if parts[0] == "nestedae_utils" and len(parts) > 1
        } & set(ORDER)
        place = ORDER.index(name)
        above = {other for other in ours if ORDER.index(other) >= place}
        assert not above, f"{name} imports {sorted(above)}"


def text_files():
    """Return the project's own text files, without what git ignores."""
    listing = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0 and listing.stdout:
        paths = {ROOT / name for name in listing.stdout.split("\0") if name}
    else:
        # not a git checkout: leave out what tools and make put there
        made = re.compile(
            r"\.(?!ci|git\w).*|_build|results|runs|__pycache__|.*\.egg-info"
        )
        paths = {
            path
            for path in ROOT.rglob("*")
            if not any(map(made.fullmatch, path.relative_to(ROOT).parts))
        }
    for path in sorted(paths):
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield path, content.decode("utf-8")


def test_no_file_names_a_machine():
    """Neither a folder of one machine nor a registry's address."""
    folder = re.compile(r"(?<![\w.>-])/(?:home|root|Users|work)(?:/|\b)")
    index = re.compile(r"(?:index-url|find-links)[ =]+['\"]?(?:https?|file):")
    for path, text in text_files():
        for number, line in enumerate(text.splitlines(), 1):
            found = folder.search(line) or index.search(line)
            assert not found, f"{path.relative_to(ROOT)}:{number}: {line}"


def tool(*command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_style():
    tool("ruff", "check", "--no-cache", ".")


def test_spelling():
    tool("codespell_lib")


def test_the_readmes_example_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        names = {}
        exec(block, names)
        assert list(names["chain"].scales) == ["fine", "coarse"]


def test_the_options_of_every_pages_cells_are_yaml():
    """A page that cannot be read would fail after all chapters have run."""
    found = 0
    for path in (*ROOT.glob("*.md"), *(ROOT / "reference").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        cells = re.findall(
            r"^```\{code-cell\}[^\n]*\n---\n(.*?)^---$", text, re.M | re.S
        )
        for cell in cells:
            assert isinstance(yaml.safe_load(cell), dict), path.name
        found += len(cells)
    assert found
