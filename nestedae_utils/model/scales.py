"""The declaration of a scale: one class for every model of this book.

A scale (paper, Sec. 2) is an autoencoder with named input blocks, a latent
and named heads.  A head that is named like an input block, or lists some in
``of``, reconstructs it; any other predicts a target.  The vanilla
autoencoder, the single autoencoder and every scale of a nested one are
values of :class:`Scale`; what is allowed in one is checked here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import (
    AfterValidator,
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
    if kind == "missing":
        return keys, "is missing; give it."
    given = context.get("actual_length", shown(first.get("input")))
    allowed = _ALLOWED.get(kind)
    if allowed is None:
        return keys, f"{given} given, {first['msg'].lower()}."
    return keys, f"{given} given, {allowed.format(**context)} is allowed."


def known(given: Iterable[Any], allowed: Iterable[str], what: str) -> None:
    """Raise the fault of the first of the given names that is not allowed."""
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            raise fault(
                f"{what}, one of {', '.join(map(repr, allowed))} is allowed."
                + nearest(str(name), allowed)
            )


class Declared(BaseModel):
    """A frozen declaration whose faults are one line, a ParameterError.

    Fields may be given by place, in order, or by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    called: ClassVar[str] = "declaration"

    def __init__(self, *given: Any, **named: Any) -> None:
        fields = dict(zip(type(self).model_fields, given, strict=False))
        try:
            super().__init__(**fields, **named)
        except ValidationError as error:
            keys, words = told(error)
            name = {**fields, **named}.get("name", "")
            where = [f"{self.called} {name!r}" if name else self.called]
            where += [f"item {k + 1}" if k in range(999) else k for k in keys]
            raise ParameterError(f"{', '.join(where)}: {words}") from None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        given = cls._long(given)
        if not isinstance(given, dict):
            raise fault(
                f"{shown(given)} given, a mapping is allowed with the keys "
                f"{', '.join(cls.model_fields)}."
            )
        for key in given:
            if key not in cls.model_fields:
                raise fault(
                    f"unknown key, one of {', '.join(cls.model_fields)} is "
                    f"allowed.{nearest(str(key), cls.model_fields)}",
                    key,
                )
        return given

    def with_(self, **changes: Any) -> Self:
        """Return it with some fields changed, checked anew."""
        fields = {key: getattr(self, key) for key in type(self).model_fields}
        return type(self)(**{**fields, **changes})

    @classmethod
    def _long(cls, given: Any) -> Any:
        """Return the long form of what may be written in short."""
        return given


def one_of(names: Iterable[str] | Mapping[str, Any]) -> BeforeValidator:
    """Return a validator of a word; its message suggests the nearest."""

    def check(word: Any) -> Any:
        known([word], names, f"{shown(word)} given")
        return word

    return BeforeValidator(check)


def _plain(value: Any) -> Any:
    """Return NumPy's number as Python's; True is no number."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        raise fault(f"{value} given, a number is allowed.")
    return value


def _label(value: str) -> str:
    if not value or "|" in value:
        raise fault(
            f"{value!r} given, a text that is not empty and has no '|' is allowed."
        )
    return value


Whole = Annotated[int, BeforeValidator(_plain), Field(strict=True)]
Real = Annotated[
    float, BeforeValidator(_plain), Field(strict=True, allow_inf_nan=False)
]
Count = Annotated[Whole, Field(ge=1)]
Factor = Annotated[Real, Field(ge=0)]
Name = Annotated[str, Field(strict=True), AfterValidator(_label)]
Activation = Annotated[str, one_of(REGISTRIES["activation"])]
Loss = Annotated[str, one_of(REGISTRIES["loss"])]
Scaling = Annotated[str, one_of(("standard", "none"))]


class Block(Declared):
    """A named group of input columns, or the latents of an earlier scale.

    ``name`` is its key in the table, a mapping of arrays; ``scaling`` is
    ``"standard"`` or, for one-hot columns, ``"none"``.  Of latents
    (``latents_of``): are the earlier scale's inputs standardised with the
    statistics it was trained with (``"carried"``) or anew with this scale's
    table (``"refitted"``, which is what the paper did)?
    """

    called: ClassVar[str] = "block"
    name: Name
    width: Count
    scaling: Scaling = "standard"
    latents_of: str = ""
    lower_scaler: Annotated[str, one_of(("carried", "refitted"))] = "carried"


class Head(Declared):
    """A named output: it reconstructs the input block, or predicts a target.

    ``loss`` counts with ``weight``; ``hidden`` layers have an activation and
    dropout behind each; ``gain`` multiplies their Xavier initialisation.
    ``output`` is the last activation (cross-entropy wants logits, hence
    ``"linear"``); ``scaling`` that of a predicted target.  ``of`` names
    several blocks that one decoder reconstructs side by side; ``net`` is a
    name in ``NETS``.
    """

    called: ClassVar[str] = "head"
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
    net: Annotated[str, one_of(REGISTRIES["net"])] = "dense"

    @model_validator(mode="after")
    def _logits(self) -> Head:
        for key, allowed in (("output", "linear"), ("scaling", "none")):
            value = getattr(self, key)
            if self.loss == "cross_entropy" and value != allowed:
                raise fault(
                    f"{value!r} given, only {allowed!r} is allowed with the "
                    "loss 'cross_entropy', which takes logits and a one-hot "
                    "target.",
                    key,
                )
        if len(set(self.of)) != len(self.of):
            raise fault(
                f"{list(self.of)} given, each block may stand only once.",
                "of",
            )
        return self


class Scale(Declared):
    """One autoencoder of a nested autoencoder.

    ``inputs`` stand in the order of the encoder's columns; ``l1`` is the
    factor of the sum of absolute weights (no biases) of the ``"encoder"`` or
    of ``"all"`` layers in the total loss; ``net`` and ``code`` are names in
    ``NETS`` and ``CODES``.  Biases start at zero.
    """

    called: ClassVar[str] = "scale"
    name: Name
    inputs: Annotated[tuple[Block, ...], Field(min_length=1)]
    latent: Count
    heads: Annotated[tuple[Head, ...], Field(min_length=1)]
    hidden: tuple[Count, ...] = ()
    activation: Activation = "tanh"
    latent_activation: Activation = "tanh"
    l1: Factor = 0.0
    l1_on: Annotated[str, one_of(("encoder", "all"))] = "encoder"
    initialisation: Annotated[str, one_of(("xavier_normal", "xavier_uniform"))] = (
        "xavier_normal"
    )
    net: Annotated[str, one_of(REGISTRIES["net"])] = "dense"
    code: Annotated[str, one_of(REGISTRIES["code"])] = "plain"

    @model_validator(mode="after")
    def _together(self) -> Scale:
        for what in ("inputs", "heads"):
            names = [part.name for part in getattr(self, what)]
            if len(set(names)) != len(names):
                raise fault(f"{names} given, each once is allowed.", what)
        blocks = {block.name: block for block in self.inputs}
        for place, head in enumerate(self.heads):
            at = ("heads", place)
            for name in head.of:
                known([name], blocks, f"head {head.name!r}, of: {name!r} given")
            parts = [blocks[name] for name in self.blocks_of(head)]
            width = sum(block.width for block in parts)
            if parts and head.width != width:
                raise fault(
                    f"{head.width} given, but what head {head.name!r} "
                    f"reconstructs has {width} columns.",
                    *at,
                    "width",
                )
            standard = any(block.scaling == "standard" for block in parts)
            if head.loss == "cross_entropy" and standard:
                raise fault(
                    "'cross_entropy' given, but what it reconstructs is "
                    "standardised; give one-hot blocks the scaling 'none'.",
                    *at,
                    "loss",
                )
        return self

    def blocks_of(self, head: Head) -> tuple[str, ...]:
        """Return the input blocks a head reconstructs; none if it predicts."""
        own = any(block.name == head.name for block in self.inputs)
        return head.of or ((head.name,) if own else ())

    @property
    def width(self) -> int:
        """Number of input columns, all blocks together."""
        return sum(block.width for block in self.inputs)

    @property
    def predicted(self) -> tuple[Head, ...]:
        """Heads that predict a target."""
        return tuple(h for h in self.heads if not self.blocks_of(h))

    @property
    def reconstructed(self) -> tuple[Head, ...]:
        """Heads that reconstruct input blocks."""
        return tuple(h for h in self.heads if self.blocks_of(h))
