"""Fixtures shared by the tests, and nbval without a clock."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import hypothesis
import nbformat
import psutil
import pytest
import yaml
from nbval.kernel import RunningKernel

from nestedae_utils.data import files, tables
from nestedae_utils.errors import DataError, DataUnavailable
from nestedae_utils.model import kernels
from nestedae_utils.rerun import page

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
hypothesis.settings.register_profile("no clock", deadline=None)
hypothesis.settings.load_profile("no clock")
EACH_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def pytest_configure() -> None:
    """Give each worker one core, and each cell the time that it takes."""
    # one compilation for all caches that tests make of their own
    assert os.environ["NUMBA_CACHE_DIR"], kernels.__name__
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    ask = RunningKernel.get_message

    # nbval itself would wait for its time-out where the kernel is dead
    def get_message(
        kernel: RunningKernel, stream: str, timeout: float | None = None
    ) -> dict:
        while stream == "shell":
            with contextlib.suppress(Empty):
                return ask(kernel, stream, timeout=1)
            if not kernel.is_alive():
                raise RuntimeError("the kernel died")
        return ask(kernel, stream, timeout)

    RunningKernel.get_message = get_message


def pages(folder: Path = ROOT) -> list[str]:
    """Return the names of all pages in the table of contents."""
    contents = yaml.safe_load((folder / "_toc.yml").read_text())
    parts = (part["chapters"] for part in contents["parts"])
    return [contents["root"], *(one["file"] for part in parts for one in part)]


def told(call: Callable, *given, error: type = DataError, **named) -> str:
    """Return what a call that must fail says, in one line."""
    with pytest.raises(error) as caught:
        call(*given, **named)
    line = str(caught.value).strip()
    assert "\n" not in line
    return line


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a cache of its own."""
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def book() -> Path:
    """Return the folder of the pages that `make book` left."""
    folder = ROOT / "_build" / "html"
    if not (folder / "index.html").is_file():
        pytest.skip("no book in _build: run `make book` first")
    return folder


@pytest.fixture(scope="session")
def public() -> Callable[[str], Path]:
    """Return `files.fetch`, or skip where the files cannot be had."""
    try:
        for key, entry in files.registry().items():
            if not entry.optional:
                files.fetch(key)
    except DataUnavailable as error:
        pytest.skip(f"needs the public files: {error}")
    return files.fetch


@pytest.fixture(scope="session")
def paper_tables(public: Callable[[str], Path]) -> tables.Tables:
    """Return both perovskite tables of the paper, read once."""
    return tables.load("paper")


TINY = [
    """\
seed: int = 0  # what the result is; 0 to 2147483648
noise: float = 0.0  # what is added to it; 0.0 to 100.0
wait: float = 0.0  # seconds to sleep; 0.0 to 1000.0
workers: int = 0  # joblib's workers to start; 0 to 8
fail: bool = False  # whether to raise; true or false
die: str = "no"  # yes, no, or a file: die if it is absent, write it; any text
""",
    """\
import json, os, pathlib, signal, sys, time
if fail:
    raise RuntimeError("no luck\\nand no second line")
""",
    """\
if workers:
    import joblib
    joblib.Parallel(workers)(joblib.delayed(time.sleep)(120) for _ in range(9))
time.sleep(wait)
flag = pathlib.Path(die)
if die == "yes" or (die != "no" and not flag.exists()):
    if die != "yes":
        flag.touch()
    os.kill(os.getpid(), signal.SIGKILL)
""",
    """\
from IPython.display import SVG, display
# as chapters glue their values
display({"application/papermill.record/text/plain": "1"}, raw=True)
SVG('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')
""",
    """\
path = pathlib.Path(os.environ["NESTEDAE_RESULTS"]) / "90_tiny.json"
path.parent.mkdir(parents=True, exist_ok=True)
record = {"quantity": "fig2_clean_single_test", "value": seed + noise / 10,
          "spread": None, "unit": "sd", "replicas": 1}
path.write_text(json.dumps({
    "chapter": "90_tiny", "data_source": "none", "parameters": {},
    "as_in_paper": True, "seconds": 0.1, "date": "2026-01-01",
    "python": sys.executable, "checksums": {CHECKSUMS}, "records": [record]}))
""",
]


def tiny(
    folder: Path, figure: str = "fig-tiny", checksums: str = ""
) -> nbformat.NotebookNode:
    """Write a chapter that runs in a moment, 90_tiny."""
    text = "# A tiny one\n\nIt makes {term}`nothing <x>` {cite}`x`.\n\n"
    cells = [nbformat.v4.new_markdown_cell(f"{text}Run time: a\nmoment.")]
    for code in TINY:
        code = code.replace("CHECKSUMS", checksums)
        cells.append(nbformat.v4.new_code_cell(code))
    cells[1].metadata["tags"] = ["parameters"]
    cells[4].metadata["mystnb"] = {"figure": {"name": figure}}
    spec = {"name": "python3", "display_name": "x", "language": "python"}
    language = {"name": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": spec, "language_info": language}
    )
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / "90_tiny.ipynb")
    return notebook


# Sphinx takes seconds for each run's page: only some tests have it made.
NO_PAGE = "from nestedae_utils.rerun import page; page.write = "
NO_PAGE += "lambda notebook, *_: notebook.with_suffix('.html').touch(); "
NO_PAGE += "page.write.__module__ = page.__name__; "


@pytest.fixture(scope="session", autouse=True)
def write_page() -> Iterator[Callable[..., None]]:
    """Leave out the pages of runs; return what makes them."""
    write = page.write
    exec(NO_PAGE, {})
    yield write
    page.write = write


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """Return a folder with the tiny chapter."""
    tiny(tmp_path / "notebooks")
    return tmp_path / "notebooks"


def names(folder: Path) -> list[str]:
    """Return the names of all that is in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())


def process(notebooks: Path, words: str, **settings: Any) -> subprocess.Popen:
    """Start the command on a folder of chapters, as a process of its own."""
    code = (
        NO_PAGE + "from nestedae_utils import cli; from pathlib import Path; import sys"
    )
    code += f"; sys.exit(cli.main(sys.argv[1:], Path({str(notebooks)!r})))"
    command, pipe = [sys.executable, "-c", code, *words.split()], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **settings)


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that have a word in their environment."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and mark in process.environ().values():
                processes.append(process)
    return processes
