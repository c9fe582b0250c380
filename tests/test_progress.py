"""Progress goes to the terminal that is named, and to nobody else."""

import contextlib
import os
import pty
import subprocess
import sys
import time

from nestedae_utils.book.progress import bar


def train():
    with bar("AE1", 3) as outer:
        outer(0.5)
        time.sleep(0.3)
        with bar("AE2", 1) as inner:
            inner()
        outer(9)


def drawn_on(reading):
    """A terminal hands on bit by bit what was drawn, and then that it is closed."""
    with contextlib.suppress(OSError):
        while True:
            yield os.read(reading, 10_000)


def test_a_terminal_shows_the_trainings_of_all_that_run(monkeypatch, capfd):
    reading, terminal = pty.openpty()
    monkeypatch.setenv("NESTEDAE_PROGRESS", os.ttyname(terminal))
    monkeypatch.setenv("NESTEDAE_CHAPTER", "03_fig2")
    train()
    os.close(terminal)
    drawn = b"".join(drawn_on(reading)).decode().split("\r")
    assert drawn[1].startswith("03_fig2 AE2")
    assert " 2/4, " in drawn[1], "1.5 of both, rounded"
    assert not drawn[-1].strip(), "the line is cleared"
    assert capfd.readouterr() == ("", "")


def test_a_kernel_inherits_no_server_that_watches():
    """One that a notebook's cell started has the server's variables, no server."""
    code = "from nestedae_utils.book.progress import watched; print(watched())"
    below = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    named = os.environ | {"JPY_SESSION_NAME": f"{time.time()}.ipynb"}
    apart = f"import os; del os.environ['JPY_SESSION_NAME']; {below}"
    for told, words in (("True\n", code), ("False\n", below), ("False\n", apart)):
        words = [sys.executable, "-c", words]
        done = subprocess.run(words, env=named, capture_output=True, text=True)
        assert done.stdout == told


def test_nothing_is_shown_to_nobody_and_no_fault_stops_a_training(monkeypatch, capfd):
    monkeypatch.delenv("NESTEDAE_PROGRESS", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    train()
    monkeypatch.setenv("NESTEDAE_PROGRESS", "/nowhere/at/all")
    train()
    assert capfd.readouterr() == ("", "")
