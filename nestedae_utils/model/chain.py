"""A nested autoencoder: a chain of scales (paper, Sec. 2).

Each scale is trained on its own table, a mapping from block and target names
to arrays (n, width), or (R, n, width) where the replicas differ.  The latents
of a scale, standardised, are an input block of a later one.  `latents`,
`outputs` and `down` are the one way through the chain, up and back: tensors
in and out, with gradients.  All else calls them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.errors import DataError, ParameterError, nearest
from nestedae_utils.model.fitted import Fitted, Scaler, Scalers
from nestedae_utils.model.layers import Arrays
from nestedae_utils.model.networks import decode, encode
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.model.training import train

Table = Mapping[str, np.ndarray | Tensor]


class NestedAutoencoder:
    """A chain of scales, fitted one by one, in order.

    ParameterError if two scales share a name, or a latent block names a scale
    that does not stand before it or has another number of latents.
    """

    def __init__(self, scales: Iterable[Scale]) -> None:
        self.scales: dict[str, Scale] = {}
        self.fitted: dict[str, Fitted] = {}
        for scale in scales:
            words, known = "", ", ".join(map(repr, self.scales)) or "none"
            for block in [b for b in scale.inputs if b.latents_of]:
                lower, below = block.latents_of, self.scales.get(block.latents_of)
                where = f"scale {scale.name!r}, block {block.name!r}"
                if below is None:
                    words = f"{where}, latents_of: {lower!r} given, a scale before "
                    words += f"this one is allowed ({known})."
                    words += nearest(lower, self.scales)
                elif below.latent != block.width:
                    words = f"{where}, width: {block.width} given, but scale "
                    words += f"{lower!r} has {below.latent} latents."
            if scale.name in self.scales:
                words = f"scales: two are named {scale.name!r}; give each scale a "
                words += "name of its own."
            if words:
                raise ParameterError(words)
            self.scales[scale.name] = scale

    def fit_scale(
        self,
        name: str,
        table: Table,
        replicas: Replicas,
        *,
        standardise_on: str = "all",
        **settings: Any,
    ) -> Self:
        """Fit one scale on its table; the scales below must be fitted.

        The table has every block, also of the scales whose latents it takes,
        and every target; a lower scale has as many ``replicas``, or one that
        serves all.  Blocks are standardised by ``"all"`` rows, as in the paper,
        or by each replica's ``"train"`` rows; the further settings, and a
        ParameterError, are those of :func:`nestedae_utils.model.training.train`.
        DataError if the table lacks a block or it does not fit.
        """
        scale, own = self.scales[name], standardise_on == "train"
        rows = [seen for seen, _ in replicas.splits] if own else None
        lower = {
            block.latents_of: {
                part.name: Scaler.fit(_array(part, table).numpy(), rows)
                for part in self.scales[block.latents_of].inputs
                if part.scaling == "standard" and not part.latents_of
            }
            for block in scale.inputs
            if block.lower_scaler == "refitted" and block.latents_of
        }
        below, scalers, scaled = self._with(lower), {}, {}
        for block in scale.blocks.values():
            values = below._raw(block, table).detach()
            if block.scaling != "none":
                scaler = Scaler.fit(values.numpy(), rows)
                if block.scaling == "size":
                    scaler = replace(scaler, mean=np.zeros_like(scaler.mean))
                scalers[block.name] = scaler
                values = scalers[block.name].scale(values)
            scaled[block.name] = values
        by_head = {
            head.name: beside([scaled[part] for part in _parts(scale, head)]).numpy()
            for head in scale.heads
        }
        inputs = beside([scaled[block.name] for block in scale.inputs]).numpy()
        fitted = train(scale, inputs, by_head, replicas, **settings)
        self.fitted[name] = replace(fitted, scalers=scalers, lower_scalers=lower)
        return self

    def attach(self, fitted: Fitted) -> Self:
        """Use a fitted scale; ParameterError if it is declared otherwise."""
        if self.scales.get(fitted.scale.name) != fitted.scale:
            raise ParameterError(
                f"scale {fitted.scale.name!r}: fitted with other settings "
                "than this chain declares; use the same declaration."
            )
        self.fitted[fitted.scale.name] = fitted
        return self

    def take(self, places: Sequence[int]) -> Self:
        """Return the chain with these replicas, also of one that serves all."""
        chain = copy(self)
        chain.fitted = {
            name: one if len(one.replicas) == 1 else one.take(places)
            for name, one in self.fitted.items()
        }
        return chain

    # --- the one way up and down, with gradients ---------------------------

    def latents(self, name: str, table: Table) -> Tensor:
        """Return a scale's latents (R, n, latent) of a raw table.

        In float64, or as the table's tensors.
        """
        fitted = self.fitted[name]
        x = beside([self.scaled(name, b.name, table) for b in fitted.scale.inputs])
        return encode(fitted.scale, *fitted.together(x))

    def scaled(self, name: str, key: str, table: Table) -> Tensor:
        """Return a scale's block or target as its network sees it."""
        fitted = self.fitted[name]
        values = self.seen_by(name)._raw(fitted.scale.blocks[key], table)
        scaler = fitted.scalers.get(key)
        return scaler.scale(values) if scaler else values

    def outputs(
        self, name: str, z: Tensor, wanted: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Return what a scale decodes from latents, in its own units.

        Blocks and targets by name, (R, n, width), all or those ``wanted``;
        categories as probabilities.
        """
        fitted = self.fitted[name]
        (p, z), blocks, found = fitted.together(z), fitted.scale.blocks, {}
        for head in fitted.scale.heads:
            parts = _parts(fitted.scale, head)
            if wanted is not None and not set(parts) & set(wanted):
                continue
            values = decode(head, p, z)
            if head.loss == "cross_entropy":
                values = torch.softmax(values, -1)
            cuts = [blocks[key].width for key in parts]
            for key, value in zip(parts, values.split(cuts, -1), strict=True):
                scaler = fitted.scalers.get(key)
                found[key] = scaler.unscale(value) if scaler else value
        return found

    def down(
        self, name: str, z: Tensor, wanted: Collection[str] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Return what latents stand for, scale by scale down the chain.

        A scale whose latents are reconstructed is decoded from them in turn,
        not from its own encoder.
        """
        inputs, below = self.fitted[name].scale.inputs, self.seen_by(name)
        links = {block.name: block.latents_of for block in inputs if block.latents_of}
        asked = None if wanted is None else {*wanted, *links}
        found = {name: self.outputs(name, z, asked)}
        for key in [key for key in links if key in found[name]]:
            found |= below.down(links[key], found[name][key], wanted)
        return found

    def seen_by(self, name: str) -> Self:
        """Return the chain as a later scale sees it.

        The scales whose inputs that one standardised anew have its statistics
        instead of their own.  ParameterError if it is not fitted.
        """
        return self._with(self.fitted[self._asked(name)].lower_scalers)

    def _with(self, lower: Mapping[str, Scalers]) -> Self:
        chain = copy(self)
        chain.fitted = dict(self.fitted)
        for name, scalers in lower.items():
            below = self.fitted[name]
            chain.fitted[name] = replace(below, scalers={**below.scalers, **scalers})
        return chain

    def _raw(self, block: Block, table: Table) -> Tensor:
        if block.latents_of:
            return self.latents(block.latents_of, table)
        return _array(block, table)

    # --- arrays in, arrays out ---------------------------------------------

    def encode(self, table: Table, scale: str = "") -> np.ndarray:
        """Return the latents (R, n, latent) of a raw table.

        The table has the blocks that the scale, the last one where empty, and
        those below it take.  ParameterError if the scale is not fitted,
        DataError if the table does not fit.
        """
        return self.latents(self._asked(scale), table).numpy()

    def predict(self, table: Table, scale: str = "") -> Arrays:
        """Return every predicted target (R, n, width); see :meth:`encode`."""
        name = self._asked(scale)
        wanted = [head.name for head in self.scales[name].predicted]
        return _numpy(self.outputs(name, self.latents(name, table), wanted))

    def reconstruct(self, table: Table, scale: str = "") -> Arrays:
        """Return every reconstructed block; see :meth:`encode`."""
        name = self._asked(scale)
        wanted = [block.name for block in self.scales[name].inputs]
        return _numpy(self.outputs(name, self.latents(name, table), wanted))

    def decode(self, latents: np.ndarray, scale: str = "") -> dict[str, Arrays]:
        """Return what latents (R, n, latent) stand for, by scale and name."""
        found = self.down(self._asked(scale), torch.as_tensor(np.asarray(latents)))
        return {lower: _numpy(parts) for lower, parts in found.items()}

    def _asked(self, scale: str) -> str:
        name = scale or list(self.scales)[-1]
        if name not in self.fitted:
            known = ", ".join(map(repr, self.fitted)) or "none"
            words = f"scale: {name!r} given, a fitted scale is allowed ({known})."
            raise ParameterError(words + nearest(name, self.fitted))
        return name


def fit(
    scales: Scale | Sequence[Scale],
    table: Table,
    replicas: Replicas,
    lower: NestedAutoencoder | None = None,
    **settings: Any,
) -> NestedAutoencoder:
    """Fit scales in order on one table, on top of a fitted chain.

    ``lower`` has one replica, or as many as ``replicas``; see
    :meth:`NestedAutoencoder.fit_scale` for the rest.  Replicas that were
    trained before, by whomever, are found in the cache.
    """
    scales = [scales] if isinstance(scales, Scale) else list(scales)
    below = list(lower.fitted.values()) if lower else []
    chain = NestedAutoencoder([*(part.scale for part in below), *scales])
    for part in below:
        chain.attach(part)
    for scale in scales:
        chain.fit_scale(scale.name, table, replicas, **settings)
    return chain


def _parts(scale: Scale, head: Head) -> tuple[str, ...]:
    """Return the blocks that a head reconstructs, or the target it predicts."""
    return scale.blocks_of(head) or (head.name,)


def _numpy(parts: Mapping[str, Tensor]) -> Arrays:
    return {key: value.numpy() for key, value in parts.items()}


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Put (1 or R, n, width) side by side, each with all replicas; one as it is."""
    count = max(map(len, parts))
    wide = [part.expand(count, -1, -1) for part in parts]
    return torch.cat(wide, -1) if wide[1:] else wide[0]


def _array(block: Block, table: Table) -> Tensor:
    """Return a table's block as a tensor (1 or R, n, width)."""
    where = f"table, block {block.name!r}"
    if block.name not in table:
        known = ", ".join(map(repr, table)) or "none"
        raise DataError(f"{where}: missing; it has {known}.")
    values = table[block.name]
    if not isinstance(values, Tensor):
        values = torch.tensor(np.asarray(values, dtype=np.float64))
    if values.ndim not in (2, 3) or values.shape[-1] != block.width:
        raise DataError(
            f"{where}: shape {tuple(values.shape)} given, (rows, {block.width}) "
            "is allowed, or with a leading axis for the replicas."
        )
    if not torch.isfinite(values).all():
        words = "a value is not finite; remove its row or fill it in."
        raise DataError(f"{where}: {words}")
    return values[None] if values.ndim == 2 else values
