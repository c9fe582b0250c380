"""A chapter run over a grid of parameters, here or on many machines.

Every combination is a run in a folder of its own.  Runs that are finished
are kept, so that a sweep can be stopped and started again.  With Dask the
runs travel as bytes: the machines need the package in the same version and
the data, but no common file system.
"""

from __future__ import annotations

import concurrent.futures
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
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nestedae_utils.book import parameters, records
from nestedae_utils.book.parameters import Notebook
from nestedae_utils.errors import DataError, ParameterError, shown
from nestedae_utils.rerun import runs
from nestedae_utils.rerun.execution import Stopped, one_line
from nestedae_utils.rerun.runs import Plan, Run, RunError

LIMIT = 10_000
"""Combinations that a sweep may have."""
PATIENCE = 5
"""Seconds in which a scheduler has to answer."""
RECORD = "sweep.json"
TABLE = "sweep.csv"
PLOT = "sweep.svg"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one combination: a run, or the line that says why not.

    ``kept`` tells that it is the outcome of an earlier sweep.
    """

    plan: Plan
    run: Run | None
    line: str = ""
    kept: bool = False

    @property
    def point(self) -> str:
        """The combination as it was given, "noise=0.5 seed=3"."""
        return _point(self.plan)


# --- the grid --------------------------------------------------------------


def grid(notebook: Notebook, axes: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of each parameter of a grid.

    Parameters
    ----------
    notebook
        The chapter that declares the parameters.
    axes
        Texts such as "noise=0,0.5,1" and, for whole numbers, "seed=0..9",
        both ends included.  A parameter that is a list itself has its
        values divided by semicolons, "latent_sizes=2,4;2,8".

    Raises
    ------
    ParameterError
        If there is no axis; a name is unknown or comes twice; an axis is
        empty, runs backwards or has a value twice; a value is not allowed;
        or there are more than `LIMIT` combinations.
    """
    given = parameters.assignments(axes)
    if not given:
        raise ParameterError(
            "grid: nothing given, at least one name=values is allowed, for "
            "example --grid seed=0..9."
        )
    values: dict[str, list[Any]] = {}
    size = 1
    for name, text in given.items():
        values[name] = _axis(parameters.declared(notebook, name), text)
        size *= len(values[name])
        if size > LIMIT:
            raise ParameterError(
                f"grid: more than {LIMIT} combinations given, at most {LIMIT} "
                "are allowed; give fewer values."
            )
    return values


def _axis(one: parameters.Parameter, text: str) -> list[Any]:
    values: list[Any] = []
    for part in text.split(";" if one.rule.listed else ","):
        span = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", part)
        if not part:
            raise ParameterError(
                f"{one.name}: {shown(text)} given, it has an empty value; "
                "separate values by single commas."
            )
        if one.kind is not int or ".." not in part:
            values.append(one.parse(part))
            continue
        if span is None or int(span[1]) > int(span[2]):
            raise ParameterError(
                f"{one.name}: {shown(part)} given, a range of whole "
                "numbers that does not run backwards is allowed, for example "
                "0..9."
            )
        first, last = int(span[1]), int(span[2])
        if last - first >= LIMIT:
            raise ParameterError(
                f"{one.name}: {part!r} given, at most {LIMIT} combinations "
                "are allowed; give fewer values."
            )
        values += [one.parse(str(n)) for n in range(first, last + 1)]
    if len(set(values)) != len(values):
        raise ParameterError(
            f"{one.name}: {shown(text)} given, each value may stand only once."
        )
    return values


def plans(
    notebook: Notebook,
    values: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any],
) -> list[Plan]:
    """Return the runs of a grid, the last axis varying fastest.

    Raises
    ------
    ParameterError
        If a parameter is both fixed and in the grid, or as `runs.plan`.
    """
    for name in fixed:
        if name in values:
            raise ParameterError(
                f"{name}: given twice, in the grid and by -p; leave one out."
            )
    return [
        runs.plan(notebook, {**dict(zip(values, point, strict=True)), **fixed})
        for point in itertools.product(*values.values())
    ]


# --- the sweep -------------------------------------------------------------


def sweep(
    what: Sequence[Plan],
    folder: Path,
    jobs: int = 1,
    dask: str | None = None,
    retry: bool = False,
    force: bool = False,
    tell: Tell = lambda line: None,
) -> list[Outcome]:
    """Make all runs of a grid; write their table and their plot.

    Parameters
    ----------
    what
        From `plans`.
    folder
        Where the sweep goes.
    jobs
        Runs at a time on this machine.
    dask
        Address of a scheduler on whose workers to run instead.
    retry
        Also make the runs that failed in an earlier sweep of the folder.
    force
        Make all runs anew.
    tell
        Takes a line for each run.

    Returns
    -------
    list of Outcome
        In the order of ``what``.

    Raises
    ------
    RunError
        If the folder cannot be used or is used by another sweep, or the
        scheduler does not answer.  Finished runs stay.
    ParameterError
        If the address is none.
    """
    folder = Path(os.path.abspath(folder))
    if dask is not None and not re.fullmatch(
        r"(tcp|tls|ws|wss)://[^\s/]+:[0-9]{1,5}", dask
    ):
        raise ParameterError(
            f"dask: {shown(dask)} given, the address of a scheduler is "
            "allowed, for example tcp://127.0.0.1:8786."
        )
    try:
        # before the lock, which would lie beside folders of others
        runs.holds(folder, "sweep", RECORD)
        with runs.locked(folder), _client(dask) as client:
            _prepare(what, folder)
            outcomes = {
                one.key: kept
                for one in what
                if (kept := _kept(one, folder, retry, force)) is not None
            }
            missing = [one for one in what if one.key not in outcomes]
            if outcomes:
                tell(f"{len(outcomes)} of {len(what)} runs are there already")
            made = (
                _here(missing, folder, jobs, force)
                if client is None
                else _there(missing, folder, client, force, tell)
            )
            count = len(outcomes)
            for outcome in made:
                count += 1
                outcomes[outcome.plan.key] = outcome
                done = "finished" if outcome.run else outcome.line
                tell(f"{count} of {len(what)}: {_point(outcome.plan)}: {done}")
            ordered = [outcomes[one.key] for one in what]
            _write(ordered, folder)
            return ordered
    except OSError as error:
        line = runs.unwritable(folder, error)
        raise RunError(f"{line} Finished runs are kept.") from None


def default_folder(
    notebook: Notebook, values: Mapping, fixed: Mapping
) -> Path:
    """Return where a sweep goes if no folder is given."""
    text = json.dumps([notebook.name, list(values.items()), dict(fixed)])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return runs.RUNS / notebook.name / f"sweep-{digest[:16]}"


def _point(what: Plan) -> str:
    return " ".join(
        f"{name}={parameters.written(value)}"
        for name, value in what.given.items()
    )


def _place(what: Plan, folder: Path) -> Path:
    # a digest, as values may be texts that no folder can be named by
    return folder / "runs" / what.key[:16]


def _prepare(what: Sequence[Plan], folder: Path) -> None:
    records.write_json(
        folder / RECORD,
        {
            "chapter": what[0].notebook.name,
            "runs": {_place(one, folder).name: one.given for one in what},
        },
    )
    (folder / "runs").mkdir(exist_ok=True)


def _kept(
    what: Plan, folder: Path, retry: bool, force: bool
) -> Outcome | None:
    """Return the outcome of an earlier sweep, if it stands."""
    place = _place(what, folder)
    if force:
        return None
    if (place / runs.RECORD).is_file():
        try:
            # makes nothing: the folder holds a run
            return Outcome(what, runs.find(what, place), kept=True)
        except (RunError, DataError) as error:
            return Outcome(what, None, str(error), kept=True)
    if not retry and (line := runs.failure(place)) is not None:
        return Outcome(what, None, line, kept=True)
    return None


def _once_more(make: Callable[[], Run]) -> Run:
    """Make a run, and once more if a process was killed."""
    try:
        return make()
    except RunError as error:
        if not error.killed:
            raise
    return make()


def _here(
    what: Sequence[Plan], folder: Path, jobs: int, force: bool
) -> Iterator[Outcome]:
    """Make runs on this machine; each has its own processes."""
    stop = threading.Event()
    cores = max(1, (os.cpu_count() or 1) // jobs)
    # the runs share the cores: joblib within each takes its part
    environment = {"LOKY_MAX_CPU_COUNT": str(cores)} if jobs > 1 else {}

    def one(plan: Plan) -> Outcome:
        def make() -> Run:
            return runs.run(
                plan,
                _place(plan, folder),
                force=force,
                stop=stop.is_set,
                environment=environment,
            )

        try:
            return Outcome(plan, _once_more(make))
        except (RunError, DataError) as error:
            return Outcome(plan, None, str(error))

    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        futures = [pool.submit(one, plan) for plan in what]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


# --- on many machines ------------------------------------------------------


@contextlib.contextmanager
def _client(address: str | None) -> Iterator[Any]:
    """Connect to a scheduler; None without an address."""
    if address is None:
        yield None
        return
    import distributed

    # It logs tracebacks of lost connections; the outcomes say it in a line.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(
            address, timeout=PATIENCE, set_as_default=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"dask: no scheduler answers at {address} within {PATIENCE} s "
            f"({type(error).__name__}); start it, or correct the address."
        ) from None
    try:
        yield client
    finally:
        client.close(timeout=PATIENCE)


def _there(
    what: Sequence[Plan], folder: Path, client: Any, force: bool, tell: Tell
) -> Iterator[Outcome]:
    """Make runs on the workers of a Dask scheduler."""
    from distributed import as_completed

    if what and not client.scheduler_info(n_workers=-1)["workers"]:
        tell(f"waiting for a worker at {client.scheduler.address}")
    futures = {
        client.submit(remote, _parcel(plan), pure=False): plan for plan in what
    }
    try:
        arrived = as_completed(futures, loop=client.loop)
        for future in arrived:
            if future.status == "pending":
                # its result went with a worker, and is made again
                arrived.add(future)
            else:
                yield _arrived(futures[future], future, folder, force)
    finally:
        client.cancel(list(futures))


def _parcel(what: Plan) -> dict[str, Any]:
    return {
        "name": what.notebook.name,
        "notebook": what.notebook.path.read_text(encoding="utf-8"),
        "given": what.given,
        "key": what.key,
    }


def remote(parcel: Mapping[str, Any]) -> dict[str, Any]:
    """Make one run on a worker; return its files.

    Parameters
    ----------
    parcel
        The chapter's name, its notebook, the parameters given, and the key
        that the run has where it was asked for.

    Returns
    -------
    dict
        ``files``, a mapping from relative names to bytes, and ``line``, empty
        or the line that says why the run failed.
    """
    from distributed import get_worker

    worker = get_worker()
    task = worker.get_current_task()

    def cancelled() -> bool:
        state = worker.state.tasks.get(task)
        return state is None or state.state == "cancelled"

    scratch = Path(tempfile.mkdtemp(dir=worker.local_directory))
    try:
        path = scratch / f"{parcel['name']}.ipynb"
        path.write_text(parcel["notebook"], encoding="utf-8")
        try:
            what = runs.plan(parameters.read(path), parcel["given"])
            if what.key != parcel["key"]:
                raise RunError(
                    f"worker {worker.address}: has another version of the "
                    "package, of Python or of its libraries; install the same."
                )
            place = scratch / "run"
            _once_more(lambda: runs.run(what, place, stop=cancelled))
            return {"files": _packed(place), "line": ""}
        except (RunError, DataError, ParameterError) as error:
            line = str(error).partition("; the executed notebook")[0]
            return {
                "files": _packed(runs.failed(scratch / "run")),
                "line": line,
            }
        except Stopped:
            return {"files": {}, "line": "stopped"}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _packed(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _arrived(what: Plan, future: Any, folder: Path, force: bool) -> Outcome:
    """Write the files of a run that was made elsewhere."""
    lost = Outcome(what, None, "the scheduler was lost")
    if future.status not in ("finished", "error"):
        return lost
    try:
        parcel = future.result()
    except concurrent.futures.CancelledError:
        # between the look at its status and this
        return lost
    except Exception as error:
        return Outcome(what, None, one_line(repr(error)))
    future.release()
    try:
        run = runs.adopt(what, _place(what, folder), parcel["files"], force)
    except (RunError, DataError) as error:
        return Outcome(what, None, parcel["line"] or str(error))
    return Outcome(what, run, parcel["line"])


# --- the table and the plot ------------------------------------------------


def table(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return one row for each finished run and quantity.

    Returns
    -------
    pandas.DataFrame
        Columns run, the parameters of the chapter, quantity, value, spread,
        unit, replicas.
    """
    rows = [
        {
            "run": outcome.run.folder.name,
            **outcome.plan.effective,
            **{
                name: one[name]
                for name in "quantity value spread unit replicas".split()
            },
        }
        for outcome in outcomes
        if outcome.run is not None
        for one in outcome.run.results["records"]
    ]
    return pd.DataFrame(rows)


def _write(outcomes: Sequence[Outcome], folder: Path) -> None:
    frame = table(outcomes)
    if frame.empty:
        # those of an earlier sweep would tell of other runs
        for name in (TABLE, PLOT):
            (folder / name).unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as beside:
        frame.to_csv(Path(beside) / TABLE, index=False)
        plot(frame, _axes(outcomes)).savefig(Path(beside) / PLOT)
        for name in (TABLE, PLOT):
            os.replace(Path(beside) / name, folder / name)


def _axes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the parameters to draw by, the one of most values first.

    They are those in which the runs differ; a seed is what is averaged over,
    unless nothing else differs.
    """
    values = {
        name: {outcome.plan.given[name] for outcome in outcomes}
        for name in outcomes[0].plan.given
    }
    axes = sorted(values, key=lambda name: -len(values[name]))
    differ = [name for name in axes if len(values[name]) > 1] or axes[:1]
    return [name for name in differ if name != "seed"] or differ


def plot(frame: pd.DataFrame, axes: Sequence[str]) -> Any:
    """Draw each quantity against the first axis, a line for the second.

    Parameters
    ----------
    frame
        From `table`.
    axes
        Names of parameters.  Points are runs; a line is their mean over all
        further axes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(frame["quantity"]))
    columns = 2 if len(names) in (2, 4) else min(3, len(names))
    lines = math.ceil(len(names) / columns)
    first, second = [*axes, None][:2]
    style = Path(__file__).parents[1] / "book" / "style.mplstyle"
    with rc_context(fname=style):
        figure = Figure(figsize=(3.1 * columns, 2.3 * lines + 0.4))
        panels = figure.subplots(lines, columns, squeeze=False)
        for ax in panels.flat[len(names) :]:
            ax.axis("off")
        for ax, name in zip(panels.flat, names, strict=False):
            own = frame[frame["quantity"] == name]
            values = sorted(set(own[first]))
            # texts along the axis in this order
            ax.xaxis.update_units(values)
            groups = [("", own)] if second is None else own.groupby(second)
            for (label, group), marker in zip(
                groups, itertools.cycle("osD^v"), strict=False
            ):
                mean = group.groupby(first)["value"].mean()
                (line,) = ax.plot(
                    mean, label=f"{second} = {label}", linewidth=1
                )
                ax.plot(
                    group[first],
                    group["value"],
                    marker,
                    markersize=3,
                    color=line.get_color(),
                )
            if len(values) <= 8:
                ax.set_xticks(values, map(str, values))
            ax.set_title(name, fontsize=8)
            ax.set_xlabel(first)
            ax.set_ylabel(own["unit"].iloc[0] or "1")
        if second is not None:
            handles, labels = panels.flat[0].get_legend_handles_labels()
            figure.legend(
                handles[:10],
                labels[:10],
                loc="outside upper center",
                ncols=min(4, len(labels)),
            )
    return figure
