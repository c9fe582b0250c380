"""A chapter run over a grid of parameters, here or on many machines.

Every combination is a run in a folder of its own; finished ones are kept, so
that a sweep can be stopped and started again.  Dask's workers make the runs:
threads of this process that wait for their kernels, or the workers of another
scheduler.  Notebooks travel to them and files back; they need the package in
the same version and the data, but no common file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nestedae_utils.book import parameters, records
from nestedae_utils.errors import (
    DataError,
    ParameterError,
    replacing,
    shown,
)
from nestedae_utils.rerun import runs
from nestedae_utils.rerun.execution import RunError, one_line
from nestedae_utils.rerun.runs import Plan, Run

LIMIT = 10_000
"""Combinations that a sweep may have."""
PATIENCE = 5
"""Seconds in which a scheduler has to answer."""
RECORD = "sweep.json"
COLUMNS = ["quantity", "value", "spread", "unit", "replicas"]

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """A run of a sweep, or the line that says why there is none.

    ``kept`` tells that it is the outcome of an earlier sweep.
    """

    plan: Plan
    run: Run | None
    line: str = "finished"
    kept: bool = False

    @property
    def point(self) -> str:
        """The combination as it was given, "noise=0.5 seed=3"."""
        given = self.plan.given.items()
        return " ".join(f"{n}={parameters.written(v)}" for n, v in given)


# --- the grid --------------------------------------------------------------


def grid(
    notebook: parameters.Notebook,
    axes: Iterable[str],
    fixed: Mapping[str, Any],
) -> list[Plan]:
    """Return the runs of a grid, the last axis varying fastest.

    An axis is a text such as "noise=0,0.5,1" or, for whole numbers,
    "seed=0..9", both ends included; values that are lists themselves are
    divided by semicolons, "latent_sizes=2,4;2,8".

    Raises
    ------
    ParameterError
        If there is no axis, a faulty one, one of a parameter that is fixed
        too, or more than `LIMIT` combinations.
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
            raise ParameterError(
                f"{name}: given twice, in the grid and by -p; leave one out."
            )
    if not values:
        raise ParameterError(
            "grid: nothing given, at least one name=values is allowed, for "
            "example --grid seed=0..9."
        )
    points = itertools.product(*values.values())
    given = [dict(zip(values, point, strict=True)) for point in points]
    return [runs.plan(notebook, {**one, **fixed}) for one in given]


def _axis(one: parameters.Parameter, text: str) -> list[Any]:
    def refused(given: str, fault: str) -> ParameterError:
        return ParameterError(f"{one.name}: {shown(given)} given, {fault}.")

    values: list[Any] = []
    # the rule is a part of the parameter, or will be
    for part in text.split(";" if getattr(one, "rule", one).listed else ","):
        if not part:
            fault = "it has an empty value; separate values by single commas"
            raise refused(text, fault)
        if one.kind is not int or ".." not in part:
            values.append(one.parse(part))
            continue
        span = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", part)
        first, last = map(int, span.groups()) if span else (1, 0)
        if last < first:
            fault = "a range of whole numbers that does not run backwards is"
            raise refused(part, f"{fault} allowed, for example 0..9")
        if last - first >= LIMIT:
            fault = f"at most {LIMIT} combinations are allowed"
            raise refused(part, f"{fault}; give fewer values")
        values += [one.parse(str(n)) for n in range(first, last + 1)]
    if len(set(values)) != len(values):
        raise refused(text, "each value may stand only once")
    return values


# --- the sweep -------------------------------------------------------------


def default_folder(what: Sequence[Plan]) -> Path:
    """Return where a sweep goes if no folder is given."""
    text = json.dumps([one.given for one in what])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return runs.RUNS / what[0].notebook.name / f"sweep-{digest}"


def sweep(
    what: Sequence[Plan],
    folder: Path,
    jobs: int = 1,
    dask: str | None = None,
    tell: Tell = lambda line: None,
    retry: bool = False,
    force: bool = False,
) -> list[Outcome]:
    """Make all runs of a grid; write their table and their plot.

    Parameters
    ----------
    jobs
        Runs at a time on this machine.
    dask
        Address of a scheduler on whose workers to run instead.
    tell
        Takes a line for each run.
    retry, force
        Make those runs anew that failed in an earlier sweep, or all.

    Raises
    ------
    RunError
        If the folder cannot be used, or no scheduler answers.
    """
    folder = Path(os.path.abspath(folder))
    if dask is not None and not re.fullmatch(
        r"(tcp|tls|ws|wss)://[^\s/]+:[0-9]{1,5}", dask
    ):
        raise ParameterError(
            f"dask: {shown(dask)} given, the address of a scheduler is "
            "allowed, for example tcp://127.0.0.1:8786."
        )
    with runs.held(folder, "sweep", RECORD) as scratch:
        places = {one: folder / "runs" / one.key[:16] for one in what}
        known = [] if force else [_kept(*one, retry) for one in places.items()]
        outcomes = {one.plan: one for one in known if one}
        missing = [one for one in what if one not in outcomes]
        with _client(dask, jobs, scratch) as client:
            given = {place.name: one.given for one, place in places.items()}
            content = {"chapter": what[0].notebook.name, "runs": given}
            records.write_json(folder / RECORD, content)
            (folder / "runs").mkdir(exist_ok=True)
            if outcomes:
                tell(f"{len(outcomes)} of {len(what)} runs are there already")
            # the runs share the cores: joblib within each takes its part
            cores = str(max(1, (os.cpu_count() or 1) // jobs))
            variables = {"LOKY_MAX_CPU_COUNT": cores} if jobs > 1 else {}
            for one, future in _ended(missing, client, variables, tell):
                outcome = _arrived(one, future, places[one])
                outcomes[one] = outcome
                words = f"{outcome.point}: {outcome.line}"
                tell(f"{len(outcomes)} of {len(what)}: {words}")
        ordered = [outcomes[one] for one in what]
        _write(ordered, folder)
        return ordered


def _kept(what: Plan, place: Path, retry: bool) -> Outcome | None:
    """Return the outcome of an earlier sweep, if it stands."""
    try:
        if (place / runs.RECORD).is_file():
            return Outcome(what, runs.find(what, place), kept=True)
        line = "" if retry else runs.failure(place)
    except (RunError, DataError) as error:
        line = str(error)
    return Outcome(what, None, line, kept=True) if line else None


@contextlib.contextmanager
def _client(address: str | None, jobs: int, scratch: Path) -> Iterator[Any]:
    """Connect to a scheduler, by its address or one of our own."""
    import dask
    import distributed

    # it logs tracebacks of lost connections; the outcomes say it in a line
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(temporary_directory=str(scratch)))
        # its end waits for that of all runs
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        # within this process, so that nobody else can send it work
        cluster = address or stack.enter_context(
            distributed.LocalCluster(
                n_workers=1,
                threads_per_worker=jobs,
                executor=pool,
                processes=False,
                memory_limit=None,
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        )
        try:
            client = distributed.Client(cluster, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(
                f"dask: no scheduler answers at {address} within {PATIENCE} s "
                f"({type(error).__name__}); start it, or correct the address."
            ) from None
        stack.callback(client.close, timeout=PATIENCE)
        yield client


def _ended(
    what: Sequence[Plan],
    client: Any,
    variables: Mapping[str, str],
    tell: Tell,
) -> Iterator[tuple[Plan, Any]]:
    """Have workers make runs; give each with its future when it has ended."""
    from distributed import as_completed

    if not what:
        return
    if not client.scheduler_info(n_workers=-1)["workers"]:
        tell(f"waiting for a worker at {client.scheduler.address}")
    text = what[0].notebook.path.read_text(encoding="utf-8")
    # sent once, and again if the worker that has it is lost
    notebook = client.submit(str, text, pure=False)
    futures: dict[Any, Plan] = {}
    try:
        for rank, one in enumerate(what):
            words = (one.notebook.name, notebook, one.given, one.key)
            future = client.submit(
                remote, *words, variables, pure=False, priority=-rank
            )
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
    name: str,
    notebook: str,
    given: Mapping[str, Any],
    key: str,
    variables: Mapping[str, str],
) -> dict[str, bytes]:
    """Make a run on a worker, and once more if its kernel is killed.

    Returns its files, by their names within its folder.
    """
    from distributed import get_worker

    worker = get_worker()
    task = worker.get_current_task()

    def cancelled() -> bool:
        state = getattr(worker.state.tasks.get(task), "state", "cancelled")
        closing = worker.status.name in ("closing", "closed")
        return closing or state == "cancelled"

    with tempfile.TemporaryDirectory(
        dir=worker.local_directory, ignore_cleanup_errors=True
    ) as scratch:
        Path(scratch, f"{name}.ipynb").write_text(notebook, encoding="utf-8")
        what = runs.plan(parameters.find(name, Path(scratch)), given)
        if what.key != key:
            raise RunError(
                f"worker {worker.address}: has another version of the "
                "package, of Python or of its libraries; install the same."
            )
        for attempt in ("first", "second"):
            folder = Path(scratch, attempt)
            record = runs.make(what, folder, stop=cancelled, **variables)
            if not record.get("killed"):
                break
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }


def _arrived(what: Plan, future: Any, place: Path) -> Outcome:
    """Write the files of a run."""
    new = place.with_name(f".{place.name}.part")
    shutil.rmtree(new, ignore_errors=True)
    try:
        if future.status not in ("finished", "error"):
            raise CancelledError
        for name, content in future.result().items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        future.release()
        return Outcome(what, runs.settle(new, place))
    except CancelledError:
        line = "the scheduler was lost"
    except (RunError, DataError, ParameterError) as error:
        line = str(error)
    except OSError as error:
        line = runs.unwritable(place, error)
    except Exception as error:
        line = one_line(repr(error))
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Outcome(what, None, line)


# --- the table and the plot ------------------------------------------------


def _write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write a row for each finished run and quantity, and a plot of them."""
    rows = [
        {
            "run": one.run.folder.name,
            **one.plan.effective,
            **{name: record[name] for name in COLUMNS},
        }
        for one in outcomes
        if one.run
        for record in one.run.results["records"]
    ]
    table, drawing = folder / "sweep.csv", folder / "sweep.svg"
    if not rows:
        # those of an earlier sweep would tell of other runs
        table.unlink(missing_ok=True)
        drawing.unlink(missing_ok=True)
        return
    frame = pd.DataFrame(rows)
    with replacing(table) as beside:
        frame.to_csv(beside, index=False)
    with replacing(drawing) as beside:
        figure = plot(frame, _axes([one.plan.given for one in outcomes]))
        figure.savefig(beside, format="svg")


def _axes(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the parameters to draw by, the one of most values first.

    They are those in which the runs differ; a seed is what is averaged over,
    unless nothing else differs.
    """
    values = {name: {one[name] for one in given} for name in given[0]}
    axes = sorted(values, key=lambda name: -len(values[name]))
    differ = [name for name in axes if len(values[name]) > 1] or axes[:1]
    return [name for name in differ if name != "seed"] or differ


def plot(frame: pd.DataFrame, axes: Sequence[str]) -> Any:
    """Draw each quantity of a table against the first of the axes.

    A point is a run; the lines, one for each value of the second axis, join
    their means.
    """
    import seaborn as sns
    from matplotlib import rc_context

    first, second = [*axes, None][:2]
    texts = [n for n in axes if n == second or frame[n].dtype.kind not in "if"]
    frame = frame.assign(**{n: frame[n].map(parameters.written) for n in texts})
    drawn = {"x": first, "y": "value", "hue": second, "style": second}
    units = dict(zip(frame["quantity"], frame["unit"], strict=True))
    style = Path(__file__).parents[1] / "book" / "style.mplstyle"
    # seaborn has a layout of its own
    settings = {"backend": "agg", "figure.constrained_layout.use": False}
    with rc_context(fname=style), rc_context(settings):
        panels = sns.relplot(
            frame,
            **drawn,
            col="quantity",
            col_wrap=2 if len(units) in (2, 4) else min(3, len(units)),
            kind="line",
            errorbar=None,
            height=2.4,
            facet_kws={"sharey": False},
        )
        panels.map_dataframe(sns.scatterplot, **drawn)
        panels.set_titles("{col_name}")
        values = sorted(set(frame[first]))
        for name, ax in panels.axes_dict.items():
            ax.set_ylabel(units[name] or "1")
            if len(values) <= 8:
                ax.set_xticks(values)
        panels.tight_layout()
    return panels.figure
