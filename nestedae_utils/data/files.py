"""A key becomes a verified local file.

A public file of ``data/registry.json`` is looked for in the download cache
(the folder ``NESTEDAE_CACHE``, or the operating system's), then in a mirror
that holds the files under their keys (the folder ``NESTEDAE_DATA_MIRROR``),
then at its URL; wherever from, size and sha256 are those of the registry.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pooch
import requests

from nestedae_utils.errors import DataError, DataUnavailable, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "shipped").is_dir()
"""Was the package installed, with its data inside, and not checked out?"""
BOOK = _PACKAGE / "shipped" if INSTALLED else _PACKAGE.parent
DATA = BOOK / "data"
NOTEBOOKS = DATA.with_name("notebooks")
WORKPLACE = Path.cwd() if INSTALLED else DATA.parent
"""The folder of results and runs, the checkout or where Python started."""
CACHE_VARIABLE = "NESTEDAE_CACHE"
MIRROR_VARIABLE = "NESTEDAE_DATA_MIRROR"


_TABLES = "benchmark columns element_bins elements funnel gpu gpu_agreement ions"
_TABLES = rf"({_TABLES} quantities turned".replace(" ", "|") + (
    r"|(claims|places)(_\w+)?)\.csv|registry\.json|solvent_binding\.yml"
)


@dataclass(frozen=True)
class Entry:
    """A public file: where it is, what it must be, and whom to cite."""

    key: str
    url: str
    sha256: str
    bytes: int
    licence: str
    citation: str
    rows: int
    columns: int
    optional: bool = False
    """Whether it is large, and fetched by who asks for it alone."""


Watch = Callable[[str, float], AbstractContextManager[Callable[..., None]]]
watch: Watch = lambda name, total: nullcontext(lambda n: None)  # noqa: E731
"""Gives what is told how much of a download is there; silent if not set."""


def tables() -> list[Path]:
    """Return the tables of ``data/`` that chapters read, and nothing else there."""
    return [path for path in DATA.iterdir() if re.fullmatch(_TABLES, path.name)]


def registry() -> dict[str, Entry]:
    """Return the public files by key, as ``data/registry.json`` has them."""
    path = DATA / "registry.json"
    try:
        entries = [Entry(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); run from a checkout."
        ) from None
    return {entry.key: entry for entry in entries}


def fetch(key: str) -> Path:
    """Return the local path of a public file, verified by size and sha256.

    A file of the mirror is used in place; a download goes to the cache. A
    faulty file, or a mirror that lacks it, is a `DataError`, and is never
    replaced silently; a file that cannot be had is `DataUnavailable`.
    """
    entries, mirror = registry(), _mirror()
    if key not in entries:
        raise DataError(
            f"data file {key!r}: unknown, one of {', '.join(entries)} is "
            f"allowed.{nearest(key, entries)}"
        )
    path, remedy = folder() / key, "delete it to download it again"
    if not path.exists() and mirror:
        path, remedy = mirror / key, "replace it by the published file"
        # A silent download, or generated data instead, would hide a mistake.
        if not path.exists():
            raise DataError(
                f"{path}: not in the mirror; put the file there, or correct "
                f"or unset {MIRROR_VARIABLE}."
            )
    elif not path.exists():
        _download(entries[key], path)
    _verify(entries[key], path, remedy)
    return path


def checksums(*keys: str) -> dict[str, str]:
    """Return the sha256 of each file, verified; raises as `fetch`."""
    return {key: pooch.file_hash(str(fetch(key))) for key in keys}


def present() -> dict[str, str | None]:
    """Return the sha256 of each public file as it lies here, else None.

    Nothing is downloaded or verified.
    """
    places = [place for place in (folder(), _mirror()) if place]
    hashes: dict[str, str | None] = dict.fromkeys(registry())
    for key in hashes:
        paths = [place / key for place in places if (place / key).is_file()]
        hashes[key] = pooch.file_hash(str(paths[0])) if paths else None
    return hashes


def folder() -> Path:
    """Return the folder of the downloads, within the cache."""
    cache = os.environ.get(CACHE_VARIABLE) or pooch.os_cache("nestedae")
    return Path(cache).expanduser() / "data"


def _mirror() -> Path | None:
    stated = os.environ.get(MIRROR_VARIABLE)
    return Path(stated).expanduser() if stated else None


def _verify(entry: Entry, path: Path, remedy: str) -> None:
    if not path.is_file():
        raise DataError(f"{path}: not a file; {remedy}.")
    size, sha256 = path.stat().st_size, pooch.file_hash(str(path))
    if size != entry.bytes:
        state = "truncated: " if size < entry.bytes else ""
        fault = f"{state}{size} bytes found, {entry.bytes} expected"
    elif sha256 != entry.sha256:
        fault = f"sha256 {sha256} found, {entry.sha256} expected"
    else:
        return
    raise DataError(f"{path}: {fault}; {remedy}.")


def _download(entry: Entry, path: Path) -> None:
    # pooch's announcements would enter the pages of the book
    pooch.get_logger().setLevel(logging.WARNING)
    sha256 = f"sha256:{entry.sha256}"
    mirror = f"or set {MIRROR_VARIABLE} to a folder that holds it"
    try:
        with watch(path.name, entry.bytes / 1e6) as step:
            # what pooch asks of a bar; at its end it tells the sum again
            told = {"reset": lambda: None, "close": lambda: None}
            bar = SimpleNamespace(update=lambda n: step(n / 1e6), total=0, **told)
            get = pooch.HTTPDownloader(bar, timeout=10)
            pooch.retrieve(entry.url, sha256, path.name, path.parent, downloader=get)
    except requests.RequestException as error:
        raise DataUnavailable(
            f"{entry.key}: cannot be downloaded from {entry.url} "
            f"({type(error).__name__}); connect to the network, {mirror}."
        ) from error
    except ValueError:
        raise DataError(
            f"{entry.key}: what {entry.url} sent does not have the sha256 "
            f"{entry.sha256} of the published file; try again, {mirror}."
        ) from None
    except OSError as error:
        # pooch's own PermissionError has no strerror.
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"{path}: cannot be written ({reason}); set {CACHE_VARIABLE} to "
            "a folder that can."
        ) from error
