"""The columns of one's own table: numbers, words and groups, each checked."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pandas as pd

from nestedae_utils.data.tables import numbers
from nestedae_utils.errors import DataError, nearest, shown
from nestedae_utils.own.declaration import Raw

LARGEST = 1e150  # the square of a larger number is none
_NUMBER = r"(?a)[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?"
_WHOLE = r"^([+-]?(?:0|[1-9]\d*))\.0+$", r"\1"
_ROUNDED = Context(prec=15)
MOST_KINDS = 200  # different words of a category


@dataclass(frozen=True)
class Columns:
    """A table's columns, checked; ``fault`` makes the error of one."""

    frame: pd.DataFrame
    fault: Callable[[str, str], DataError]

    @property
    def rows(self) -> np.ndarray:
        """The number of each row below the header, as in its file, (n,)."""
        index = self.frame.index
        known = index.is_unique and pd.api.types.is_integer_dtype(index)
        return 1 + (index.to_numpy() if known else np.arange(len(index)))

    def words(self, name: str, allowed: str = "a word", right: Any = None) -> pd.Series:
        """Return the texts of a column, (n,); none is empty or not right."""
        names = [" ".join(str(column).split()) for column in self.frame.columns]
        if name not in names:
            words = f"no such column in the table.{nearest(name, names)}"
            if len(names) == 1:
                words += f" Its header is one field, {shown(names[0])}; separate "
                words += "fields by commas, semicolons or tabs."
            raise self.fault(name, words)
        if names.count(name) > 1:
            raise self.fault(name, "stands twice in the table; rename one of the two.")
        values = self.frame.iloc[:, names.index(name)]
        texts = values.astype(str).where(values.notna(), "").str.strip()
        wrong = np.flatnonzero(~right(texts) if right else texts == "")
        if len(wrong):
            text, more = texts.iloc[wrong[0]], len(wrong) - 1
            found = ascii(text[:40]) if text else "nothing"
            words = f"row {self.rows[wrong[0]]} below the header: {found} found, "
            words += f"{allowed} is allowed; correct it or leave the row out"
            words += f" (and {more} more)." if more else "."
            raise self.fault(name, words)
        return texts

    def numbers(self, name: str) -> np.ndarray:
        """Return a column of finite numbers, (n,)."""
        allowed = f"a finite number, at most {LARGEST:g} in size,"
        words = self.words(name, allowed, lambda w: numbers(w).abs() <= LARGEST)
        return numbers(words).to_numpy()

    def kinds(self, name: str) -> list[str]:
        """Return the different words of a column, in order; 225.0 is 225."""
        kinds = sorted(set(self.words(name).str.replace(*_WHOLE, regex=True)))
        if not 2 <= len(kinds) <= MOST_KINDS:
            words = f"{len(kinds)} different words found, 2 to {MOST_KINDS} "
            raise self.fault(name, f"{words}are allowed in a category.")
        return kinds

    def array(self, raw: Raw, kinds: list[str]) -> np.ndarray:
        """Return a block's numbers or one-hot words, shape (n, width)."""
        if not raw.category:
            return np.stack([self.numbers(name) for name in raw.columns], 1)
        known = ", ".join(kinds[:10]) + (", …" if len(kinds) > 10 else "")
        allowed = f"a word known from the training ({known})"

        def alike(words: pd.Series) -> pd.Series:
            # a word as it is, or a number that is written otherwise
            return words.where(words.isin(kinds), words.map(_value).map(same))

        values = [_value(kind) for kind in kinds]
        same = {_value(k): k for k in kinds if values.count(_value(k)) == 1}
        words = self.words(raw.columns[0], allowed, lambda w: alike(w).notna())
        return (alike(words).to_numpy()[:, None] == np.array(kinds)).astype(float)

    def groups(self, columns: list[str]) -> np.ndarray:
        """Return the group of each row, (n,); 1 and 1.00 are one value."""
        keys = [self.words(name).map(_value) for name in columns]
        return pd.concat(keys, axis=1).groupby(keys).ngroup().to_numpy()


def _value(text: str) -> str:
    """Return what numbers of one value share, to 15 digits; a word as it is."""
    if not re.fullmatch(_NUMBER, text):
        return text
    # a whole number, an identifier say, has all its digits
    number = Decimal(text)
    whole = number == number.to_integral_value()
    return str(int(number) if whole else _ROUNDED.plus(number).normalize())


def unit_of(values: np.ndarray) -> float:
    """Return the power of two below the spread of values (n,), or their size.

    Divided by it they are the same numbers in another unit, with every digit.
    """
    most = np.ptp(values) or np.abs(values).max() or 1.0
    return float(2.0 ** (np.frexp(most)[1] - 1))
