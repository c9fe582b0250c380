"""The perovskite tables of one source: the public files, or the twin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from nestedae_utils.data import twin
from nestedae_utils.data.files import checksums, fetch
from nestedae_utils.data.perovskites import (
    read_band_gaps,
    read_devices,
    read_fidelity,
)
from nestedae_utils.errors import DataUnavailable, choice

SOURCES = ("auto", "paper", "twin")
BAND_GAPS_KEY = "psc_bandgaps_pbe/PSC_bandgaps_dataset.csv"
DEVICES_KEY = "psc_efficiencies/PSC_efficiencies_dataset.csv"

FIDELITY_KEYS = {
    "PBE": "mhp_multifidelity/PBE_data.csv",
    "HSE": "mhp_multifidelity/HSE_data.csv",
    "experiment": "mhp_multifidelity/Expt_data.csv",
}


@dataclass(frozen=True)
class Tables:
    """Both tables in canonical columns, and where they come from.

    ``band_gaps`` (494, 31) and ``devices`` (2018, 41) as
    `perovskites.read_band_gaps` and `perovskites.read_devices` return them;
    ``source`` is ``"paper"`` or ``"twin"``; ``checksums`` has the sha256 of
    each file by its key, or of each generated table by its name.
    """

    band_gaps: pd.DataFrame
    devices: pd.DataFrame
    source: str
    checksums: dict[str, str]


@dataclass(frozen=True)
class Fidelities:
    """Gaps at three fidelities and the devices, and where they come from.

    ``PBE`` (570, 37), ``HSE`` (347, 37) and ``experiment`` (97, 37) as
    `perovskites.read_fidelity` returns them, by these names in ``gaps``;
    ``devices``, ``source`` and ``checksums`` as in `Tables`.
    """

    gaps: dict[str, pd.DataFrame]
    devices: pd.DataFrame
    source: str
    checksums: dict[str, str]


def resolve_source(
    data_source: str, keys: Iterable[str] = (BAND_GAPS_KEY, DEVICES_KEY)
) -> str:
    """Return ``"paper"`` or ``"twin"``.

    Parameters
    ----------
    data_source
        ``"paper"``, ``"twin"``, or ``"auto"``: the public files if all of
        them can be had, else the twin.
    keys
        The files' keys.

    Raises
    ------
    ParameterError
        If it is none of the three.
    DataError
        If a file is there but faulty: generated data must not stand in for a
        damaged file unseen.
    """
    choice("data_source", data_source, SOURCES)
    if data_source != "auto":
        return data_source
    try:
        for key in keys:
            fetch(key)
    except DataUnavailable:
        return "twin"
    return "paper"


def load(data_source: str = "auto") -> Tables:
    """Return both tables, validated.

    Parameters
    ----------
    data_source
        As in `resolve_source`. The twin is that of seed 0.

    Raises
    ------
    ParameterError, DataError, DataUnavailable
        As `resolve_source`, `datasets.fetch` and the readers.
    """
    if resolve_source(data_source) == "twin":
        return _twin()
    return Tables(
        band_gaps=read_band_gaps(fetch(BAND_GAPS_KEY)),
        devices=read_devices(fetch(DEVICES_KEY)),
        source="paper",
        checksums=checksums(BAND_GAPS_KEY, DEVICES_KEY),
    )


def load_fidelities(data_source: str = "auto") -> Fidelities:
    """Return the three fidelity tables and the devices, validated.

    Parameters
    ----------
    data_source
        As in `resolve_source`: all four tables are the public ones, or all
        are the twin's, of seed 0.

    Raises
    ------
    ParameterError, DataError, DataUnavailable
        As `resolve_source`, `datasets.fetch` and the readers.
    """
    keys = (*FIDELITY_KEYS.values(), DEVICES_KEY)
    if resolve_source(data_source, keys) == "twin":
        gaps, devices = twin.fidelities(), twin.devices()
        made = {**gaps, "devices": devices}
        return Fidelities(
            gaps=gaps,
            devices=devices,
            source="twin",
            checksums={
                f"twin/{name}": frame_sha256(frame)
                for name, frame in made.items()
            },
        )
    return Fidelities(
        gaps={
            name: read_fidelity(fetch(key))
            for name, key in FIDELITY_KEYS.items()
        },
        devices=read_devices(fetch(DEVICES_KEY)),
        source="paper",
        checksums=checksums(*keys),
    )


def _twin() -> Tables:
    band_gaps, devices = twin.band_gaps(), twin.devices()
    return Tables(
        band_gaps=band_gaps,
        devices=devices,
        source="twin",
        checksums={
            "twin/band_gaps": frame_sha256(band_gaps),
            "twin/devices": frame_sha256(devices),
        },
    )


def frame_sha256(frame: pd.DataFrame) -> str:
    """Return the sha256 of a generated table."""
    text = frame.to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()
