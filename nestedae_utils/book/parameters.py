"""The chapters and their parameters, as their notebooks declare them.

A notebook is read, never executed, and no text of a user is evaluated.  What
is allowed stands in `RULES`; a chapter applies the same rules again when it
starts.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestedae_utils import errors as checks
from nestedae_utils.data.files import NOTEBOOKS
from nestedae_utils.errors import DataError, ParameterError, shown

LONGEST = 200
"""Characters that the text of a value may have."""

_KINDS = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Rule:
    """Which values of a parameter are allowed.

    ``words`` say it of a text that something else checks.
    """

    kind: type
    minimum: float | None = None
    maximum: float | None = None
    positive: bool = False
    choices: tuple[str, ...] = ()
    listed: bool = False
    words: str = "text"

    @property
    def allowed(self) -> str:
        """The allowed values in words, "a whole number from 1 to 200"."""
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is str and not self.listed:
            return self.words
        bounds = []
        if self.positive:
            bounds.append("above 0")
        if self.minimum is not None:
            bounds.append(f"from {self.minimum:.12g}")
        if self.maximum is not None:
            to = "up to" if self.minimum is None else "to"
            bounds.append(f"{to} {self.maximum:.12g}")
        span = " ".join(["", *bounds])
        if self.listed:
            return f"different whole numbers{span}, separated by commas"
        return f"a {'whole ' * (self.kind is int)}number{span}"

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise ParameterError."""
        if self.kind is int:
            return checks.whole(name, value, self.minimum, self.maximum)
        if self.kind is float:
            return checks.real(
                name, value, self.minimum, self.maximum, self.positive
            )
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ParameterError(
                    f"{name}: {value!r} given, true or false is allowed "
                    "(papermill: -y '{name: true}', not -p)."
                )
            return value
        if not isinstance(value, str):
            raise ParameterError(f"{name}: {value!r} given, text is allowed.")
        if self.choices:
            return checks.choice(name, value, self.choices)
        if self.listed:
            checks.wholes(name, value, self.minimum, self.maximum)
        return value


# The choices of two parameters stand here a second time (a test compares
# them): the modules that own them load torch, and a command line must not.
RULES = {
    "seeds": Rule(int, 1, 200),
    "folds": Rule(int, 2, 494),
    "epochs": Rule(int, 1, 100_000),
    "sweep_epochs": Rule(int, 1, 100_000),
    "side_seeds": Rule(int, 1, 200),
    "synthetic_seeds": Rule(int, 1, 200),
    "synthetic_epochs": Rule(int, 1, 100_000),
    "batch_size": Rule(int, 1, 10_000),
    "learning_rate": Rule(float, positive=True, maximum=10.0),
    "l1": Rule(float, 0.0, 100.0),
    "l1_factor": Rule(float, 0.0, 1000.0),
    "latent": Rule(int, 1, 200),
    "single_latent": Rule(int, 1, 200),
    "gap_latent": Rule(int, 1, 200),
    "latent_sizes": Rule(str, 1, 200, listed=True),
    "gap_epochs": Rule(int, 1, 100_000),
    "members": Rule(int, 1, 100),
    "inner_folds": Rule(int, 2, 100),
    "rows": Rule(int, 10, 100_000),
    "noise": Rule(float, 0.0, 100.0),
    "starts": Rule(int, 1, 10_000),
    "search_steps": Rule(int, 1, 100_000),
    "tolerance": Rule(float, positive=True, maximum=10.0),
    "wished_pce": Rule(float, 0.0, 100.0),
    "gap_low": Rule(float, 0.0, 10.0),
    "gap_high": Rule(float, 0.0, 10.0),
    "density": Rule(float, positive=True, maximum=1e6),
    "device_epochs": Rule(int, 1, 100_000),
    "draws": Rule(int, 1, 100),
    "shuffles": Rule(int, 1, 1000),
    "sizes": Rule(str, 5, 100_000, listed=True),
    "small": Rule(float, positive=True, maximum=10.0),
    "background": Rule(int, 1, 10_000),
    "repeats": Rule(int, 1, 1000),
    "seed": Rule(int, 0, 2**31),
    "inputs": Rule(str, choices=("grid", "random")),
    "settings": Rule(str, choices=("inputs", "text")),
    "device": Rule(str, words="auto, cpu, cuda, cuda:N or mps"),
    "data_source": Rule(str, choices=("auto", "paper", "twin")),
}
"""Allowed values of the chapters' parameters, by name."""


@dataclass(frozen=True)
class Parameter:
    """A parameter as a notebook declares it, and the rule for its values."""

    name: str
    kind: type
    default: Any
    help: str
    rule: Rule

    def parse(self, text: str) -> Any:
        """Return the value that a text on the command line means.

        Raises
        ------
        ParameterError
            If it is no value of the declared type, or not an allowed one.
        """
        if len(text) > LONGEST:
            raise ParameterError(
                f"{self.name}: a text of {len(text)} characters given, "
                f"{self.rule.allowed} is allowed."
            )
        value = _read(text, self.kind)
        if self.kind is bool and not isinstance(value, bool):
            raise ParameterError(
                f"{self.name}: {text!r} given, true or false is allowed."
            )
        if isinstance(value, str) and not value.isprintable():
            raise ParameterError(
                f"{self.name}: {text!r} given, {self.rule.allowed} is allowed."
            )
        return self.rule.check(self.name, value)


def _read(text: str, kind: type) -> Any:
    """Return a text as a value of the kind, or as it stands."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    # Python's own numbers may have blanks, underscores and other digits
    if kind is not str and re.fullmatch(r"[0-9a-zA-Z.+-]+", text):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def written(value: Any) -> str:
    """Return a value as the text that `Parameter.parse` reads it from."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Notebook:
    """What a chapter's notebook says of itself.

    ``summary`` is the first paragraph below its title, ``run_time`` the
    sentence that begins with "Run time", both as plain text.
    """

    path: Path
    title: str
    summary: str
    run_time: str
    parameters: dict[str, Parameter]

    @property
    def name(self) -> str:
        """The notebook's name without its ending."""
        return self.path.stem


def chapters(folder: Path = NOTEBOOKS) -> list[str]:
    """Return the names of all chapters, in order."""
    return sorted(path.stem for path in folder.glob("*.ipynb"))


def find(chapter: str, folder: Path = NOTEBOOKS) -> Notebook:
    """Return the notebook of a chapter, by its number or its name.

    Raises
    ------
    ParameterError
        If there is no such chapter.
    DataError
        If its notebook cannot be read.
    """
    known = chapters(folder)
    for name in known:
        if chapter == name or chapter.zfill(2) == name.partition("_")[0]:
            return read(folder / f"{name}.ipynb")
    raise ParameterError(
        f"chapter: {shown(chapter)} given, one of {', '.join(known)} "
        f"or its number is allowed.{checks.nearest(chapter, known)}"
    )


def read(path: Path) -> Notebook:
    """Read what a notebook says of itself and of its parameters.

    Raises
    ------
    DataError
        If it is no notebook, or its parameters are not annotated literals.
    """
    # papermill.inspect_notebook finds the same (a test compares both), but
    # takes two seconds to load.
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        declared: dict[str, Parameter] = {}
        for cell, source in zip(cells, sources, strict=True):
            if "parameters" in cell["metadata"].get("tags", []):
                declared = _declared(source)
                break
    except (OSError, ValueError, KeyError, TypeError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError(
            f"{path}: not a notebook with annotated parameters ({reason}); "
            "restore the file."
        ) from None
    title, summary, run_time = "", "", ""
    for paragraph in "\n\n".join(sources[:1]).split("\n\n"):
        text = _plain(paragraph)
        if text.startswith("# "):
            title = text[2:]
        elif text.startswith("Run time"):
            run_time = text
        elif text and not summary:
            summary = text
    return Notebook(path, title, summary, run_time, declared)


def _plain(text: str) -> str:
    """Return a paragraph of MyST as plain text on one line."""
    text = re.sub(r"\s*\{cite\}`[^`]*`", "", text)
    text = re.sub(r"\{\w+\}`([^`<]*?)(?: *<[^`]*>)?`", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(text.split())


def _declared(source: str) -> dict[str, Parameter]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    found = {}
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.AnnAssign):
            raise TypeError
        name = ast.unparse(statement.target)
        kind = _KINDS[ast.unparse(statement.annotation)]
        found[name] = Parameter(
            name=name,
            kind=kind,
            default=ast.literal_eval(statement.value),
            help=comments.get(statement.lineno, ""),
            rule=RULES.get(name, Rule(kind)),
        )
    return found


def assignments(texts: Iterable[str]) -> dict[str, str]:
    """Split texts ``name=value`` into a mapping.

    Raises
    ------
    ParameterError
        If the name, the sign or the value is missing, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise ParameterError(
                f"parameter: {shown(text)} given, name=value is allowed."
            )
        if name in found:
            raise ParameterError(
                f"{shown(name)[1:-1]}: given twice, each parameter "
                "may be given only once."
            )
        found[name] = value
    return found


def declared(notebook: Notebook, name: str) -> Parameter:
    """Return a parameter of a notebook.

    Raises
    ------
    ParameterError
        If it has none of that name; the message suggests the nearest.
    """
    known = notebook.parameters
    if name not in known:
        near = checks.nearest(name, known)
        if not near:
            # lr, bs: initials, which are not near by their letters
            short = {re.sub(r"([^_])[^_]*_?", r"\1", n): n for n in known}
            near = f" Did you mean {short[name]!r}?" if name in short else ""
        raise ParameterError(
            f"{shown(name)[1:-1]}: unknown parameter of chapter "
            f"{notebook.name}, one of {', '.join(known)} is allowed.{near}"
        )
    return known[name]


def parse(notebook: Notebook, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that were given, by the types declared.

    Raises
    ------
    ParameterError
        If a name is unknown, or a value has the wrong type or range.
    """
    return {
        name: declared(notebook, name).parse(text)
        for name, text in given.items()
    }


def effective(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a run: those given, else the defaults.

    Raises
    ------
    ParameterError
        If a name is unknown, or a value has the wrong type or range.
    """
    for name, value in given.items():
        declared(notebook, name).rule.check(name, value)
    return {
        name: given.get(name, one.default)
        for name, one in notebook.parameters.items()
    }
