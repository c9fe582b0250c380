"""The elements' scale below the ions: curves, gap, efficiency as one chain.

A site of an alloy is the mean of its ions' curves, by their fractions (a
virtual crystal), read by the elements' encoder, one copy for each site.  An
organic ion is a pseudo-atom: its atoms' curves, each at the atom's distance
from the ion's centre and averaged over the sphere, added up; densities and
local potentials superpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nestedae_utils.data.perovskites import IONS, SITES
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.fitted import Fitted
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study import protocol

BOHR = 0.529177
MOLECULES = {
    "MA": {"C": [0.74], "N": [0.74], "H": [1.51] * 3 + [1.45] * 3},
    "FA": {"C": [0.40], "N": [1.18] * 2, "H": [1.49] + [2.0] * 4},
}
"""Atoms' distances (angstrom) from the middle of their ion's heavy atoms, about,
of C-N 1.48 and 1.31, C-H 1.09, N-H 1.03 angstrom and the usual angles."""
RADII = {"K": 1.51, "Rb": 1.61, "Cs": 1.74, "MA": 2.17, "FA": 2.53}
"""Ionic radii (angstrom) of ``data/ions.csv``."""
LATENT = 12


def pseudo_atom(frames: Mapping[str, pd.DataFrame], ion: str, grid: NDArray) -> NDArray:
    """Return an organic ion's charge and potential on a grid, (2, points)."""
    cosines, shares = np.polynomial.legendre.leggauss(48)
    total = np.zeros((2, len(grid)))
    for element, places in MOLECULES[ion].items():
        one = frames[element]
        r, charge, local = (one[name].to_numpy() for name in one)
        density = np.interp(r, r[1:], charge[1:] / r[1:] ** 2)
        for place in np.array(places) / BOHR:
            square = grid[:, None] ** 2 + place**2 - 2 * place * np.outer(grid, cosines)
            apart = np.sqrt(np.maximum(square, 0))
            inside = np.interp(apart, r, density, right=0.0)
            # beyond its mesh a potential is that of a charge
            far = local[-1] * r[-1] / np.maximum(apart, r[-1])
            felt = np.where(apart > r[-1], far, np.interp(apart, r, local))
            total[0] += grid**2 * (inside @ shares) / 2
            total[1] += felt @ shares / 2
    return total


def ion_curves(
    frames: Mapping[str, pd.DataFrame], clean: NDArray, unit: NDArray, grid: NDArray
) -> NDArray:
    """Return the 14 ions' curves, scaled, (14, 1024); ``clean`` are the elements'."""
    names = list(frames)
    rows = [
        clean[names.index(ion)]
        if ion not in MOLECULES
        else (pseudo_atom(frames, ion, grid) / unit[0]).ravel()
        for ion in IONS
    ]
    return np.stack(rows)


def by_period(positions: Mapping[str, tuple[float, float]]) -> NDArray:
    """Return period and group of the 14 ions, (14, 2).

    An organic ion is of group 1, in the period that its radius has on the line
    through K, Rb and Cs.
    """
    radii = [RADII[ion] for ion in ("K", "Rb", "Cs")]
    slope, start = np.polyfit(radii, [4, 5, 6], 1)
    organic = {ion: (slope * RADII[ion] + start, 1.0) for ion in MOLECULES}
    return np.array([(organic | dict(positions))[ion] for ion in IONS])


def mixed(fractions: NDArray, values: NDArray) -> dict[str, NDArray]:
    """Return each site's mean of its ions' values (14, d), by site, (n, d)."""
    start, found = 0, {}
    for site, ions in SITES.items():
        own = slice(start, start := start + len(ions))
        found[site] = fractions[:, own] @ values[own]
    return found


def on_sites(elements: Fitted) -> NestedAutoencoder:
    """Return a chain of three copies of the elements' scale, one a site.

    Each reads its own block, ``curves A`` and so on, by the same weights.
    """
    scale, chain = elements.scale, []
    for site in SITES:
        name = f"curves {site}"
        block = scale.inputs[0].with_(name=name)
        head = scale.heads[0].with_(name=name)
        copy = scale.with_(name=f"element {site}", inputs=(block,), heads=(head,))
        renamed = {
            key.replace("head curves", f"head {name}"): value
            for key, value in elements.parameters.items()
        }
        chain.append(Fitted(copy, elements.replicas, renamed, {}))
    nested = NestedAutoencoder(one.scale for one in chain)
    for one in chain:
        nested.attach(one)
    return nested


def seen(variant: str, width: int, code: int) -> tuple[Block, ...]:
    """Return what the gap's scale sees of the composition.

    ``"codes"`` the latents of the elements on each site, ``"codes, properties"``
    the 15 ion properties beside them, else one block of so many columns.
    """
    codes = tuple(Block(f"code {s}", code, latents_of=f"element {s}") for s in SITES)
    if not variant.startswith("codes"):
        return (Block(variant, width),)
    return (*codes, Block("properties", 15)) if "," in variant else codes


def declare(name: str, blocks: Sequence[Block], target: str) -> Scale:
    """Declare a scale that sees blocks, rebuilds them and predicts a target."""
    heads = [Head(target, 1, hidden=(50,), scaling="standard")]
    for block in blocks:
        kind = "cross_entropy" if block.name in ("etl", "htl") else "mae"
        heads.append(Head(block.name, block.width, loss=kind))
    return Scale(name, tuple(blocks), LATENT, tuple(heads))


def folds(
    gaps: NDArray, devices: NDArray, count: int, least: int = 20
) -> dict[str, list[tuple[Split, Split]]]:
    """Return the folds of both tables, of fractions (n, 14), in three ways.

    By row; by composition, one composition in one fold of both; by ion, each
    that at least ``least`` devices have and at most half of them: all rows
    that hold it, in both tables.
    """
    rows = zip(
        *(protocol.row_folds(len(own), count) for own in (gaps, devices)), strict=True
    )
    both, cut = np.concatenate([gaps, devices]), len(gaps)
    shared = [
        ((seen[seen < cut], held[held < cut]),
         (seen[seen >= cut] - cut, held[held >= cut] - cut))
        for seen, held in protocol.group_folds(protocol.same(both), count)
    ]  # fmt: skip
    ions = []
    for ion in range(len(IONS)):
        has = [own[:, ion] > 0 for own in (gaps, devices)]
        if least <= has[1].sum() <= len(devices) / 2 and has[0].any():
            ions.append(tuple((np.flatnonzero(~h), np.flatnonzero(h)) for h in has))
    return {"rows": list(rows), "compositions": shared, "elements": ions}


def chained(
    variant: str,
    tables: tuple[Mapping[str, NDArray], Mapping[str, NDArray]],
    pairs: Sequence[tuple[Split, Split]],
    elements: Fitted,
    seed: int,
    *,
    epochs: tuple[int, int],
    **settings: Any,
) -> dict[str, NDArray]:
    """Fit gap and device scales on each fold; return held-out errors, (folds,).

    A fold's gap scale has seen none of what the fold holds out, and is the one
    below its device scale.  ``elements`` has one replica, which serves all.
    """
    gaps, devices = tables
    of_gaps, of_devices = (
        Replicas.cross(own, 1, first=seed) for own in zip(*pairs, strict=True)
    )
    width = gaps[variant].shape[1] if variant in gaps else 0
    blocks = seen(variant, width, elements.scale.latent)
    below = on_sites(elements) if variant.startswith("codes") else None
    lower = [one.scale for one in below.fitted.values()] if below else []
    layers = [Block("etl", 7, "none"), Block("htl", 4, "none")]
    latents = Block("latents", LATENT, latents_of="band_gap")
    first = declare("band_gap", blocks, "gap")
    chain = NestedAutoencoder(
        [*lower, first, declare("device", [latents, *layers], "pce")]
    )
    for one in below.fitted.values() if below else ():
        chain.attach(one)
    settings |= {"standardise_on": "train"}
    chain.fit_scale("band_gap", gaps, of_gaps, epochs=epochs[0], **settings)
    chain.fit_scale("device", devices, of_devices, epochs=epochs[1], **settings)
    found = {}
    for name, target, table, some in (
        ("band_gap", "gap", gaps, of_gaps),
        ("device", "pce", devices, of_devices),
    ):
        away = np.abs(chain.predict(table, name)[target] - table[target])[..., 0]
        held = [
            row[split[1]].mean() for row, split in zip(away, some.splits, strict=True)
        ]
        found[target] = np.array(held)
    return found
