"""Real tables as declarations: what a user would write for them.

Each case is two: the nested model, and a single one whose columns are those
of the scales below.  They differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestedae_utils.data.fidelities import Fidelities
from nestedae_utils.data.perovskites import FEATURES, IONS
from nestedae_utils.data.solvents import Solvents
from nestedae_utils.data.tables import Tables

Pair = tuple[pd.DataFrame, pd.DataFrame]
COLUMNS = list(FEATURES)
GAP = {"gap": {"column": "gap", "hidden": [25]}}
SOLVENT_COLUMNS = [
    *("A_IONRAD", "A_MASS", "A_DPM", "B_IONRAD", "B_MASS", "B_EA", "B_IE", "B_En"),
    *("B_AN", "X_IONRAD", "X_MASS", "X_EA", "X_IE", "X_En", "X_AN"),
]


def write(
    folder: Path, tables: Tables, three: Fidelities, pair: Solvents, cells: Pair
) -> dict[str, list[dict[str, Any]]]:
    """Write the tables of all cases; return each case's scales, as YAML would.

    Compositions are one group where they agree to two decimals. ``cells`` are
    two tables, of energies and of distances from the hull.
    """
    frames = {
        "band_gaps": tables.band_gaps,
        "devices": tables.devices,
        **three.gaps,
        "gaps": pair.gaps,
        "binding": pair.binding,
    }
    for name, frame in zip(("energies", "hull"), cells, strict=True):
        frame.to_csv(folder / f"{name}.csv", index=False)
    for name, frame in frames.items():
        known = [ion for ion in IONS if ion in frame]
        rounded = frame[known].astype(float).round(2).add_prefix("group_")
        frame.join(rounded).to_csv(folder / f"{name}.csv", index=False)
    by = [f"group_{ion}" for ion in IONS]
    top = {
        "devices": _scale("devices", "pce", "band_gap", by)
        | {"categories": {"etl": "etl", "htl": "htl"}},
        "binding": _scale("binding", "Target", "gap", ["Cation", "Cl", "Br", "I"])
        | {"categories": {"solvent": "SOLVENT"}},
        "measured": _scale("experiment", "gap", "HSE", by),
        "hull": _scale("hull", "hull", "energy", ["formula"]),
    }
    described = [name for name in cells[1] if name not in ("formula", "hull")]
    energy = _fine("energy", "energies", described)
    energy["predict"] = {"energy": {"column": "energy", "hidden": [25]}}
    pbe = _fine("PBE", "PBE", COLUMNS)
    hse = _scale("HSE", "gap", "PBE", by) | {"name": "HSE"}
    solvent_gap = _fine("gap", "gaps", SOLVENT_COLUMNS)
    solvent_gap["predict"] = {"gap": {"column": "Gap", "hidden": [25]}}
    return {
        "gaps to devices": [_fine("band_gap", "band_gaps", COLUMNS), top["devices"]],
        "gaps to binding energies": [solvent_gap, top["binding"]],
        "PBE to HSE to measured": [pbe, hse, top["measured"]],
        "cells to hull distance": [energy, top["hull"]],
    }


def _fine(name: str, table: str, columns: list[str]) -> dict[str, Any]:
    inputs = {"ions": list(columns)}
    return {"name": name, "table": f"{table}.csv", "inputs": inputs,
            "latent": 6, "predict": GAP}  # fmt: skip


def _scale(table: str, target: str, below: str, group: list[str]) -> dict[str, Any]:
    return {
        "name": "top",
        "table": f"{table}.csv",
        "inputs": {"below": {"latents_of": below}},
        "latent": 6,
        "predict": {"target": {"column": target, "hidden": [25]}},
        "group": group,
    }


def declared(
    scales: list[dict[str, Any]], training: Mapping[str, Any], folds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the nested declaration and the single one."""
    first, last = scales[0], scales[-1]
    alone = {**last, "inputs": {"below": first["inputs"]["ions"]}}
    rest = {"training": dict(training), "validation": {"folds": folds}}
    both = ({"version": 1, "scales": s, **rest} for s in (scales, [alone]))
    nested, single = both
    return nested, single


def misses(held_out: pd.DataFrame) -> np.ndarray:
    """Return the top scale's absolute errors by row, in deviations of the target."""
    top = held_out[held_out["scale"] == "top"].sort_values("row")
    away = (top["predicted"] - top["observed"]).abs()
    return (away / top["observed"].std(ddof=0)).to_numpy()


def groups(folder: Path, scale: Mapping[str, Any]) -> np.ndarray:
    """Return the group of each row of a scale's table, (n,)."""
    frame = pd.read_csv(folder / scale["table"])
    return frame.groupby(scale["group"]).ngroup().to_numpy()
