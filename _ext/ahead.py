"""Execute the later pages of a build, from the end on, beside the earlier ones.

``python _ext/ahead.py FOLDER PAGE...`` takes each page that nobody has begun and
leaves it, executed, in the folder; the build (``progress.py``), which comes from the
other side, takes it from there.  What fails ends this process: the build executes
that page itself, and tells.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import nbclient
import nbformat
from myst_nb.core.read import read_myst_markdown_notebook


def begin(folder: Path, page: str) -> bool:
    """Take a page, unless it is taken already; of two who ask one gets it."""
    try:
        (folder / page).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def stay_with(parent: int) -> None:
    """Stop, as by Ctrl-C, once the build is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path, paths: list[Path]) -> None:
    """Execute pages, notebooks or text with cells, each in its folder."""
    # ended so that its kernel ends, too; Ctrl-C is ignored behind a shell's "&"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=stay_with, args=[os.getppid()], daemon=True).start()
    for path in paths:
        if not begin(folder, path.stem):
            continue
        os.environ["NESTEDAE_CHAPTER"] = path.stem
        if path.suffix == ".ipynb":
            notebook = nbformat.read(path, as_version=4)
        else:
            notebook = read_myst_markdown_notebook(path.read_text(encoding="utf-8"))
        nbclient.execute(notebook, cwd=str(path.parent), timeout=-1)
        beside = folder / f"{path.stem}.part"
        nbformat.write(notebook, beside)
        beside.rename(beside.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]])
