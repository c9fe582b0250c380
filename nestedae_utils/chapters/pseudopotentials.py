"""Pseudopotentials of the elements: their files, curves, properties, twin.

PseudoDojo's norm-conserving pseudopotentials for PBE (scalar relativistic,
doi:10.1016/j.cpc.2018.01.012): 72 elements of its standard table, and the
lanthanides from Ce to Yb of the table without core correction.  A file is UPF
2; of it are read the charge of the pseudo-atom, 4 pi r^2 rho (electrons/bohr),
and the local potential (Ry) over the radius (bohr).

The twin's charge is a sum of Slater-like shells, one for each kind of valence
electron of ``data/elements.csv``, r^2n exp(-2 a r) with exponents that grow
along a period and fall from one to the next; its potential is that of the
valence charge smeared over a core, -2 Z erf(r / c) / r.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import erf, gammaln

from nestedae_utils.data.files import DATA
from nestedae_utils.data.tables import Source
from nestedae_utils.errors import DataError, nearest

STANDARD = "pseudodojo_pbe_sr_v0_4_1_standard"
LANTHANIDES = "pseudodojo_pbe_sr_nocc_lanthanides"
REACH, POINTS = 6.0, 512
GRID = np.linspace(0, REACH, POINTS)
"""The common radii (bohr); 6 leaves every mesh some room for stretching."""
CURVES = ("charge", "potential")
_SPAN = re.compile(r"<PP_(R|LOCAL|RHOATOM)\b[^>]*>(.*?)</PP_\1>", re.DOTALL)


@cache
def elements() -> pd.DataFrame:
    """Return the properties of the 85 elements, (85, 17), by symbol.

    From mendeleev 1.3.0 (MIT), whose sources are: radius Slater 1964, covalent
    radius Pyykkö 2009, weights IUPAC 2016, polarizability Schwerdtfeger 2023,
    affinities, temperatures and densities CRC Handbook, ionisation energies
    NIST.  The lanthanides share group 3; they are told apart by fifteenths.
    """
    path = DATA / "elements.csv"
    # the text NA would be a missing value
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    return table.set_index("element")


def properties(names: Sequence[str], *columns: str) -> NDArray:
    """Return elements' properties (n, columns), all where none is named.

    No bound anion has the affinity 0; what else is unknown is the median of
    all elements.  DataError if an element has no code.
    """
    table = elements()
    filled = table.fillna({"electron_affinity_ev": 0.0}).fillna(table.median())
    return filled.loc[known(names), list(columns) or table.columns].to_numpy(float)


def known(names: Sequence[str]) -> list[str]:
    """Return names of elements; DataError if one has no pseudopotential."""
    for name in names:
        if name not in elements().index:
            raise DataError(
                f"element {name!r}: no code, an element from H to Rn but At is "
                f"allowed, by its symbol.{nearest(name, elements().index)}"
            )
    return list(names)


def key(element: str) -> str:
    """Return the key of an element's file in ``data/registry.json``."""
    if 58 <= elements().loc[element, "z"] <= 70:
        return f"{LANTHANIDES}/{element}-sp.upf"
    return f"{STANDARD}/{element}.upf"


def sources() -> dict[str, Source]:
    """Return for every element its file, reader and twin; see `tables.obtain`."""
    return {
        name: (key(name), partial(read, element=name), partial(generate, name))
        for name in elements().index
    }


def read(path: str | Path, element: str) -> pd.DataFrame:
    """Return radius, charge and potential on a file's own mesh, (points, 3).

    DataError if it is no UPF file, is cut short, belongs to another element,
    its mesh is not from zero up beyond 6 bohr, a value is not finite, or the
    charge does not add up to the valence.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    header = dict(re.findall(r'(\w+)="\s*([^"]*?)\s*"', text))
    blocks = dict(_SPAN.findall(text))

    def fault(words: str) -> DataError:
        return DataError(f"{path}: {words}; take the published file.")

    if "<UPF" not in text[:200]:
        raise fault("not a UPF file")
    if "</UPF>" not in text or len(blocks) < 3:
        raise fault("truncated: a block or the end is missing")
    if header.get("element") != element:
        found = header.get("element")
        raise fault(f"of the element {found!r}, {element!r} is expected")
    try:
        points, valence = int(header["mesh_size"]), float(header["z_valence"])
        r, local, rho = (
            np.array(blocks[name].split(), float) for name in ("R", "LOCAL", "RHOATOM")
        )
    except (KeyError, ValueError) as error:
        raise fault(f"a number cannot be read ({error})") from None
    sizes = {len(r), len(local), len(rho), points}
    if len(sizes) > 1 or r[0] != 0 or (np.diff(r) <= 0).any() or r[-1] <= REACH:
        raise fault(f"its mesh has {sizes} points, from 0 up beyond {REACH:g} expected")
    if not np.isfinite([local, rho]).all():
        raise fault("a value is not finite")
    if abs(np.trapezoid(rho, r) - valence) > 0.01 * valence:
        raise fault(f"the charge does not add up to its valence {valence:g}")
    return pd.DataFrame({"radius": r, "charge": rho, "potential": local})


def generate(element: str) -> pd.DataFrame:
    """Return the twin of an element's curves, (801, 3)."""
    row = elements().loc[element]
    r = np.linspace(0, 8, 801)
    charge = np.zeros_like(r)
    for kind, shell in zip("spdf", (0, 0, -1, -2), strict=True):
        n, count = row["period"] + shell, row[f"{kind}_electrons"]
        if not count:
            continue
        tightness = (0.6 + 0.06 * row["group"]) * (1 + 0.5 * -shell) * 2 / n**0.5
        power = 2 * n
        norm = (power + 1) * np.log(2 * tightness) - gammaln(power + 1)
        with np.errstate(divide="ignore"):
            charge += count * np.exp(norm + power * np.log(r) - 2 * tightness * r)
    valence = row[[f"{kind}_electrons" for kind in "spdf"]].sum()
    core = 0.3 + 0.12 * row["period"] - 0.01 * row["group"]
    at_zero = 2 / np.sqrt(np.pi) / core
    smeared = np.divide(erf(r / core), r, out=np.full_like(r, at_zero), where=r > 0)
    columns = {"radius": r, "charge": charge, "potential": -2 * valence * smeared}
    # rounded: a machine's last bits must not show in a checksum
    return pd.DataFrame(columns).round(6)


def curves(frames: Mapping[str, pd.DataFrame], stretch: float = 1.0) -> NDArray:
    """Return both curves on the common grid, raw, (elements, 2, 512)."""
    return np.stack(
        [
            [np.interp(GRID * stretch, one["radius"], one[name]) for name in CURVES]
            for one in frames.values()
        ]
    )


def beyond(frame: pd.DataFrame) -> float:
    """Return the charge (electrons) that lies outside of the grid."""
    far = frame[frame["radius"] >= REACH]
    return float(np.trapezoid(far["charge"], far["radius"]))


def units(raw: NDArray, scaling: str) -> NDArray:
    """Return what curves are divided by, (1 or elements, 2, 1).

    By the ``"table"``: the largest size of all elements' charges, or
    potentials; by its ``"own"``: of each curve by itself.
    """
    sizes = np.abs(raw).max(2, keepdims=True)
    return sizes.max(0, keepdims=True) if scaling == "table" else sizes


def bank(
    frames: Mapping[str, pd.DataFrame],
    copies: int,
    scaling: str = "table",
    stretch: float = 0.02,
    noise: float = 0.005,
    seed: int = 0,
) -> NDArray:
    """Return curves to learn from, (elements * (1 + copies), 1024).

    First the elements as they are, then copies whose radii are stretched by
    up to ``stretch`` and that have some ``noise`` (in units of the scaling).
    """
    random, raw = np.random.default_rng(seed), curves(frames)
    unit = units(raw, scaling)
    rows = [raw / unit]
    for factor in 1 + stretch * random.uniform(-1, 1, copies):
        rows.append(curves(frames, factor) / unit)
        rows[-1] = rows[-1] + noise * random.standard_normal(raw.shape)
    return np.concatenate(rows).reshape(-1, 2 * POINTS)
