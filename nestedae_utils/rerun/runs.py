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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pooch

from nestedae_utils.book import parameters, records
from nestedae_utils.data import files
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import cache
from nestedae_utils.rerun import execution
from nestedae_utils.rerun.execution import Report, RunError, one_line

RUNS = files.WORKPLACE / "runs"
"""Where runs go that are given no folder."""
RECORD = "run.json"
RESULTS = "results.json"
TOOLS = ("papermill", "ipykernel", "nbclient", "nbconvert")


@dataclass(frozen=True, eq=False)
class Plan:
    """A run before it is made: the parameters given, and all of them.

    ``key`` is a digest of all that the results depend on but the data,
    ``digest`` the notebook's.
    """

    notebook: parameters.Notebook
    given: dict[str, Any]
    effective: dict[str, Any]
    device: str | None
    digest: str
    key: str


@dataclass(frozen=True)
class Run:
    """A finished run; ``found`` tells that it was there already."""

    folder: Path
    record: dict[str, Any]
    results: dict[str, Any]
    found: bool = False


def plan(notebook: parameters.Notebook, given: Mapping[str, Any]) -> Plan:
    """Return what a run of a chapter would be; nothing is started.

    Raises
    ------
    ParameterError
        If a parameter is not allowed, or this machine has no such device.
    DataError
        If the notebook names a figure as no file can be named.
    """
    effective = parameters.effective(notebook, given)
    device = effective.get("device")
    if device not in (None, "cpu"):
        from nestedae_utils.model.training import resolve_device

        device = str(resolve_device(device))
    digest = _digest(notebook.path, notebook.path.stat().st_mtime_ns)
    parts = [notebook.name, effective, digest, package_digest()]
    text = json.dumps(parts, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return Plan(notebook, dict(given), effective, device, digest, key)


def default_folder(what: Plan) -> Path:
    """Return where a run goes if no folder is given."""
    return RUNS / what.notebook.name / what.key[:16]


# a sweep plans thousands of runs of one notebook
@functools.lru_cache(maxsize=16)
def _digest(notebook: Path, changed: int) -> str:
    _figures(notebook)
    return pooch.file_hash(str(notebook))


@functools.cache
def package_digest() -> str:
    """Return a digest of the sources, tables and libraries behind results."""
    sources = [
        path
        for path in cache.PACKAGE.rglob("*.*")
        if path.suffix in (".py", ".mplstyle") and path.parent.name != "rerun"
    ]
    tables = [path for path in files.DATA.iterdir() if path.is_file()]
    return cache.digest(sorted([*sources, *tables]), cache.LIBRARIES)


# --- a run is made ---------------------------------------------------------


def run(
    what: Plan, folder: Path, force: bool = False, report: Report | None = None
) -> Run:
    """Make a run in a folder, or find it there; with ``force`` make it anew.

    Raises
    ------
    RunError
        If the run fails, the folder cannot be used, holds another run or
        other data, or another run is being made there.
    """
    folder = Path(os.path.abspath(folder))
    with held(folder, "run", RECORD) as scratch:
        if holds(folder, "run", RECORD) and not force:
            return find(what, folder)
        make(what, scratch / "new", report)
        return settle(scratch / "new", folder)


def settle(new: Path, folder: Path) -> Run:
    """Give a run that was made its folder; one that failed lies beside it."""
    record, failed = _record(new), folder.with_name(f"{folder.name}.failed")
    if (failed / RECORD).is_file():
        shutil.rmtree(failed)
    if record["status"] != 0:
        if failed.exists():
            # something of the user's, which stays
            failed = failed.with_name(f"{failed.name}-{uuid.uuid4().hex[:8]}")
        new.rename(failed)
        raise RunError(
            f"{record['chapter']}: {record['error']}; the executed notebook "
            f"is {shown(failed / record['chapter'])}.ipynb"
        )
    if folder.exists():
        folder.rename(new.with_name(f"{new.name}.old"))
    new.rename(folder)
    return read(folder)


def failure(folder: Path) -> str:
    """Return why the last attempt at a run of a folder failed, if it did."""
    failed = folder.with_name(f"{folder.name}.failed")
    if not (failed / RECORD).is_file():
        return ""
    error = _record(failed).get("error", "unknown error")
    return f"{one_line(str(error))}; it lies in {shown(failed)}"


def make(
    what: Plan,
    folder: Path,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
    **variables: str,
) -> dict[str, Any]:
    """Make a run in a new folder, with more variables for its kernel.

    Returns its record, which tells whether it failed.
    """
    name = what.notebook.name
    notebook, results = folder / f"{name}.ipynb", folder / ".results"
    folder.mkdir()
    variables["NESTEDAE_RESULTS"] = str(results)
    for variable in (files.CACHE_VARIABLE, files.MIRROR_VARIABLE):
        # the kernel works in another folder than this process
        path = variables.get(variable) or os.environ.get(variable)
        if path:
            variables[variable] = os.path.abspath(os.path.expanduser(path))
    outcome: dict[str, Any] = {"checksums": {}, "status": 0}
    start, began = _now(), time.perf_counter()
    try:
        execution.execute(
            *(what.notebook.path, notebook, what.effective, variables),
            *(report, stop),
        )
        if not (results / f"{name}.json").is_file():
            raise RunError("its last cell wrote no results (chapter.finish())")
        (results / f"{name}.json").rename(folder / RESULTS)
        content = records.read_results(folder / RESULTS)
        outcome["checksums"] = content.get("checksums", {})
        for path, picture in _figures(notebook).items():
            (folder / "figures").mkdir(exist_ok=True)
            (folder / "figures" / path).write_bytes(picture)
        (folder / execution.LOG).unlink()
    except (RunError, DataError) as error:
        killed = getattr(error, "killed", False)
        outcome |= {"status": 1, "error": str(error), "killed": killed}
    shutil.rmtree(results, ignore_errors=True)
    version = importlib.metadata.version
    package = version("nestedae-companion")
    libraries = {name: version(name) for name in (*cache.LIBRARIES, *TOOLS)}
    commit, changed = _commit()
    record = {
        "chapter": name,
        "given": what.given,
        "parameters": what.effective,
        "seeds": {n: v for n, v in what.effective.items() if "seed" in n},
        "package": {"version": package, "digest": package_digest()},
        "notebook": what.digest,
        "versions": {"python": platform.python_version(), **libraries},
        "commit": commit,
        "uncommitted_changes": changed,
        "data": files.present(),
        "device": what.device,
        "machine": platform.machine(),
        "started": start,
        "finished": _now(),
        "seconds": round(time.perf_counter() - began, 1),
        "key": what.key,
        **outcome,
    }
    records.write_json(folder / RECORD, record)
    return record


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _commit() -> tuple[str | None, bool | None]:
    """Return the commit of the project, and whether files differ from it."""
    # not that of another repository in which an environment may lie
    git = "git --git-dir=.git --work-tree=. describe --always --abbrev=40"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.check_output(
            [*git.split(), "--exclude=*", "--dirty"],
            cwd=files.DATA.parent,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=20,
        ).strip()
        return text.removesuffix("-dirty"), text.endswith("-dirty")
    return None, None


def _figures(notebook: Path) -> dict[str, bytes]:
    """Return the files of a notebook's named figures."""
    pictures = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        if "name" not in figure:
            continue
        name = figure["name"]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(name)):
            raise DataError(
                f"{notebook.name}: figure name {name!r} given, letters, "
                "digits, '-', '_' and '.' are allowed; rename the figure."
            )
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            svg = "".join(data.get("image/svg+xml", "")).encode()
            png = base64.b64decode("".join(data.get("image/png", "")))
            if svg or png:
                path = f"{name}.{'svg' if svg else 'png'}"
                pictures.setdefault(path, svg or png)
    return pictures


# --- folders ---------------------------------------------------------------


def shown(folder: Path) -> Path:
    """Return a path as short as it can be told from the working folder."""
    with contextlib.suppress(ValueError, OSError):
        return Path(os.path.abspath(folder)).relative_to(Path.cwd())
    return folder


def unwritable(folder: Path, error: OSError) -> str:
    """Return the line that says why a folder cannot be written."""
    reason = error.strerror or type(error).__name__
    return (
        f"{shown(folder)}: cannot be written ({reason}); make room or give "
        "another folder with -o."
    )


def holds(folder: Path, what: str, record: str) -> bool:
    """Tell whether a folder holds a run or a sweep, by its record's name.

    One that holds something else, or is no folder, is a RunError.
    """
    there = (folder / record).is_file()
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunError(
            f"{shown(folder)}: not a folder; give another with -o, or remove it."
        )
    if not there and any(folder.glob("*")):
        raise RunError(
            f"{shown(folder)}: not empty, and holds no {what}; give an empty "
            "or a new folder with -o."
        )
    return there


@contextlib.contextmanager
def held(folder: Path, what: str, record: str) -> Iterator[Path]:
    """Hold a run's or a sweep's folder alone; give a new one beside it.

    Raises
    ------
    RunError
        If the folder is another's, is held already, or cannot be written.
    """
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    path, beside = Path(lock.lock_file), f".{folder.name}.part-"
    try:
        # before the lock, which would lie beside folders of others
        holds(folder, what, record)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # some file systems say of what they refuse that another has it
        path.touch()
        lock.acquire(timeout=0)
        # what a killed run of this folder left; none is at work now
        for left in folder.parent.glob(f"{glob.escape(beside)}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=beside, dir=folder.parent, ignore_cleanup_errors=True
        ) as scratch:
            yield Path(scratch)
    except filelock.Timeout:
        raise RunError(
            f"{shown(folder)}: another run is being made there; wait for its "
            "end, or give another folder with -o."
        ) from None
    except OSError as error:
        kept = " Finished runs are kept." if what == "sweep" else ""
        raise RunError(unwritable(folder, error) + kept) from None
    finally:
        if lock.is_locked:
            # first removed: who waits for this very file sees that
            path.unlink(missing_ok=True)
            lock.release()


# --- runs that are there ---------------------------------------------------

_KEYS = {
    str: ["chapter", "notebook", "key"],
    dict: ["parameters", "package", "versions", "checksums", "data"],
    int: ["status"],
}


def _record(folder: Path) -> dict[str, Any]:
    """Return the record of a run, finished or not."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for kind, keys in _KEYS.items():
            for key in keys:
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
    return record


def read(folder: Path) -> Run:
    """Return a finished run.

    Raises
    ------
    DataError
        If there is none in the folder, or its files are damaged.
    """
    record, results = _record(folder), folder / RESULTS
    if record["status"] != 0:
        raise DataError(f"{shown(folder)}: this run failed; give a finished one.")
    if not results.is_file():
        raise DataError(f"{results}: not found; remove the folder and run again.")
    return Run(folder, record, records.read_results(results))


def find(what: Plan, folder: Path) -> Run:
    """Return the run in a folder, if it is the one planned, on today's data.

    Those data count that the run used, and those that a run of the chapter
    with its defaults uses: a file that was absent then may be there now.
    """
    found = read(folder)
    record, now = found.record, files.present()
    kept, used = record["parameters"], set(record["checksums"])
    reference = records.REFERENCE / f"{record['chapter']}.json"
    if reference.is_file():
        used |= set(records.read_results(reference).get("checksums", {}))
    changed = [n for n in now if n in used and now[n] != record["data"].get(n)]
    names = [n for n, v in what.effective.items() if kept.get(n) != v]
    other = "of another version of the notebook or the package"
    if record["chapter"] != what.notebook.name:
        other = f"of chapter {record['chapter']}"
    elif names:
        other = "with " + ", ".join(f"{n}={kept.get(n)}" for n in names)
    if record["key"] != what.key:
        raise RunError(
            f"{shown(folder)}: holds another run ({other}); --force replaces "
            "it, -o names another folder."
        )
    if changed:
        raise RunError(
            f"{shown(folder)}: holds this run, but on data that have changed "
            f"since ({', '.join(changed)}); --force runs anew."
        )
    return replace(found, found=True)


def compare(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the parameters in which runs differ, and their results.

    Both have a column for each run; the results also one for each run's
    difference from the first.
    """
    if len(folders) < 2:
        raise ParameterError(f"runs: {len(folders)} given, at least 2 are allowed.")
    first, settings, results = str(folders[0]), {}, {}
    for label, one in {str(folder): read(folder) for folder in folders}.items():
        chapter = {"chapter": one.record["chapter"]}
        settings[label] = chapter | one.record["parameters"]
        values = {r["quantity"]: r["value"] for r in one.results["records"]}
        results[label] = pd.Series(values, dtype=float)
        if label != first:
            difference = results[label] - results[first]
            results[f"{label} - {first}"] = difference
    table = pd.DataFrame(settings, dtype=object)
    return table[table.map(repr).nunique(axis=1) > 1], pd.DataFrame(results)


def verify(
    folder: Path, notebooks: Path, report: Report | None = None
) -> tuple[list[str], list[str]]:
    """Make a run again from its record, trainings too; compare the results.

    Returns
    -------
    differences, changes : list of str
        Quantities that leave the repeat tolerance of
        ``data/quantities.csv``; data, versions and sources that are not as
        recorded.
    """
    old = read(folder)
    notebook = parameters.find(old.record["chapter"], notebooks)
    what = plan(notebook, old.record["parameters"])
    with tempfile.TemporaryDirectory(prefix="nestedae-verify-") as scratch:
        fresh, own = Path(scratch, "run"), Path(scratch, "cache")
        own.mkdir()
        # trainings are computed anew, downloads are not
        (own / "data").symlink_to(files.folder().absolute())
        record = make(what, fresh, report, **{files.CACHE_VARIABLE: str(own)})
        if record["status"] != 0:
            raise RunError(f"{notebook.name}: {record['error']}")
        new = read(fresh)
    changes = []
    for kind, words, length in (
        ("checksums", "data {}: sha256", 12),
        ("versions", "version of {}:", 99),
    ):
        was, now = old.record[kind], record[kind]
        for name in sorted({*was, *now}):
            pair = [str(one.get(name, "none"))[:length] for one in (now, was)]
            if was.get(name) != now.get(name):
                line = "{} now, {} recorded".format(*pair)
                changes.append(f"{words.format(name)} {line}")
    if old.record["notebook"] != record["notebook"]:
        changes.append("notebook: changed since")
    if old.record["package"].get("digest") != record["package"]["digest"]:
        changes.append("package: sources or tables changed since")
    return records.differences(new.results, old.results), changes
