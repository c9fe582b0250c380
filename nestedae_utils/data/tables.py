"""The one CSV reader and validator, and the tables of one source."""

import codecs
import contextlib
import csv
import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from nestedae_utils.data import perovskites, twin
from nestedae_utils.data.files import checksums, fetch
from nestedae_utils.errors import DataError, DataUnavailable, nearest

_NOTHING = ("", "NaN", "nan", "NA", "N/A", "null", "None")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_PACKED = {
    b"PK\x03\x04": "a spreadsheet or an archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"\x1f\x8b": "compressed",
}
# a number between thousands' signs, if any, and a decimal sign
_NUMBER = r"[+-]?(?:[1-9]\d{{0,2}}(?:{0}\d{{3}})+|\d*)(?:{1}\d*)?(?:[eE][+-]?\d+)?"
_SIGNS = {
    ",": re.compile(_NUMBER.format(r"\.", ",")),
    ".": re.compile(_NUMBER.format(",", r"\.")),
}
_LOG = logging.getLogger(__name__)


def read_text(path: str | Path) -> pd.DataFrame:
    """Return a CSV table as texts, as they stand in the file but for its dialect.

    Commas, semicolons, tabs or bars separate its fields; each kind of blank in
    a header is one blank.  Lines without a value are no rows, but count in the
    index: a row's number below the header, from 0.  Numbers with decimal
    commas get points (`_with_points`).  The log tells what was not usual.

    A `DataError` tells if there is no file, it is no table, or has no rows.
    """
    path, separator = Path(path), ","
    try:
        text = _decoded(path)
        # a field may be as long as it likes
        csv.field_size_limit(2**31 - 1)
        separator = _separator(text)
        lines = list(_lines(text, separator))
        if filled := [n for n, line in enumerate(lines) if any(map(str.strip, line))]:
            frame = _rows(lines, filled)
    except (FileNotFoundError, NotADirectoryError):
        fault = "no such file; the path of a CSV table is allowed"
    except (ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())
        fault = f"not a CSV table ({reason}); separate fields by commas, and "
        fault += "save it as UTF-8"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    else:
        if len(filled) > 1:
            told = []
            if separator != ",":
                told.append(f"fields are separated by {_SEPARATORS[separator]}")
            frame = _with_points(frame, separator, told)
            if empty := sum(map(bool, lines)) - len(filled):
                told.append(f"lines without a value, left out: {empty}")
            if told:
                _LOG.info("%s: %s.", path, "; ".join(told))
            return frame
        fault = "the table has a header, but no rows"
        if not filled:
            fault = "the file is empty; a header and rows are needed"
    raise DataError(f"{path}: {fault}.")


def _decoded(path: Path) -> str:
    """Return the text of a file or a pipe."""
    if path.is_dir() or path.is_char_device():
        raise FileNotFoundError
    content = path.read_bytes()
    for begin, what in _PACKED.items():
        if content.startswith(begin):
            raise ValueError(f"it is {what}; save or unpack it as CSV")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def _lines(text: str, separator: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)


def _separator(text: str) -> str:
    """Return what divides the header, and no row into more fields than that.

    If several do, it is what leaves most numbers, and of equals the first.
    """
    found = {}
    for separator in _SEPARATORS:
        with contextlib.suppress(csv.Error):
            some = [one for one in islice(_lines(text, separator), 100) if any(one)]
            if some and len(some[0]) > 1:
                fields = [field.strip() for one in some[1:] for field in one]
                numbers = sum(bool(_signs(field)) for field in fields)
                fit = all(len(one) <= len(some[0]) for one in some)
                found[separator] = fit, numbers / len(some[0]) / len(some)
    return max(found, key=found.__getitem__, default=",")


def _rows(lines: list[list[str]], filled: list[int]) -> pd.DataFrame:
    """Return the lines that hold something, below the first, the header."""
    first, *others = filled
    titles = [" ".join(title.split()) for title in lines[first]]
    width, rows = len(titles), []
    for number in others:
        # a spreadsheet ends its lines with more separators
        if any(map(str.strip, lines[number][width:])):
            raise ValueError(
                f"row {number - first} below the header has {len(lines[number])} "
                f"fields, the header {width}"
            )
        rows.append([*lines[number], *[""] * width][:width])
    index = pd.Index([number - first - 1 for number in others])
    if len(rows) and index[-1] == len(rows) - 1:
        index = pd.RangeIndex(len(rows))
    frame = pd.DataFrame(rows, index, range(width), dtype=str)
    used = [n for n, title in enumerate(titles) if title or (frame[n] != "").any()]
    return frame[used].set_axis([titles[n] for n in used], axis=1)


def _signs(text: str) -> list[str]:
    """Return the decimal signs by which a text is a number; "1,234" has two."""
    digits = any(map(str.isdigit, text))
    return [s for s, number in _SIGNS.items() if digits and number.fullmatch(text)]


def _with_points(frame: pd.DataFrame, separator: str, told: list[str]) -> pd.DataFrame:
    """Write numbers with decimal points; note what was done.

    A column's decimal sign is the one without which some of its texts are no
    numbers, as of "1,5", else that of the table; what may be either stays.
    Between commas it has to be the same in all columns.
    """
    columns = [frame.iloc[:, n].str.strip() for n in range(frame.shape[1])]
    if not any(column.str.contains(",", regex=False).any() for column in columns):
        return frame
    known = [[_signs(text) for text in set(column) - {""}] for column in columns]
    needed = [{s for signs in one if len(signs) == 1 for s in signs} for one in known]
    every = set().union(*needed)
    arrays, done = [], set()
    for n, (column, signs, own) in enumerate(zip(columns, known, needed, strict=True)):
        arrays.append(frame.iloc[:, n])
        own = own if own and separator != "," else every
        (sign,) = own if len(own) == 1 else ("",)
        other = "." if sign == "," else ","
        if sign and all(sign in each for each in signs):
            plain = column.str.replace(other, "", regex=False)
            plain = plain.str.replace(sign, ".", regex=False)
            if (plain != column).any():
                done.add(sign)
                arrays[n] = plain
    words = {",": "the decimal sign is a comma", ".": "commas divide thousands"}
    told += [words[sign] for sign in sorted(done)]
    return pd.concat(arrays, axis=1)


def numbers(texts: pd.Series) -> pd.Series:
    """Return texts as numbers, NaN where they are none; true is 1 and false 0."""
    plain = texts.str.replace("−", "-", regex=False)
    words = texts.str.lower().map({"true": "1", "false": "0"})
    return pd.to_numeric(words.fillna(plain), errors="coerce").astype(float)


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
    values = numbers(texts)
    # What is no number becomes one that no range allows.
    wrong = values.isna() & (texts.notna() | (not column.nullable))
    missing = pd.to_numeric(column.metadata["missing"], errors="coerce")
    return values.mask(wrong, np.inf).mask(values == missing)


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
    more = f" (and {len(rows) - 1} more)" if rows[1:] else ""
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
