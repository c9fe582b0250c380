"""One run of a chapter: made in a folder, found again, compared, verified.

A run is made in a hidden folder beside its own and renamed when it is
complete, so that a folder with a ``run.json`` of status 0 is a whole run.
A run that failed lies in the folder's name with ``.failed``.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pooch

from nestedae_utils.book import parameters, records
from nestedae_utils.book.parameters import Notebook
from nestedae_utils.data import files as datasets
from nestedae_utils.data.files import DATA, WORKPLACE
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import cache
from nestedae_utils.model.cache import PACKAGE
from nestedae_utils.rerun.execution import (
    LOG,
    ExecutionError,
    execute,
    one_line,
)

RUNS = WORKPLACE / "runs"
"""Where runs go that are given no folder."""
RECORD = "run.json"
RESULTS = "results.json"
FIGURES = "figures"
# cache.LIBRARIES; that module loads torch
LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy", "torch")
VERSIONED = (*LIBRARIES, "papermill", "ipykernel", "nbclient", "nbconvert")
# What makes, gathers and shows runs has no part in their numbers.
_PICTURES = {"image/svg+xml": "svg", "image/png": "png"}


class RunError(ExecutionError):
    """A run failed or cannot be made; one line for people."""


@dataclass(frozen=True)
class Plan:
    """What a run is before it is made.

    ``given`` are the parameters that were given, ``effective`` all of them.
    """

    notebook: Notebook
    given: dict[str, Any]
    effective: dict[str, Any]
    device: str | None

    @functools.cached_property
    def key(self) -> str:
        """A digest of all that the results depend on but the data."""
        parts = {
            "chapter": self.notebook.name,
            "parameters": self.effective,
            "notebook": _notebook_digest(self.notebook.path),
            "package": package_digest(),
            "versions": versions(LIBRARIES),
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where the run goes if no folder is given."""
        return RUNS / self.notebook.name / self.key[:16]


@dataclass(frozen=True)
class Run:
    """A finished run; ``found`` tells that it was there already."""

    folder: Path
    record: dict[str, Any] = field(repr=False)
    found: bool = False

    @property
    def results(self) -> dict[str, Any]:
        """The chapter's results.

        Raises
        ------
        DataError
            As `records.read_results`.
        """
        return records.read_results(self.folder / RESULTS)


def plan(notebook: Notebook, given: Mapping[str, Any]) -> Plan:
    """Return what a run of a chapter would be; nothing is started.

    Raises
    ------
    ParameterError
        If a name is unknown, a value has the wrong type or range, or this
        machine has no such device.
    DataError
        If the notebook names a figure in a way that no file can be named.
    """
    effective = parameters.effective(notebook, given)
    device = effective.get("device")
    if device not in (None, "cpu"):
        from nestedae_utils.model.scales import resolve_device

        device = str(resolve_device(device))
    _notebook_digest(notebook.path)
    return Plan(notebook, dict(given), effective, device)


# --- what a run depends on -------------------------------------------------


def _notebook_digest(path: Path) -> str:
    """Return a notebook's sha256, after a look at its figures' names."""
    state = path.stat()
    return _read_digest(path, state.st_mtime_ns, state.st_size)


# A sweep plans thousands of runs of one notebook.
@functools.lru_cache(maxsize=16)
def _read_digest(path: Path, changed: int, size: int) -> str:
    _drawn(path)
    return pooch.file_hash(str(path))


@functools.cache
def package_digest() -> str:
    """Return a digest of the modules and tables that results depend on."""
    package = [
        path
        for path in PACKAGE.rglob("*.*")
        if path.suffix in (".py", ".mplstyle") and path.parent.name != "rerun"
    ]
    tables = [path for path in DATA.iterdir() if path.is_file()]
    return cache.digest(sorted([*package, *tables]))


@functools.cache
def versions(names: Sequence[str] = VERSIONED) -> dict[str, str]:
    """Return the versions of Python and of libraries."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def _package_version() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("nestedae-companion")
    return None


def _commit() -> tuple[str | None, bool | None]:
    """Return the commit of the project, and whether files differ from it."""

    def git(*words: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(
                ["git", "-C", DATA.parent, *words],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout.strip()
        return None

    top = git("rev-parse", "--show-toplevel")
    # an environment within some other repository says nothing of ours
    if top is None or Path(top).resolve() != DATA.parent:
        return None, None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return commit, None if changed is None else bool(changed)


# --- a run -----------------------------------------------------------------


def run(
    what: Plan,
    folder: Path,
    force: bool = False,
    report: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Make a run in a folder, or find it there.

    Parameters
    ----------
    what
        From `plan`.
    folder
        Where the run goes: an empty folder, one that does not exist yet, or
        one that holds a run.
    force
        Make the run anew even if it is there, or if another is.
    report, stop
        As in `execution.execute`.
    environment
        More variables for the kernel.

    Raises
    ------
    RunError
        If the run fails, the folder cannot be used, holds another run or
        other data, or another run is being made there.
    Stopped
        If ``stop`` said so; nothing of the run is left.
    """

    def fill(beside: Path) -> None:
        _make(what, beside, report, stop, environment or {})

    return _placed(what, folder, force, fill)


def _placed(
    what: Plan, folder: Path, force: bool, fill: Callable[[Path], None]
) -> Run:
    """Return the run in a folder, or have it filled beside and put there."""
    folder = Path(os.path.abspath(folder))
    try:
        # before the lock too, which would lie beside folders of others
        holds(folder, "run", RECORD)
        with locked(folder):
            if holds(folder, "run", RECORD) and not force:
                return find(what, folder)
            beside = _beside(folder)
            beside.mkdir()
            try:
                fill(beside)
                return _settle(beside, folder, what)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise RunError(unwritable(folder, error)) from None


def shown(folder: Path) -> Path:
    """Return a path as short as it can be told from the working folder."""
    with contextlib.suppress(ValueError, OSError):
        return Path(os.path.abspath(folder)).relative_to(Path.cwd())
    return folder


def unwritable(folder: Path, error: OSError) -> str:
    """Return the line that says why a folder cannot be written."""
    reason = error.strerror or type(error).__name__
    return (
        f"{shown(folder)}: "
        f"cannot be written ({reason}); make room or give another "
        "folder with -o."
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone, among all processes; refuse rather than wait.

    Raises
    ------
    RunError
        If another process holds it.
    OSError
        If the folder beside which the lock lies cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if not path.exists():
            # some file systems say "not found" of what they refuse
            path.touch()
        raise RunError(
            f"{shown(folder)}: "
            "another run is being made there; wait for its end, or "
            "give another folder with -o."
        ) from None
    try:
        # what a killed run of this folder left; none is at work now
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.part-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        # first removed: who waits for this very file sees that, and retries
        path.unlink(missing_ok=True)
        lock.release()


def _beside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.part-{uuid.uuid4().hex[:12]}"


def holds(folder: Path, what: str, record: str) -> bool:
    """Tell whether a folder holds a run or a sweep, by its record's name.

    Raises
    ------
    RunError
        If it holds something else, or is no folder.
    """
    if not os.path.lexists(folder):
        return False
    if not folder.is_dir():
        raise RunError(
            f"{shown(folder)}: "
            "not a folder; give another with -o, or remove it."
        )
    if not any(folder.iterdir()):
        return False
    if not (folder / record).is_file():
        raise RunError(
            f"{shown(folder)}: "
            f"not empty, and holds no {what}; give an empty or a new "
            "folder with -o."
        )
    return True


def find(what: Plan, folder: Path) -> Run:
    """Return the finished run in a folder if it is the one planned.

    Raises
    ------
    RunError
        If it is another one, or its data have changed since.
    DataError
        As `read`.
    """
    found = read(folder)
    if found.record["key"] != what.key:
        raise RunError(
            f"{shown(folder)}: "
            f"holds another run ({_difference(found, what)}); "
            "--force replaces it, -o names another folder."
        )
    changed = changed_data(found)
    if changed:
        raise RunError(
            f"{shown(folder)}: "
            "holds this run, but on data that have changed since "
            f"({', '.join(changed)}); --force runs anew."
        )
    return Run(folder, found.record, found=True)


def _difference(found: Run, what: Plan) -> str:
    if found.record["chapter"] != what.notebook.name:
        return f"of chapter {found.record['chapter']}"
    kept, wanted = found.record["parameters"], what.effective
    names = [n for n in wanted if kept.get(n) != wanted[n]]
    if names:
        return "with " + ", ".join(f"{n}={kept.get(n)}" for n in names)
    return "of another version of the notebook or the package"


def changed_data(found: Run) -> list[str]:
    """Return the keys of public files that are not those of a run any more.

    Those count that the run used, and those that a run of the chapter with
    its defaults uses: a file that was absent then may be there now.
    """
    used = set(found.record["checksums"])
    reference = records.REFERENCE / f"{found.record['chapter']}.json"
    if reference.is_file():
        used |= set(records.read_results(reference).get("checksums", {}))
    kept, now = found.record["data"], datasets.present()
    return [key for key in now if key in used and now[key] != kept.get(key)]


def _make(
    what: Plan,
    beside: Path,
    report: Callable[[int, int], None] | None,
    stop: Callable[[], bool] | None,
    environment: Mapping[str, str],
) -> None:
    """Make a run in a folder, which says how that went."""
    name = what.notebook.name
    began, started = time.perf_counter(), _now()
    own = beside / ".results"
    try:
        execute(
            what.notebook.path,
            beside / f"{name}.ipynb",
            what.effective,
            {
                # the kernel works in another folder than this process
                **_absolute(datasets.CACHE_VARIABLE),
                **_absolute(datasets.MIRROR_VARIABLE),
                **environment,
                "NESTEDAE_RESULTS": str(own),
            },
            report,
            stop,
        )
        if not (own / f"{name}.json").is_file():
            raise ExecutionError(
                "its last cell wrote no results (chapter.finish())"
            )
        (own / f"{name}.json").rename(beside / RESULTS)
        results = records.read_results(beside / RESULTS)
        _figures(beside / f"{name}.ipynb", beside / FIGURES)
        problem = None
    except (ExecutionError, DataError) as error:
        results, problem = {}, error
    shutil.rmtree(own, ignore_errors=True)
    record = _record(what, results, started, time.perf_counter() - began)
    if problem is not None:
        killed = getattr(problem, "killed", False)
        record |= {"status": 1, "error": str(problem), "killed": killed}
    else:
        (beside / LOG).unlink(missing_ok=True)
    records.write_json(beside / RECORD, record)


def _absolute(variable: str) -> dict[str, str]:
    value = os.environ.get(variable)
    place = value and os.path.abspath(os.path.expanduser(value))
    return {variable: place} if place else {}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _record(
    what: Plan,
    results: Mapping[str, Any],
    started: str,
    seconds: float,
) -> dict[str, Any]:
    commit, changed = _commit()
    return {
        "chapter": what.notebook.name,
        "given": what.given,
        "parameters": what.effective,
        "seeds": {n: v for n, v in what.effective.items() if "seed" in n},
        "package": {"version": _package_version(), "digest": package_digest()},
        "notebook": _notebook_digest(what.notebook.path),
        "versions": versions(),
        "commit": commit,
        "uncommitted_changes": changed,
        "checksums": results.get("checksums", {}),
        "data": datasets.present(),
        "device": what.device,
        "machine": platform.machine(),
        "started": started,
        "finished": _now(),
        "seconds": round(seconds, 1),
        "status": 0,
        "key": what.key,
    }


def failed(folder: Path) -> Path:
    """Return where a failed run of a folder lies."""
    return folder.parent / f"{folder.name}.failed"


def failure(folder: Path) -> str | None:
    """Return why the last attempt at a run of a folder failed, if it did."""
    path = failed(folder) / RECORD
    if not path.is_file():
        return None
    try:
        error = json.loads(path.read_text(encoding="utf-8"))["error"]
    except (OSError, ValueError, KeyError, TypeError):
        error = "unknown error"
    return f"{one_line(str(error))}; it lies in {shown(path.parent)}"


def adopt(
    what: Plan, folder: Path, files: Mapping[str, bytes], force: bool = False
) -> Run:
    """Put a run that was made elsewhere into a folder.

    Parameters
    ----------
    what
        The run's plan.
    folder
        As in `run`.
    files
        Contents by names relative to the folder.  A run that failed is kept
        as `run` keeps one.
    force
        As in `run`.

    Raises
    ------
    RunError
        If the run failed, the folder cannot be used, or a name leads out of
        it.
    """

    def fill(beside: Path) -> None:
        for name, content in files.items():
            if not re.fullmatch(r"(figures/)?[\w-][\w.-]*", name):
                raise RunError(f"{folder}: file name {name!r} given.")
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_bytes(content)

    return _placed(what, folder, force, fill)


def _settle(beside: Path, folder: Path, what: Plan) -> Run:
    """Give a run its place: its own, or that of failed ones."""
    record = json.loads((beside / RECORD).read_text(encoding="utf-8"))
    if record["status"] != 0:
        name = what.notebook.name
        kept = _keep_failed(beside, folder)
        raise RunError(
            f"{name}: {record['error']}; the executed notebook is "
            f"{shown(kept / name)}.ipynb",
            killed=record.get("killed", False),
        )
    _put(beside, folder)
    # an earlier attempt that failed is settled now
    _remove_run(failed(folder))
    return Run(folder, record)


def _keep_failed(beside: Path, folder: Path) -> Path:
    place = failed(folder)
    _remove_run(place)
    if place.exists() or place.is_symlink():
        # something of the user's, which stays
        place = folder.parent / f"{place.name}-{uuid.uuid4().hex[:8]}"
    beside.rename(place)
    return place


def _remove_run(folder: Path) -> None:
    if (folder / RECORD).is_file() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _put(beside: Path, folder: Path) -> None:
    """Rename a complete run to its place, where an older one may be."""
    if (folder / RECORD).is_file():
        old = _beside(folder)
        folder.rename(old)
        try:
            beside.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        if folder.is_dir():
            folder.rmdir()
        beside.rename(folder)


# --- figures ---------------------------------------------------------------


def _drawn(path: Path) -> dict[str, Any]:
    """Return a notebook's cells that have figures, by the figures' names."""
    found = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        name = figure.get("name")
        if name is None:
            continue
        if not isinstance(name, str) or not re.fullmatch(
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name
        ):
            raise DataError(
                f"{path.name}: figure name {name!r} given, letters, digits, "
                "'-', '_' and '.' are allowed; rename the figure."
            )
        found[name] = cell
    return found


def _figures(notebook: Path, folder: Path) -> None:
    """Write every named figure of an executed notebook as a file."""
    for name, cell in _drawn(notebook).items():
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            kind = next((kind for kind in _PICTURES if kind in data), None)
            if kind is not None:
                text = "".join(data[kind])
                png = kind == "image/png"
                folder.mkdir(exist_ok=True)
                (folder / f"{name}.{_PICTURES[kind]}").write_bytes(
                    base64.b64decode(text) if png else text.encode("utf-8")
                )
                break


# --- runs that are there ---------------------------------------------------


def read(folder: Path) -> Run:
    """Return a finished run.

    Raises
    ------
    DataError
        If there is none in the folder, or its files are damaged.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in _RECORD_KEYS.items():
            if not isinstance(record[key], kind):
                raise TypeError(key)
    except OSError as error:
        raise DataError(
            f"{shown(folder)}: no run there ({RECORD}: {error.strerror}); "
            "give the folder of a run."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the record of a run ({type(error).__name__}: "
            f"{one_line(str(error))}); remove the folder and run again."
        ) from None
    if record["status"] != 0:
        raise DataError(
            f"{shown(folder)}: this run failed; give a finished one."
        )
    if not (folder / RESULTS).is_file():
        raise DataError(
            f"{folder / RESULTS}: not found; remove the folder and run again."
        )
    records.read_results(folder / RESULTS)
    return Run(folder, record)


_RECORD_KEYS = {
    "chapter": str,
    "parameters": dict,
    "package": dict,
    "notebook": str,
    "versions": dict,
    "checksums": dict,
    "data": dict,
    "status": int,
    "key": str,
}


def compare(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the results of runs side by side.

    Parameters
    ----------
    folders
        Folders of runs; the first is what the others are compared with.

    Returns
    -------
    settings, results : pandas.DataFrame
        One column for each run, by its folder.  ``settings`` has a row for
        each parameter in which the runs differ; ``results`` one for each
        quantity, and beside each run but the first its difference.

    Raises
    ------
    DataError
        As `read`.
    ParameterError
        If fewer than two runs are given.
    """
    if len(folders) < 2:
        raise ParameterError(
            f"runs: {len(folders)} given, at least 2 are allowed."
        )
    found = {str(folder): read(folder) for folder in folders}
    settings = pd.DataFrame(
        {
            label: {"chapter": one.record["chapter"]}
            | one.record["parameters"]
            for label, one in found.items()
        },
        dtype=object,
    )
    values = {
        label: {r["quantity"]: r["value"] for r in one.results["records"]}
        for label, one in found.items()
    }
    names = dict.fromkeys(name for one in values.values() for name in one)
    results = pd.DataFrame(index=pd.Index(names, name="quantity"))
    first = next(iter(values))
    for label, one in values.items():
        results[label] = pd.Series(one, dtype=float)
        if label != first:
            results[f"{label} - {first}"] = results[label] - results[first]
    return settings[settings.map(repr).nunique(axis=1) > 1], results


def verify(
    folder: Path,
    notebooks: Path = parameters.NOTEBOOKS,
    report: Callable[[int, int], None] | None = None,
) -> tuple[list[str], list[str]]:
    """Make a run again from its record and compare the results.

    Trainings are computed anew: the run gets a cache of its own.

    Returns
    -------
    differences, changes : list of str
        Quantities that leave the repeat tolerance of
        ``data/quantities.csv``; and what the record says of data, versions
        and sources that is not so now.

    Raises
    ------
    DataError, ParameterError
        As `read` and `plan`.
    RunError
        If the run fails.
    """
    kept = read(folder)
    notebook = parameters.find(kept.record["chapter"], notebooks)
    what = plan(notebook, kept.record["parameters"])
    with tempfile.TemporaryDirectory(prefix="nestedae-verify-") as scratch:
        cache = Path(scratch) / "cache"
        downloads = datasets.folder()
        if downloads.is_dir():
            shutil.copytree(downloads, cache / downloads.name)
        try:
            fresh = run(
                what,
                Path(scratch) / "run",
                report=report,
                environment={datasets.CACHE_VARIABLE: str(cache)},
            )
        except RunError as error:
            # its folder goes with this one
            raise RunError(str(error).partition("; the executed")[0]) from None
        lines = records.differences(fresh.results, kept.results)
        return lines, _changes(kept.record, fresh.record)


def _changes(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    def pairs(what: str) -> Iterator[tuple[str, Any, Any]]:
        for name in sorted({*kept[what], *now[what]}):
            old, new = kept[what].get(name), now[what].get(name)
            if old != new:
                yield name, old, new

    lines = [
        f"data {name}: sha256 {_brief(new)} now, {_brief(old)} recorded"
        for name, old, new in pairs("checksums")
    ]
    lines += [
        f"version of {name}: {new} now, {old} recorded"
        for name, old, new in pairs("versions")
    ]
    if kept["notebook"] != now["notebook"]:
        lines.append("notebook: changed since")
    if kept["package"].get("digest") != now["package"]["digest"]:
        lines.append("package: sources or tables changed since")
    return lines


def _brief(digest: str | None) -> str:
    return "none" if digest is None else str(digest)[:12]
