"""A notebook executed by papermill, and the end of all that it started.

The kernel and its workers carry a token in their environment, by which all of
them are ended, also where a process in between has died.  Should this process
die itself, a reaper, which waits for that, ends the rest and removes the folder.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import psutil

from nestedae_utils.errors import DataError
from nestedae_utils.rerun import page

TOKEN = "NESTEDAE_EXECUTION"
LOG = "log.txt"  # what the kernel wrote past the notebook, in its folder
PATIENCE = 3.0  # seconds that processes have to end by themselves
LONG = 1_000_000  # seconds for a kernel that lives: nothing is killed by a clock
Values = Mapping[str, Any]
# called with the number of a code cell that starts, and of all
Report = Callable[[int, int], None]


class RunError(RuntimeError):
    """A run failed or cannot be made; one line for people."""


class KernelDied(RunError):
    """The kernel of a run died, which another attempt may cure."""


class Stopped(RuntimeError):
    """An execution was stopped on request."""


def execute(
    source: Path,
    out: Path,
    parameters: Values,
    environment: Mapping[str, str],
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Execute a notebook; write it executed, and as a page beside it.

    The kernel has more variables in its ``environment`` and works in the
    folder of ``out``, which is removed if this process dies.  ``stop`` is
    asked twice a second: `Stopped` is raised when it says True.  A cell that
    fails or a file that cannot be written is a `RunError`, a kernel that dies
    `KernelDied`.
    """
    token = uuid.uuid4().hex
    # the kernel imports this copy of the package
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    variables |= {**environment, TOKEN: token}
    # what the shell is set up for is nothing to a run
    for name in ("MPLBACKEND", "JPY_SESSION_NAME", "PYTHONSTARTUP"):
        variables.pop(name, None)
    with (
        open(out.parent / LOG, "wb") as log,
        ThreadPoolExecutor(1) as pool,
        subprocess.Popen(
            [sys.executable, "-m", __name__, token, str(out.parent)],
            stdin=subprocess.PIPE,
            stderr=log,
            env=variables,
            # a terminal's Ctrl-C is for the command, which ends the rest
            start_new_session=True,
        ),
    ):
        kernel = _kernel(env=variables, cwd=out.parent, stdout=log, stderr=log)
        show = partial(page.write, out, variables, log)
        # this thread, which signals interrupt, only waits
        given = source, out, dict(parameters), kernel, report, show
        work = pool.submit(_papermill, *given)
        try:
            while wait([work], timeout=0.5).not_done:
                if stop():
                    raise Stopped("stopped on request")
            work.result()
        finally:
            end(token)
            # a kernel may have been about to start
            while wait([work], timeout=0.5).not_done:
                end(token)


def _kernel(**settings: Any) -> type:
    """Return a manager of kernels that are this Python.

    Another one that is installed as "python3" does not stand in for it.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    launcher = "-m ipykernel_launcher -f {connection_file}".split()

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=[sys.executable, *launcher])
        start_kernel = partialmethod(AsyncKernelManager.start_kernel, **settings)

    return Kernel


def _papermill(
    source: Path,
    out: Path,
    parameters: Values,
    kernel: type,
    report: Report | None,
    show: Callable[[], None],
) -> None:
    import papermill
    from jupyter_core.utils import ensure_event_loop
    from nbclient.exceptions import DeadKernelError

    # what is wrong is told in a line, and glued values need no picture
    papermill.log.logger.setLevel("CRITICAL")
    warnings.filterwarnings("ignore", "Your element with mimetype")
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    # papermill adds the cell of the injected parameters
    of = sum(cell["cell_type"] == "code" for cell in cells) + bool(parameters)
    number = 0

    def start(cell: Any, cell_index: int) -> None:
        nonlocal number
        if cell.cell_type == "code":
            number += 1
            if report:
                report(number, of)

    try:
        # this thread's own
        with contextlib.closing(ensure_event_loop()):
            # papermill fills in what stands in braces
            paths = [re.sub(r"([{}])", r"\1\1", str(path)) for path in (source, out)]
            papermill.execute_notebook(
                *paths,
                parameters,
                kernel_name="python3",
                kernel_manager_class=kernel,
                progress_bar=False,
                on_cell_start=start,
                start_timeout=LONG,
                iopub_timeout=LONG,
            )
        number = 0
        show()
    except Exception as error:
        where = f"cell {number} of {of}: " if number else ""
        if isinstance(error, DeadKernelError):
            raise KernelDied(f"{where}the kernel died") from None
        name = getattr(error, "ename", type(error).__name__)
        words = one_line(f"{name}: {getattr(error, 'evalue', error)}")
        if isinstance(error, OSError) and error.strerror:
            words = f"{error.strerror}: {error.filename or out}"
        raise RunError(where + words) from None


def pictures(path: Path) -> dict[str, bytes]:
    """Return the files of a notebook's named figures, as it has them.

    A `DataError` tells of a figure named as no file can be.
    """
    files: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        name = str(figure.get("name", "none"))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            words = "letters, digits, '-', '_' and '.' are allowed; rename the figure."
            raise DataError(f"{path.name}: figure name {name!r} given, {words}")
        for output in cell.get("outputs", []) if "name" in figure else ():
            data = output.get("data", {})
            svg = "".join(data.get("image/svg+xml", "")).encode()
            png = base64.b64decode("".join(data.get("image/png", "")))
            if svg or png:
                files.setdefault(f"{name}.{'svg' if svg else 'png'}", svg or png)
    return files


def one_line(text: str, longest: int = 300) -> str:
    """Return the first line of a text, without colours and not too long."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines() or [""]
    first = "".join(sign if sign.isprintable() else " " for sign in lines[0])
    return first if len(first) <= longest else first[:longest] + "..."


def end(token: str) -> None:
    """End every process whose environment has the token, but this one.

    First in good order, as joblib's helper then removes its shared memory.
    """
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        marked = []
        for process in psutil.process_iter():
            # others' processes, and those that end now, cannot be asked
            with contextlib.suppress(psutil.Error, OSError):
                if (
                    process.pid != os.getpid()
                    and process.environ().get(TOKEN) == token
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    stop(process)
                    marked.append(process)
        psutil.wait_procs(marked, timeout=PATIENCE)


if __name__ == "__main__":
    # the pipe closes when the process that holds it has ended
    sys.stdin.read()
    end(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    with contextlib.suppress(OSError):
        # if that was all in it
        Path(sys.argv[2]).parent.rmdir()
