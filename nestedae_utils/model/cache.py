"""Expensive results on disk, under keys that cover all they depend on.

A key is made of the arguments (arrays by content), of the source of the
function's module and of all modules of this package that it imports, and of
the versions of the libraries that compute it.  Change any of them, and the
result is computed anew.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pickle
import platform
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import pooch
from threadpoolctl import threadpool_limits

from nestedae_utils.errors import replacing

LIBRARIES = ("numba", "numpy", "pandas", "scikit-learn", "scipy", "torch")
PACKAGE = Path(__file__).resolve().parents[1]
# not by Python's ast: 3.11's fails where two threads parse at once
_IMPORT = re.compile(r"^ *(?:from ([\w.]+) )?import (\([^)]*\)|.+)", re.MULTILINE)

Result = TypeVar("Result")


def folder() -> Path:
    """Return the cache folder: ``NESTEDAE_CACHE``, or the system's own."""
    path = os.environ.get("NESTEDAE_CACHE") or pooch.os_cache("nestedae")
    return Path(path).expanduser()


def sources(module: str) -> list[Path]:
    """Return the files that a module's results depend on.

    Its own and those of this package that it imports, at first or second
    hand; the whole package for a module outside.
    """
    every = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in PACKAGE.rglob("[!.]*.py")
        if ".ipynb_checkpoints" not in path.parts
    }
    ahead, used = [module], set() if module in every else set(every)
    while ahead:
        if (name := ahead.pop()) in used or name not in every:
            continue
        used.add(name)
        for above, names in _IMPORT.findall(every[name].read_text(encoding="utf-8")):
            for one in re.findall(r"[\w.]+", names):
                ahead += [above, f"{above}.{one}"] if above else [one]
    return [every[name] for name in sorted(used)]


def digest(paths: Iterable[Path], libraries: Iterable[str] = ()) -> str:
    """Return a digest of files, by name and content, and of libraries."""
    found = hashlib.sha256(platform.python_version().encode())
    for path in paths:
        found.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
    for library in libraries:
        found.update(importlib.metadata.version(library).encode())
    return found.hexdigest()[:16]


@functools.cache
def source_digest(module: str) -> str:
    """Return a digest of what the results of a module depend on."""
    return digest(sources(module), LIBRARIES)


def fingerprint(value: Any) -> str:
    """Return a digest of a value by content; TypeError if it has none.

    Arrays count with type, shape and bytes; dataclasses and other objects
    with their fields.  (``joblib.hash`` pickles, and two equal objects can
    differ in what their pickles share.)
    """
    value = np.asarray(value) if isinstance(value, np.generic) else value
    parts, flat = list[Any](), np.zeros(0)
    if value is None or isinstance(value, (str, int, float, bool)):
        content = repr(value).encode()
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        content, flat = f"{value.dtype.str}{value.shape}".encode(), value.ravel()
    elif isinstance(value, (list, tuple)):
        content, parts = b"", list(value)
    elif isinstance(value, Mapping):
        content, parts = b"", [x for key in sorted(value) for x in (key, value[key])]
    elif fields := getattr(value, "__dict__", None):
        content, parts = b"", [fields]
    else:
        words = "has no fields; pass arrays, numbers, texts or dataclasses."
        raise TypeError(f"{type(value).__qualname__}: {words}")
    found = hashlib.sha256(type(value).__qualname__.encode() + content)
    found.update(flat.view(np.uint8).data)
    for part in parts:
        found.update(fingerprint(part).encode())
    return found.hexdigest()


def load(key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays that :func:`store` kept, or None."""
    # cut short or altered: as if it were not there
    faults = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    path = folder() / "trainings" / f"{key}.npz"
    with contextlib.suppress(*faults), np.load(path) as kept:
        return dict(kept)
    return None


def store(key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under a key; where nothing can be written, nothing is."""
    path = folder() / "trainings" / f"{key}.npz"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, open(beside, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def cached(function: Callable[..., Result]) -> Callable[..., Result]:
    """Keep the results of a pure function on disk, where that can be written."""

    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Result:
        name = f"{function.__module__}.{function.__qualname__}"
        path = folder() / "results" / source_digest(function.__module__)
        path = path / f"{fingerprint([name, args, settings])}.pickle"
        # as `load`; what is damaged may be anything
        with contextlib.suppress(Exception), open(path, "rb") as file:
            return pickle.load(file)
        result = function(*args, **settings)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                beside.write_bytes(pickle.dumps(result))
        return result

    return call


def together(*calls: Callable[[], Result]) -> list[Result]:
    """Run calls side by side on threads; return their results in order."""
    # threads that each of them starts would wait for each other
    limits = threadpool_limits(1, "openmp")
    with limits, ThreadPoolExecutor(joblib.cpu_count()) as pool:
        return list(pool.map(lambda call: call(), calls))
