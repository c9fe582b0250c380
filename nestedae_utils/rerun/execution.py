"""A notebook executed by papermill, in a process that can be stopped whole.

`execute` starts this module as a process of its own, which executes the
notebook and writes it as HTML.  Whatever that process starts, the kernel and
the kernel's workers, carries a token in its environment, so that all of it
is found and ended, also where a process in between has died.  When the
process that called `execute` dies itself, its pipe closes and the execution
ends with it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

TOKEN = "NESTEDAE_EXECUTION"
LOG = "log.txt"
"""What the kernel and papermill wrote on stderr, in the working folder."""
PATIENCE = 3.0
"""Seconds that processes have to end by themselves."""


class ExecutionError(RuntimeError):
    """A notebook did not run to its end; one line says where and why.

    ``killed`` tells that a process died, which another attempt may cure.
    """

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class Stopped(RuntimeError):
    """A run was stopped on request."""


def execute(
    source: Path,
    out: Path,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    report: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Execute a notebook; write it executed, and as HTML beside it.

    Parameters
    ----------
    source, out
        The notebook, and where it goes executed.  The folder of ``out`` is
        the kernel's working folder, and is removed if this process dies.
    parameters
        What papermill injects.
    environment
        Variables for the kernel.
    report
        Called with the number of a code cell that starts, and of all.
    stop
        Asked about twice a second; the execution ends when it says True.

    Raises
    ------
    ExecutionError
        If a cell fails, a process dies, or a file cannot be written.  What
        was executed lies in ``out``.
    Stopped
        If ``stop`` said so.
    """
    token = uuid.uuid4().hex
    job = [str(source), str(out), json.dumps(dict(parameters))]
    lines: queue.Queue[str | None] = queue.Queue()
    try:
        with open(out.parent / LOG, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, *job],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=out.parent,
                env=_environment(environment, token),
                text=True,
                # a terminal's Ctrl-C is for the command alone, which stops
                # the rest in order
                start_new_session=True,
            )
        threading.Thread(
            target=_gather, args=(process, lines), daemon=True
        ).start()
        last = _follow(lines, report, stop)
        _judge(last, process, out.parent / LOG)
    finally:
        end(token)


def _environment(more: Mapping[str, str], token: str) -> dict[str, str]:
    # A foreign kernel named python3 must not stand in for this Python, nor
    # another copy of the package for this one.
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, os.environ.get("PYTHONPATH", "")]
    kept = {k: v for k, v in os.environ.items() if k != "JUPYTER_PATH"}
    return {
        **kept,
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **more,
        TOKEN: token,
    }


def _gather(process: subprocess.Popen, lines: queue.Queue) -> None:
    for line in process.stdout:
        lines.put(line)
    process.wait()
    lines.put(None)


def _follow(
    lines: queue.Queue,
    report: Callable[[int, int], None] | None,
    stop: Callable[[], bool] | None,
) -> dict[str, Any]:
    """Return the last message of the process, when it has ended."""
    last: dict[str, Any] = {}
    while True:
        if stop is not None and stop():
            raise Stopped("stopped on request")
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            continue
        if line is None:
            return last
        last = {**last, **json.loads(line)}
        if report is not None and set(last) == {"cell", "of"}:
            report(last["cell"], last["of"])


def _judge(
    last: Mapping[str, Any], process: subprocess.Popen, log: Path
) -> None:
    if "done" in last and process.returncode == 0:
        return
    where = f"cell {last['cell']} of {last['of']}: " if "cell" in last else ""
    if "error" in last:
        raise ExecutionError(where + last["error"], last["killed"])
    if process.returncode < 0:
        raise ExecutionError(
            f"{where}the process that executes was ended by signal "
            f"{-process.returncode}",
            killed=True,
        )
    told = log.read_text(encoding="utf-8", errors="replace").split("\n")
    words = [line for line in told if line.strip()] or ["no message"]
    raise ExecutionError(where + one_line(words[-1]))


def one_line(text: str, longest: int = 300) -> str:
    """Return the first line of a text, without colours and not too long."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
    first = text.splitlines()[0] if text else ""
    first = "".join(sign if sign.isprintable() else " " for sign in first)
    return first if len(first) <= longest else first[:longest] + "..."


def end(token: str) -> None:
    """End every process whose environment has the token, but this one.

    First in good order, as joblib's helper then removes its shared memory.
    """
    ours = _marked(token)
    for process in ours:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(ours, timeout=PATIENCE)
    for process in {*left, *(_marked(token) if ours else [])}:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=PATIENCE)


def _marked(token: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        # processes of others, and those that end meanwhile, cannot be asked
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and (
                process.environ().get(TOKEN) == token
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


# --- the process that executes ---------------------------------------------


def _main(source: str, target: str, parameters: str) -> None:
    # The kernel inherits stdout; the messages go through another.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        print(json.dumps(message), file=messages, flush=True)

    out = Path(target)
    alone = threading.Event()
    watch = threading.Thread(
        target=_watch, args=(out.parent, alone), daemon=True
    )
    watch.start()
    try:
        _papermill(Path(source), out, json.loads(parameters), say)
        _html(out)
    except BaseException as error:
        if alone.is_set():
            # the kernel was ended on purpose; the end comes from there
            watch.join()
        say(
            error=_words(error),
            killed=type(error).__name__ == "DeadKernelError",
        )
        raise
    say(done=True)


def _watch(folder: Path, alone: threading.Event) -> None:
    """End with all that was started when the caller is gone."""
    sys.stdin.read()
    alone.set()
    end(os.environ[TOKEN])
    for _ in range(9):
        # papermill may be writing there
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _papermill(
    source: Path,
    out: Path,
    parameters: dict[str, Any],
    say: Callable[..., None],
) -> None:
    import papermill

    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    # papermill adds the cell of the injected parameters
    of = sum(cell["cell_type"] == "code" for cell in cells) + bool(parameters)
    numbers = itertools.count(1)

    def start(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code":
            say(cell=next(numbers), of=of)

    papermill.execute_notebook(
        source,
        out,
        parameters,
        kernel_name="python3",
        progress_bar=False,
        cwd=out.parent,
        on_cell_start=start,
    )


def _html(out: Path) -> None:
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_filename(str(out))
    out.with_suffix(".html").write_text(page, encoding="utf-8")


def _words(error: BaseException) -> str:
    name = getattr(error, "ename", type(error).__name__)
    if name == "DeadKernelError":
        return "the kernel died"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return one_line(f"{name}: {getattr(error, 'evalue', error)}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
