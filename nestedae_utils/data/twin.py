"""Generated tables that stand in for the perovskite tables.

They have the canonical columns, the sizes and the kinds of mixing of the
public tables, and no row of them: where no file can be had, every chapter
still runs, and its numbers are those of a known law, not of the paper.

The law, its numbers our own
----------------------------
Gap of a composition (eV), x the fractions of a site::

    gap = 1.1 + sum over sites of [sum_i x_i t_i
                                   - b sum_{i<j} x_i x_j |t_i - t_j|]

with the terms t of `GAP_TERMS` and the bowing b of `BOWING`. The band-gap
table adds normal noise of 0.06 eV.

Efficiency of a device (%) with that gap E (without the noise)::

    limit = (E - 0.4) (62 - 23 E) 0.85   voltage (V) x current (mA/cm2) x
                                         fill factor, highest near 1.55 eV
    pce   = limit * etl factor * htl factor * (1 - loss)

with the factors of `ETL_FACTORS` and `HTL_FACTORS`; the loss, drawn for each
device from a Beta distribution, is what two devices of the same inputs differ
by. Devices with tin are more often inverted (p-i-n), inverted devices have
other contacts than n-i-p ones, and only PTAA occurs in both.

Gaps at three fidelities (eV), E the gap by the law, c the share of a row's
cubic phase, each with normal noise as `FIDELITY_NOISE` has it::

    PBE          E - 0.2 c
    HSE          1.3 E - 0.3 - 0.2 c
    experiment   0.85 E + 0.3

The efficiency is 0.009 of the limit above, the measured one less a loss.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from nestedae_utils.data.perovskites import (
    A_IONS,
    BAND_GAPS,
    DEVICES,
    FIDELITIES,
    IONS,
    PHASES,
    SITES,
    mix,
    octahedral_factor,
    tolerance_factor,
)
from nestedae_utils.errors import whole

BASE_GAP = 1.1
GAP_TERMS = {
    **{"K": 0.15, "Rb": 0.10, "Cs": 0.0, "MA": 0.20, "FA": 0.28},
    **{"Ca": 2.6, "Sr": 2.5, "Ba": 2.3, "Ge": 0.1, "Sn": -0.3, "Pb": 0.3},
    **{"Cl": 1.4, "Br": 0.6, "I": 0.0},
}
"""Contribution of each ion to the gap (eV)."""
BOWING = {"A": 0.3, "B": 0.6, "X": 0.2}
"""Bowing of each site, in units of the difference of the terms."""
GAP_NOISE = 0.06
"""Standard deviation of the noise of a gap (eV)."""

MIXED_ROWS = {"A": 126, "B": 151, "X": 127}
"""Band-gap rows with that site mixed; the pure ones are all 90 end members."""
_STEPS = 8

DEVICE_ROWS = 2018
COMPOSITIONS = 235
COMMON_ROWS = 984
"""Devices of the most frequent composition, MAPbI3."""
ETL_ROWS = {
    "TiO2-c | TiO2-mp": 707,
    "TiO2-c": 387,
    "SnO2-c": 191,
    "SnO2-np": 189,
    "PCBM-60": 226,
    "C60 | BCP": 161,
    "PCBM-60 | BCP": 157,
}
"""Devices with each electron transport layer, n-i-p ones first."""
HTL_ROWS = {
    "Spiro-MeOTAD": 1397,
    "PTAA": 120,
    "PEDOT:PSS": 325,
    "NiO-c": 176,
}
"""Devices with each hole transport layer, n-i-p ones first."""
ETL_FACTORS = {
    "TiO2-c | TiO2-mp": 0.90,
    "TiO2-c": 0.86,
    "SnO2-c": 0.96,
    "SnO2-np": 0.98,
    "PCBM-60": 0.84,
    "C60 | BCP": 0.93,
    "PCBM-60 | BCP": 0.89,
}
HTL_FACTORS = {
    "Spiro-MeOTAD": 0.91,
    "PTAA": 0.88,
    "PEDOT:PSS": 0.68,
    "NiO-c": 0.80,
}
_LOSS = (1.1, 3.0)
_INVERTED_ROWS = 544
_MISSING_GAPS = 589
_REPORTED_GAP_NOISE = 0.02

FIDELITY_ROWS = {"PBE": 180, "HSE": 120, "experiment": 97}
FIDELITY_NOISE = {"PBE": 0.06, "HSE": 0.08, "experiment": 0.03}
"""Standard deviation of the noise of a gap (eV), by fidelity."""
_MISSING_EFFICIENCIES = 10


def band_gaps(seed: int = 0) -> pd.DataFrame:
    """Return a generated band-gap table in canonical columns.

    Parameters
    ----------
    seed
        Seed of the compositions and of the noise.

    Returns
    -------
    DataFrame
        Shape (494, 31), as `perovskites.read_band_gaps`; no composition
        stands twice, and a row mixes one site at most, in eighths.

    Raises
    ------
    ParameterError
        If the seed is not a whole number of at least 0.
    """
    rng = np.random.default_rng(whole("seed", seed, minimum=0))
    fractions = _alloys(rng)
    noise = GAP_NOISE * rng.standard_normal(len(fractions))
    frame = pd.DataFrame(
        {
            "formula": _formulas(fractions),
            "gap": (law_gap(fractions) + noise).round(2),
        }
    )
    # Rounded, so that the last bits of one machine's arithmetic do not show
    # in a checksum.
    features = mix(fractions).round(4)
    return BAND_GAPS.validate(pd.concat([frame, fractions, features], axis=1))


def devices(seed: int = 0) -> pd.DataFrame:
    """Return a generated device table in canonical columns.

    Parameters
    ----------
    seed
        Seed of the compositions, the contacts and the losses.

    Returns
    -------
    DataFrame
        Shape (2018, 41), as `perovskites.read_devices`: 235 compositions,
        984 rows of MAPbI3, 589 rows without a reported gap.

    Raises
    ------
    ParameterError
        If the seed is not a whole number of at least 0.
    """
    rng = np.random.default_rng(whole("seed", seed, minimum=0))
    fractions = _device_compositions(rng)
    etl, htl, inverted = _contacts(fractions["Sn"].to_numpy(), rng)
    gap = law_gap(fractions)
    quality = (
        pd.Series(etl).map(ETL_FACTORS)
        * pd.Series(htl).map(HTL_FACTORS)
        * (1 - rng.beta(*_LOSS, DEVICE_ROWS))
    )
    voltage, current, fill = (
        part * quality**share
        for part, share in zip(_limits(gap), (0.2, 0.4, 0.4), strict=True)
    )
    reported = _reported_gaps(gap, rng)
    features = mix(fractions).round(4)
    frame = pd.DataFrame(
        {
            "composition": _formulas(fractions),
            **fractions,
            **features,
            "etl": etl,
            "htl": htl,
            "pce": (voltage * current * fill).round(2),
            "reported_gap": reported,
            "gap_basis": pd.Series("Composition", index=gap.index).where(
                reported.notna()
            ),
            "substrate": np.where(inverted, "SLG | ITO", "SLG | FTO"),
            "voc": voltage.round(3),
            "jsc": current.round(2),
            "fill_factor": fill.round(3),
            "tolerance_factor": tolerance_factor(features).round(6),
            "octahedral_factor": octahedral_factor(features).round(6),
        }
    )
    return DEVICES.validate(frame)


def fidelities(seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return generated tables at three fidelities in canonical columns.

    Parameters
    ----------
    seed
        Seed of the compositions, the phases and the noise.

    Returns
    -------
    dict
        ``PBE`` (180, 37), ``HSE`` (120, 37), whose compositions and phases
        are those of PBE rows, and ``experiment`` (97, 37), with absorbers
        as devices have them, some of which the PBE table has too; there all
        decomposition energies and ten efficiencies are missing.

    Raises
    ------
    ParameterError
        If the seed is not a whole number of at least 0.
    """
    rng = np.random.default_rng(whole("seed", seed, minimum=0))
    measured: list[dict[str, float]] = [{"MA": 1.0, "Pb": 1.0, "I": 1.0}]
    seen = {frozenset(measured[0].items())}
    while len(measured) < FIDELITY_ROWS["experiment"]:
        row = _absorber(rng)
        if frozenset(row.items()) not in seen:
            seen.add(frozenset(row.items()))
            measured.append(row)
    shared = _frame(measured[:20])
    alloys = _alloys(rng)
    chosen = rng.permutation(len(alloys))[: FIDELITY_ROWS["PBE"] - 20]
    computed = pd.concat([shared, alloys.iloc[chosen]], ignore_index=True)
    fractions = {
        "PBE": computed,
        "HSE": computed.iloc[: FIDELITY_ROWS["HSE"]],
        "experiment": _frame(measured),
    }
    pure = np.eye(len(PHASES))[
        rng.choice(4, len(computed), p=[0.7] + [0.1] * 3)
    ]
    mixed = rng.dirichlet(np.full(len(PHASES), 0.5), len(measured)).round(2)
    mixed[:, -1] = 1 - mixed[:, :-1].sum(axis=1)
    phases = {"PBE": pure, "HSE": pure, "experiment": mixed.clip(0, 1)}
    return {
        name: _fidelity(name, part, phases[name][: len(part)], rng)
        for name, part in fractions.items()
    }


def _fidelity(
    name: str, fractions: pd.DataFrame, phases: NDArray, rng: Generator
) -> pd.DataFrame:
    """Return the table of one fidelity, as `fidelities` has it."""
    law, cubic = law_gap(fractions), phases[:, 0]
    gap = {
        "PBE": law - 0.2 * cubic,
        "HSE": 1.3 * law - 0.3 - 0.2 * cubic,
        "experiment": 0.85 * law + 0.3,
    }[name]
    gap = gap + FIDELITY_NOISE[name] * rng.standard_normal(len(gap))
    voltage, current, fill = _limits(gap)
    efficiency = (0.009 * voltage * current * fill).clip(0, 0.33)
    decomposition = pd.Series(rng.normal(0.5, 1, len(gap)).round(2))
    if name == "experiment":
        efficiency *= 1 - rng.beta(*_LOSS, len(gap))
        gone = rng.choice(len(gap), _MISSING_EFFICIENCIES, replace=False)
        efficiency.iloc[gone] = np.nan
        decomposition[:] = np.nan
    frame = pd.DataFrame(
        {
            "formula": _formulas(fractions),
            "gap": gap.clip(0.1, 9).round(2),
            "efficiency": efficiency.round(2),
            "decomposition": decomposition,
        }
    )
    parts = [frame, fractions, mix(fractions).round(4)]
    parts.append(pd.DataFrame(phases, columns=list(PHASES)))
    return FIDELITIES.validate(pd.concat(parts, axis=1))


def law_gap(fractions: pd.DataFrame) -> pd.Series:
    """Return the law's gap (eV) without noise.

    Parameters
    ----------
    fractions
        Shape (n, 14), columns ``IONS``.

    Returns
    -------
    Series
        Shape (n,).
    """
    gap = np.full(len(fractions), BASE_GAP)
    for site, members in SITES.items():
        share = fractions[list(members)].to_numpy(dtype=float)
        terms = np.array([GAP_TERMS[ion] for ion in members])
        distance = np.abs(terms[:, None] - terms)
        pairs = np.einsum("ni,ij,nj->n", share, distance, share) / 2
        gap += share @ terms - BOWING[site] * pairs
    return pd.Series(gap, index=fractions.index)


def _limits(gap: pd.Series) -> tuple[pd.Series, pd.Series, float]:
    """Return the highest voltage (V), current (mA/cm2) and fill factor."""
    return gap - 0.4, 62 - 23 * gap, 0.85


def _alloys(rng: Generator) -> pd.DataFrame:
    """Return distinct compositions (494, 14) that mix one site at most."""
    rows = [
        {a: _STEPS, b: _STEPS, x: _STEPS}
        for a in SITES["A"]
        for b in SITES["B"]
        for x in SITES["X"]
    ]
    seen = {frozenset(row.items()) for row in rows}
    for mixed, count in MIXED_ROWS.items():
        target = len(rows) + count
        while len(rows) < target:
            row = _alloy(mixed, rng)
            if frozenset(row.items()) not in seen:
                seen.add(frozenset(row.items()))
                rows.append(row)
    return _frame(rows) / _STEPS


def _alloy(mixed: str, rng: Generator) -> dict[str, int]:
    """Return a composition in eighths with two to four ions on one site."""
    row = {}
    for site, members in SITES.items():
        most = min(4, len(members) - 1)
        kinds = int(rng.integers(2, most + 1)) if site == mixed else 1
        chosen = rng.choice(members, kinds, replace=False)
        # Each ion has an eighth at least; the others fall at random.
        extra = rng.multinomial(_STEPS - kinds, np.full(kinds, 1 / kinds))
        row |= {
            str(ion): int(n) + 1 for ion, n in zip(chosen, extra, strict=True)
        }
    return row


def _device_compositions(rng: Generator) -> pd.DataFrame:
    """Return the compositions of the devices (2018, 14) in random order."""
    rows = [{"MA": 1.0, "Pb": 1.0, "I": 1.0}]
    seen = {frozenset(rows[0].items())}
    while len(rows) < COMPOSITIONS:
        row = _absorber(rng)
        if frozenset(row.items()) not in seen:
            seen.add(frozenset(row.items()))
            rows.append(row)
    # A few compositions are in fashion, most are tried once or twice.
    weights = 1 / np.arange(2, COMPOSITIONS + 1) ** 1.5
    spare = DEVICE_ROWS - COMMON_ROWS - (COMPOSITIONS - 1)
    repeats = 1 + rng.multinomial(spare, weights / weights.sum())
    index = np.repeat(np.arange(COMPOSITIONS), [COMMON_ROWS, *repeats])
    return _frame(rows).iloc[rng.permutation(index)].reset_index(drop=True)


def _absorber(rng: Generator) -> dict[str, float]:
    """Return a composition that may mix each site, in hundredths."""
    kinds = rng.choice(3, p=[0.2, 0.4, 0.4]) + 1
    cations = rng.choice(
        A_IONS[1:], kinds, replace=False, p=[0.01, 0.19, 0.4, 0.4]
    )
    # MA and FA are the majority, Rb and Cs are added in small amounts.
    favour = [0.4 if ion in ("Rb", "Cs") else 3.0 for ion in cations]
    row = _shares(cations, rng.dirichlet(favour))
    tin = rng.choice([0.0, 1.0, rng.uniform()], p=[0.84, 0.08, 0.08])
    row |= _shares(["Pb", "Sn"], np.array([1 - tin, tin]))
    bromine = rng.choice([0.0, rng.beta(1.2, 5)], p=[0.25, 0.75])
    return row | _shares(["I", "Br"], np.array([1 - bromine, bromine]))


def _shares(members: list[str] | NDArray, values: NDArray) -> dict[str, float]:
    """Return fractions in hundredths that sum to 1, without the empty."""
    hundredths = np.round(100 * values).astype(int)
    hundredths[np.argmax(hundredths)] += 100 - hundredths.sum()
    return {
        str(ion): n / 100
        for ion, n in zip(members, hundredths.tolist(), strict=True)
        if n
    }


def _contacts(
    tin: NDArray, rng: Generator
) -> tuple[NDArray, NDArray, NDArray]:
    """Return ETL, HTL and whether the device is inverted, each (n,)."""
    rank = np.argsort(np.argsort(-(tin + rng.random(len(tin)))))
    inverted = rank < _INVERTED_ROWS
    # n-i-p kinds stand first in both tables of counts, so that one order of
    # the devices, n-i-p first, pairs what belongs together.
    order = np.concatenate(
        [
            rng.permutation(np.flatnonzero(~inverted)),
            rng.permutation(np.flatnonzero(inverted)),
        ]
    )
    etl = np.empty(len(tin), dtype=object)
    htl = np.empty(len(tin), dtype=object)
    etl[order] = np.repeat(list(ETL_ROWS), list(ETL_ROWS.values()))
    # Within an architecture the HTL is independent of the ETL.
    split = len(tin) - _INVERTED_ROWS
    kinds = np.repeat(list(HTL_ROWS), list(HTL_ROWS.values()))
    htl[order] = np.concatenate(
        [rng.permutation(kinds[:split]), rng.permutation(kinds[split:])]
    )
    return etl, htl, inverted


def _reported_gaps(gap: pd.Series, rng: Generator) -> pd.Series:
    """Return the gaps (eV) that authors report, some missing."""
    noise = _REPORTED_GAP_NOISE * rng.standard_normal(len(gap))
    reported = (gap + noise).round(2)
    missing = rng.choice(len(gap), _MISSING_GAPS, replace=False)
    reported.iloc[missing] = np.nan
    return reported


def _frame(rows: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(IONS)).fillna(0.0).astype(float)


def _formulas(fractions: pd.DataFrame) -> list[str]:
    return [_formula(row) for row in fractions.to_dict("records")]


def _formula(row: dict[str, float]) -> str:
    parts = []
    for site, members in SITES.items():
        whole_site = 3 if site == "X" else 1
        for ion in members:
            if row[ion]:
                coefficient = round(whole_site * row[ion], 6)
                parts.append(
                    ion + ("" if coefficient == 1 else f"{coefficient:g}")
                )
    return "".join(parts)
