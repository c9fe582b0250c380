"""The folder of a run or a sweep: whole or not there, and held by one alone."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from nestedae_utils.rerun.execution import RunError


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
    kind = record.removesuffix(".json")
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    path, beside = Path(lock.lock_file), f".{folder.name}.part-"
    fault = ""
    try:
        # before the lock, which would lie beside folders of others
        if os.path.lexists(folder) and not folder.is_dir():
            fault = "not a folder; give another with -o, or remove it."
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
