"""A small YAML file that declares the scales for one's own tables.

::

    version: 1
    scales:
      - name: gap
        table: gaps.csv           # relative to the folder of this file
        inputs:
          ions: [radius, mass]    # a block: a name, its columns
        latent: 4
        predict:
          gap: {column: Gap, hidden: [50], output: relu}
      - name: binding
        table: binding.csv
        inputs:
          composition: {latents_of: gap}
        categories:
          solvent: Solvent        # one column of words
        latent: 8
        predict:
          energy: BE
        group: [formula]          # rows equal in these share a fold

The file is data and nothing else: tags, anchors and aliases are refused,
nothing in it is executed, and the tables that it names are only read.  A
column is used if it is named.  Every fault is told in one line with file,
line and key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Signature
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nestedae_utils import errors as checks
from nestedae_utils.errors import DataError, ParameterError, shown
from nestedae_utils.model.scales import ACTIVATIONS

VERSION = 1
LARGEST = 64 * 1024
"""Bytes of a declaration; a larger file is not one."""
DEEPEST = 8
"""Levels of a declaration's lists and mappings."""
MOST_SCALES = 10
KINDS = ("number", "category")
LOSSES = ("mae", "mse", "huber")


# --- from text to plain values ---------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where a declaration stands, to tell a fault's line."""

    path: str
    root: yaml.Node | None = None

    def fault(self, words: str, keys: tuple[str | int, ...] = ()) -> DataError:
        """Return the one-line error of a key."""
        told = [" ".join(self.path.split())]
        if self.root is not None:
            told.append(f"line {_line(self.root, keys)}")
        for key in keys:
            # whatever stands in a file may stand in a key
            place = isinstance(key, int)
            told.append(f"item {key + 1}" if place else shown(key)[1:-1])
        return DataError(f"{', '.join(told)}: {' '.join(words.split())}")


def _line(node: yaml.Node, keys: tuple[str | int, ...]) -> int:
    """Return the line of the last of the keys that stands in the file."""
    line = node.start_mark.line
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if name.value == str(key):
                    node, line = value, name.start_mark.line
                    break
        elif isinstance(node, yaml.SequenceNode) and key in range(
            len(node.value)
        ):
            node = node.value[key]
            line = node.start_mark.line
    return line + 1


def _compose(text: str, path: str) -> yaml.Node:
    """Return the tree of a YAML text that is plain data and not too deep."""

    def fault(words: str, mark: yaml.Mark | None) -> DataError:
        line = "" if mark is None else f", line {mark.line + 1}"
        return DataError(f"{path}{line}: {' '.join(words.split())}")

    if len(text.encode("utf-8", "replace")) > LARGEST:
        raise fault(
            f"more than {LARGEST} bytes, a declaration is shorter; list "
            "columns here, and keep the values in a CSV table.",
            None,
        )
    try:
        # by events first, which need no recursion
        depth = documents = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            mark = event.start_mark
            if getattr(event, "anchor", None):
                raise fault(
                    f"an anchor or alias, {event.anchor!r}, is not allowed; "
                    "write out what it stands for, and names that begin "
                    "with & or * in quotes.",
                    mark,
                )
            if getattr(event, "tag", None):
                raise fault(
                    f"the tag {shown(event.tag)} is not allowed; a "
                    "declaration holds texts, numbers, lists and mappings, "
                    "and nothing in it is executed.",
                    mark,
                )
            documents += isinstance(event, yaml.DocumentStartEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if documents > 1:
                raise fault("a second document; one is allowed.", mark)
            if depth > DEEPEST:
                raise fault(
                    f"more than {DEEPEST} levels of lists and mappings; a "
                    "declaration has fewer.",
                    mark,
                )
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise fault(
            f"not YAML ({error.problem or error.context}); indent with "
            "blanks, and put names with special characters in quotes.",
            mark,
        ) from None
    except yaml.YAMLError as error:
        line = text[: getattr(error, "position", 0)].count("\n") + 1
        raise DataError(
            f"{path}, line {line}: not YAML "
            f"({getattr(error, 'reason', 'unreadable')}); save it as plain "
            "text in UTF-8."
        ) from None
    if not isinstance(node, yaml.MappingNode):
        raise DataError(
            f"{path}, line 1: a mapping with the keys "
            f"{', '.join(Declaration.model_fields)} is allowed; begin with "
            f"'version: {VERSION}'."
        )
    return node


_WHOLE = re.compile(r"[-+]?\d+")
_REAL = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


def _scalar(node: yaml.ScalarNode) -> Any:
    """Read a scalar as YAML 1.2 does: "no" is a word and 1e-3 a number."""
    text = node.value
    if node.style is not None:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    # beyond that a whole number is none that anything here could count
    if _WHOLE.fullmatch(text) and len(text) < 19:
        return int(text)
    if _REAL.fullmatch(text):
        return float(text)
    if text.lower() in (".nan", ".inf", "+.inf", "-.inf"):
        return float(text.replace(".", ""))
    return text


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what would not be read as the text that it is."""


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    tag = "tag:yaml.org,2002:str"
    same = _scalar(yaml.ScalarNode(tag, text)) == text
    return dumper.represent_scalar(tag, text, style=None if same else "'")


_Dumper.add_representer(str, _represented)


def _values(node: yaml.Node, path: str) -> Any:
    """Return the plain values of a tree; refuse a key that stands twice."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_values(part, path) for part in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise DataError(
                f"{path}, line {line}: a key is a word, a list or mapping is "
                "given; write 'key: value'."
            )
        if key.value in found:
            raise DataError(
                f"{path}, line {line}, {shown(key.value)}: stands twice; "
                "remove one of the two."
            )
        found[key.value] = _values(value, path)
    return found


# --- the declaration -------------------------------------------------------


def _fault(words: str, *keys: str | int) -> PydanticCustomError:
    """Return a fault of a part; the keys lead to it from there."""
    return PydanticCustomError(
        "fault", "{words}", {"words": words, "at": keys}
    )


def _checked(check: Callable[..., Any], *allowed: Any) -> PlainValidator:
    """Return a validator that tells a fault as the package's checks do."""

    def validate(value: Any) -> Any:
        try:
            return check("", value, *allowed)
        except ParameterError as error:
            raise _fault(str(error).removeprefix(": ")) from None

    return PlainValidator(validate)


def _named(_: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r"[^\W\d_][\w-]{0,39}", value
    ):
        raise ParameterError(
            f"{shown(value)} given, a name is allowed: a letter, then up to "
            "39 letters, digits, '_' or '-'."
        )
    return value


def _text(_: str, value: Any) -> str:
    text = value if isinstance(value, str) else ""
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise ParameterError(
            f"{shown(value)} given, a text of up to 200 printable "
            "characters is allowed; put a name that reads as a number in "
            "quotes."
        )
    return value


def _format(_: str, value: Any) -> int:
    if value is True or value != VERSION:
        raise ParameterError(
            f"{shown(value)} given, {VERSION} is allowed, the version of "
            "the format that this program reads."
        )
    return VERSION


Width = Annotated[int, _checked(checks.whole, 1, 2000)]
Name = Annotated[str, _checked(_named)]
Column = Annotated[str, _checked(_text)]


class _Part(BaseModel):
    """A mapping of the file: known keys only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **settings: Any) -> None:
        super().__pydantic_init_subclass__(**settings)
        # parts are made by from_plain; pydantic's own signature would show
        # every validator on the page of the package
        cls.__signature__ = Signature()

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        given = cls._long(given)
        if not isinstance(given, dict):
            raise _fault(
                f"{shown(given)} given, a mapping is allowed with the keys "
                f"{', '.join(cls.model_fields)}."
            )
        for key in given:
            if key not in cls.model_fields:
                raise _fault(
                    "unknown key, one of "
                    f"{', '.join(cls.model_fields)} is allowed."
                    + checks.nearest(str(key), cls.model_fields),
                    key,
                )
        return given

    @classmethod
    def _long(cls, given: Any) -> Any:
        """Return the long form of what may be written in short."""
        return given


class Inputs(_Part):
    """An input block: columns, or the latents of an earlier scale.

    Attributes
    ----------
    columns
        Columns of numbers.  A list in place of the mapping is short for it.
    latents_of
        Name of an earlier scale.  Its latents are computed from the columns
        of this scale's table that are named as in its own table,
    rename
        or otherwise: its column, and the column of this table.
    """

    columns: Annotated[list[Column], Field(max_length=2000)] = []
    latents_of: Name | None = None
    rename: dict[Column, Column] = {}

    @classmethod
    def _long(cls, given: Any) -> Any:
        return {"columns": given} if isinstance(given, list) else given

    @model_validator(mode="after")
    def _one_kind(self) -> Inputs:
        if bool(self.columns) == bool(self.latents_of):
            raise _fault(
                "either a list of columns is allowed, or latents_of with "
                "the name of an earlier scale."
            )
        if self.rename and not self.latents_of:
            raise _fault("is allowed beside latents_of only.", "rename")
        return self


class Target(_Part):
    """A predicted column; its name alone is short for ``{column: ...}``.

    Attributes
    ----------
    column
        The column.
    kind
        ``"number"`` or ``"category"``, a word that is told apart.
    loss, weight
        Loss of a number, and its factor in the total loss.
    hidden, dropout
        Widths of the hidden layers, and the dropout behind each.
    output
        Activation of the output.  With ``"linear"`` a number is
        standardised; with another, which has limits, it stays as it is.
    """

    column: Column
    kind: Annotated[str, _checked(checks.choice, KINDS)] = "number"
    loss: Annotated[str, _checked(checks.choice, LOSSES)] = "mae"
    weight: Annotated[float, _checked(checks.real, 1e-6, 1e6)] = 1.0
    hidden: Annotated[list[Width], Field(max_length=10)] = []
    dropout: Annotated[float, _checked(checks.real, 0.0, 0.9)] = 0.0
    output: Annotated[str, _checked(checks.choice, ACTIVATIONS)] = "linear"

    @classmethod
    def _long(cls, given: Any) -> Any:
        return {"column": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _of_its_kind(self) -> Target:
        for key in ("loss", "output"):
            if self.kind == "category" and key in self.model_fields_set:
                raise _fault("is not allowed for a category.", key)
        return self


class ScaleDeclaration(_Part):
    """One scale.

    Attributes
    ----------
    name, table
        Its name; the path of its CSV table, from the declaration's folder.
        It may lead elsewhere, since a table is only read.
    inputs
        Blocks of numbers and of latents, by name.
    categories
        Blocks of one column of words each, by name.
    latent, hidden, l1
        Number of latents; widths of the encoder's hidden layers; factor of
        the L1 term on its weights.
    predict
        Predicted targets, by name.
    reconstruction
        Factor of the losses of the reconstructed inputs; 0 for none.
    group
        Columns: rows that are equal in them share a fold of the
        cross-validation; without any, folds are by row.
    """

    name: Name
    table: Column
    inputs: Annotated[dict[Name, Inputs], Field(max_length=50)] = {}
    categories: Annotated[dict[Name, Column], Field(max_length=50)] = {}
    latent: Annotated[int, _checked(checks.whole, 1, 200)]
    hidden: Annotated[list[Width], Field(max_length=10)] = []
    l1: Annotated[float, _checked(checks.real, 0.0, 100.0)] = 0.0
    predict: Annotated[dict[Name, Target], Field(max_length=50)] = {}
    reconstruction: Annotated[float, _checked(checks.real, 0.0, 1e6)] = 1.0
    group: Annotated[list[Column], Field(max_length=200)] = []

    @model_validator(mode="after")
    def _each_once(self) -> ScaleDeclaration:
        if not self.inputs and not self.categories:
            raise _fault("nothing goes in; give inputs or categories.")
        if not self.predict and not self.reconstruction:
            raise _fault(
                "nothing comes out; predict something, or give a "
                "reconstruction above 0."
            )
        names = set(self.inputs)
        columns: dict[str, str] = {}
        for keys, column in self.named_columns():
            if keys[1] in names and keys[0] != "inputs":
                raise _fault(
                    "the name stands twice among inputs, categories and "
                    "predict; give each a name of its own.",
                    *keys[:2],
                )
            if keys[0] != "inputs":
                names.add(keys[1])
            if column in columns:
                raise _fault(
                    f"the column {shown(column)} stands twice, the first "
                    f"time in {columns[column]}; use a column once, and no "
                    "target as an input.",
                    *keys,
                )
            columns[column] = ", ".join(map(str, keys[:2]))
        for index, column in enumerate(self.group):
            if column in self.group[:index]:
                raise _fault(f"{shown(column)} stands twice.", "group", index)
        return self

    def named_columns(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every column that the scale itself names, and its keys."""
        for name, block in self.inputs.items():
            for index, column in enumerate(block.columns):
                yield ("inputs", name, index), column
        for name, column in self.categories.items():
            yield ("categories", name), column
        for name, target in self.predict.items():
            yield ("predict", name, "column"), target.column


class TrainingSettings(_Part):
    """How all scales are trained; ``seeds`` replicas in each fold."""

    epochs: Annotated[int, _checked(checks.whole, 1, 100_000)] = 300
    batch_size: Annotated[int, _checked(checks.whole, 1, 10_000)] = 20
    learning_rate: Annotated[float, _checked(checks.real, 1e-8, 10.0)] = 0.001
    seeds: Annotated[int, _checked(checks.whole, 1, 200)] = 2


class ValidationSettings(_Part):
    """The cross-validation of every scale."""

    folds: Annotated[int, _checked(checks.whole, 2, 1000)] = 5


@dataclass(frozen=True)
class Raw:
    """Columns of a table that make one block of a scale's chain."""

    columns: tuple[str, ...]
    category: bool = False


class Declaration(_Part):
    """Scales, lowest first, and how they are trained.

    Attributes
    ----------
    version
        Version of the format, 1.
    name
        Names what is written; the file's own name where left out.
    scales, training, validation
        As named.
    """

    version: Annotated[Literal[1], _checked(_format)]
    name: Name | None = None
    scales: Annotated[
        list[ScaleDeclaration], Field(min_length=1, max_length=MOST_SCALES)
    ]
    training: TrainingSettings = TrainingSettings()
    validation: ValidationSettings = ValidationSettings()

    _place: _Place = PrivateAttr(default=_Place("declaration"))

    @model_validator(mode="after")
    def _in_order(self) -> Declaration:
        names = [scale.name for scale in self.scales]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise _fault(
                    f"two scales are named {name!r}; give each a name of "
                    "its own.",
                    *("scales", index, "name"),
                )
        for index, scale in enumerate(self.scales):
            here, before = ("scales", index), names[:index]
            used: set[str] = set()
            for name, block in scale.inputs.items():
                at = (*here, "inputs", name)
                if block.latents_of is None:
                    continue
                if block.latents_of not in before:
                    known = ", ".join(map(repr, before)) or "there is none"
                    raise _fault(
                        f"{block.latents_of!r} given, a scale above this "
                        f"one is allowed ({known})."
                        + checks.nearest(block.latents_of, before),
                        *at,
                        "latents_of",
                    )
                if block.latents_of in used:
                    raise _fault(
                        f"the latents of {block.latents_of!r} stand twice; "
                        "take them once.",
                        *at,
                        "latents_of",
                    )
                used.add(block.latents_of)
                needed = self._columns(block.latents_of)
                for column in block.rename:
                    if column not in needed:
                        raise _fault(
                            f"scale {block.latents_of!r} has no input "
                            f"column {shown(column)}."
                            + checks.nearest(column, needed),
                            *at,
                            "rename",
                            column,
                        )
            self._check_supply(scale, here)
        if not self.scales[-1].predict:
            raise _fault(
                "the last scale predicts nothing; give it a target.",
                *("scales", len(self.scales) - 1),
            )
        return self

    def _check_supply(self, scale: ScaleDeclaration, here: tuple) -> None:
        """Refuse what would show a target to its own model."""
        supply = self._columns(scale.name)
        below = self._below(scale)
        for name, target in scale.predict.items():
            at = (*here, "predict", name, "column")
            if target.column in supply:
                raise _fault(
                    f"the column {shown(target.column)} is an input of "
                    "this scale or of one below it; a target is not.",
                    *at,
                )
            for lower in below:
                same = os.path.normpath(lower.table) == os.path.normpath(
                    scale.table
                )
                seen = {t.column for t in lower.predict.values()}
                if same and target.column in seen:
                    raise _fault(
                        f"scale {lower.name!r} has learnt the column "
                        f"{shown(target.column)} from all rows of the same "
                        "table; predict it in one of the two.",
                        *at,
                    )

    def _columns(self, name: str) -> set[str]:
        blocks = self.blocks(name).values()
        return {column for raw in blocks for column in raw.columns}

    def _below(self, scale: ScaleDeclaration) -> list[ScaleDeclaration]:
        """Return all scales below one, nearest first."""
        found: list[ScaleDeclaration] = []
        for block in scale.inputs.values():
            if block.latents_of:
                lower = self.scale(block.latents_of)
                found += [lower, *self._below(lower)]
        return found

    def scale(self, name: str) -> ScaleDeclaration:
        """Return the scale of that name.

        Raises
        ------
        ParameterError
            If there is none.
        """
        known = {scale.name: scale for scale in self.scales}
        checks.choice("scale", name, known)
        return known[name]

    def blocks(self, name: str) -> dict[str, Raw]:
        """Return what a scale's table must hold: its blocks and those below.

        Returns
        -------
        dict
            By ``"scale.block"``, with the columns of this scale's table; a
            lower scale's come first.
        """
        scale = self.scale(name)
        found: dict[str, Raw] = {}
        own: dict[str, Raw] = {}
        for block_name, block in scale.inputs.items():
            if not block.latents_of:
                own[f"{name}.{block_name}"] = Raw(tuple(block.columns))
                continue
            for key, raw in self.blocks(block.latents_of).items():
                renamed = Raw(
                    tuple(block.rename.get(c, c) for c in raw.columns),
                    raw.category,
                )
                if found.setdefault(key, renamed) != renamed:
                    raise _fault(
                        f"the block {key!r} is reached on two ways, from "
                        f"{', '.join(found[key].columns)} and from "
                        f"{', '.join(renamed.columns)}; use the same "
                        "columns.",
                        "scales",
                        self.index(name),
                        "inputs",
                        block_name,
                    )
        for block_name, column in scale.categories.items():
            own[f"{name}.{block_name}"] = Raw((column,), category=True)
        return {**found, **own}

    def keys_of(self, name: str, column: str) -> tuple[str | int, ...]:
        """Return the keys at which a scale asks for a column."""
        scale = self.scale(name)
        here = ("scales", self.index(name))
        for keys, known in scale.named_columns():
            if known == column:
                return (*here, *keys)
        if column in scale.group:
            return (*here, "group", scale.group.index(column))
        for block_name, block in scale.inputs.items():
            at = (*here, "inputs", block_name)
            for lower, known in block.rename.items():
                if known == column:
                    return (*at, "rename", lower)
            if block.latents_of:
                here = (*at, "latents_of")
        return here

    def table(self, name: str) -> Path:
        """Return the path of a scale's table."""
        return Path(self._place.path).parent / self.scale(name).table

    def fault(self, words: str, *keys: str | int) -> DataError:
        """Return a one-line error that names file, line and key."""
        return self._place.fault(words, keys)

    def index(self, name: str) -> int:
        """Return a scale's place in the list."""
        return [scale.name for scale in self.scales].index(name)

    @property
    def title(self) -> str:
        """Name for files, of letters, digits, ``_`` and ``-`` only."""
        stem = re.sub(r"[^\w-]+", "_", Path(self._place.path).stem)
        return self.name or stem.strip("_-")[:40] or "declaration"

    def plain(self) -> dict[str, Any]:
        """Return the declaration as plain lists, numbers and texts."""
        return self.model_dump(exclude_unset=True)

    def text(self) -> str:
        """Return the declaration as YAML."""
        return yaml.dump(
            self.plain(), Dumper=_Dumper, sort_keys=False, allow_unicode=True
        )


def from_plain(
    plain: Any, path: str | Path, root: yaml.Node | None = None
) -> Declaration:
    """Return the declaration that :meth:`Declaration.plain` described.

    Parameters
    ----------
    plain
        Lists, mappings, numbers and texts.
    path
        Named in messages; tables are relative to its folder.
    root
        The tree of the YAML that the values come from, if any.

    Raises
    ------
    DataError
        If a key is unknown or missing, or a value is not allowed.
    """
    place = _Place(str(path), root)
    try:
        made = Declaration.model_validate(plain)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
    except RecursionError:
        raise place.fault("too many levels; a declaration has few.") from None
    else:
        made._place = place
        return made
    context = first.get("ctx", {})
    # pydantic's own words for a key that is wrong, and for a short form
    keys = tuple(key for key in first["loc"] if key != "[key]")
    keys += context.get("at", ())
    given, count = shown(first.get("input")), context.get("actual_length")
    words = {
        "fault": context.get("words"),
        "missing": "is missing; give it.",
        "list_type": f"{given} given, a list is allowed.",
        "dict_type": f"{given} given, a mapping is allowed.",
        "too_short": f"{count} given, at least one is allowed.",
        "too_long": f"{count} given, at most {context.get('max_length')} is "
        "allowed.",
    }.get(first["type"], f"{given} given, {first['msg'].lower()}.")
    raise place.fault(words, keys)


def parse(text: str, path: str | Path = "declaration.yml") -> Declaration:
    """Return the declaration in a YAML text.

    Parameters
    ----------
    text
        The YAML.
    path
        Named in messages; tables are relative to its folder.

    Raises
    ------
    DataError
        If the text is not such a declaration: one line with file, line and
        key, what was given and what is allowed.
    """
    root = _compose(text, str(path))
    return from_plain(_values(root, str(path)), path, root)


def read_declaration(path: str | Path) -> Declaration:
    """Read a declaration from a YAML file.

    Raises
    ------
    DataError
        If there is no such file, it cannot be read, or as :func:`parse`.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; give the path of a declaration."
            )
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not text in UTF-8; save it as such."
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror})."
        ) from None
    return parse(text, path)
