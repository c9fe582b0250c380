"""The Makefile: its help, its choice of a Python, its set-up and its stamp.

Nothing is installed here: a stub stands for Python and writes down what it
was asked to do.
"""

import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TOOLS = "awk bash cat cksum cut grep make rm sed sh test".split()
TARGETS = re.findall(r"^([.a-z]+):.*## ", MAKEFILE, re.MULTILINE)
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


def stub(tree, name="python3.11", failing="no such step"):
    path = tree / "bin" / name
    path.write_text(STUB.format(log=tree / "log", failing=failing))
    path.chmod(0o755)


def make(tree, *arguments):
    # Not the settings of the make that may be running these tests.
    return subprocess.run(
        ["make", *arguments],
        cwd=tree,
        env={"PATH": str(tree / "bin"), "HOME": str(tree)},
        capture_output=True,
        text=True,
    )


def refused(tree, *arguments):
    """Return the one line with which make refuses."""
    done = make(tree, *arguments)
    assert done.returncode != 0
    message, own = done.stderr.splitlines()
    assert own.startswith("make: ***")
    return message


def test_help_is_the_default_and_lists_every_target(tree):
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert sorted(TARGETS) == sorted(phony[1].replace("\\", "").split())
    shown = make(tree).stdout
    assert shown == make(tree, "help").stdout
    listed = re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE)
    assert listed == TARGETS


def test_every_target_can_be_planned(tree):
    stub(tree)
    plans = {target: make(tree, "-n", target) for target in TARGETS}
    assert not [name for name, plan in plans.items() if plan.returncode]
    book, test, check = (plans[n].stdout for n in ("book", "test", "check"))
    assert "build . -n -W --keep-going" in book
    assert book.index("rm -rf _build/html") < book.index("build . -n")
    for plan in (test, check):
        assert "-n 2 --dist loadfile" in plan
        assert "build . " not in plan, "no second build"


def test_without_a_book_the_check_is_refused_in_one_line(tree):
    stub(tree)
    assert "run make book first" in refused(tree, "check")


@pytest.mark.parametrize("given", [[], ["BROWSER=./none"]])
def test_without_a_browser_the_pdf_is_refused_in_one_line(tree, given):
    stub(tree)
    message = refused(tree, "pdf", *given)
    assert message.startswith("No Chromium or Chrome found")
    assert "BROWSER=..." in message
    assert not (tree / ".venv").exists()


@pytest.mark.parametrize("given", [[], ["PYTHON=./none"]])
def test_without_a_python_one_line_says_so(tree, given):
    # what a shim for a version that is not installed does
    shim = tree / "bin" / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    shim.chmod(0o755)
    message = refused(tree, "test", *given)
    assert message.startswith("No Python 3.11, 3.12 or 3.13")
    assert "PYTHON=..." in message
    assert not (tree / ".venv").exists()


def test_torch_is_chosen_by_the_card_unless_an_index_is_named(tree):
    stub(tree)
    (tree / ".venv/bin").mkdir(parents=True)
    chosen = make(tree, "-n", ".venv").stdout
    named = make(tree, "-n", ".venv", "TORCH_INDEX=there").stdout
    assert "--torch-backend auto" in chosen
    assert "--torch-backend" not in named
    assert "--extra-index-url 'there' torch" in named


def test_without_torchs_own_index_pip_chooses_and_a_line_says_so(tree):
    stub(tree)
    done = make(tree, ".venv")
    assert done.returncode == 0
    assert "out of reach: pip chooses" in done.stdout


def test_a_shim_that_fails_is_passed_over(tree):
    stub(tree, failing="ensurepip")
    stub(tree, "python3.13")
    assert "'python3.13' -m venv" in make(tree, "-n", ".venv").stdout


def test_installs_once_completes_and_recovers(tree):
    def steps(folder=tree):
        """Make the environment; return the status and what was run."""
        (tree / "log").write_text("")
        status = make(folder, ".venv").returncode
        log = (tree / "log").read_text().splitlines()
        return status, [line for line in log if line.startswith("-m")]

    # interrupted in the second step: no stamp, and no sign of success
    stub(tree, failing="--requirement")
    status, begun = steps()
    assert status != 0
    assert len(begun) == 4
    assert not list(tree.glob(".venv/.stamp-*"))

    # made anew, torch first
    stub(tree)
    status, (new, uv, torch, lock, ours) = steps()
    assert status == 0
    assert new == "-m venv --clear .venv"
    assert uv.endswith(" uv")
    assert torch.endswith(" torch")
    assert lock.endswith("--requirement requirements.lock")
    assert ours.endswith("--editable .")

    # nothing changed, though the files are newer than the stamp
    later = os.stat(tree / "Makefile").st_mtime + 3600
    os.utime(tree / "requirements.lock", (later, later))
    assert steps() == (0, [])

    # the lock changed: brought up to date, not made anew
    with (tree / "requirements.lock").open("a", encoding="utf-8") as file:
        file.write("# one more line\n")
    assert steps() == (0, [uv, torch, lock, ours])
    assert len(list(tree.glob(".venv/.stamp-*"))) == 1

    # moved: scripts name the old folder, so the environment is made anew
    moved = tree.with_name(tree.name + "-moved")
    shutil.copytree(tree, moved, symlinks=True)
    assert steps(moved) == (0, [new, uv, torch, lock, ours])
