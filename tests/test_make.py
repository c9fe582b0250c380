"""The Makefile: its help, its choice of a Python, its set-up and its stamp.

Nothing is installed here: a stub stands for Python and writes down what it
was asked to do.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TOOLS = "awk bash cat cksum cut grep make rm sed sh".split()
pytestmark = pytest.mark.skipif(
    shutil.which("make") is None, reason="make is not installed"
)

# Makes an "environment" whose python is again the stub.
STUB = """#!/bin/sh
echo "$@" >> '{log}'
case "$*" in
  *--clear*) /bin/mkdir -p .venv/bin && /bin/cp "$0" .venv/bin/python ;;
  *'{failing}'*) exit 1 ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """Return a folder with the Makefile, and with an almost empty PATH."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def stub(path, log, failing="no such step"):
    path.write_text(STUB.format(log=log, failing=failing), encoding="utf-8")
    path.chmod(0o755)


def make(tree, *arguments):
    # Not the settings of the make that may be running these tests.
    return subprocess.run(
        ["make", *arguments],
        cwd=tree,
        env={"PATH": str(tree / "bin"), "HOME": str(tree)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def targets():
    documented = re.findall(r"^([.a-z]+):.*## ", MAKEFILE, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    return documented, phony[1].split()


def test_help_is_the_default_and_lists_every_target(tree):
    documented, phony = targets()
    assert sorted(documented) == sorted(phony)
    shown = make(tree)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == make(tree, "help").stdout
    listed = re.findall(r"^  make (\S+) +\S", shown.stdout, re.MULTILINE)
    assert listed == documented


def test_every_target_can_be_planned(tree):
    stub(tree / "bin" / "python3.11", tree / "log")
    for target in targets()[0]:
        planned = make(tree, "-n", target)
        assert planned.returncode == 0, planned.stderr


def test_the_book_is_built_strictly_and_from_clean(tree):
    stub(tree / "bin" / "python3.11", tree / "log")
    plan = make(tree, "-n", "book").stdout
    assert "jupyter-book build . -n -W --keep-going" in plan
    assert plan.index("rm -rf _build/html") < plan.index("jupyter-book build")


@pytest.mark.parametrize("given", [[], ["BROWSER=./none"]])
def test_without_a_browser_the_pdf_is_refused_in_one_line(tree, given):
    stub(tree / "bin" / "python3.11", tree / "log")
    refused = make(tree, "pdf", *given)
    assert refused.returncode != 0
    message, own = refused.stderr.splitlines()
    assert message.startswith("No Chromium or Chrome found")
    assert "BROWSER=..." in message
    assert own.startswith("make: ***")
    assert not (tree / ".venv").exists()


@pytest.mark.parametrize("given", [[], ["PYTHON=./none"]])
def test_without_a_python_one_line_says_so(tree, given):
    # what a shim for a version that is not installed does
    shim = tree / "bin" / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    shim.chmod(0o755)
    refused = make(tree, "test", *given)
    assert refused.returncode != 0
    message, own = refused.stderr.splitlines()
    assert message.startswith("No Python 3.11, 3.12 or 3.13")
    assert "PYTHON=..." in message
    assert own.startswith("make: ***")
    assert not (tree / ".venv").exists()


def test_a_shim_that_fails_is_passed_over(tree):
    stub(tree / "bin" / "python3.11", tree / "log", failing="ensurepip")
    stub(tree / "bin" / "python3.13", tree / "log")
    assert "'python3.13' -m venv" in make(tree, "-n", ".venv").stdout


def test_installs_once_completes_and_recovers(tree):
    log = tree / "log"
    python = tree / "bin" / "python3.11"

    def steps():
        done = log.read_text(encoding="utf-8") if log.exists() else ""
        log.unlink(missing_ok=True)
        return [
            line
            for line in done.splitlines()
            if line.startswith("-m") and "--help" not in line
        ]

    # interrupted in the second step: no stamp, and no sign of success
    stub(python, log, failing="--requirement")
    assert make(tree, ".venv").returncode != 0
    assert len(steps()) == 3
    assert not list(tree.glob(".venv/.stamp-*"))

    # made anew, torch first
    stub(python, log)
    again = make(tree, ".venv")
    assert again.returncode == 0, again.stderr
    new, torch, lock, ours = steps()
    assert new == "-m venv --clear .venv"
    assert torch.endswith(" torch")
    assert lock.endswith("--requirement requirements.lock")
    assert ours.endswith("--editable .")

    # nothing changed, though the files are newer than the stamp
    later = os.stat(tree / "Makefile").st_mtime + 3600
    os.utime(tree / "requirements.lock", (later, later))
    assert make(tree, ".venv").returncode == 0
    assert steps() == []

    # the lock changed: brought up to date, not made anew
    with (tree / "requirements.lock").open("a", encoding="utf-8") as file:
        file.write("# one more line\n")
    assert make(tree, ".venv").returncode == 0
    assert steps() == [torch, lock, ours]
    assert len(list(tree.glob(".venv/.stamp-*"))) == 1

    # moved: scripts name the old folder, so the environment is made anew
    moved = tree.with_name(tree.name + "-moved")
    shutil.copytree(tree, moved, symlinks=True)
    assert make(moved, ".venv").returncode == 0
    assert steps() == [new, torch, lock, ours]
