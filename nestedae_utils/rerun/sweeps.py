"""A chapter run over a grid of parameters, here or on many machines.

Every combination is a run in a folder of its own; finished ones are kept, so
that a sweep can be stopped and started again.  Dask's workers make the runs:
threads of this process that wait for their kernels, or the workers of another
scheduler.  Notebooks travel to them and files back; they need the package in
the same version and the data, but no common file system.
"""

import contextlib
import itertools
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distributed import Client, Future, LocalCluster, as_completed, get_worker

from nestedae_utils.book import parameters, records
from nestedae_utils.errors import DataError, ParameterError, shown
from nestedae_utils.model import cache
from nestedae_utils.rerun import comparison, runs
from nestedae_utils.rerun.execution import RunError, Values, one_line
from nestedae_utils.rerun.runs import Plan, Run, held

LIMIT = 10_000  # combinations that a sweep may have
PATIENCE = 5  # seconds in which a scheduler has to answer
RECORD = "sweep.json"

Tell = Callable[[str], None]


def grid(
    notebook: parameters.Notebook, axes: Iterable[str], fixed: Values
) -> list[Plan]:
    """Return the runs of a grid, the last axis varying fastest.

    An axis is a text such as "noise=0,0.5,1" or, for whole numbers,
    "seed=0..9", both ends included; values that are lists themselves are
    divided by semicolons, "latent_sizes=2,4;2,8".  No axis, a faulty one, one
    of a ``fixed`` parameter and more than `LIMIT` runs are a `ParameterError`.
    """
    values: dict[str, list[Any]] = {}
    for name, text in parameters.assignments(axes).items():
        values[name] = _axis(parameters.declared(notebook, name), text)
        if math.prod(map(len, values.values())) > LIMIT:
            raise ParameterError(
                f"grid: more than {LIMIT} combinations given, at most {LIMIT} "
                "are allowed; give fewer values."
            )
        if name in fixed:
            words = "given twice, in the grid and by -p; leave one out."
            raise ParameterError(f"{name}: {words}")
    if not values:
        words = "at least one name=values is allowed, for example --grid seed=0..9."
        raise ParameterError(f"grid: nothing given, {words}")
    points = itertools.product(*values.values())
    given = [dict(zip(values, point, strict=True)) for point in points]
    return [runs.plan(notebook, {**one, **fixed}) for one in given]


def _axis(one: parameters.Parameter, text: str) -> list[Any]:
    """Return the values of an axis, each checked and different."""
    values: list[Any] = []
    for item in text.split(";" if one.listed else ","):
        is_range, fault = one.kind is int and ".." in item, ""
        ends = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", item)
        first, last = map(int, ends.groups()) if ends else (1, 0)
        if not item:
            fault = "it has an empty value; separate values by single commas"
        elif is_range and last < first:
            fault = "a range of whole numbers that does not run backwards is "
            fault += "allowed, for example 0..9"
        if fault:
            raise ParameterError(f"{one.name}: {shown(item or text)} given, {fault}.")
        # one more than a grid may have is enough for it to be refused
        span = map(str, range(first, min(last, first + LIMIT) + 1))
        values += map(one.parse, span if is_range else [item])
    if len(set(values)) != len(values):
        fault = "each value may stand only once"
        raise ParameterError(f"{one.name}: {shown(text)} given, {fault}.")
    return values


def default_folder(what: Sequence[Plan]) -> Path:
    """Return where a sweep goes if no folder is given."""
    digest = cache.fingerprint([one.given for one in what])[:16]
    return what[0].folder.with_name(f"sweep-{digest}")


def sweep(
    what: Sequence[Plan],
    folder: Path,
    jobs: int | None = None,
    dask: str | None = None,
    tell: Tell = lambda line: None,
    retry: bool = False,
    force: bool = False,
) -> dict[Plan, Run | str]:
    """Make all runs of a grid; write their table and their plot.

    There are ``jobs`` runs, else one, at a time on this machine, or as many as the
    scheduler ``dask`` has workers for; ``tell`` takes a line for each.  Those
    that failed in an earlier sweep are made again with ``retry``, all with
    ``force``.  A run that failed has the line that says why.  A folder that
    cannot be used, or a scheduler that does not answer, is a `RunError`.
    """
    folder, jobs = Path(os.path.realpath(folder)), jobs or 1
    scheme = r"(tcp|tls|ws|wss)://[^\s/]+:[0-9]{1,5}"
    if dask is not None and not re.fullmatch(scheme, dask):
        words = "the address of a scheduler is allowed, for example "
        raise ParameterError(f"dask: {shown(dask)} given, {words}tcp://127.0.0.1:8786.")
    with held(folder, RECORD) as scratch:
        paths = {one: folder / "runs" / one.folder.name for one in what}
        outcomes = {}
        for one in what if not force else ():
            if outcome := _earlier(one, paths[one], retry):
                outcomes[one] = outcome
        missing = [one for one in what if one not in outcomes]
        with connected(dask, jobs, scratch) as client:
            given = {one.folder.name: one.given for one in what}
            content = {"chapter": what[0].notebook.name, "runs": given}
            records.write_json(folder / RECORD, content)
            (folder / "runs").mkdir(exist_ok=True)
            if outcomes:
                tell(f"{len(outcomes)} of {len(what)} runs are there already")
            # the runs share the cores: joblib within each takes its part
            cores = str(max(1, (os.cpu_count() or 1) // jobs))
            variables = {"LOKY_MAX_CPU_COUNT": cores} if jobs > 1 else {}
            for one, future in _ended(missing, client, variables, tell):
                outcome = outcomes[one] = _arrived(future, paths[one])
                words = outcome if isinstance(outcome, str) else "finished"
                tell(f"{len(outcomes)} of {len(what)}: {one.point}: {words}")
        ordered = {one: outcomes[one] for one in what}
        comparison.write(ordered, folder)
        return ordered


def _earlier(what: Plan, folder: Path, retry: bool) -> Run | str:
    """Return the outcome of an earlier sweep; an empty line, if none stands."""
    try:
        if (folder / runs.RECORD).is_file():
            return runs.find(what, folder)
        line = "" if retry else runs.failure(folder)
    except (RunError, DataError) as error:
        line = str(error)
    return line and f"{line} (--retry runs it anew)"


@contextlib.contextmanager
def connected(address: str | None, jobs: int, scratch: Path) -> Iterator[Client]:
    """Connect to a scheduler, by its address or one of our own."""
    # it logs tracebacks of lost connections; the outcomes say it in a line
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        # its end waits for that of all runs
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        # within this process, so that nobody else can send it work
        cluster = address or stack.enter_context(
            LocalCluster(
                n_workers=1,
                threads_per_worker=jobs,
                executor=pool,
                processes=False,
                local_directory=str(scratch),
                memory_limit=None,
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        )
        try:
            client = Client(cluster, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(
                f"dask: no scheduler answers at {address} within {PATIENCE} s "
                f"({type(error).__name__}); start it, or correct the address."
            ) from None
        stack.callback(client.close, timeout=PATIENCE)
        yield client


def await_workers(client: Client, tell: Tell) -> None:
    """Tell that nothing happens before a scheduler has workers."""
    if client.scheduler and not client.scheduler_info(n_workers=-1)["workers"]:
        tell(f"waiting for a worker at {client.scheduler.address}")


def _ended(
    what: Sequence[Plan], client: Client, variables: Mapping[str, str], tell: Tell
) -> Iterator[tuple[Plan, Future]]:
    """Have workers make runs; give each with its future when it has ended."""
    if not what:
        return
    await_workers(client, tell)
    text = what[0].notebook.path.read_text(encoding="utf-8")
    # sent once, and again if the worker that has it is lost
    notebook = client.submit(str, text, pure=False)
    futures: dict[Future, Plan] = {}
    try:
        for rank, one in enumerate(what):
            words = (one.notebook.name, notebook, one.given, one.key, variables)
            future = client.submit(remote, *words, pure=False, priority=-rank)
            futures[future] = one
        ended = as_completed(futures, loop=client.loop)
        for future in ended:
            if future.status == "pending":
                # its result went with a worker, and is made again
                ended.add(future)
            else:
                yield futures[future], future
    finally:
        client.cancel([notebook, *futures])


def remote(
    name: str, notebook: str, given: Values, key: str, variables: Mapping[str, str]
) -> bytes:
    """Make a run on a worker, and once more if its kernel dies; return it zipped."""
    worker = get_worker()
    task = worker.get_current_task()

    def cancelled() -> bool:
        state = getattr(worker.state.tasks.get(task), "state", "cancelled")
        return state == "cancelled" or worker.status.name in ("closing", "closed")

    with tempfile.TemporaryDirectory(
        dir=worker.local_directory, ignore_cleanup_errors=True
    ) as scratch:
        path = Path(scratch, f"{name}.ipynb")
        path.write_text(notebook, encoding="utf-8")
        what = runs.plan(parameters.read(path), given)
        if what.key != key:
            raise RunError(
                f"worker {worker.address}: has another version of the "
                "package, of Python or of its libraries; install the same."
            )
        for attempt in ("first", "second"):
            folder = Path(scratch, attempt)
            made = runs.make(what, folder, variables, stop=cancelled)
            if not made.get("killed"):
                break
        return Path(shutil.make_archive(str(folder), "zip", folder)).read_bytes()


def _arrived(future: Future, folder: Path) -> Run | str:
    """Unpack a run into its folder, or return the line that says why not."""
    try:
        if future.status not in ("finished", "error"):
            raise CancelledError
        with held(folder, runs.RECORD) as scratch:
            archive = scratch / "run.zip"
            archive.write_bytes(future.result())
            future.release()
            shutil.unpack_archive(archive, scratch / "new")
            return runs.settle(scratch / "new", folder)
    except CancelledError:
        return "the scheduler was lost"
    except (RunError, DataError, ParameterError) as error:
        return str(error)
    except Exception as error:
        return one_line(repr(error))
