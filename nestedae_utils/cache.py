"""Expensive results on disk, under a key that covers all they depend on.

The key of a result is made of the function's arguments (arrays by content),
of the source of the function's module and of all modules of this package that
it imports, and of the versions of the libraries that compute it.  Change any
of them, and the result is computed anew.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import pooch
import torch
from tqdm.auto import tqdm

from nestedae_utils.checks import watched

LIBRARIES = ("numpy", "pandas", "scikit-learn", "scipy", "torch")

Result = TypeVar("Result")


def folder() -> Path:
    """Return the cache folder: ``NESTEDAE_CACHE``, or the system's own."""
    place = os.environ.get("NESTEDAE_CACHE") or pooch.os_cache("nestedae")
    return Path(place).expanduser()


@functools.cache
def source_digest(module: str) -> str:
    """Return a digest of what a module's results depend on.

    Parameters
    ----------
    module
        Full name of the module.  Its own source counts, that of the modules
        of this package it imports, at first or second hand, and the
        libraries' versions.  The whole package counts for a module outside.
    """
    digest = hashlib.sha256(platform.python_version().encode())
    for path in _sources(module):
        digest.update(path.name.encode() + path.read_bytes())
    for library in LIBRARIES:
        digest.update(importlib.metadata.version(library).encode())
    return digest.hexdigest()[:16]


def _sources(module: str) -> list[Path]:
    every = {path.stem: path for path in Path(__file__).parent.glob("*.py")}
    package, _, name = module.rpartition(".")
    if package != __package__ or name not in every:
        return [every[name] for name in sorted(every)]
    ahead, used = [name], {"__init__"}
    while ahead:
        name = ahead.pop()
        if name in used or name not in every:
            continue
        used.add(name)
        for node in ast.walk(ast.parse(every[name].read_bytes())):
            if isinstance(node, ast.Import):
                ahead += [alias.name.split(".")[-1] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                ahead += [alias.name for alias in node.names]
                ahead.append((node.module or "").split(".")[-1])
    return [every[name] for name in sorted(used & set(every))]


def fingerprint(value: Any) -> str:
    """Return a digest of a value by content.

    Arrays count with type, shape and bytes; dataclasses and other objects
    with their fields.  (``joblib.hash`` pickles, and two equal objects can
    differ in what their pickles share.)
    """
    digest = hashlib.sha256(type(value).__qualname__.encode())
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        array = np.ascontiguousarray(value)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(
                (fingerprint(key) + fingerprint(value[key])).encode()
            )
    elif isinstance(value, (list, tuple)):
        for part in value:
            digest.update(fingerprint(part).encode())
    elif value is None or isinstance(value, (str, int, float, bool)):
        digest.update(repr(value).encode())
    else:
        fields = getattr(value, "__dict__", None)
        if not fields:
            raise TypeError(
                f"{type(value).__qualname__}: has no fields to make a "
                "fingerprint of; pass arrays, numbers, texts or dataclasses."
            )
        digest.update(fingerprint(fields).encode())
    return digest.hexdigest()


def cached(function: Callable[..., Result]) -> Callable[..., Result]:
    """Keep the results of a pure function on disk (joblib)."""

    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Result:
        return _store(function)(*_named(function, args, settings))

    return call


def together(*calls: functools.partial) -> list[Any]:
    """Run calls of cached functions, the missing ones side by side.

    Each call is a ``functools.partial`` of a cached function.  On a GPU
    (argument ``device``) they run one after the other.

    Returns
    -------
    list
        The results, in the order of the calls.
    """
    missing = [
        call
        for call in calls
        if not _store(call.func).check_call_in_cache(
            *_named(call.func.__wrapped__, call.args, call.keywords)
        )
    ]
    workers = min(len(missing), joblib.cpu_count())
    if workers > 1 and all(map(_on_cpu, missing)):
        done = joblib.Parallel(workers, return_as="generator_unordered")(
            joblib.delayed(_fill)(call) for call in missing
        )
        bar = tqdm(done, "trainings", len(missing), disable=not watched())
        for _ in bar:
            pass
    return [call() for call in calls]


def _fill(call: functools.partial) -> None:
    call()


def _on_cpu(call: functools.partial) -> bool:
    device = call.keywords.get("device", "cpu")
    card = torch.cuda.is_available()
    return device == "cpu" or (device == "auto" and not card)


def _named(
    function: Callable[..., Any], args: tuple, settings: dict[str, Any]
) -> tuple:
    key = fingerprint([args, settings])
    return (
        f"{function.__module__}.{function.__qualname__}",
        key,
        (
            function,
            args,
            settings,
        ),
    )


def _store(function: Callable[..., Any]) -> Any:
    digest = source_digest(function.__module__)
    place = folder() / "results" / digest
    return joblib.Memory(place, verbose=0).cache(_run, ignore=["what"])


def _run(name: str, key: str, what: tuple) -> Any:
    """Compute a result; only ``name`` and ``key`` tell it from others."""
    function, args, settings = what
    return function(*args, **settings)
