"""The one CSV reader and validator, and the tables of one source."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from nestedae_utils.data import perovskites, twin
from nestedae_utils.data.files import checksums, fetch
from nestedae_utils.errors import DataError, DataUnavailable, nearest

SOURCES = ("auto", "paper", "twin")
_AS_TEXTS = {"header": None, "dtype": str, "keep_default_na": False}
_NOTHING = ("", "NaN", "nan", "NA", "N/A", "null", "None")


def read_text(path: str | Path) -> pd.DataFrame:
    """Return a CSV table as texts, exactly as they stand in the file.

    A `DataError` tells if there is no file, it is no table, or has no rows.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError
        frame = pd.read_csv(
            path, encoding="utf-8-sig", compression=None, **_AS_TEXTS
        ).fillna("")
    except FileNotFoundError:
        fault = "no such file; the path of a CSV table is allowed"
    except pd.errors.EmptyDataError:
        fault = "the file is empty; a header and rows are needed"
    except ValueError as error:
        reason = " ".join(str(error).split())
        fault = f"not a CSV table ({reason}); separate fields by commas, and "
        fault += "save it as UTF-8"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    else:
        if len(frame) > 1:
            rows = frame.iloc[1:].reset_index(drop=True)
            return rows.set_axis(frame.iloc[0].tolist(), axis=1)
        fault = "the table has a header, but no rows"
    raise DataError(f"{path}: {fault}.")


def read(path: str | Path, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Return the columns that have a title in a schema, by their names.

    They are converted and checked. A `DataError` tells of the first column
    that is missing or stands twice, or of the first value not allowed.
    """
    texts = read_text(path)
    titles = {n: c.title for n, c in schema.columns.items() if c.title}
    schema = schema.remove_columns([n for n in schema.columns if n not in titles])
    for title in titles.values():
        if (count := texts.columns.tolist().count(title)) != 1:
            state = "stands twice." if count else "is missing."
            hint = "" if count else nearest(title, texts.columns)
            raise DataError(f"{path}: column {title!r} {state}{hint}")
    texts = texts[list(titles.values())].set_axis(list(titles), axis=1)
    texts = texts.apply(lambda column: column.str.strip())
    texts = texts.mask(texts.isin(_NOTHING))
    frame = texts.copy()
    for name in titles:
        if str(schema.columns[name].dtype) == "float64":
            frame[name] = _numbers(texts[name], schema.columns[name])
    try:
        return schema.validate(frame)
    except pa.errors.SchemaError as error:
        raise _fault(path, texts, titles, error) from None


def _numbers(texts: pd.Series, column: pa.Column) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    # What is no number becomes one that no range allows.
    wrong = numbers.isna() & (texts.notna() | (not column.nullable))
    missing = pd.to_numeric(column.metadata["missing"], errors="coerce")
    return numbers.mask(wrong, np.inf).mask(numbers == missing)


def _fault(
    path: str | Path, texts: pd.DataFrame, titles: dict[str, str], error: Any
) -> DataError:
    """Turn what pandera found first into one line."""
    of_column = isinstance(error.schema, pa.Column)
    check = error.schema.checks[0] if of_column else error.check
    rows = sorted(set(error.failure_cases["index"]))
    names = check.name.split(", ")
    values = texts.loc[rows[0], names].tolist()
    found = ["nothing" if pd.isna(v) else repr(v) for v in values]
    more = f" ({len(rows) - 1} further lines)" if rows[1:] else ""
    # Line 1 is the header.
    return DataError(
        f"{path}: column {', '.join(repr(titles[name]) for name in names)}, "
        f"line {rows[0] + 2}: {', '.join(found)} found, {check.error} is "
        f"allowed{more}."
    )


def read_devices(path: str | Path) -> pd.DataFrame:
    """Return the published device table, (n, 41); raises as `read`.

    Its fractions are made of a site's ions, "Cs; MA", and their coefficients.
    """
    frame, rows = read(path, perovskites.DEVICE_FILE), []
    fractions = cache(perovskites.site_fractions)
    for line, row in enumerate(frame.to_dict("records"), 2):
        formula = ""
        for site in perovskites.SITES:
            texts = row[f"{site}_ions"], row[f"{site}_coefficients"]
            words = [text.replace(" ", "").split(";") for text in texts]
            formula += "".join(chain(*zip_longest(*words, fillvalue="")))
        try:
            rows.append(fractions(formula))
        except DataError as error:
            raise DataError(f"{path}: line {line}: {error}") from None
    frame[list(perovskites.IONS)] = np.stack(rows)
    return frame[list(perovskites.DEVICES.columns)]


@dataclass(frozen=True)
class Tables:
    """Both tables in canonical columns, and where they come from.

    The source is ``"paper"`` or ``"twin"``; checksums are the sha256 of files
    by their keys, or of generated tables by their names.
    """

    band_gaps: pd.DataFrame
    devices: pd.DataFrame
    source: str
    checksums: dict[str, str]


Source = tuple[str, Callable[[Path], pd.DataFrame], Callable[[], pd.DataFrame]]
BAND_GAPS: Source = (
    "psc_bandgaps_pbe/PSC_bandgaps_dataset.csv",
    partial(read, schema=perovskites.BAND_GAPS),
    twin.band_gaps,
)
DEVICES: Source = (
    "psc_efficiencies/PSC_efficiencies_dataset.csv",
    read_devices,
    twin.devices,
)
"""A file's key, its reader, and what generates the table's twin."""


def load(data_source: str = "auto") -> Tables:
    """Return band gaps (494, 31) and devices (2018, 41), as `obtain`."""
    return obtain(Tables, data_source, band_gaps=BAND_GAPS, devices=DEVICES)


def obtain(kind: Callable, data_source: str, **tables: Source) -> Any:
    """Return tables, their source and their checksums, as a `Tables` or so.

    The source is ``"paper"`` or ``"twin"``; ``"auto"`` is the paper if all
    files can be had. One that is there but damaged is an error: generated
    data never stand in for it unseen.
    """
    keys = [key for key, _, _ in tables.values()]
    if data_source == "auto":
        try:
            data_source = "paper" if all(map(fetch, keys)) else "twin"
        except DataUnavailable:
            data_source = "twin"
    if data_source == "paper":
        frames = {n: read(fetch(key)) for n, (key, read, _) in tables.items()}
        return kind(**frames, source="paper", checksums=checksums(*keys))
    frames = {name: generate() for name, (*_, generate) in tables.items()}
    sums = {}
    for name, frame in frames.items():
        text = frame.to_csv(index=False, lineterminator="\n")
        sums[f"twin/{name}"] = sha256(text.encode()).hexdigest()
    return kind(**frames, source="twin", checksums=sums)
