"""One run of a chapter: made in a folder, found again, compared, verified.

A run is made in a hidden folder beside its own and renamed when it is
complete, so that a folder with a ``run.json`` of status 0 is a whole run.
A run that failed lies in the folder's name with ``.failed``.
"""

import contextlib
import functools
import glob
import json
import os
import platform
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import pooch

from nestedae_utils.book import parameters, records
from nestedae_utils.data import files
from nestedae_utils.errors import DataError
from nestedae_utils.model import cache
from nestedae_utils.rerun import execution
from nestedae_utils.rerun.execution import KernelDied, RunError, one_line

RUNS = files.WORKPLACE / "runs"  # where runs go that are given no folder
RECORD = "run.json"
RESULTS = "results.json"
TOOLS = ("papermill", "ipykernel", "nbclient", "myst-nb", "sphinx")


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

    @property
    def folder(self) -> Path:
        """Where the run goes if no folder is given."""
        return RUNS / self.notebook.name / self.key[:16]

    @property
    def point(self) -> str:
        """The parameters as they were given, "noise=0.5 seed=3"."""
        given = self.given.items()
        return " ".join(f"{n}={parameters.written(v)}" for n, v in given)


@dataclass(frozen=True)
class Run:
    """A finished run; ``found`` tells that it was there already."""

    folder: Path
    record: dict[str, Any]
    results: dict[str, Any]
    found: bool = False


def plan(notebook: parameters.Notebook, given: Mapping[str, Any]) -> Plan:
    """Return what a run of a chapter would be; nothing is started.

    A parameter that is not allowed, or a device that this machine has not, is
    a `ParameterError`; a figure named as no file can be is a `DataError`.
    """
    effective = parameters.effective(notebook, given)
    device = effective.get("device")
    if device not in (None, "cpu"):
        from nestedae_utils.model.training import resolve_device

        device = str(resolve_device(device))
    digest = _digest(notebook.path, notebook.path.stat().st_mtime_ns)
    key = cache.fingerprint([notebook.name, effective, digest, package_digest()])
    return Plan(notebook, dict(given), effective, device, digest, key)


# a sweep plans thousands of runs of one notebook
@functools.lru_cache(maxsize=16)
def _digest(notebook: Path, changed: int) -> str:
    execution.pictures(notebook)
    return pooch.file_hash(str(notebook))


@functools.cache
def package_digest() -> str:
    """Return a digest of the sources, tables and libraries behind results."""
    sources = [p for p in cache.sources("") if p.parent.name != "rerun"]
    others = [*cache.PACKAGE.rglob("[!.]*.mplstyle"), *files.tables()]
    return cache.digest(sorted([*sources, *others]), cache.LIBRARIES)


def shown(folder: Path) -> Path:
    """Return a path as short as it can be told from the working folder."""
    with contextlib.suppress(ValueError, OSError):
        return Path(os.path.abspath(folder)).relative_to(Path.cwd())
    return folder


@contextlib.contextmanager
def held(folder: Path, record: str) -> Iterator[Path]:
    """Hold the folder of a run or a sweep alone; give a new one beside it.

    A folder that is none, that holds something else than what has such a
    record, that is held already or cannot be written is a `RunError`.
    """
    kind, fault = record.removesuffix(".json"), ""
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    path, beside = Path(lock.lock_file), f".{folder.name}.part-"
    try:
        # before the lock, which would lie beside folders of others
        if os.path.lexists(folder) and not folder.is_dir():
            fault = "not a folder; give another with -o, or remove it."
        elif os.path.ismount(folder):
            fault = "a whole disk, which is not replaced; give a folder on it with -o."
        elif not (folder / record).is_file() and any(folder.glob("*")):
            fault = f"not empty, and holds no {kind}; give an empty or a new "
            fault += "folder with -o."
        if fault:
            raise RunError(f"{shown(folder)}: {fault}")
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
        rest = " Finished runs are kept." if kind == "sweep" else ""
        raise RunError(
            f"{shown(folder)}: cannot be written "
            f"({error.strerror or type(error).__name__}); make room or give "
            f"another folder with -o.{rest}"
        ) from None
    finally:
        if lock.is_locked:
            # first removed: who waits for this very file sees that
            path.unlink(missing_ok=True)
            lock.release()


# --- a run is made ---------------------------------------------------------


def run(what: Plan, folder: Path, force: bool = False, **how: Any) -> Run:
    """Make a run in a folder, or find it there; with ``force`` make it anew.

    A run that fails is a `RunError`, and so is a folder that cannot be used,
    that holds another run or other data, or where a run is being made.  The
    rest is for `execution.execute`.
    """
    folder = Path(os.path.realpath(folder))  # a link stays, and what it leads to counts
    with held(folder, RECORD) as scratch:
        if (folder / RECORD).is_file() and not force:
            return find(what, folder)
        make(what, scratch / "new", **how)
        return settle(scratch / "new", folder)


def settle(new: Path, folder: Path) -> Run:
    """Give a run that was made its folder; one that failed lies beside it."""
    record, failed = _record(new), Path(f"{folder}.failed")
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
        folder.rename(new.with_suffix(".old"))
    new.rename(folder)
    return read(folder)


def failure(folder: Path) -> str:
    """Return why the last attempt at a run of a folder failed, if it did."""
    failed = Path(f"{folder}.failed")
    if not (failed / RECORD).is_file():
        return ""
    error = _record(failed).get("error", "unknown error")
    return f"{one_line(str(error))}; it lies in {shown(failed)}"


def make(
    what: Plan, folder: Path, variables: Mapping[str, str] = {}, **how: Any
) -> dict[str, Any]:
    """Make a run in a new folder, with more variables for its kernel.

    Returns its record, which tells whether it failed; the rest is for
    `execution.execute`.
    """
    name, started = what.notebook.name, datetime.now(UTC)
    notebook, results = folder / f"{name}.ipynb", folder / ".results"
    folder.mkdir()
    # IPython's folder is the run's own: a user's start-up files have no part in it
    environment = {"NESTEDAE_RESULTS": str(results), "IPYTHONDIR": str(results)}
    environment |= variables
    for variable in (files.CACHE_VARIABLE, files.MIRROR_VARIABLE):
        # the kernel works in another folder than this process
        if path := environment.get(variable) or os.environ.get(variable):
            environment[variable] = os.path.abspath(os.path.expanduser(path))
    written, outcome = results / f"{name}.json", {"checksums": {}, "status": 0}
    given = what.notebook.path, notebook, what.effective
    try:
        execution.execute(*given, environment, **how)
        if not written.is_file():
            raise RunError("its last cell wrote no results (chapter.finish())")
        content = records.read_results(written.rename(folder / RESULTS))
        outcome["checksums"] = content.get("checksums", {})
        for path, picture in execution.pictures(notebook).items():
            (folder / "figures").mkdir(exist_ok=True)
            (folder / "figures" / path).write_bytes(picture)
        (folder / execution.LOG).unlink()
    except (RunError, DataError) as error:
        killed = isinstance(error, KernelDied)
        outcome |= {"status": 1, "error": str(error), "killed": killed}
    shutil.rmtree(results, ignore_errors=True)
    libraries = {name: version(name) for name in (*cache.LIBRARIES, *TOOLS)}
    package = {"version": version("nestedae-companion"), "digest": package_digest()}
    finished, (commit, changed) = datetime.now(UTC), _commit()
    record = {
        "chapter": name,
        "given": what.given,
        "parameters": what.effective,
        "seeds": {n: v for n, v in what.effective.items() if "seed" in n},
        "package": package,
        "notebook": what.digest,
        "versions": {"python": platform.python_version(), **libraries},
        "commit": commit,
        "uncommitted_changes": changed,
        "data": files.present(),
        "device": what.device,
        "machine": platform.machine(),
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - started).total_seconds(), 1),
        "key": what.key,
        **outcome,
    }
    records.write_json(folder / RECORD, record)
    return record


def _commit() -> tuple[str | None, bool | None]:
    """Return the commit of the project, and whether files differ from it."""
    # not that of another repository in which an environment may lie
    git = "git --git-dir=.git --work-tree=. describe --always --abbrev=40"
    words = [*git.split(), "--exclude=*", "--dirty"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        how: Any = {"timeout": 20, "stderr": subprocess.DEVNULL, "text": True}
        commit = subprocess.check_output(words, cwd=files.DATA.parent, **how).strip()
        return commit.removesuffix("-dirty"), commit.endswith("-dirty")
    return None, None


# --- runs that are there ---------------------------------------------------

_KEYS: dict[str, type] = {"status": int}
_KEYS |= dict.fromkeys(["chapter", "notebook", "key"], str)
_KEYS |= dict.fromkeys("parameters package versions checksums data".split(), dict)


def _record(folder: Path) -> dict[str, Any]:
    """Return the record of a run, finished or not."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in _KEYS.items():
            if not isinstance(record[key], kind):
                raise TypeError(key)
        return record
    except OSError as error:
        words = f"{shown(folder)}: no run there ({RECORD}: {error.strerror}); "
        words += "give the folder of a run."
    except (ValueError, KeyError, TypeError) as error:
        words = f"{path}: not the record of a run ({type(error).__name__}: "
        words += f"{one_line(str(error))}); remove the folder and run again."
    raise DataError(words)


def read(folder: Path) -> Run:
    """Return a finished run; a `DataError` if there is none, or it is damaged."""
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
    there = read(folder)
    record, before, now = there.record, there.record["parameters"], files.present()
    used = set(record["checksums"])
    reference = records.REFERENCE / f"{record['chapter']}.json"
    if reference.is_file():
        used |= set(records.read_results(reference).get("checksums", {}))
    changed = [n for n in now if n in used and now[n] != record["data"].get(n)]
    other = [n for n, value in what.effective.items() if before.get(n) != value]
    if record["key"] == what.key and not changed:
        return replace(there, found=True)
    fault = "another run ({}); --force replaces it, -o names another folder"
    if record["key"] == what.key:
        fault = "this run, but on data that have changed since ({}); --force runs anew"
        why = ", ".join(changed)
    elif record["chapter"] != what.notebook.name:
        why = f"of chapter {record['chapter']}"
    elif other:
        why = "with " + ", ".join(f"{n}={before.get(n)}" for n in other)
    else:
        why = "of another version of the notebook or the package"
    raise RunError(f"{shown(folder)}: holds {fault.format(why)}.")
