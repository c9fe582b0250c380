"""Two tables that test descriptors of elements, and the models on them.

Perovskite oxides ABO3 of OQMD (doi:10.1038/sdata.2017.153): formation energy
(eV/atom), PBE gap (eV), volume (A^3/atom).  Double perovskites Cs2BB'X6
(doi:10.1021/acs.jpclett.7b02203): all pairs of 49 metals with a halide, and
the PBE gap where the pair is listed as a perovskite with one.  A descriptor is
an array (elements, width); a row's are those of its sites side by side.

The twin's energy and gap follow a law of ours on period and group: an oxide
is stable where A and B differ in group, its gap large where B has no d
electrons; a pair of metals is listed where their groups add up to a rule.
"""

from __future__ import annotations

import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit, ShuffleSplit

from nestedae_utils.data import perovskites, tables
from nestedae_utils.errors import DataError
from nestedae_utils.model.replicas import Split

PAIRS = "nakajima_sawada_2017/data.xlsx"
METALS = (
    "Be B C N Mg Al Si P Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Sr Y Zr Nb Mo Tc "
    "Ru Rh Pd Ag Cd In Sn Sb Ba Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi"
).split()
"""What stands on the B sites, by atomic number: the list sorts a pair so."""
HALIDES = ("Cl", "Br", "I")
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_pairs(path: str | Path) -> pd.DataFrame:
    """Return all pairs with their gaps (eV), NaN where not listed, (3528, 4).

    The file is an Excel workbook of formulas Cs4B2B'2X12 and gaps; the single
    perovskites in it are left out.  DataError if it cannot be read so.
    """
    try:
        with zipfile.ZipFile(path) as book:
            shared = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
            sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
        words = ["".join(one.itertext()) for one in shared]
        rows = []
        for row in sheet.iter(f"{_SHEET}row"):
            cells = list(row)[:3]
            values = [cell.findtext(f"{_SHEET}v") or "" for cell in cells]
            text = [cell.get("t") == "s" for cell in cells]
            rows.append(
                [words[int(v)] if t else v for v, t in zip(values, text, strict=True)]
            )
        gaps = {formula: float(indirect) for formula, _, indirect in rows[1:]}
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile,
            ElementTree.ParseError) as error:  # fmt: skip
        fault = f"not the workbook of double perovskites ({type(error).__name__})"
        raise DataError(f"{path}: {fault}; take the published file.") from None
    frame = every_pair()
    known = {}
    for formula, gap in gaps.items():
        if found := re.fullmatch(r"Cs4([A-Z][a-z]?)2([A-Z][a-z]?)2([A-Z][a-z]?)12",
                                 formula):  # fmt: skip
            known[found.groups()] = gap
    keys = list(zip(frame["B1"], frame["B2"], frame["X"], strict=True))
    if unknown := set(known) - set(keys):
        raise DataError(f"{path}: {unknown.pop()} is no pair of the 49 metals.")
    return frame.assign(gap=[known.get(one, np.nan) for one in keys])


def every_pair() -> pd.DataFrame:
    """Return all pairs of metals with every halide, (3528, 3)."""
    pairs = itertools.combinations(METALS, 2)
    rows = [(*pair, x) for pair, x in itertools.product(pairs, HALIDES)]
    return pd.DataFrame(rows, columns=["B1", "B2", "X"])


def generate_oxides(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the twin of the oxides, (1500, 6), of elements' properties."""
    random, names = np.random.default_rng(seed), list(table.index)
    drawn = random.permutation(len(names) ** 2)[:1500]
    a, b = np.divmod(drawn, len(names))
    group, period = table["group"].to_numpy(), table["period"].to_numpy()
    energy = -1.5 - 0.1 * np.abs(group[a] - group[b]) + 0.15 * period[b]
    gap = 3 - 0.5 * np.abs(group[b] - 4) + 0.2 * period[a]
    noise = random.standard_normal((3, 1500))
    columns = {"A": np.array(names)[a], "B": np.array(names)[b]}
    columns["energy"] = (energy + 0.1 * noise[0]).round(3)
    columns["gap"] = np.maximum(gap + 0.2 * noise[1], 0).round(3)
    columns["volume"] = (8 + period[a] + period[b] + 0.3 * noise[2]).round(3)
    columns["above_hull"] = np.abs(energy + 2).round(3)
    return pd.DataFrame(columns)


def generate_pairs(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the twin of the double perovskites, (3528, 4)."""
    random, frame = np.random.default_rng(seed), every_pair()
    group = [table["group"].reindex(frame[site]).to_numpy() for site in ("B1", "B2")]
    period = table["period"].reindex(frame["X"]).to_numpy()
    away = np.abs(group[0] + group[1] - 14) + random.exponential(0.5, len(frame))
    gap = 6 - 0.7 * period + 0.05 * np.abs(group[0] - group[1])
    gap = gap + 0.2 * random.standard_normal(len(frame))
    return frame.assign(gap=np.where(away < 1.2, np.maximum(gap, 0.1), np.nan).round(3))


def sources(table: pd.DataFrame) -> dict[str, tables.Source]:
    """Return both tables for `tables.obtain`; the twin's are of elements (85, k)."""
    oxides = partial(tables.read, schema=perovskites.schema("oxides"))
    return {
        "oxides": (
            "wolverton_oxides/wolverton_oxides.csv",
            oxides,
            partial(generate_oxides, table),
        ),
        "pairs": (PAIRS, read_pairs, partial(generate_pairs, table)),
    }


# --- descriptors -------------------------------------------------------------


def beside(
    descriptor: NDArray, index: Mapping[str, int], frame: pd.DataFrame, *sites: str
) -> NDArray:
    """Return the rows' descriptors, site by site, (..., n, sites * width)."""
    places = [frame[site].map(index).to_numpy() for site in sites]
    return np.concatenate([descriptor[..., own, :] for own in places], -1)


def splits(
    rows: int, draws: int, groups: NDArray | None = None, share: float = 0.2
) -> list[Split]:
    """Return random splits, 80:20; with groups (n,), whole groups are held out."""
    kind = ShuffleSplit if groups is None else GroupShuffleSplit
    drawn = kind(draws, test_size=share, random_state=0)
    return list(drawn.split(np.zeros(rows), groups=groups))


MODELS: dict[str, BaseEstimator] = {
    "mean": DummyRegressor(),
    "ridge": RidgeCV(np.logspace(-2, 3, 11)),
    "boosting": GradientBoostingRegressor(random_state=0),
    "classifier": GradientBoostingClassifier(random_state=0),
    "tuned": GridSearchCV(
        GradientBoostingRegressor(subsample=0.5, max_features="sqrt", random_state=0),
        {
            "n_estimators": (40, 80, 120),
            "max_depth": (3, 6),
            "learning_rate": (0.1, 0.2),
        },
        cv=ShuffleSplit(1, test_size=0.2, random_state=0),
        scoring="neg_mean_absolute_error",
    ),
}
"""What learns from descriptors: boosting as scikit-learn has it, 100 trees of
depth 3, and one that a fifth of a split's training rows chooses."""


def absolute(
    found: Sequence[NDArray], target: NDArray, some: Sequence[Split]
) -> NDArray:
    """Return the mean absolute error of each split's held-out rows, (splits,)."""
    pairs = zip(found, some, strict=True)
    return np.array([np.abs(own - target[held]).mean() for own, (_, held) in pairs])


def areas(found: Sequence[NDArray], target: NDArray, some: Sequence[Split]) -> NDArray:
    """Return the area under the ROC curve of each split, (splits,)."""
    pairs = zip(found, some, strict=True)
    return np.array([roc_auc_score(target[held], own) for own, (_, held) in pairs])
