"""The chapters and their parameters, as their notebooks declare them.

A line of the parameters cell is the only declaration of a parameter: its
name, type and default, its meaning and, behind the last ";", its range::

    seeds: int = 5  # seeds of split and weights; 1 to 200

A number has ``1 to 200`` or ``above 0, up to 10``; a text ``one of a, b``,
``each 1 to 200`` (different whole numbers, separated by commas), ``auto, cpu,
cuda, cuda:N or mps`` or ``any text``; a bool ``true or false``.  A notebook
is read, never executed, and no text of a user is evaluated.  What is not
allowed is a `ParameterError` of one line.
"""

import ast
import contextlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from nestedae_utils.data.files import NOTEBOOKS
from nestedae_utils.errors import DataError, ParameterError, nearest, shown

LONGEST = 200  # characters that the text of a value may have
_KINDS = {"int": int, "float": float, "str": str, "bool": bool}
_WORDS = {"any text": str, "true or false": bool}
_WORDS["auto, cpu, cuda, cuda:N or mps"] = str
_NUMBER = r"(-?\d[\d.e+-]*)"
_SPAN = re.compile(rf"(each |(above )|){_NUMBER}(?(2), up to | to ){_NUMBER}")


@dataclass(frozen=True)
class Parameter:
    """A parameter as a notebook declares it; ``help`` is its meaning.

    ``allowed`` has the allowed values in words.  A text is one of
    ``choices``, where there are any; a number, or each whole number that is
    ``listed`` in a text, lies in ``span``.
    """

    name: str
    kind: type
    default: Any
    help: str
    allowed: str
    choices: tuple[str, ...] = ()
    span: tuple[float, float] = (-math.inf, math.inf)
    listed: bool = False

    def check(self, value: Any) -> Any:
        """Return a value, if it is allowed, in its declared type."""
        numeric = {int: Integral, float: Real}
        good = isinstance(value, numeric.get(self.kind, self.kind))
        told = f"{self.allowed} is allowed."
        if self.kind in numeric:
            low, high = self.span
            good = good and not isinstance(value, bool) and low <= value <= high
            told = told.replace("a number", "a finite number")
        elif self.kind is str and not good:
            told = "text is allowed."
        elif self.listed:
            good, told = self._list(value)
        elif self.choices:
            good, known = value in self.choices, ", ".join(map(repr, self.choices))
            told = f"one of {known} is allowed.{nearest(value, self.choices)}"
        if not good:
            raise ParameterError(f"{self.name}: {shown(value)} given, {told}")
        return self.kind(value)

    def _list(self, text: str) -> tuple[bool, str]:
        """Tell whether a text lists different numbers; check each of them."""
        try:
            values = numbers(text)
        except ValueError:
            told = "whole numbers separated by commas are allowed, for example"
            return False, f'{told} "2, 4, 8".'
        good = len(set(values)) == len(values)
        each = "a whole number from {} to {}".format(*self.span)
        for value in values if good else ():
            replace(self, kind=int, listed=False, allowed=each).check(value)
        return good, "each number may stand only once."

    def parse(self, text: str) -> Any:
        """Return the value that a text on the command line means."""
        if (long := len(text) > LONGEST) or not text.isprintable():
            given = f"a text of {len(text)} characters" if long else repr(text)
            raise ParameterError(
                f"{self.name}: {given} given, {self.allowed} is allowed."
            )
        value: Any = text
        if self.kind is bool:
            value = {"true": True, "false": False}.get(text.lower(), text)
        # Python's own numbers may have blanks, underscores and other digits
        elif self.kind is not str and re.fullmatch(r"[0-9a-zA-Z.+-]+", text):
            with contextlib.suppress(ValueError):
                value = self.kind(text)
        return self.check(value)


def _range(name: str, kind: type, words: str) -> tuple[Any, ...]:
    """Return a parameter's fields from ``allowed`` on, as its range states them."""
    if kind is _WORDS.get(words):
        return (words,)
    if kind is str and words.startswith("one of "):
        return words, tuple(words.removeprefix("one of ").split(", "))
    span = _SPAN.fullmatch(words)
    first, _, *ends = span.groups() if span else ("none", "", 0, 0)
    low, high = map(float if kind is float else int, ends)
    between = f"from {low:.12g} to {high:.12g}"
    allowed = {
        (int, ""): f"a whole number {between}",
        (str, "each "): f"different whole numbers {between}, separated by commas",
        (float, ""): f"a number {between}",
        (float, "above "): f"a number above {low:.12g} up to {high:.12g}",
    }
    if (kind, first) not in allowed:
        raise ValueError(f"{name}: {words!r} is no range of its type")
    lowest = math.nextafter(low, math.inf) if first == "above " else low
    return allowed[kind, first], (), (lowest, high), kind is str


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list, which travels as a text: "2, 4, 8"."""
    return tuple(int(part) for part in text.split(","))


def written(value: Any) -> str:
    """Return a value as the text that `Parameter.parse` reads it from."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Notebook:
    """What a chapter's notebook says of itself, as plain text.

    ``summary`` is the first paragraph below its title, ``run_time`` that
    which begins with "Run time".
    """

    name: str
    path: Path
    title: str
    summary: str
    run_time: str
    parameters: dict[str, Parameter]


def chapters(folder: Path = NOTEBOOKS) -> list[str]:
    """Return the names of all chapters, in order."""
    return sorted(path.stem for path in folder.glob("[!.]*.ipynb"))


def find(chapter: str, folder: Path = NOTEBOOKS) -> Notebook:
    """Return the notebook of a chapter, by its number or its name."""
    known, number = chapters(folder), chapter.zfill(2)
    meant = [n for n in known if chapter == n] or [
        n for n in known if number == n.partition("_")[0]
    ]
    if len(meant) == 1:
        return read(folder / f"{meant[0]}.ipynb")
    if meant:
        words = f"{shown(chapter)} given, which may be {' or '.join(meant)}; name one."
        raise ParameterError(f"chapter: {words}")
    raise ParameterError(
        f"chapter: {shown(chapter)} given, one of {', '.join(known)} "
        f"or its number is allowed.{nearest(chapter, known)}"
    )


def read(path: Path) -> Notebook:
    """Read what a notebook says of itself and of its parameters.

    It is a `DataError` if it is no notebook, or a line of its cell declares
    no parameter.
    """
    # papermill.inspect_notebook takes two seconds to load
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        tags = [cell["metadata"].get("tags", []) for cell in cells]
        tagged = (s for s, t in zip(sources, tags, strict=True) if "parameters" in t)
        parameters = _declared(next(tagged, ""))
    except (OSError, ValueError, KeyError, TypeError, SyntaxError) as error:
        reason = getattr(error, "strerror", "") or f"{type(error).__name__}: {error}"
        words = (
            f"not a notebook with annotated parameters ({reason}); restore the file."
        )
        raise DataError(f"{path}: {words}") from None
    texts = [_plain(text) for text in "".join(sources[:1]).split("\n\n")]
    starts = "# ", "(?!# ).", "Run time"
    title, summary, run_time = (
        next((t for t in texts if re.match(start, t)), "") for start in starts
    )
    return Notebook(path.stem, path, title[2:], summary, run_time, parameters)


def _plain(text: str) -> str:
    """Return a paragraph of MyST as plain text on one line."""
    text = re.sub(r"\s*\{cite\}`[^`]*`", "", text)
    text = re.sub(r"\{\w+\}`([^`<]*?)(?: *<[^`]*>)?`", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(text.split())


def _declared(source: str) -> dict[str, Parameter]:
    """Return the parameters of a cell, as the module's text describes it."""
    parameters = {}
    for line in source.splitlines():
        for statement in ast.parse(line).body:
            if not (isinstance(statement, ast.AnnAssign) and statement.value):
                raise TypeError(line)
            name = ast.unparse(statement.target)
            kind = _KINDS[ast.unparse(statement.annotation)]
            default = ast.literal_eval(statement.value)
            code = ast.get_source_segment(line, statement) or ""
            comment = re.fullmatch(r" *# *(.+); (.+)", line.removeprefix(code))
            meaning, words = comment.groups() if comment else ("", "")
            allowed = _range(name, kind, words)
            parameters[name] = Parameter(name, kind, default, meaning, *allowed)
            parameters[name].check(default)
    return parameters


def assignments(texts: Iterable[str]) -> dict[str, str]:
    """Split texts ``name=value``, each name once, into a mapping."""
    given: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value):
            told = f"parameter: {shown(text)} given, name=value is allowed."
            raise ParameterError(told)
        if name in given:
            told = "given twice, each parameter may be given only once."
            raise ParameterError(f"{shown(name)[1:-1]}: {told}")
        given[name] = value
    return given


def declared(notebook: Notebook, name: str) -> Parameter:
    """Return a parameter of a notebook; suggest the nearest if it has none."""
    known = notebook.parameters
    if name in known:
        return known[name]
    # lr, bs: initials, which are not near by their letters
    short = {re.sub(r"([^_])[^_]*_?", r"\1", n): n for n in known}
    near = f" Did you mean {short[name]!r}?" if name in short else ""
    raise ParameterError(
        f"{shown(name)[1:-1]}: unknown parameter of chapter {notebook.name}, "
        f"one of {', '.join(known)} is allowed.{nearest(name, known) or near}"
    )


def parse(notebook: Notebook, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that texts of a command line mean, by name."""
    return {n: declared(notebook, n).parse(text) for n, text in given.items()}


def effective(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a run: those given, checked, or defaults."""
    checked = {n: declared(notebook, n).check(v) for n, v in given.items()}
    return {n: one.default for n, one in notebook.parameters.items()} | checked


def injected(notebook: Notebook, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands among a notebook's names as a parameter, known or not."""
    # what papermill can put into a notebook; IPython's own In is a list too
    kinds = (int, float, str, bool, list, type(None))
    # where the cell runs again, names of later cells are there
    again = "chapter" in namespace
    return {
        name: value
        for name, value in namespace.items()
        if name in notebook.parameters
        or not (again or name.startswith("_") or name == "In")
        and isinstance(value, kinds)
    }
