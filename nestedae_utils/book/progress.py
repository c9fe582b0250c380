"""How far the trainings are, told where somebody looks, never in a page.

``NESTEDAE_PROGRESS`` names the terminal that ``make book`` was started from,
or its log; without it a person who watches sees a bar, and nobody else.
"""

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from tqdm import auto, std

LOOK = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f}, {remaining} left"
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY
_lock = threading.Lock()
_lines: list[Any] = []  # the line that all open bars share, once for each


@contextlib.contextmanager
def bar(name: str, total: float) -> Iterator[Callable[..., None]]:
    """Show a bar of trainings; gives what is called with n more that are done."""
    with _lock:
        _lines.append(line := _lines[0] if _lines else _line())
        line.total += total
        words = f"{os.environ.get('NESTEDAE_CHAPTER', '')} {name} "
        line.set_description_str(words.lstrip(), refresh=False)

    def step(n: float = 1) -> None:
        with _lock:
            line.update(min(n, line.total - line.n))

    try:
        yield step
    finally:
        with _lock:
            _lines.pop()
            if not _lines:
                line.close()


def _line() -> Any:
    look = {"total": 0, "leave": False, "bar_format": LOOK, "miniters": 0}
    if not (path := os.path.expanduser(os.environ.get("NESTEDAE_PROGRESS", ""))):
        return auto.tqdm(disable=not watched(), delay=0.2, **look)
    # a terminal draws a line again and again, a log gets one now and then
    pause = 0.2 if (terminal := Path(path).is_char_device()) else 30.0

    def write(text: str) -> None:
        text = text if terminal else text.strip() and f"{text.strip()}\n"
        with contextlib.suppress(OSError):
            file = os.open(path, APPEND, 0o644)
            os.write(file, text.encode())
            os.close(file)

    look |= {"mininterval": pause, "delay": pause, "ncols": 79}
    return std.tqdm(file=SimpleNamespace(write=write), **look)


def watched() -> bool:
    """Tell whether a person watches: a terminal, or a Jupyter server.

    Books, nbval and papermill start kernels without the server, though perhaps
    from a notebook, whose name they inherit; neither do workers show a bar.
    """
    if multiprocessing.parent_process() is not None:
        return False
    name, above = os.environ.get("JPY_SESSION_NAME"), dict[str, str]()
    with contextlib.suppress(psutil.Error, OSError):
        above = psutil.Process(os.getppid()).environ()
    return sys.stderr.isatty() or name not in (None, above.get("JPY_SESSION_NAME"))
