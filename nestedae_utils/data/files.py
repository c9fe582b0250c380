"""A key becomes a verified local file.

The public files are named by key, URL and sha256 in ``data/registry.json``.
A file is looked for in the download cache, then in a mirror folder, then at
its URL; wherever it comes from, its size and sha256 are those of the registry.

Environment
-----------
NESTEDAE_CACHE
    Folder of the cache; the operating system's cache folder by default.
NESTEDAE_DATA_MIRROR
    Folder that holds the files under their keys, for work without a network.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from nestedae_utils.errors import DataError, DataUnavailable, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (_PACKAGE / "shipped").is_dir()
"""Was the package installed, with its data inside, and not checked out?"""
DATA = (_PACKAGE / "shipped" if INSTALLED else _PACKAGE.parent) / "data"
NOTEBOOKS = DATA.with_name("notebooks")
WORKPLACE = Path.cwd() if INSTALLED else DATA.parent
"""The folder of results and runs, the checkout or where Python started."""
CACHE_VARIABLE = "NESTEDAE_CACHE"
MIRROR_VARIABLE = "NESTEDAE_DATA_MIRROR"
TIMEOUT = 10.0
"""Seconds without an answer after which a download is given up."""


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


def registry() -> dict[str, Entry]:
    """Return the public files by key.

    Raises
    ------
    DataError
        If ``data/registry.json`` is absent or is not a list of entries.
    """
    path = DATA / "registry.json"
    try:
        entries = [Entry(**entry) for entry in json.loads(path.read_text())]
    except FileNotFoundError:
        raise DataError(
            f"{path}: not found; run from a checkout of the repository."
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None
    return {entry.key: entry for entry in entries}


def fetch(key: str) -> Path:
    """Return the local path of a public file, verified by size and sha256.

    A file of the mirror is used in place; a download goes to the cache.

    Parameters
    ----------
    key
        Key of the registry, for example
        ``"psc_bandgaps_pbe/PSC_bandgaps_dataset.csv"``.

    Raises
    ------
    DataUnavailable
        If the file is in neither place and cannot be downloaded.
    DataError
        If the key is unknown, the file is not what the registry says, or a
        mirror is set that lacks it. A faulty file is never replaced silently.
    """
    known = registry()
    if key not in known:
        raise DataError(
            f"data file {key!r}: unknown, one of {', '.join(known)} is "
            f"allowed.{nearest(key, known)}"
        )
    entry = known[key]
    cached = folder() / key
    if cached.exists():
        _verify(entry, cached, "delete it to download it again")
        return cached
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        return _mirrored(entry, Path(mirror).expanduser())
    return _downloaded(entry, cached)


def checksums(*keys: str) -> dict[str, str]:
    """Return the sha256 of each file, computed from its verified local copy.

    Raises
    ------
    DataError, DataUnavailable
        As `fetch`.
    """
    return {key: pooch.file_hash(str(fetch(key))) for key in keys}


def present() -> dict[str, str | None]:
    """Return the sha256 of each public file as it lies here, by key.

    Nothing is downloaded or verified; a file that is neither in the cache
    nor in the mirror has None.

    Raises
    ------
    DataError
        As `registry`.
    """
    mirror = os.environ.get(MIRROR_VARIABLE)
    places = [folder(), *([Path(mirror).expanduser()] if mirror else [])]
    found: dict[str, str | None] = {}
    for key in registry():
        paths = [place / key for place in places if (place / key).is_file()]
        found[key] = pooch.file_hash(str(paths[0])) if paths else None
    return found


def folder() -> Path:
    """Return the folder of the downloads, within the cache."""
    place = os.environ.get(CACHE_VARIABLE) or pooch.os_cache("nestedae")
    return Path(place).expanduser() / "data"


def _verify(entry: Entry, path: Path, remedy: str) -> None:
    if not path.is_file():
        raise DataError(f"{path}: not a file; {remedy}.")
    size = path.stat().st_size
    if size != entry.bytes:
        state = "truncated: " if size < entry.bytes else ""
        raise DataError(
            f"{path}: {state}{size} bytes found, {entry.bytes} expected; "
            f"{remedy}."
        )
    found = pooch.file_hash(str(path))
    if found != entry.sha256:
        raise DataError(
            f"{path}: sha256 {found} found, {entry.sha256} expected; {remedy}."
        )


def _mirrored(entry: Entry, mirror: Path) -> Path:
    # A mirror that does not help is a mistake to put right: a silent
    # download, or generated data instead, would hide it.
    if not mirror.is_dir():
        raise DataError(
            f"{MIRROR_VARIABLE}: the folder {str(mirror)!r} does not exist; "
            "correct or unset the variable."
        )
    path = mirror / entry.key
    if not path.exists():
        raise DataError(
            f"{path}: not in the mirror; put the file there, or unset "
            f"{MIRROR_VARIABLE} to download it."
        )
    _verify(entry, path, "replace it by the published file")
    return path


def _downloaded(entry: Entry, path: Path) -> Path:
    # pooch announces each download in its log, which would enter the pages
    # of the book.
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        pooch.retrieve(
            entry.url,
            known_hash=f"sha256:{entry.sha256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
        )
    except requests.RequestException as error:
        raise DataUnavailable(
            f"{entry.key}: cannot be downloaded from {entry.url} "
            f"({type(error).__name__}); connect to the network, or set "
            f"{MIRROR_VARIABLE} to a folder that holds it."
        ) from error
    except ValueError:
        raise DataError(
            f"{entry.key}: what {entry.url} sent does not have the sha256 "
            f"{entry.sha256} of the published file; try again, or set "
            f"{MIRROR_VARIABLE} to a folder that holds it."
        ) from None
    except OSError as error:
        # pooch's own PermissionError has no strerror.
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"{path}: cannot be written ({reason}); set {CACHE_VARIABLE} to "
            "a folder that can."
        ) from error
    finally:
        logger.setLevel(level)
    return path
