"""The declaration of a scale: one class for every model of this book.

A scale (paper, Sec. 2) is an autoencoder with named input blocks, a latent
and named heads.  A head that is named like an input block, or lists some in
``of``, reconstructs it; any other predicts a target.  The vanilla
autoencoder, the single autoencoder and every scale of a nested one are
values of :class:`Scale`; what is allowed in one is checked here, once.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nestedae_utils.errors import ParameterError, nearest, shown
from nestedae_utils.model.layers import REGISTRIES

_ALLOWED = {
    "greater_than_equal": "a number of at least {ge}",
    "greater_than": "a number above {gt}",
    "less_than_equal": "a number of at most {le}",
    "less_than": "a number below {lt}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a finite number",
    "string_type": "a text",
    "string_pattern_mismatch": "a text that is not empty and has no '|'",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "too_short": "at least one",
    "too_long": "at most {max_length}",
}


def fault(words: str, *keys: str | int) -> PydanticCustomError:
    """Return a fault for a validator to raise; the keys lead to its place."""
    return PydanticCustomError("told", "{words}", {"words": words, "at": keys})


def told(error: ValidationError) -> tuple[tuple[str | int, ...], str]:
    """Return the keys to the first fault of a declaration, and its words."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    # pydantic's own word for a key that is wrong
    keys = tuple(key for key in first["loc"] if key != "[key]")
    if kind == "told":
        return keys + tuple(context["at"]), context["words"]
    if kind == "value_error":  # a declaration within this one
        return (), str(context["error"])
    if kind == "missing":
        return keys, "is missing; give it."
    given = context.get("actual_length", shown(first.get("input")))
    if kind not in _ALLOWED:
        return keys, f"{given} given, {first['msg'].lower()}."
    return keys, f"{given} given, {_ALLOWED[kind].format(**context)} is allowed."


def _known(word: Any, allowed: Iterable[str], what: str, *keys: str) -> None:
    """Raise the fault of a word that is not allowed."""
    if word not in (allowed := list(allowed)):
        words = f"{what}, one of {', '.join(map(repr, allowed))} is allowed."
        raise fault(words + nearest(str(word), allowed), *keys)


class Declared(BaseModel):
    """A frozen declaration whose faults are one line, a ParameterError.

    Fields may be given by place, in order, or by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, *given: Any, **named: Any) -> None:
        named |= zip(type(self).model_fields, given, strict=False)
        try:
            super().__init__(**named)
        except ValidationError as error:
            keys, words = told(error)
            where = type(self).__name__.lower()
            where += f" {named['name']!r}" if named.get("name") else ""
            for key in keys:
                where += f", item {key + 1}" if isinstance(key, int) else f", {key}"
            raise ParameterError(f"{where}: {words}") from None

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, given: Any) -> Any:
        given, fields = cls._long(given), list(cls.model_fields)
        if not isinstance(given, dict):
            raise fault(
                f"{shown(given)} given, a mapping is allowed with the keys "
                f"{', '.join(fields)}."
            )
        for key in given:
            if key not in fields:
                words = f"unknown key, one of {', '.join(fields)} is allowed."
                raise fault(words + nearest(str(key), fields), key)
        return given

    @classmethod
    def _long(cls, given: Any) -> Any:
        """Return the long form of what may be written in short."""
        return given

    def with_(self, **changes: Any) -> Self:
        """Return it with some fields changed, checked anew."""
        fields = {key: getattr(self, key) for key in type(self).model_fields}
        return type(self)(**{**fields, **changes})


def one_of(names: Iterable[str]) -> BeforeValidator:
    """Return a validator of a word; its message suggests the nearest."""

    def check(word: Any) -> Any:
        _known(word, names, f"{shown(word)} given")
        return word

    return BeforeValidator(check)


# NumPy's numbers are numbers too
_PLAIN = BeforeValidator(lambda v: v.item() if isinstance(v, np.generic) else v)
Whole = Annotated[int, _PLAIN, Field(strict=True)]
Real = Annotated[float, _PLAIN, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
Factor = Annotated[Real, Field(ge=0)]
Name = Annotated[str, Field(strict=True, pattern=r"^[^|]+$")]
Activation = Annotated[str, one_of(REGISTRIES["activation"])]
Loss = Annotated[str, one_of(REGISTRIES["loss"])]
Net = Annotated[str, one_of(REGISTRIES["net"])]
Code = Annotated[str, one_of(REGISTRIES["code"])]
Scaling = Annotated[str, one_of(("standard", "size", "none"))]
LowerScaler = Annotated[str, one_of(("carried", "refitted"))]
Penalised = Annotated[str, one_of(("encoder", "all"))]
Initialisation = Annotated[str, one_of(("xavier_normal", "xavier_uniform"))]


class Block(Declared):
    """A named group of input columns, or the latents of an earlier scale.

    ``name`` is its key in the table, a mapping of arrays; ``scaling`` is
    ``"standard"``, ``"size"`` (divided by the deviation, zero stays zero) or, for
    one-hot columns, ``"none"``.  Of latents
    (``latents_of``): are the earlier scale's inputs standardised with the
    statistics it was trained with (``"carried"``) or anew with this scale's
    table (``"refitted"``, which is what the paper did)?
    """

    name: Name
    width: Count
    scaling: Scaling = "standard"
    latents_of: str = ""
    lower_scaler: LowerScaler = "carried"


class Head(Declared):
    """A named output: it reconstructs the input block, or predicts a target.

    ``loss`` counts with ``weight``; ``hidden`` layers have an activation and
    dropout behind each; ``gain`` multiplies their Xavier initialisation.
    ``output`` is the last activation (cross-entropy wants logits, hence
    ``"linear"``); ``scaling`` that of a predicted target.  ``of`` names
    several blocks that one decoder reconstructs side by side.
    """

    name: Name
    width: Count
    loss: Loss = "mae"
    weight: Factor = 1.0
    hidden: tuple[Count, ...] = ()
    activation: Activation = "relu"
    dropout: Annotated[Factor, Field(lt=1)] = 0.0
    output: Activation = "linear"
    gain: Annotated[Real, Field(gt=0)] = 1.0
    scaling: Scaling = "none"
    of: tuple[Name, ...] = ()
    net: Net = "dense"

    @model_validator(mode="after")
    def _logits(self) -> Self:
        for key, allowed in (("output", "linear"), ("scaling", "none")):
            value = getattr(self, key)
            if self.loss == "cross_entropy" and value != allowed:
                raise fault(
                    f"{value!r} given, only {allowed!r} is allowed with the loss "
                    "'cross_entropy', which takes logits and a one-hot target.",
                    key,
                )
        if len(set(self.of)) != len(self.of):
            raise fault(f"{list(self.of)} given, each block may stand only once.", "of")
        return self


class Scale(Declared):
    """One autoencoder of a nested autoencoder.

    ``inputs`` stand in the order of the encoder's columns; ``l1`` is the
    factor of the sum of absolute weights (no biases) of the ``"encoder"`` or
    of ``"all"`` layers in the total loss; ``net`` and ``code`` are names in
    ``NETS`` and ``CODES``.  The code's penalty counts with ``code_weight``; its
    ``codebook`` has so many rows, if it has one.  Biases start at zero.
    """

    name: Name
    inputs: Annotated[tuple[Block, ...], Field(min_length=1)]
    latent: Count
    heads: Annotated[tuple[Head, ...], Field(min_length=1)]
    hidden: tuple[Count, ...] = ()
    activation: Activation = "tanh"
    latent_activation: Activation = "tanh"
    l1: Factor = 0.0
    l1_on: Penalised = "encoder"
    initialisation: Initialisation = "xavier_normal"
    net: Net = "dense"
    code: Code = "plain"
    code_weight: Factor = 1.0
    codebook: Annotated[Whole, Field(ge=2)] = 100

    @model_validator(mode="after")
    def _together(self) -> Self:
        for what, parts in (("inputs", self.inputs), ("heads", self.heads)):
            names = [part.name for part in parts]
            if len(set(names)) != len(names):
                raise fault(f"{names} given, each once is allowed.", what)
        blocks = {block.name: block for block in self.inputs}
        for place, head in enumerate(self.heads):
            for name in head.of:
                _known(name, blocks, f"head {head.name!r}, of: {name!r} given")
            rebuilt = [blocks[name] for name in self.blocks_of(head)]
            width = sum(block.width for block in rebuilt)
            if rebuilt and head.width != width:
                words = f"{head.width} given, but what head {head.name!r} "
                words += f"reconstructs has {width} columns."
                raise fault(words, "heads", place, "width")
            standard = any(block.scaling != "none" for block in rebuilt)
            if head.loss == "cross_entropy" and standard:
                words = "'cross_entropy' given, but what it reconstructs is "
                words += "standardised; give one-hot blocks the scaling 'none'."
                raise fault(words, "heads", place, "loss")
        return self

    def blocks_of(self, head: Head) -> tuple[str, ...]:
        """Return the input blocks a head reconstructs; none if it predicts."""
        same = tuple(b.name for b in self.inputs if b.name == head.name)
        return head.of or same

    @property
    def width(self) -> int:
        """Number of input columns, all blocks together."""
        return sum(block.width for block in self.inputs)

    @property
    def predicted(self) -> tuple[Head, ...]:
        """Heads that predict a target."""
        return tuple(h for h in self.heads if not self.blocks_of(h))

    @property
    def blocks(self) -> dict[str, Block]:
        """Input blocks and predicted targets by name, as a table has them."""
        targets = [Block(h.name, h.width, h.scaling) for h in self.predicted]
        return {block.name: block for block in (*self.inputs, *targets)}
