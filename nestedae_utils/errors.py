"""Checks whose errors are written for people.

Every message is one line: the parameter or file, what was given, what is
allowed, and what to do.
"""

from __future__ import annotations

import difflib
import math
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
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


def whole(
    name: str,
    value: Any,
    minimum: int | None = None,
    maximum: int | None = None,
) -> int:
    """Return ``value`` as an int within ``minimum..maximum``.

    Raises
    ------
    ParameterError
        If it is not a whole number (a bool is not one) or out of range.
    """
    allowed = f"a whole number{_range(minimum, maximum)}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ParameterError(
            f"{name}: {shown(value)} given, {allowed} is allowed."
        )
    if _outside(value, minimum, maximum):
        raise ParameterError(f"{name}: {value} given, {allowed} is allowed.")
    return int(value)


def real(
    name: str,
    value: Any,
    minimum: float | None = None,
    maximum: float | None = None,
    positive: bool = False,
) -> float:
    """Return ``value`` as a finite float within ``minimum..maximum``.

    Raises
    ------
    ParameterError
        If it is not a finite number, out of range, or, with ``positive``,
        not above zero.
    """
    allowed = f"a finite number{_range(minimum, maximum)}"
    if positive:
        allowed += " above 0"
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        # first: a whole number may be beyond all floats
        or _outside(value, minimum, maximum)
        or not math.isfinite(value)
        or (positive and value <= 0)
    ):
        raise ParameterError(
            f"{name}: {shown(value)} given, {allowed} is allowed."
        )
    return float(value)


def choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Raises
    ------
    ParameterError
        If it is not; the message lists what is allowed.
    """
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(repr(option) for option in allowed)
        raise ParameterError(
            f"{name}: {shown(value)} given, one of {listed} is allowed."
            + nearest(value, allowed)
        )
    return value


def label(name: str, value: Any) -> str:
    """Return ``value`` if it can name a part of a declaration.

    Raises
    ------
    ParameterError
        If it is no text, empty, or has the "|" that divides names in files.
    """
    if not isinstance(value, str) or not value or "|" in value:
        raise ParameterError(
            f"{name}: {value!r} given, a text that is not empty and has no "
            "'|' is allowed."
        )
    return value


def wholes(
    name: str,
    text: str,
    minimum: int | None = None,
    maximum: int | None = None,
) -> tuple[int, ...]:
    """Parse a comma-separated list of different whole numbers, "2, 4, 8".

    A list travels as a string because papermill's command line knows no
    lists.

    Raises
    ------
    ParameterError
        If an entry is not a whole number in the range, or stands twice.
    """
    try:
        values = [int(part) for part in str(text).split(",")]
    except ValueError:
        raise ParameterError(
            f"{name}: {text!r} given, whole numbers separated by commas are "
            'allowed, for example "2, 4, 8".'
        ) from None
    if len(set(values)) != len(values):
        raise ParameterError(
            f"{name}: {text!r} given, each number may stand only once."
        )
    return tuple(whole(name, value, minimum, maximum) for value in values)


def _outside(value: Any, minimum: Any, maximum: Any) -> bool:
    below = minimum is not None and value < minimum
    return below or (maximum is not None and value > maximum)


def _range(minimum: Any, maximum: Any) -> str:
    if minimum is None and maximum is None:
        return ""
    if maximum is None:
        return f" of at least {minimum}"
    if minimum is None:
        return f" of at most {maximum}"
    return f" from {minimum} to {maximum}"


def watched() -> bool:
    """Tell whether a person watches: a terminal, or a Jupyter server.

    Books, nbval and papermill start kernels without the server, and want
    no progress bar in their pages; neither do worker processes.
    """
    if multiprocessing.parent_process() is not None:
        return False
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write to; rename it once it is whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
