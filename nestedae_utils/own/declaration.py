"""A small YAML file that declares the scales for one's own tables.

`data/solvent_binding.yml` is an example; what a key means stands beside its
field below. The file is plain data, its tables are only read.
"""

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import pydantic
from pydantic import BeforeValidator, Field, model_validator

from nestedae_utils.errors import DataError, nearest, shown
from nestedae_utils.model import scales as core
from nestedae_utils.model.scales import Activation, Real, Whole, fault, one_of
from nestedae_utils.own.document import LARGEST, Document, Keys


def _like(pattern: str, allowed: str, blank: str = "") -> BeforeValidator:
    def check(given: Any) -> Any:
        text = given
        if blank and isinstance(given, str):
            text = blank.join(given.split())
        if not (isinstance(text, str) and re.fullmatch(pattern, text, re.DOTALL)):
            raise fault(f"{shown(given)} given, {allowed}")
        return text

    return BeforeValidator(check)


_NAME = "a name is allowed: a letter, up to 39 letters, digits, '_' or '-'."
_TEXT = "up to 200 characters are allowed; put a number in quotes."
_FILE = "the path of a CSV table is allowed; put a number in quotes."
Name = Annotated[str, _like(r"[^\W\d_][\w-]{0,39}", _NAME)]
# each kind of blank in a header is one blank, as in `tables.read_text`
Column = Annotated[str, _like(r".{1,200}", _TEXT, " ")]
File = Annotated[str, _like(r"(?=.*\S)[^\0]{1,4000}", _FILE)]
Width = Annotated[Whole, Field(ge=1, le=2000)]
Hidden = Annotated[list[Width], Field(max_length=10)]


class _Part(core.Declared):
    """A mapping of the file; `from_plain` tells its faults."""

    __init__ = pydantic.BaseModel.__init__


def _numbered(given: Any) -> Iterator[Any]:
    """Yield the names fp_0 to fp_99 of ``{fp_: 0..99}``, or what was given."""
    for name, span in given.items() if isinstance(given, dict) else ():
        if not (ends := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", str(span))):
            raise fault(f"{shown(span)} given, numbers as 0..99 are allowed.", name)
        first, last = ends.groups()
        wide = len(first) if first[0] == "0" else 1
        # more than a table may have is enough to be refused
        for number in range(int(first), min(int(last), int(first) + 99_999) + 1):
            yield f"{name}{number:0{wide}}"
    if not isinstance(given, dict):
        yield given


class Inputs(_Part):
    """Columns of numbers, in short a list, or the latents of a scale above.

    In the list ``{fp_: 0..99}`` stands for fp_0 to fp_99.
    """

    columns: list[Column] = []
    latents_of: Name | None = None  # made of the same columns as there,
    rename: dict[Column, Column] = {}  # or of others: name there, name here

    @classmethod
    def _long(cls, given: Any) -> Any:
        given = {"columns": given} if isinstance(given, list) else given
        columns = given.get("columns") if isinstance(given, dict) else None
        if isinstance(columns, list):
            given |= {"columns": list(chain.from_iterable(map(_numbered, columns)))}
        return given


class Target(_Part):
    """A predicted column; its name alone is short for ``{column: ...}``."""

    column: Column
    kind: Annotated[str, one_of(("number", "category"))] = "number"
    loss: Annotated[str, one_of(("mae", "mse", "huber"))] = "mae"
    weight: Annotated[Real, Field(ge=1e-6, le=1e6)] = 1.0  # of the loss
    hidden: Hidden = []
    dropout: Annotated[Real, Field(ge=0, le=0.9)] = 0.0
    output: Activation = "linear"  # with limits a number is not standardised

    @classmethod
    def _long(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given


class Raw(NamedTuple):
    """Columns of a table that make one block or target."""

    columns: list[str]
    category: bool = False


Blocks = dict[str, Raw]  # by "scale.name"


class ScaleDeclaration(_Part):
    """One scale: its table, what goes in and what comes out."""

    name: Name
    table: File  # its path, from the declaration's folder
    inputs: dict[Name, Inputs] = {}
    categories: dict[Name, Column] = {}  # blocks of one column of words
    latent: Annotated[Whole, Field(ge=1, le=200)]
    hidden: Hidden = []
    l1: Annotated[Real, Field(ge=0, le=100)] = 0.0
    predict: dict[Name, Target] = {}
    reconstruction: Annotated[Real, Field(ge=0, le=1e6)] = 1.0  # its weight
    group: list[Column] = []  # rows equal in these share a fold

    def faults(self) -> Iterator[tuple]:
        """Yield what is wrong within it, and the keys."""
        if not self.inputs and not self.categories:
            yield ("nothing goes in; give inputs or categories.",)
        if not self.predict and not self.reconstruction:
            yield ("nothing comes out; predict or reconstruct something.",)
        for key, block in self.inputs.items():
            at = "inputs", key
            if bool(block.columns) == bool(block.latents_of):
                yield "either columns or latents_of, a scale, is allowed.", *at
            if block.rename and not block.latents_of:
                yield "is allowed beside latents_of only.", *at, "rename"
        for key, target in self.predict.items():
            for what in ("loss", "output"):
                if target.kind == "category" and what in target.model_fields_set:
                    yield "is not for a category.", "predict", key, what
        names = [*self.inputs, *self.categories, *self.predict]
        for what in ("predict", "categories"):
            for key in getattr(self, what):
                if names.count(key) > 1:
                    yield "the name stands twice; rename one.", what, key
        for columns in (_columns(self.blocks() | self.targets()), self.group):
            for column in [one for one in columns if columns.count(one) > 1]:
                words = (
                    f"the column {shown(column)} stands twice; a target is no input."
                )
                yield words, *self.keys_of(column)

    def blocks(self) -> Blocks:
        """Return its input blocks that are no latents."""
        raws = {k: Raw(b.columns) for k, b in self.inputs.items() if b.columns}
        raws |= {k: Raw([c], True) for k, c in self.categories.items()}
        return {f"{self.name}.{key}": raw for key, raw in raws.items()}

    def targets(self) -> Blocks:
        """Return what it predicts."""
        return {
            f"{self.name}.{key}": Raw([t.column], t.kind == "category")
            for key, t in self.predict.items()
        }

    def latents(self) -> dict[str, str]:
        """Return whose latents its other blocks are."""
        return {k: b.latents_of for k, b in self.inputs.items() if b.latents_of}

    def keys_of(self, column: str) -> Keys:
        """Return the keys of the last place that asks for a column."""
        fields = {"inputs", "categories", "predict", "group"}
        asked = [("inputs", key, "latents_of") for key in self.latents()]
        return [*asked, *_places(column, self.model_dump(include=fields))][-1]


def _places(text: str, plain: Any, at: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of all places in plain values that hold a text."""
    plain = dict(enumerate(plain)) if isinstance(plain, list) else plain
    for key, value in plain.items() if isinstance(plain, dict) else ():
        if value == text:
            yield *at, key
        yield from _places(text, value, (*at, key))


def _columns(blocks: Blocks) -> list[str]:
    return [column for raw in blocks.values() for column in raw.columns]


class Training(_Part):
    """How all scales are trained; ``seeds`` replicas in each fold."""

    epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 300
    batch_size: Annotated[Whole, Field(ge=1, le=10_000)] = 20
    learning_rate: Annotated[Real, Field(ge=1e-8, le=10)] = 0.001
    seeds: Annotated[Whole, Field(ge=1, le=200)] = 2


class Validation(_Part):
    """The cross-validation of every scale."""

    folds: Annotated[Whole, Field(ge=2, le=1000)] = 5


class Declaration(_Part):
    """Scales, lowest first, and how they are trained."""

    version: Annotated[Whole, Field(ge=1, le=1)]
    name: Name | None = None  # names what is written; else the file does
    scales: Annotated[list[ScaleDeclaration], Field(min_length=1, max_length=10)]
    training: Training = Training()
    validation: Validation = Validation()
    _document: Document = pydantic.PrivateAttr(Document("declaration", {}))
    _blocks: dict[str, Blocks] = pydantic.PrivateAttr({})

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        learnt: dict[str, dict[Keys, str]] = {}
        for index, scale in enumerate(self.scales):
            for words, *keys in chain(scale.faults(), self._faults(scale, learnt)):
                raise fault(words, "scales", index, *keys)
        return self

    def _faults(self, scale: ScaleDeclaration, learnt: Any) -> Iterator[tuple]:
        """Yield what is wrong with a scale, and its keys; note its blocks."""
        if scale.name in learnt:
            yield f"two scales are named {scale.name!r}; rename one.", "name"
        if not scale.predict and scale is self.scales[-1]:
            yield ("the last scale predicts nothing; give it a target.",)
        blocks: Blocks = {}
        below: dict[Keys, str] = {}  # by table and column who has learnt it
        above = list(learnt)
        for key, name in scale.latents().items():
            at, rename = Keys(("inputs", key)), scale.inputs[key].rename
            if name not in above:
                known = ", ".join(map(repr, above)) or "there is none"
                words = f"{name!r} given, a scale above this one is allowed, "
                words += f"once ({known}).{nearest(name, above)}"
                yield words, *at, "latents_of"
            above.remove(name)
            below |= learnt[name]
            columns = _columns(self._blocks[name])
            for column in [name for name in rename if name not in columns]:
                words = f"{name!r} has no input column {shown(column)}."
                yield words + nearest(column, columns), *at, "rename", column
            for lower, raw in self._blocks[name].items():
                raw = raw._replace(columns=[rename.get(c, c) for c in raw.columns])
                if blocks.setdefault(lower, raw) != raw:
                    words = f"the block {lower!r} is reached on two ways"
                    yield f"{words}; use the same columns.", *at
        for key, target in scale.predict.items():
            at = ("predict", key, "column")
            learn = os.path.normpath(scale.table), target.column
            if target.column in _columns(blocks):
                yield "is an input of a scale below, hence no target.", *at
            if learn in below:
                words = f"is learnt by {below[learn]!r} from all rows of the "
                yield f"{words}same table; predict it in one of the two.", *at
            below[learn] = scale.name
        self._blocks[scale.name] = blocks | scale.blocks()
        learnt[scale.name] = below

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
    """Return what `Declaration.plain` described; tables are beside ``path``.

    A `DataError` tells in one line the file, line and key, what was given
    and what is allowed.
    """
    document = Document(str(path), lines or {})
    try:
        declaration = Declaration.model_validate(plain)
    except pydantic.ValidationError as error:
        keys, words = core.told(error)
        raise document.fault(words, keys) from None
    declaration._document = document
    return declaration


def parse(text: str, path: str | Path = "declaration.yml") -> Declaration:
    """Return the declaration in a YAML text; faults as `from_plain`."""
    document = Document(str(path), {(): 1})
    return from_plain(document.read(text), path, document.lines)


def read_declaration(path: str | Path) -> Declaration:
    """Read a declaration from a YAML file; faults as `from_plain`."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        return parse(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        words = f", line {line}: not text in UTF-8; save it as such."
    except OSError as error:
        words = f": no such file to read ({error.strerror})."
    raise DataError(f"{path}{words}")
