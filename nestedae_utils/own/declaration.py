"""A small YAML file that declares the scales for one's own tables.

`data/solvent_binding.yml` is an example; what a key means stands beside its
field below.  The file is data and nothing else: tags, anchors and aliases are
refused, nothing in it is executed, and its tables are only read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic
from pydantic import BeforeValidator, Field, model_validator
from ruamel.yaml import YAML, YAMLError, events

from nestedae_utils.errors import DataError, nearest, shown
from nestedae_utils.model.layers import ACTIVATIONS
from nestedae_utils.model.scales import (
    Declared,
    Real,
    Whole,
    fault,
    one_of,
    told,
)

LARGEST = 64 * 1024  # bytes of a declaration; a larger file is not one
DEEPEST = 8  # levels of its lists and mappings
Keys = tuple[str | int, ...]


# --- from text to plain values ---------------------------------------------


class _Document(NamedTuple):
    """Where a declaration stands: its path, and the line of every key."""

    path: str
    lines: dict[Keys, int]

    def fault(self, words: str, keys: Keys = ()) -> DataError:
        """Return the one-line error of a key."""
        where, at = [self.path], Keys()
        for key in keys:  # to the last that stands in the file
            at = (*at, key) if (*at, key) in self.lines else at
        where += [f"line {self.lines[at]}"] if self.lines else []
        where += [
            # whatever stands in a file may stand in a key
            f"item {key + 1}" if isinstance(key, int) else shown(key)[1:-1]
            for key in keys
        ]
        return DataError(" ".join(f"{', '.join(where)}: {words}".split()))

    def value(self, event: Any, stream: Iterator[Any], at: Keys) -> Any:
        """Return the value that an event begins; note its keys' lines."""
        if event.anchor or event.tag:
            raise self.fault(
                f"{shown(str(event.anchor or event.tag))}: an anchor, alias "
                "or tag is not allowed, nothing here is executed; put names "
                "that begin with &, * or ! in quotes.",
                at,
            )
        if isinstance(event, events.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if len(at) == DEEPEST:
            words = f"more than {DEEPEST} levels; a declaration has fewer."
            raise self.fault(words, at)
        values: dict[str | int, Any] = {}
        listed = isinstance(event, events.SequenceStartEvent)
        while not isinstance(event := next(stream), events.CollectionEndEvent):
            key = len(values) if listed else getattr(event, "value", "?")
            here = (*at, key)
            self.lines[here] = event.start_mark.line + 1
            if not listed:
                self.value(event, stream, here)
                if key in values:
                    words = "stands twice; remove one of the two."
                    raise self.fault(words, here)
                if not isinstance(event, events.ScalarEvent):
                    words = "a key is a word; write 'key: value'."
                    raise self.fault(words, here)
                event = next(stream)
            values[key] = self.value(event, stream, here)
        return list(values.values()) if listed else values


_WORDS: dict[str, Any] = {"true": True, "false": False, "~": None}
_WORDS |= {"null": None, "": None, ".nan": math.nan}
_WORDS |= {".inf": math.inf, "-.inf": -math.inf}


def _scalar(text: str) -> Any:
    """Read a plain scalar as YAML 1.2 does: "no" is a word, 1e-3 a number."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        if re.fullmatch(r"[-+]?\d+", text):
            return int(text)
        return float(text) if re.fullmatch(r"[-+.\deE]+", text) else text
    except ValueError:
        return text


# --- the declaration -------------------------------------------------------


def _like(pattern: str, allowed: str) -> BeforeValidator:
    def check(text: Any) -> Any:
        right = isinstance(text, str) and text.isprintable()
        if not right or not re.fullmatch(pattern, text):
            raise fault(f"{shown(text)} given, {allowed}")
        return text

    return BeforeValidator(check)


_NAME = "a name is allowed: a letter, up to 39 letters, digits, '_' or '-'."
_TEXT = "up to 200 printable characters are allowed; put a number in quotes."
Name = Annotated[str, _like(r"[^\W\d_][\w-]{0,39}", _NAME)]
Column = Annotated[str, _like(r"(?=.*\S).{1,200}", _TEXT)]
Width = Annotated[Whole, Field(ge=1, le=2000)]
Hidden = Annotated[list[Width], Field(max_length=10)]


class _Part(Declared):
    """A mapping of the file; `from_plain` tells its faults."""

    __init__ = pydantic.BaseModel.__init__


class Inputs(_Part):
    """Columns of numbers, in short a list, or the latents of a scale above.

    These are computed from the same columns as there, or from others:
    ``rename`` has the name there and the name here.
    """

    columns: list[Column] = []
    latents_of: Name | None = None
    rename: dict[Column, Column] = {}

    @classmethod
    def _long(cls, given: Any) -> Any:
        return {"columns": given} if isinstance(given, list) else given

    @model_validator(mode="after")
    def _one_kind(self) -> Inputs:
        if bool(self.columns) == bool(self.latents_of):
            raise fault("either columns or latents_of, a scale, is allowed.")
        if self.rename and not self.latents_of:
            raise fault("is allowed beside latents_of only.", "rename")
        return self


class Target(_Part):
    """A predicted column; its name alone is short for ``{column: ...}``."""

    column: Column
    kind: Annotated[str, one_of(("number", "category"))] = "number"
    loss: Annotated[str, one_of(("mae", "mse", "huber"))] = "mae"
    weight: Annotated[Real, Field(ge=1e-6, le=1e6)] = 1.0  # of the loss
    hidden: Hidden = []
    dropout: Annotated[Real, Field(ge=0, le=0.9)] = 0.0
    # a number is standardised unless its output has limits
    output: Annotated[str, one_of(ACTIVATIONS)] = "linear"

    @classmethod
    def _long(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _of_its_kind(self) -> Target:
        for key in ("loss", "output"):
            if self.kind == "category" and key in self.model_fields_set:
                raise fault("is not allowed for a category.", key)
        return self


class Raw(NamedTuple):
    """Columns of a table that make one block of a scale's chain."""

    columns: list[str]
    category: bool = False


Blocks = dict[str, Raw]  # by "scale.name"


class ScaleDeclaration(_Part):
    """One scale: its table, what goes in and what comes out."""

    name: Name
    table: Column  # its path, from the declaration's folder
    inputs: dict[Name, Inputs] = {}
    categories: dict[Name, Column] = {}  # blocks of one column of words
    latent: Annotated[Whole, Field(ge=1, le=200)]
    hidden: Hidden = []
    l1: Annotated[Real, Field(ge=0, le=100)] = 0.0
    predict: dict[Name, Target] = {}
    reconstruction: Annotated[Real, Field(ge=0, le=1e6)] = 1.0  # its weight
    group: list[Column] = []  # rows equal in these share a fold

    @model_validator(mode="after")
    def _each_once(self) -> ScaleDeclaration:
        if not self.inputs and not self.categories:
            raise fault("nothing goes in; give inputs or categories.")
        if not self.predict and not self.reconstruction:
            raise fault("nothing comes out; predict or reconstruct something.")
        names = [*self.inputs, *self.categories, *self.predict]
        for name in names:
            if names.count(name) > 1:
                what = "predict" if name in self.predict else "categories"
                words = "the name stands twice in this scale; rename one."
                raise fault(words, what, name)
        raws = [*self.blocks().values(), *self.targets().values()]
        columns = [column for raw in raws for column in raw.columns]
        for named in (columns, self.group):
            for column in named:
                if named.count(column) > 1:
                    words = "stands twice; a target is no input."
                    words = f"the column {shown(column)} {words}"
                    raise fault(words, *self.keys_of(column))
        return self

    def blocks(self) -> Blocks:
        """Return its input blocks that are no latents."""
        blocks = {
            n: Raw(b.columns) for n, b in self.inputs.items() if b.columns
        }
        blocks |= {n: Raw([c], True) for n, c in self.categories.items()}
        return {f"{self.name}.{name}": raw for name, raw in blocks.items()}

    def targets(self) -> Blocks:
        """Return what it predicts."""
        return {
            f"{self.name}.{name}": Raw([t.column], t.kind == "category")
            for name, t in self.predict.items()
        }

    def keys_of(self, column: str) -> Keys:
        """Return the keys of the last place that asks for a column."""
        fields = {"inputs", "categories", "predict", "group"}
        keys: list[Keys] = [
            ("inputs", name, "latents_of")
            for name, block in self.inputs.items()
            if block.latents_of
        ]
        keys += _places(column, self.model_dump(include=fields))
        return keys[-1]


def _places(text: str, plain: Any, at: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of all places in plain values that hold a text."""
    if isinstance(plain, list):
        plain = dict(enumerate(plain))
    for key, value in plain.items() if isinstance(plain, dict) else ():
        if value == text:
            yield *at, key
        yield from _places(text, value, (*at, key))


class TrainingSettings(_Part):
    """How all scales are trained; ``seeds`` replicas in each fold."""

    epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 300
    batch_size: Annotated[Whole, Field(ge=1, le=10_000)] = 20
    learning_rate: Annotated[Real, Field(ge=1e-8, le=10)] = 0.001
    seeds: Annotated[Whole, Field(ge=1, le=200)] = 2


class ValidationSettings(_Part):
    """The cross-validation of every scale."""

    folds: Annotated[Whole, Field(ge=2, le=1000)] = 5


class Declaration(_Part):
    """Scales, lowest first, and how they are trained."""

    version: Annotated[Whole, Field(ge=1, le=1)]
    name: Name | None = None  # names what is written; else the file does
    scales: Annotated[
        list[ScaleDeclaration], Field(min_length=1, max_length=10)
    ]
    training: TrainingSettings = TrainingSettings()
    validation: ValidationSettings = ValidationSettings()
    _document: _Document = pydantic.PrivateAttr(_Document("declaration", {}))
    _blocks: dict[str, Blocks] = pydantic.PrivateAttr({})

    @model_validator(mode="after")
    def _in_order(self) -> Declaration:
        learnt: dict[str, dict[tuple[str, str], str]] = {}
        for index, scale in enumerate(self.scales):
            at, table = ("scales", index), os.path.normpath(scale.table)
            if scale.name in learnt:
                words = f"two scales are named {scale.name!r}; rename one."
                raise fault(words, *at, "name")
            blocks, above = self._blocks.setdefault(scale.name, {}), [*learnt]
            known = learnt[scale.name] = {}
            for name, block in scale.inputs.items():
                if block.latents_of:
                    self._join(block, blocks, above, (*at, "inputs", name))
                    known |= learnt[block.latents_of]
            blocks |= scale.blocks()
            inputs = {c for raw in blocks.values() for c in raw.columns}
            for name, target in scale.predict.items():
                column, words = target.column, ""
                if column in inputs:
                    words = "is an input of a scale below, hence no target."
                elif lower := known.get((table, column)):
                    words = f"is learnt by {lower!r} from all rows of the same"
                    words += " table; predict it in one of the two."
                if words:
                    words = f"the column {shown(column)} {words}"
                    raise fault(words, *at, "predict", name, "column")
                known[table, column] = scale.name
        if not self.scales[-1].predict:
            words = "the last scale predicts nothing; give it a target."
            raise fault(words, *at)
        return self

    def _join(
        self, block: Inputs, blocks: Blocks, above: list[str], at: Keys
    ) -> None:
        """Add what the latents of a scale above are made of."""
        name = block.latents_of or ""
        if name not in above:
            known = ", ".join(map(repr, above)) or "there is none"
            words = f"{name!r} given, a scale above this one is allowed, once "
            words += f"({known}).{nearest(name, above)}"
            raise fault(words, *at, "latents_of")
        above.remove(name)
        lower = self._blocks[name]
        columns = [c for raw in lower.values() for c in raw.columns]
        for column in block.rename:
            if column not in columns:
                words = f"scale {name!r} has no input column {shown(column)}."
                words += nearest(column, columns)
                raise fault(words, *at, "rename", column)
        for key, raw in lower.items():
            renamed = [block.rename.get(c, c) for c in raw.columns]
            first = blocks.setdefault(key, Raw(renamed, raw.category)).columns
            if first != renamed:
                words = f"the block {key!r} is reached on two ways, from "
                words += f"{', '.join(first)} and from {', '.join(renamed)}; "
                raise fault(f"{words}use the same columns.", *at)

    def blocks(self, name: str) -> Blocks:
        """Return what a scale's table must hold, the scales' below first."""
        return self._blocks[name]

    def scale(self, name: str) -> ScaleDeclaration:
        """Return the scale of that name."""
        return next(scale for scale in self.scales if scale.name == name)

    def table(self, name: str) -> Path:
        """Return the path of a scale's table."""
        return Path(self._document.path).parent / self.scale(name).table

    def fault(self, words: str, *keys: str | int) -> DataError:
        """Return a one-line error that names file, line and key."""
        return self._document.fault(words, keys)

    @property
    def title(self) -> str:
        """Name for files, of letters, digits, ``_`` and ``-`` only."""
        stem = re.sub(r"[^\w-]+", "_", Path(self._document.path).stem)
        return self.name or stem.strip("_-")[:40] or "declaration"

    def plain(self) -> dict[str, Any]:
        """Return the declaration as plain lists, numbers and texts."""
        return self.model_dump(exclude_unset=True)


def from_plain(
    plain: Any, path: str | Path, lines: dict[Keys, int] | None = None
) -> Declaration:
    """Return the declaration that :meth:`Declaration.plain` described.

    Tables are relative to the folder of ``path``.

    Raises
    ------
    DataError
        If a key is unknown or missing, or a value is not allowed: one line
        with file, line and key, what was given and what is allowed.
    """
    document = _Document(str(path), lines or {})
    try:
        declaration = Declaration.model_validate(plain)
    except pydantic.ValidationError as error:
        keys, words = told(error)
        raise document.fault(words, keys) from None
    except RecursionError:
        raise document.fault("too many levels; give fewer.") from None
    declaration._document = document
    return declaration


def parse(text: str, path: str | Path = "declaration.yml") -> Declaration:
    """Return the declaration in a YAML text; faults as `from_plain`."""
    document, plain = _Document(str(path), {(): 1}), None
    if len(text.encode("utf-8", "replace")) > LARGEST:
        raise document.fault(f"more than {LARGEST} bytes; shorten it.")
    try:
        stream = YAML(typ="safe", pure=True).parse(text)
        for event in stream:
            if isinstance(event, events.DocumentStartEvent):
                if plain is not None:
                    document.lines[()] = event.start_mark.line + 1
                    raise document.fault("a second document; give one.")
                plain = document.value(next(stream), stream, ())
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        before = text[: mark.index if mark else getattr(error, "position", 0)]
        document.lines[()] = before.count("\n") + 1
        why = getattr(error, "problem", None) or getattr(error, "reason", "")
        raise document.fault(
            f"not YAML ({why}); indent with blanks, put names with special "
            "characters in quotes, and save it as plain text in UTF-8."
        ) from None
    return from_plain(plain, path, document.lines)


def read_declaration(path: str | Path) -> Declaration:
    """Read a declaration from a YAML file; faults as `from_plain`."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        return parse(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        words = f"{path}, line {line}: not text in UTF-8; save it as such."
        raise DataError(words) from None
    except OSError as error:
        words = f"{path}: no such file to read ({error.strerror})."
        raise DataError(words) from None
