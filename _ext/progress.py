"""Build the book: a line for each page here, all else in ``_build/log.txt``.

``python _ext/progress.py build . -n -W`` takes the words of ``jupyter-book``.
Kernels tell on the same terminal how far their trainings are, or in the log
where there is none.  Where there are two cores, two chapters are executed at once,
one from the beginning and one from the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import ahead
import click
import joblib
import myst_nb.core.execute
import nbformat
from jupyter_book import sphinx
from jupyter_book.cli.main import main
from jupyter_cache.executors import utils
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

LOG = Path("_build/log.txt")
WARNING = re.compile(r"^.*(?:WARNING|ERROR|CRITICAL): .*$", re.MULTILINE)


class Lines:
    """What a person sees: a line for each step, and one if it fails."""

    def __init__(self) -> None:
        """Keep the terminal; all that is printed from now on is logged."""
        LOG.parent.mkdir(exist_ok=True)
        self.out, self.err = os.dup(1), os.dup(2)
        LOG.write_bytes(b"")
        # at its end, where kernels tell of their trainings, too
        with LOG.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        seen = [os.ttyname(fd) for fd in (self.out, self.err) if os.isatty(fd)]
        os.environ.setdefault(
            "NESTEDAE_PROGRESS", seen[0] if seen else str(LOG.resolve())
        )
        self.step = ""

    def begin(self, step: str) -> None:
        """Start the line of a step; a kernel may draw a bar over it."""
        self.end()
        self.step, self.began = step, time.monotonic()
        os.write(self.out, f"{step} ...".encode())

    def end(self, took: float | None = None) -> None:
        """End the line of a step with the seconds that it took, here or elsewhere."""
        if self.step:
            again = f"\r\x1b[K{self.step}" if os.isatty(self.out) else ""
            seconds = time.monotonic() - self.began
            words = (
                f"{seconds:.0f} s" if took is None else f"{took:.0f} s, beside others"
            )
            os.write(self.out, f"{again} {words}\n".encode())
            self.step = ""

    def fail(self, words: str) -> None:
        """Tell in one line what failed and what to do."""
        self.end()
        words = " ".join(click.unstyle(words).split())
        os.write(self.err, f"{words} The whole log: {LOG}\n".encode())


class Others:
    """A process that executes pages, while the build executes others."""

    def __init__(self, paths: list[Path]) -> None:
        """Let it execute those of the paths that nobody has begun, in order."""
        self.folder = LOG.parent / "ahead"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.bars = self.folder.resolve() / "bars"
        self.draw(False)
        self.process = subprocess.Popen(
            [sys.executable, ahead.__file__, self.folder, *paths],
            env=os.environ | {"NESTEDAE_PROGRESS": str(self.bars)},
        )

    def draw(self, alone: bool) -> None:
        """Let its bars be drawn where others are: on a terminal only if alone."""
        place, beside = os.environ["NESTEDAE_PROGRESS"], self.bars.with_suffix(".part")
        hidden = Path(place).is_char_device() and not alone
        beside.symlink_to(os.devnull if hidden else place)
        beside.rename(self.bars)

    def executed(self, page: str) -> Path | None:
        """Return a page that was executed there, once it is; None: do it yourself."""
        path = self.folder / f"{page}.ipynb"
        if ahead.begin(self.folder, page):
            return None
        self.draw(True)
        while self.process.poll() is None and not path.exists():
            time.sleep(0.1)
        self.draw(False)
        return path if path.exists() else None

    def end(self) -> None:
        """Stop it, and its kernel; again where the word was lost in a destructor."""
        while self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        shutil.rmtree(self.folder)


def described(error: BaseException) -> str:
    """Return the first line of what stopped a cell."""
    words = "its kernel ended: out of memory, killed, or stopped by Ctrl-C"
    if isinstance(error, CellExecutionError):
        words = f"{error.ename}: {error.evalue}"
    return words.strip().partition("\n")[0].rstrip(".: ")


def build(words: list[str]) -> int:
    """Run Jupyter Book; return its exit status."""
    lines, failure, cell = Lines(), "", 0
    others: Others | None = None
    later: list[Path] = []
    execute = utils.executenb

    def begun(cell_index: int, **_: Any) -> None:
        nonlocal cell
        cell = cell_index + 1

    def executed(notebook: NotebookNode, **settings: Any) -> None:
        nonlocal others
        page = os.environ["NESTEDAE_CHAPTER"]
        if others and (path := others.executed(page)):
            done = nbformat.read(path, as_version=4)
            notebook.metadata.update(done.metadata)
            for cell, its in zip(notebook.cells, done.cells, strict=True):
                cell.update(its)
            lines.end(path.stat().st_mtime - (path.parent / page).stat().st_mtime)
            return
        execute(notebook, on_cell_execute=begun, **settings)
        # behind the first page, which compiles the kernel for all
        if later and not others and joblib.cpu_count() > 1:
            others = Others(later)

    class Client(myst_nb.core.execute.NotebookClientDirect):
        """Executes the cells of a page."""

        def start_client(self) -> None:
            nonlocal failure
            page = os.environ["NESTEDAE_CHAPTER"] = self.path.stem
            lines.begin(page)
            try:
                super().start_client()
            except Exception as error:
                words = described(error.__cause__ or error)
                count = len(self.notebook.cells)
                failure = f"{page}: cell {cell} of {count}: {words}."
                raise
            lines.end()

    def begin(app: Any, env: Any, pages: list[str]) -> None:
        nonlocal later
        paths = [Path(env.doc2path(page)) for page in pages]
        # from the last chapter but one, which finds what the first ones train; of the
        # pages with cells only this one reads no chapter's results
        later = [path for path in paths if path.stem == "rerunning"]
        later += [path for path in paths if path.suffix == ".ipynb"][-2:1:-1]

    class Book(sphinx.Sphinx):
        """Writes the pages when all are read."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.connect("env-before-read-docs", begin)
            self.connect("env-updated", lambda *_: lines.begin("pages"))
            self.connect("build-finished", lambda *_: lines.end())

    lines.begin("set-up")
    utils.executenb = executed
    myst_nb.core.execute.NotebookClientDirect = Client
    sphinx.Sphinx = Book
    try:
        main(words, standalone_mode=False)
        return 0
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            failure = failure or "Stopped."
    except click.ClickException as error:
        failure = error.format_message()
    except Exception:
        traceback.print_exc()
    finally:
        if others:
            others.end()
    again = "Mend it and run make again; finished trainings are kept."
    found = WARNING.findall(LOG.read_text(encoding="utf-8"))
    if found and not failure:
        failure = f"Warnings: {len(found)}, the first: {found[0]}."
    lines.fail(f"{failure or 'The book failed.'} {again}")
    return 1


if __name__ == "__main__":
    sys.exit(build(sys.argv[1:]))
