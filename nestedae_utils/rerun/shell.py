"""The shell around the command: its streams, its signals, and what it is told."""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

# not every system has SIGHUP
SIGNALS = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")]


class Interrupted(BaseException):
    """A signal asked the command to stop."""


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


def tell(line: str) -> None:
    """Tell a line on stderr; that nobody reads it any more stops nothing."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def complain(line: str) -> None:
    """Tell what is wrong or unusual, in one line."""
    tell(f"nestedae: {' '.join(line.split())}")


@contextlib.contextmanager
def shell() -> Iterator[dict[str, Any]]:
    """Turn signals into `Interrupted`, and what the package logs into lines.

    A stream that is closed is one that leads nowhere.  Gives click's settings.
    """

    def stop(number: int, frame: Any) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number))

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    log, lines = logging.getLogger("nestedae_utils"), _Lines()
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    plain = os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
    with contextlib.ExitStack() as stack:
        stack.callback(log.removeHandler, lines)
        for number in SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, stop))
        yield {"standalone_mode": False, "color": False if plain else None}


def reporter() -> Callable[[int, int], None]:
    """Return what tells of each cell in a line; within it kernels draw a bar."""
    began = time.perf_counter()
    if sys.stderr.isatty():
        os.environ.setdefault("NESTEDAE_PROGRESS", os.ttyname(sys.stderr.fileno()))

    def report(cell: int, of: int) -> None:
        tell(f"cell {cell} of {of}, {time.perf_counter() - began:.0f} s")

    return report
