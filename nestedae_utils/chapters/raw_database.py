"""From The Perovskite Database to the paper's device table, step by step.

The raw database (doi:10.1038/s41560-021-00941-3) has 410 columns.  Those that
a step reads or that the published table keeps are read, as texts; what the
authors' table adds to them, `described` computes.  `steps` are the filter:
their names, reasons and published counts stand in ``data/funnel.csv``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nestedae_utils.data import perovskites
from nestedae_utils.data.files import DATA
from nestedae_utils.data.perovskites import PROPERTIES

RAW = "perovskite_database/Perovskite_database_content_all_data.csv"
SITE_IONS = {
    site: f"Perovskite_composition_{letter}_ions"
    for site, letter in {"A": "a", "B": "b", "X": "c"}.items()
}
LETTERS = {"A": ("a", 4, 3, 1.0), "B": ("b", 2, 2, 1.0), "X": ("c", 2, 2, 3.0)}
"""A site's letter, how many ions the table has, adds up, and the sum due."""
CONTACTS = {"etl": "ETL_stack_sequence", "htl": "HTL_stack_sequence"}
SUBSTRATE, PCE = "Substrate_stack_sequence", "JV_reverse_scan_PCE"
PAPER = ("Ref_DOI_number", "Ref_name_of_person_entering_the_data")
NAMES = dict(zip(PROPERTIES, ("ion_radius", "atom_wt", "EA", "IE", "EN"), strict=True))
MIXED = [f"{s}_{NAMES[of]}" for s in "ABC" for of in PROPERTIES]
"""The 15 features, as the published table names them."""
FILM = {
    **dict.fromkeys(("dimension_3D", "composition_perovskite_ABC3_structure"), True),
    **dict.fromkeys(("single_crystal", "dimension_0D", "dimension_2D"), False),
    "dimension_2D3D_mixture": False,
    "dimension_3D_with_2D_capping_layer": False,
    "composition_perovskite_inspired_structure": False,
}
"""What must be true of the film, and what must not."""

Rule = Callable[[pd.DataFrame], pd.Series]


class Step(NamedTuple):
    """A step: the columns that it reads, and which rows of a table it keeps."""

    columns: tuple[str, ...]
    keep: Rule


def number(column: pd.Series) -> pd.Series:
    """Return a column of texts as numbers, NaN for what is none."""
    return pd.to_numeric(column, errors="coerce")


def says(column: pd.Series, what: bool) -> pd.Series:
    """Tell where a text says true, or false; one that is missing says neither."""
    words = ("true", "1", "1.0") if what else ("false", "0", "0.0")
    return column.str.lower().isin(words)


# --- steps ---------------------------------------------------------------


def is_true(column: str, what: bool = True) -> Step:
    """Keep rows that say true, or false, in a column."""
    return Step((column,), lambda frame: says(frame[column], what))


def among(column: str, *allowed: str) -> Step:
    """Keep rows with one of these texts."""
    return Step((column,), lambda frame: frame[column].isin(allowed))


def equals(column: str, value: float, missing: bool = False) -> Step:
    """Keep rows with this number, and those with nothing if it may be missing."""
    return Step(
        (column,),
        lambda f: (number(f[column]) == value) | (missing & (f[column] == "")),
    )


def of_ions(site: str, allowed: Callable[[frozenset[str]], bool]) -> Step:
    """Keep rows whose ions on a site are allowed."""
    column = SITE_IONS[site]

    def keep(frame: pd.DataFrame) -> pd.Series:
        ions = frame[column].map(lambda t: frozenset(map(str.strip, t.split(";"))))
        return ions.map(allowed).astype(bool) & (frame[column] != "")

    return Step((column,), keep)


def adds_up(site: str) -> Step:
    """Keep rows whose first coefficients on a site have exactly the sum due."""
    letter, _, added, total = LETTERS[site]
    names = [f"{letter}_{place + 1}_coeff" for place in range(added)]
    column = f"{SITE_IONS[site]}_coefficients"
    return Step((column,), lambda frame: sum(frame[name] for name in names) == total)


def frequent(column: str, least: int) -> Step:
    """Keep rows whose text stands in at least so many rows of the table."""
    return Step(
        (column,),
        lambda frame: frame.groupby(column)[column].transform("size") >= least,
    )


def film(frame: pd.DataFrame) -> pd.Series:
    """Keep single films of three-dimensional perovskites, and no modules."""
    kept = (number(frame[_LAYERS]) == 3) & says(frame["Module"], False)
    for name, what in FILM.items():
        kept &= says(frame[f"Perovskite_{name}"], what)
    return kept


def unrepeated(frame: pd.DataFrame) -> pd.Series:
    """Keep the first of rows with equal features, substrate, contacts and PCE."""
    key = frame[MIXED].astype("float32").join(frame[[SUBSTRATE, *CONTACTS.values()]])
    return ~key.assign(pce=number(frame[PCE])).duplicated()


_LAYERS = "Perovskite_dimension_list_of_layers"
_MADE = "Perovskite_deposition_"
_LEAD = {frozenset(("Ba", "Pb")), frozenset(("Pb", "Sr"))}
_NO_HALIDE = {"O", "SCN", "F", "BF4", "S", "x"}


def steps(least: int = 100) -> dict[str, Step]:
    """Return the filter, its steps by the names of ``data/funnel.csv``, in order.

    A contact layer is kept if at least so many rows have it.
    """
    alike = (*SITE_IONS.values(), SUBSTRATE, *CONTACTS.values(), PCE)
    given = Step((PCE,), lambda frame: number(frame[PCE]).notna())
    film_columns = (*(f"Perovskite_{name}" for name in FILM), _LAYERS, "Module")
    air, light = "JV_test_atmosphere", "JV_light_"
    rules = [
        Step(film_columns, film),
        equals("JV_average_over_n_number_of_cells", 1),
        among(air, "Air", "N2", "Ambient", "Dry air"),
        equals("JV_test_temperature", 25, missing=True),
        equals(f"{light}intensity", 100),
        among(f"{light}spectra", "AM 1.5"),
        is_true(f"{light}masked_cell", False),
        given,
        of_ions("A", {"MA", "FA", "Cs", "Rb", "K"}.issuperset),
        adds_up("A"),
        of_ions("B", lambda ions: ions <= {"Sn", "Pb", "Ge"} or ions in _LEAD),
        adds_up("B"),
        of_ions("X", _NO_HALIDE.isdisjoint),
        adds_up("X"),
        equals(f"{_MADE}number_of_deposition_steps", 1),
        among(f"{_MADE}procedure", "Spin-coating"),
        is_true(f"{_MADE}quenching_induced_crystallisation"),
        Step(alike, unrepeated),
        frequent(CONTACTS["etl"], least),
        frequent(CONTACTS["htl"], least),
    ]
    return dict(zip(funnel()["step"][1:], rules, strict=True))


def funnel() -> pd.DataFrame:
    """Return each step's name, the rows left as published, and the reason."""
    return pd.read_csv(DATA / "funnel.csv")


def filtered(
    frame: pd.DataFrame, rules: Mapping[str, Step]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Filter a described table; return what is left, and a row for each step.

    ``dropped`` and ``left`` are in sequence, ``alone`` how many of all rows the
    step drops without the others, ``of these empty`` how many of those have no
    text in any column that it reads.
    """
    left, rows = frame, []
    for name, step in rules.items():
        keep, alone = step.keep(left), ~step.keep(frame)
        empty = (frame.loc[alone, list(step.columns)] == "").all(axis=1)
        before, left = len(left), left[keep]
        row = {"step": name, "dropped": before - len(left), "left": len(left)}
        row |= {"alone": int(alone.sum()), "of these empty": int(empty.sum())}
        rows.append(row)
    return left, pd.DataFrame(rows)


# --- tables --------------------------------------------------------------

OTHERS = (
    *("Perovskite_composition_long_form", "Perovskite_band_gap"),
    *("Perovskite_band_gap_graded", "Perovskite_band_gap_estimation_basis"),
    *("JV_scan_speed", "JV_reverse_scan_Voc", "JV_reverse_scan_Jsc"),
    "JV_reverse_scan_FF",
)
"""What no step reads, and the published table keeps."""


def read(path: Path, module: str = "") -> pd.DataFrame:
    """Return the columns of use of a release, as texts, and `described`.

    ``module`` is the text of the column Module where the file lacks it.
    """
    wanted = {*OTHERS, *PAPER}.union(*(step.columns for step in steps().values()))
    frame = pd.read_csv(
        path,
        usecols=wanted.__contains__,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
    )
    return described(frame.assign(**{"Module": module} if module else {}))


def parts(column: pd.Series, most: int) -> pd.DataFrame:
    """Split texts ``a; b`` into columns (n, most), empty where there is no more."""
    split = column.str.split(";", expand=True).fillna("")
    split = split.reindex(columns=range(most), fill_value="")
    return split.apply(lambda one: one.str.strip())


def described(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a raw table with the columns that the authors' table adds to it.

    A property is NaN where ``data/ions.csv`` has none of an ion.
    """
    values, more = perovskites.ions(), {}
    for site, (letter, most, _, total) in LETTERS.items():
        ions, texts = (
            parts(frame[SITE_IONS[site] + ending], most)
            for ending in ("", "_coefficients")
        )
        shares = texts.apply(number).where(texts != "", 0.0)
        for place in range(most):
            more[f"{letter}_{place + 1}"] = ions[place].where(ions[place] != "", "na")
            more[f"{letter}_{place + 1}_coeff"] = shares[place]
        for of in PROPERTIES:
            known = ions.apply(lambda one, of=of: one.map(values[of]))
            mixed = (known.where(ions != "", 0.0) * shares).sum(axis=1, skipna=False)
            more[f"{letter.upper()}_{NAMES[of]}"] = mixed / total
    a, b, x = (more[f"{letter}_ion_radius"] for letter in "ABC")
    more["Tolerance Factor"] = (a + x) / (np.sqrt(2) * (b + x))
    more["Octahedral Factor"] = b / x
    in_nitrogen = frame["JV_test_atmosphere"] == "N2"
    more["Air or N2"] = in_nitrogen.map({True: "N2", False: "Air"})
    return pd.concat([frame, pd.DataFrame(more)], axis=1)
