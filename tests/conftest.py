"""Fixtures shared by the tests."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

from nestedae_utils.data import files as datasets
from nestedae_utils.data import tables
from nestedae_utils.errors import DataUnavailable

ROOT = Path(__file__).parents[1]
BOOK = Path(sys.executable).with_name("jupyter-book")


def pages(folder: Path = ROOT) -> list[str]:
    """Return the names of all pages in the table of contents."""
    contents = yaml.safe_load((folder / "_toc.yml").read_text())
    files = [
        chapter["file"]
        for part in contents["parts"]
        for chapter in part["chapters"]
    ]
    return [contents["root"], *files]


def build(
    source: Path, output: Path, **environment: str
) -> subprocess.CompletedProcess:
    """Build the book from clean; return the process."""
    return subprocess.run(
        [
            *(BOOK, "build", source, "--path-output", output),
            *("-n", "-W", "--keep-going"),
        ],
        env={
            **os.environ,
            "NESTEDAE_RESULTS": str(output / "results"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the book with all defaults, once; return its output folder."""
    output = tmp_path_factory.mktemp("book")
    done = build(ROOT, output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture(scope="session")
def public() -> Callable[[str], Path]:
    """Return `datasets.fetch`, or skip where the files cannot be had."""
    try:
        for key in datasets.registry():
            datasets.fetch(key)
    except DataUnavailable as error:
        pytest.skip(f"needs the public files: {error}")
    return datasets.fetch


@pytest.fixture(scope="session")
def paper_tables(public: Callable[[str], Path]) -> tables.Tables:
    """Return both perovskite tables of the paper, read once."""
    return tables.load("paper")


TINY_PARAMETERS = """\
seed: int = 0  # what the result is; 0 to 2147483648
noise: float = 0.0  # what is added to it; 0.0 to 100.0
wait: float = 0.0  # seconds to sleep; 0.0 to 1000.0
workers: int = 0  # joblib's workers to start; 0 to 8
fail: bool = False  # whether to raise; true or false
die: str = "no"  # yes, no, or a file: die if it is absent, write it; any text
"""
TINY_START = """\
import json, os, pathlib, signal, sys, time
if fail:
    raise RuntimeError("no luck\\nand no second line")
"""
TINY_WORK = """\
if workers:
    import joblib
    joblib.Parallel(workers)(joblib.delayed(time.sleep)(120) for _ in range(9))
time.sleep(wait)
flag = pathlib.Path(die)
if die == "yes" or (die != "no" and not flag.exists()):
    if die != "yes":
        flag.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
TINY_FIGURE = """\
from IPython.display import SVG, display
# as chapters glue their values
display({"application/papermill.record/text/plain": "1"}, raw=True)
SVG('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')
"""
TINY_END = """\
folder = pathlib.Path(os.environ["NESTEDAE_RESULTS"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "90_tiny.json").write_text(json.dumps({
    "chapter": "90_tiny", "data_source": "none", "parameters": {},
    "as_in_paper": True, "seconds": 0.1, "date": "2026-01-01",
    "python": sys.executable, "checksums": {CHECKSUMS},
    "records": [{"quantity": "fig2_clean_single_test",
                 "value": seed + noise / 10, "spread": None, "unit": "sd",
                 "replicas": 1}]}))
"""


def tiny(
    folder: Path, figure: str = "fig-tiny", checksums: str = ""
) -> nbformat.NotebookNode:
    """Write a chapter that runs in a moment, 90_tiny."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        nbformat.v4.new_markdown_cell(
            "# A tiny one\n\nIt makes {term}`nothing <x>` {cite}`x`.\n\n"
            "Run time: a\nmoment."
        ),
        *map(
            nbformat.v4.new_code_cell,
            [
                TINY_PARAMETERS,
                TINY_START,
                TINY_WORK,
                TINY_FIGURE,
                TINY_END.replace("CHECKSUMS", checksums),
            ],
        ),
    ]
    cells[1].metadata["tags"] = ["parameters"]
    cells[4].metadata["mystnb"] = {"figure": {"name": figure}}
    spec = {"name": "python3", "display_name": "x", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=cells,
        metadata={"kernelspec": spec, "language_info": {"name": "python"}},
    )
    nbformat.write(notebook, folder / "90_tiny.ipynb")
    return notebook


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """Return a folder with the tiny chapter."""
    tiny(tmp_path / "notebooks")
    return tmp_path / "notebooks"


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that have a word in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and mark in process.environ().values():
                found.append(process)
    return found
