"""Errors for people: what, what was given, what is allowed; one line.

Three doors raise them, where a value comes in: a parameter, a file, a
declaration.  Behind these doors code trusts its arguments.
"""

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class ParameterError(ValueError):
    """A parameter has a value, a type or a name that is not allowed."""


class DataError(ValueError):
    """A file or a table does not hold what it should."""


class DataUnavailable(DataError):
    """A file is neither in the cache nor in a mirror, and cannot be loaded."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the question "Did you mean 'x'?" of the closest known name.

    It begins with a space; where no name is close, it is empty.
    """
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def shown(value: Any) -> str:
    """Return a value as it is told in a message: one line, not too long."""
    text = repr(value) if isinstance(value, str) else ascii(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-1]}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write to; rename it once it is whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
