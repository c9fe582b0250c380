"""A nested autoencoder: a chain of scales (paper, Sec. 2).

Each scale is trained on its own table, a mapping from block and target names
to arrays (n, width), or (R, n, width) where the replicas differ.  The latents
of a scale, standardised, are an input block of a later one.  `latents`,
`outputs` and `down` are the one way through the chain, up and back: tensors
in and out, with gradients.  All else calls them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.errors import DataError, ParameterError, nearest
from nestedae_utils.model.networks import decode, encode, tensors
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Scale
from nestedae_utils.model.training import History, train

Table = Mapping[str, np.ndarray | Tensor]


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation (``ddof=0``; 1 if constant) of columns.

    Both (1, 1, width), or (R, 1, width) where each replica has its own.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(
        cls, values: np.ndarray, rows: Sequence[np.ndarray] | None = None
    ) -> Scaler:
        """Measure (1 or R, n, width) on all rows, or each replica's own."""
        parts = list(values[:, None])
        if rows is not None:
            wide = np.broadcast_to(values, (len(rows), *values.shape[1:]))
            parts = [one[None, r] for one, r in zip(wide, rows, strict=True)]
        mean = np.stack([part.mean(1) for part in parts])
        deviation = np.stack([part.std(1) for part in parts])
        # rounding leaves a constant column a deviation of about 1e-16
        constant = deviation <= 1e-12 * np.maximum(1, np.abs(mean))
        return cls(mean, np.where(constant, 1.0, deviation))

    def scale(self, values: Tensor) -> Tensor:
        """Standardise values (1 or R, n, width)."""
        mean, deviation = self._like(values)
        return (values - mean) / deviation

    def unscale(self, values: Tensor) -> Tensor:
        """Take standardised values back to their units."""
        mean, deviation = self._like(values)
        return values * deviation + mean

    def _like(self, values: Tensor) -> list[Tensor]:
        both = (self.mean, self.deviation)
        return [torch.as_tensor(v, dtype=values.dtype) for v in both]

    def take(self, places: Sequence[int]) -> Scaler:
        """Return it for some replicas; a shared one stays as it is."""
        if len(self.mean) == 1:
            return self
        return Scaler(self.mean[places], self.deviation[places])


Scalers = Mapping[str, Scaler]


@dataclass(frozen=True)
class Fitted:
    """A trained scale: declaration, replicas, parameters (R, rows, columns).

    ``scalers`` for every standardised block or target; ``lower_scalers``, by
    lower scale, where its inputs were standardised anew with this scale's
    table.  The history is not saved.
    """

    scale: Scale
    replicas: Replicas
    parameters: Mapping[str, np.ndarray]
    scalers: Scalers
    lower_scalers: Mapping[str, Scalers] = field(default_factory=dict)
    history: History | None = None

    def at_end(self, kind: str, metric: str) -> np.ndarray:
        """Return a metric after the last epoch, (R,)."""
        return self.history.values[kind][metric][:, -1].astype(float)

    def take(self, places: Sequence[int]) -> Fitted:
        """Return it with these replicas, without history."""
        places = list(places)

        def some(scalers: Scalers) -> dict[str, Scaler]:
            return {key: one.take(places) for key, one in scalers.items()}

        return replace(
            self,
            replicas=self.replicas.take(places),
            parameters={k: v[places] for k, v in self.parameters.items()},
            scalers=some(self.scalers),
            lower_scalers={k: some(v) for k, v in self.lower_scalers.items()},
            history=None,
        )


class NestedAutoencoder:
    """A chain of scales, fitted one by one, in order.

    Raises
    ------
    ParameterError
        If two scales share a name, or a latent block names a scale that
        does not stand before it or has another number of latents.
    """

    def __init__(self, scales: Iterable[Scale]) -> None:
        self.scales: dict[str, Scale] = {}
        self.fitted: dict[str, Fitted] = {}
        for scale in scales:
            if scale.name in self.scales:
                raise ParameterError(
                    f"scales: two are named {scale.name!r}; give each scale "
                    "a name of its own."
                )
            for block in scale.inputs:
                if block.latents_of:
                    self._check(scale, block)
            self.scales[scale.name] = scale

    def _check(self, scale: Scale, block: Block) -> None:
        where = f"scale {scale.name!r}, block {block.name!r}"
        below = self.scales.get(block.latents_of)
        if below is None:
            known = ", ".join(map(repr, self.scales)) or "none"
            raise ParameterError(
                f"{where}, latents_of: {block.latents_of!r} given, a scale "
                f"before this one is allowed ({known})."
                + nearest(block.latents_of, self.scales)
            )
        if below.latent != block.width:
            raise ParameterError(
                f"{where}, width: {block.width} given, but scale "
                f"{block.latents_of!r} has {below.latent} latents."
            )

    def fit_scale(
        self,
        name: str,
        table: Table,
        replicas: Replicas,
        *,
        standardise_on: str = "all",
        **settings: Any,
    ) -> NestedAutoencoder:
        """Fit one scale on its table; the scales below must be fitted.

        The table has every block, also of the scales whose latents it
        takes, and every target; a lower scale has as many ``replicas``, or
        one that serves all.  Blocks are standardised by ``"all"`` rows, as
        in the paper, or by each replica's ``"train"`` rows; the further
        settings are those of :func:`nestedae_utils.model.training.train`.

        Raises
        ------
        ParameterError, DataError
            As `train`; if the table lacks a block or it does not fit.
        """
        scale = self.scales[name]
        rows = None
        if standardise_on == "train":
            rows = [seen for seen, _ in replicas.splits]
        lower = {
            block.latents_of: {
                part.name: Scaler.fit(_array(part, table).numpy(), rows)
                for part in self.scales[block.latents_of].inputs
                if part.scaling == "standard" and not part.latents_of
            }
            for block in scale.inputs
            if block.lower_scaler == "refitted" and block.latents_of
        }
        targets = [Block(h.name, h.width, h.scaling) for h in scale.predicted]
        scalers, scaled = {}, {}
        for block in (*scale.inputs, *targets):
            values = self._raw(block, table, lower).detach()
            if block.scaling == "standard":
                scalers[block.name] = Scaler.fit(values.numpy(), rows)
                values = scalers[block.name].scale(values)
            scaled[block.name] = values
        trained = train(
            scale,
            beside([scaled[block.name] for block in scale.inputs]).numpy(),
            {
                head.name: beside(
                    [scaled[b] for b in scale.blocks_of(head) or [head.name]]
                ).numpy()
                for head in scale.heads
            },
            replicas,
            **settings,
        )
        self.fitted[name] = Fitted(
            scale, replicas, trained.parameters, scalers, lower,
            trained.history,
        )  # fmt: skip
        return self

    def attach(self, fitted: Fitted) -> NestedAutoencoder:
        """Use a fitted scale; ParameterError if it is declared otherwise."""
        if self.scales.get(fitted.scale.name) != fitted.scale:
            raise ParameterError(
                f"scale {fitted.scale.name!r}: fitted with other settings "
                "than this chain declares; use the same declaration."
            )
        self.fitted[fitted.scale.name] = fitted
        return self

    def take(self, places: Sequence[int]) -> NestedAutoencoder:
        """Return the chain with these replicas in every scale."""
        chain = NestedAutoencoder(self.scales.values())
        for name, fitted in self.fitted.items():
            shared = len(fitted.replicas) == 1
            chain.fitted[name] = fitted if shared else fitted.take(places)
        return chain

    # --- the one way up and down, with gradients ---------------------------

    def latents(
        self, name: str, table: Table, scalers: Scalers | None = None
    ) -> Tensor:
        """Return a scale's latents (R, n, latent) of a raw table.

        In float64, or as the table's tensors; ``scalers`` stand in for the
        scale's own.
        """
        fitted = self.fitted[name]
        x = beside(
            [
                self.scaled(name, block.name, table, scalers)
                for block in fitted.scale.inputs
            ]
        )
        count = max(len(x), len(fitted.replicas))
        p = tensors(fitted.parameters, count, x.dtype)
        return encode(fitted.scale, p, x.expand(count, -1, -1))

    def scaled(
        self, name: str, key: str, table: Table, scalers: Scalers | None = None
    ) -> Tensor:
        """Return a scale's block or target as its network sees it."""
        fitted = self.fitted[name]
        used = {**fitted.scalers, **(scalers or {})}
        known = {block.name: block for block in fitted.scale.inputs}
        for head in fitted.scale.predicted:
            known[head.name] = Block(head.name, head.width)
        values = self._raw(known[key], table, fitted.lower_scalers)
        return used[key].scale(values) if key in used else values

    def outputs(
        self,
        name: str,
        z: Tensor,
        scalers: Scalers | None = None,
        wanted: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return what a scale decodes from latents, in its own units.

        Blocks and targets by name, (R, n, width), all or those ``wanted``;
        categories as probabilities.
        """
        fitted = self.fitted[name]
        used = {**fitted.scalers, **(scalers or {})}
        widths = {block.name: block.width for block in fitted.scale.inputs}
        count = max(len(z), len(fitted.replicas))
        p, z = (
            tensors(fitted.parameters, count, z.dtype),
            z.expand(count, -1, -1),
        )
        found = {}
        for head in fitted.scale.heads:
            parts = fitted.scale.blocks_of(head) or (head.name,)
            if wanted is not None and not set(parts) & set(wanted):
                continue
            values = decode(head, p, z)
            if head.loss == "cross_entropy":
                values = torch.softmax(values, -1)
            cuts = [widths.get(key, head.width) for key in parts]
            for key, value in zip(parts, values.split(cuts, -1), strict=True):
                found[key] = used[key].unscale(value) if key in used else value
        return found

    def down(
        self,
        name: str,
        z: Tensor,
        scalers: Scalers | None = None,
        wanted: Collection[str] | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """Return what latents stand for, scale by scale down the chain.

        A scale whose latents are reconstructed is decoded from them in turn,
        not from its own encoder.
        """
        fitted = self.fitted[name]
        links = {b.name: b for b in fitted.scale.inputs if b.latents_of}
        asked = None if wanted is None else {*wanted, *links}
        found = {name: self.outputs(name, z, scalers, asked)}
        for key, block in links.items():
            if key in found[name]:
                lower = fitted.lower_scalers.get(block.latents_of)
                found |= self.down(block.latents_of, found[name][key], lower, wanted)
        return found

    def _raw(self, block: Block, table: Table, lower: Mapping[str, Scalers]) -> Tensor:
        if block.latents_of:
            scalers = lower.get(block.latents_of)
            return self.latents(block.latents_of, table, scalers)
        return _array(block, table)

    # --- arrays in, arrays out ---------------------------------------------

    def encode(self, table: Table, scale: str = "", *, seen_by: str = "") -> np.ndarray:
        """Return the latents (R, n, latent) of a raw table.

        Parameters
        ----------
        table
            The blocks that the scale, and those below it, take.
        scale
            Name of the scale; the last one where empty.
        seen_by
            A later scale that standardised this scale's inputs anew: use
            its statistics instead of the scale's own.

        Raises
        ------
        ParameterError, DataError
            If the scale is not fitted, or the table does not fit.
        """
        name, scalers = self._seen(scale, seen_by)
        return self.latents(name, table, scalers).numpy()

    def predict(
        self, table: Table, scale: str = "", *, seen_by: str = ""
    ) -> dict[str, np.ndarray]:
        """Return every predicted target (R, n, width); see :meth:`encode`."""
        name, scalers = self._seen(scale, seen_by)
        wanted = {head.name for head in self.scales[name].predicted}
        return self._through(name, table, scalers, wanted)

    def reconstruct(
        self, table: Table, scale: str = "", *, seen_by: str = ""
    ) -> dict[str, np.ndarray]:
        """Return every reconstructed block; see :meth:`encode`."""
        name, scalers = self._seen(scale, seen_by)
        wanted = {block.name for block in self.scales[name].inputs}
        return self._through(name, table, scalers, wanted)

    def decode(
        self, latents: np.ndarray, scale: str = "", *, seen_by: str = ""
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return what latents (R, n, latent) stand for, by scale and name."""
        name, scalers = self._seen(scale, seen_by)
        found = self.down(name, torch.as_tensor(np.asarray(latents)), scalers)
        return {
            lower: {key: value.numpy() for key, value in parts.items()}
            for lower, parts in found.items()
        }

    def _through(
        self,
        name: str,
        table: Table,
        scalers: Scalers | None,
        wanted: Collection[str],
    ) -> dict[str, np.ndarray]:
        z = self.latents(name, table, scalers)
        found = self.outputs(name, z, scalers, wanted)
        return {key: value.numpy() for key, value in found.items()}

    def _seen(self, scale: str, seen_by: str) -> tuple[str, Scalers | None]:
        name = scale or list(self.scales)[-1]
        for given in filter(None, (name, seen_by)):
            if given not in self.fitted:
                known = ", ".join(map(repr, self.fitted)) or "none"
                raise ParameterError(
                    f"scale: {given!r} given, a fitted scale is allowed "
                    f"({known}).{nearest(given, self.fitted)}"
                )
        if not seen_by:
            return name, None
        return name, self.fitted[seen_by].lower_scalers[name]


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


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Put (1 or R, n, width) side by side, each with all replicas."""
    count = max(map(len, parts))
    return torch.cat([part.expand(count, -1, -1) for part in parts], -1)


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
            f"{where}: shape {tuple(values.shape)} given, (rows, "
            f"{block.width}) is allowed, or with a leading axis for the "
            "replicas."
        )
    if not torch.isfinite(values).all():
        raise DataError(
            f"{where}: a value is not finite; remove its row or fill it in."
        )
    return values[None] if values.ndim == 2 else values
