"""A nested autoencoder: a chain of scales (paper, Sec. 2).

Each scale is trained on its own table, a mapping from block and target names
to arrays (n, width), or (R, n, width) where the replicas differ in them.
The latents of one scale, standardised, are an input block of a later one,
whatever table that one is trained on.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nestedae_utils import errors as checks
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.scales import (
    Block,
    Head,
    Network,
    Scale,
    parameter_count,
)
from nestedae_utils.model.training import (
    History,
    Split,
    check_replicas,
    train,
)

Table = Mapping[str, np.ndarray]
FORMAT = 1
STANDARDISE_ON = ("all", "train")


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of a block's columns.

    Both have shape (1, 1, width), or (R, 1, width) where each replica has
    its own; the standard deviation has ``ddof=0``, and is 1 for a constant
    column.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(
        cls, values: np.ndarray, rows: Sequence[np.ndarray] | None
    ) -> Scaler:
        """Measure (1 or R, n, width) on all rows, or each replica's own."""
        if rows is None:
            mean = values.mean(1, keepdims=True)
            deviation = values.std(1, keepdims=True)
        else:
            chosen = [
                values[replica if len(values) > 1 else 0][own]
                for replica, own in enumerate(rows)
            ]
            mean = np.stack([part.mean(0, keepdims=True) for part in chosen])
            deviation = np.stack(
                [part.std(0, keepdims=True) for part in chosen]
            )
        # Rounding leaves a constant column a deviation of about 1e-16.
        constant = deviation <= 1e-12 * np.maximum(1, np.abs(mean))
        return cls(mean, np.where(constant, 1.0, deviation))

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Standardise values (1 or R, n, width)."""
        return (values - self.mean) / self.deviation

    def unscale(self, values: np.ndarray) -> np.ndarray:
        """Take standardised values back to their units."""
        return values * self.deviation + self.mean

    def select(self, replicas: Sequence[int]) -> Scaler:
        """Keep some replicas; a shared scaler stays as it is."""
        if len(self.mean) == 1:
            return self
        return Scaler(
            self.mean[list(replicas)], self.deviation[list(replicas)]
        )


@dataclass(frozen=True)
class FittedScale:
    """A trained scale: its parameters, and the scalers that belong to it.

    Attributes
    ----------
    scale
        The declaration.
    parameters
        Shape (R, P), float32.
    scalers
        For every standardised block or target its scaler.
    lower_scalers
        For every lower scale whose inputs were standardised anew with this
        scale's table: the scalers of its blocks.
    history, last_epoch, best_epoch
        See :class:`nestedae_utils.model.training.Training`; not saved to files.
    """

    scale: Scale
    parameters: np.ndarray
    scalers: Mapping[str, Scaler]
    lower_scalers: Mapping[str, Mapping[str, Scaler]]
    history: History = field(default_factory=dict)
    last_epoch: np.ndarray | None = None
    best_epoch: np.ndarray | None = None

    @property
    def replicas(self) -> int:
        """Number of replicas R."""
        return len(self.parameters)

    def select(self, replicas: Sequence[int]) -> FittedScale:
        """Return a fitted scale with only these replicas, without history."""
        chosen = list(replicas)
        return replace(
            self,
            parameters=self.parameters[chosen],
            scalers={k: s.select(chosen) for k, s in self.scalers.items()},
            lower_scalers={
                name: {k: s.select(chosen) for k, s in scalers.items()}
                for name, scalers in self.lower_scalers.items()
            },
            history={},
            last_epoch=None,
            best_epoch=None,
        )


class NestedAutoencoder:
    """A chain of scales, fitted one by one.

    Parameters
    ----------
    scales
        In order; a block with ``latents_of`` names a scale before it.

    Raises
    ------
    ParameterError
        If two scales share a name, or a latent block names a scale that
        does not stand before it or has another number of latents.
    """

    def __init__(self, scales: Sequence[Scale]) -> None:
        self.scales: dict[str, Scale] = {}
        self.fitted: dict[str, FittedScale] = {}
        for scale in scales:
            if scale.name in self.scales:
                raise ParameterError(
                    f"scales: two are named {scale.name!r}; give each scale "
                    "a name of its own."
                )
            for block in scale.inputs:
                self._check_latents(scale, block)
            self.scales[scale.name] = scale
        if not self.scales:
            raise ParameterError("scales: none given, at least one is needed.")

    def _check_latents(self, scale: Scale, block: Block) -> None:
        if not block.latents_of:
            return
        where = f"scale {scale.name!r}, block {block.name!r}"
        if block.latents_of not in self.scales:
            known = ", ".join(map(repr, self.scales)) or "none"
            raise ParameterError(
                f"{where}, latents_of: {block.latents_of!r} given, a scale "
                f"before this one is allowed ({known})."
                + checks.nearest(block.latents_of, self.scales)
            )
        made = self.scales[block.latents_of].latent
        if made != block.width:
            raise ParameterError(
                f"{where}, width: {block.width} given, but scale "
                f"{block.latents_of!r} has {made} latents."
            )

    def fit(
        self,
        tables: Mapping[str, Table],
        splits: Mapping[str, Sequence[Split]],
        seeds: Sequence[int],
        **settings: Any,
    ) -> NestedAutoencoder:
        """Fit all scales in order; see :meth:`fit_scale`.

        ``tables`` and ``splits`` have one entry a scale.
        """
        for name in self.scales:
            for what, given in (("tables", tables), ("splits", splits)):
                if name not in given:
                    raise ParameterError(
                        f"{what}: nothing given for scale {name!r}; one "
                        "entry for each scale is needed."
                    )
            self.fit_scale(name, tables[name], splits[name], seeds, **settings)
        return self

    def fit_scale(
        self,
        name: str,
        table: Table,
        splits: Sequence[Split],
        seeds: Sequence[int],
        *,
        standardise_on: str = "all",
        **settings: Any,
    ) -> NestedAutoencoder:
        """Fit one scale on its table; the scales below must be fitted.

        Parameters
        ----------
        name
            Name of the scale.
        table
            For every block (also of the scales whose latents it takes) and
            every target an array (n, width).
        splits, seeds
            For every replica its (training, validation) rows and its seed.
            A lower scale has as many replicas, or one that serves all.
        standardise_on
            Statistics of ``"all"`` rows, as in the paper, or of each
            replica's ``"train"`` rows.
        settings
            Passed on to :func:`nestedae_utils.model.training.train`.

        Raises
        ------
        ParameterError, DataError
            If a parameter is not allowed or the table does not fit.
        """
        scale = self._scale(name)
        checks.choice("standardise_on", standardise_on, STANDARDISE_ON)
        check_replicas(splits, seeds)
        rows = [s[0] for s in splits] if standardise_on == "train" else None
        lower: dict[str, dict[str, Scaler]] = {}
        for block in scale.inputs:
            if block.latents_of and block.lower_scaler == "refitted":
                below = self._fitted(block.latents_of)
                parts = {
                    part.name: self._raw(part, table, below.lower_scalers)
                    for part in below.scale.inputs
                    if part.scaling == "standard"
                }
                if parts:
                    self._check_sizes(name, parts, splits)
                if below.replicas not in (1, len(splits)):
                    raise _other_replicas(name, len(splits), below.replicas)
                lower[block.latents_of] = {
                    key: Scaler.fit(values, rows)
                    for key, values in parts.items()
                }
        scalers: dict[str, Scaler] = {}
        scaled: dict[str, np.ndarray] = {}
        targets = [
            Block(head.name, head.width, head.scaling)
            for head in scale.predicted
        ]
        for block in (*scale.inputs, *targets):
            scaled[block.name] = self._raw(block, table, lower)
        self._check_sizes(name, scaled, splits)
        for block in (*scale.inputs, *targets):
            if block.scaling == "standard":
                values = scaled[block.name]
                scalers[block.name] = Scaler.fit(values, rows)
                scaled[block.name] = scalers[block.name].scale(values)
        done = train(
            scale,
            _side_by_side([scaled[block.name] for block in scale.inputs]),
            {
                head.name: _side_by_side(
                    [scaled[b] for b in scale.blocks_of(head) or [head.name]]
                )
                for head in scale.heads
            },
            splits,
            seeds,
            **settings,
        )
        self.fitted[name] = FittedScale(
            scale=scale,
            parameters=done.parameters,
            scalers=scalers,
            lower_scalers=lower,
            history=done.history,
            last_epoch=done.last_epoch,
            best_epoch=done.best_epoch,
        )
        return self

    def attach(self, fitted: FittedScale) -> NestedAutoencoder:
        """Use an already fitted scale in this chain.

        Raises
        ------
        ParameterError
            If the chain declares the scale otherwise.
        """
        if self._scale(fitted.scale.name) != fitted.scale:
            raise ParameterError(
                f"scale {fitted.scale.name!r}: fitted with other settings "
                "than this chain declares; use the same declaration."
            )
        self.fitted[fitted.scale.name] = fitted
        return self

    def encode(
        self, table: Table, scale: str = "", *, seen_by: str = ""
    ) -> np.ndarray:
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
            If the scale is not fitted or the table lacks a block.
        """
        name = scale or list(self.scales)[-1]
        return self._encode(name, table, self._refitted(name, seen_by))

    def predict(
        self, table: Table, scale: str = "", *, seen_by: str = ""
    ) -> dict[str, np.ndarray]:
        """Return every predicted target (R, n, width) in its own units.

        See :meth:`encode` for the parameters.
        """
        fitted = self._fitted(scale or list(self.scales)[-1])
        scalers = self._refitted(fitted.scale.name, seen_by)
        return self._heads(fitted, table, fitted.scale.predicted, scalers)

    def reconstruct(
        self, table: Table, scale: str = "", *, seen_by: str = ""
    ) -> dict[str, np.ndarray]:
        """Return every reconstructed block (R, n, width) in its own units.

        Categories come as probabilities.  See :meth:`encode` for the
        parameters.
        """
        fitted = self._fitted(scale or list(self.scales)[-1])
        scalers = self._refitted(fitted.scale.name, seen_by)
        return self._heads(fitted, table, fitted.scale.reconstructed, scalers)

    def decode(
        self, latents: np.ndarray, scale: str = "", *, seen_by: str = ""
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return what latents stand for, down the whole chain.

        A scale whose latents are reconstructed is decoded from them in turn,
        not from its own encoder.

        Parameters
        ----------
        latents
            Shape (R, n, latent), as :meth:`encode` gives them.
        scale, seen_by
            See :meth:`encode`.

        Returns
        -------
        dict
            For this scale and each one below that is reached, by name: the
            output of every head, (R, n, width), in its own units.
            Categories come as probabilities.

        Raises
        ------
        ParameterError, DataError
            If a scale is not fitted or the latents do not fit it.
        """
        fitted = self._fitted(scale or list(self.scales)[-1])
        name = fitted.scale.name
        latents = np.asarray(latents, dtype=np.float64)
        if latents.ndim != 3 or latents.shape[-1] != fitted.scale.latent:
            raise DataError(
                f"latents of scale {name!r}: shape {latents.shape} given, "
                f"(replicas, rows, {fitted.scale.latent}) is allowed."
            )
        if len({len(latents), fitted.replicas} - {1}) > 1:
            raise DataError(
                f"latents of scale {name!r}: {len(latents)} replicas given, "
                f"1 or {fitted.replicas} are allowed."
            )
        network, z = _ready(fitted, latents)
        used = {**fitted.scalers, **self._refitted(name, seen_by)}
        decoded = {
            name: _outputs(fitted, network, z, fitted.scale.heads, used)
        }
        for block in fitted.scale.inputs:
            if block.latents_of and block.name in decoded[name]:
                refitted = block.lower_scaler == "refitted"
                decoded |= self.decode(
                    decoded[name][block.name],
                    block.latents_of,
                    seen_by=name if refitted else "",
                )
        return decoded

    def save(self, path: str | Path) -> Path:
        """Write declarations, parameters and scalers (no history) to a file.

        The file holds tensors and one JSON text, no pickled code.  It is
        written beside and then renamed.

        Raises
        ------
        DataError
            If the folder does not exist.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise DataError(
                f"{path}: there is no folder {path.parent}; make it first."
            )
        tensors: dict[str, torch.Tensor] = {}
        for name, fitted in self.fitted.items():
            tensors[f"{name}|parameters"] = torch.tensor(fitted.parameters)
            groups = {"": fitted.scalers, **fitted.lower_scalers}
            for lower, scalers in groups.items():
                for key, scaler in scalers.items():
                    where = f"{name}|scaler|{lower}|{key}"
                    tensors[f"{where}|mean"] = torch.tensor(scaler.mean)
                    tensors[f"{where}|deviation"] = torch.tensor(
                        scaler.deviation
                    )
        declared = [scale.to_dict() for scale in self.scales.values()]
        payload = {
            "format": FORMAT,
            "scales": json.dumps(declared),
            "tensors": tensors,
        }
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            torch.save(payload, beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        return path

    @classmethod
    def load(
        cls, path: str | Path, scales: Sequence[Scale] | None = None
    ) -> NestedAutoencoder:
        """Read a chain that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.
        scales
            If given, the declarations that the file must have.

        Raises
        ------
        DataError
            If the file is missing, cut short, not such a file, or saved by
            other settings than ``scales``; the first difference is named.
        """
        path = Path(path)
        try:
            payload = torch.load(path, map_location="cpu", weights_only=True)
            # torch reads past an altered byte, the archive's sums tell it
            with zipfile.ZipFile(path) as archive:
                altered = archive.testzip()
            if altered:
                raise ValueError(f"{altered} is altered")
            version = payload["format"]
            declared = [
                Scale.from_dict(plain)
                for plain in json.loads(payload["scales"])
            ]
            tensors = dict(payload["tensors"])
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; give the path of a saved chain."
            ) from None
        except Exception as error:
            reason = str(error).split("\n", 1)[0][:120]
            raise DataError(
                f"{path}: not a saved nested autoencoder, or cut short "
                f"({type(error).__name__}: {reason}); save it anew."
            ) from None
        if version != FORMAT:
            raise DataError(
                f"{path}: format {version} found, format {FORMAT} is "
                "allowed; save it anew with this version."
            )
        if scales is not None:
            _check_same(path, declared, list(scales))
        try:
            chain = cls(declared)
            for scale in declared:
                if f"{scale.name}|parameters" in tensors:
                    chain.attach(_restore(path, scale, tensors))
        except ParameterError as error:
            raise DataError(f"{path}: {error}") from None
        return chain

    def _scale(self, name: str) -> Scale:
        if name not in self.scales:
            raise ParameterError(
                f"scale: {name!r} given, one of "
                f"{', '.join(map(repr, self.scales))} is allowed."
                + checks.nearest(name, self.scales)
            )
        return self.scales[name]

    def _fitted(self, name: str) -> FittedScale:
        self._scale(name)
        if name not in self.fitted:
            raise ParameterError(
                f"scale {name!r}: not fitted yet; fit it first."
            )
        return self.fitted[name]

    def _refitted(self, name: str, seen_by: str) -> Mapping[str, Scaler]:
        if not seen_by:
            return {}
        scalers = self._fitted(seen_by).lower_scalers
        if name not in scalers:
            raise ParameterError(
                f"seen_by: {seen_by!r} given, a scale that standardises the "
                f"inputs of {name!r} anew is allowed."
            )
        return scalers[name]

    def _raw(
        self,
        block: Block,
        table: Table,
        lower: Mapping[str, Mapping[str, Scaler]],
    ) -> np.ndarray:
        """Return a block's unscaled values, shape (1 or R, n, width)."""
        if block.latents_of:
            refitted = block.lower_scaler == "refitted"
            scalers = lower.get(block.latents_of, {}) if refitted else {}
            return self._encode(block.latents_of, table, scalers)
        if block.name not in table:
            raise DataError(
                f"table: no block {block.name!r}; it has "
                f"{', '.join(map(repr, table)) or 'none'}."
            )
        try:
            values = np.asarray(table[block.name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"table, block {block.name!r}: not a table of numbers "
                f"({error})."
            ) from None
        if values.ndim not in (2, 3) or values.shape[-1] != block.width:
            raise DataError(
                f"table, block {block.name!r}: shape {values.shape} given, "
                f"(rows, {block.width}) is allowed, or with a leading axis "
                "for the replicas."
            )
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][-2])
            raise DataError(
                f"table, block {block.name!r}: row {row} is not finite; "
                "remove it or fill it in."
            )
        return values[None] if values.ndim == 2 else values

    def _check_sizes(
        self,
        name: str,
        scaled: Mapping[str, np.ndarray],
        splits: Sequence[Split],
    ) -> None:
        counts = _row_counts(name, scaled)
        replicas = {len(values) for values in scaled.values()} - {1}
        if replicas - {len(splits)}:
            others = (replicas - {len(splits)}).pop()
            raise _other_replicas(name, len(splits), others)
        count = next(iter(counts.values()))
        for split in splits:
            for rows in split:
                outside = [row for row in rows if not 0 <= row < count]
                if outside:
                    raise ParameterError(
                        f"splits: row {outside[0]} given for scale "
                        f"{name!r}, whose table has {count} rows."
                    )

    def _inputs(
        self,
        fitted: FittedScale,
        table: Table,
        scalers: Mapping[str, Scaler],
    ) -> np.ndarray:
        used = {**fitted.scalers, **scalers}
        parts = {
            block.name: self._raw(block, table, fitted.lower_scalers)
            for block in fitted.scale.inputs
        }
        _row_counts(fitted.scale.name, parts)
        own = [fitted.replicas, *(len(s.mean) for s in used.values())]
        found = {len(values) for values in parts.values()} | set(own)
        if len(found - {1}) > 1:
            raise DataError(
                f"table of scale {fitted.scale.name!r}: {sorted(found)} "
                "replicas found in its blocks and in the fitted scales; one "
                "or as many everywhere are allowed."
            )
        for block in fitted.scale.inputs:
            if block.scaling == "standard":
                values = parts[block.name]
                parts[block.name] = used[block.name].scale(values)
        return _side_by_side(list(parts.values()))

    def _encode(
        self, name: str, table: Table, scalers: Mapping[str, Scaler]
    ) -> np.ndarray:
        fitted = self._fitted(name)
        network, inputs = _ready(fitted, self._inputs(fitted, table, scalers))
        with torch.no_grad():
            return network.encode(inputs).double().numpy()

    def _heads(
        self,
        fitted: FittedScale,
        table: Table,
        heads: Sequence[Head],
        scalers: Mapping[str, Scaler],
    ) -> dict[str, np.ndarray]:
        used = {**fitted.scalers, **scalers}
        network, inputs = _ready(fitted, self._inputs(fitted, table, scalers))
        with torch.no_grad():
            z = network.encode(inputs)
        return _outputs(fitted, network, z, heads, used)


def _outputs(
    fitted: FittedScale,
    network: Network,
    z: torch.Tensor,
    heads: Sequence[Head],
    used: Mapping[str, Scaler],
) -> dict[str, np.ndarray]:
    """Return the heads' outputs for latents, by block, in their units."""
    widths = {block.name: block.width for block in fitted.scale.inputs}
    outputs = {}
    for head in heads:
        with torch.no_grad():
            output = network.head(head, z)
        if head.loss == "cross_entropy":
            output = torch.softmax(output, -1)
        values = output.double().numpy()
        start = 0
        for name in fitted.scale.blocks_of(head) or (head.name,):
            stop = start + widths.get(name, head.width)
            part = values[..., start:stop]
            if name in used:
                part = used[name].unscale(part)
            outputs[name] = part
            start = stop
    return outputs


def _other_replicas(name: str, given: int, found: int) -> ParameterError:
    return ParameterError(
        f"splits: {given} replicas given for scale {name!r}, but a scale "
        f"below or a block has {found}; one or as many are allowed."
    )


def _row_counts(name: str, parts: Mapping[str, np.ndarray]) -> dict[str, int]:
    counts = {key: values.shape[1] for key, values in parts.items()}
    if len(set(counts.values())) != 1:
        raise DataError(
            f"table of scale {name!r}: the blocks have different numbers of "
            f"rows, {counts}; give each the same rows."
        )
    return counts


def _side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    replicas = max(len(part) for part in parts)
    return np.concatenate(
        [np.broadcast_to(p, (replicas, *p.shape[1:])) for p in parts], axis=-1
    )


def _ready(
    fitted: FittedScale, inputs: np.ndarray
) -> tuple[Network, torch.Tensor]:
    """Give network and inputs the same number of replicas."""
    replicas = max(fitted.replicas, len(inputs))
    flat = torch.tensor(fitted.parameters).expand(replicas, -1)
    x = torch.tensor(inputs, dtype=torch.float32)
    x = x.expand(replicas, *x.shape[1:])
    return Network(fitted.scale, flat.contiguous()), x


def _check_same(
    path: Path, found: Sequence[Scale], wanted: Sequence[Scale]
) -> None:
    names = [[scale.name for scale in scales] for scales in (found, wanted)]
    if names[0] != names[1]:
        raise DataError(
            f"{path}: saved with the scales {names[0]}, but {names[1]} are "
            "wanted; load it with its own settings or fit anew."
        )
    for have, want in zip(found, wanted, strict=True):
        plain = want.to_dict()
        for key, value in have.to_dict().items():
            if value != plain[key]:
                raise DataError(
                    f"{path}: scale {have.name!r} was saved with {key} = "
                    f"{value}, but {plain[key]} is wanted; load it with its "
                    "own settings or fit anew."
                )


def _restore(
    path: Path, scale: Scale, tensors: Mapping[str, torch.Tensor]
) -> FittedScale:
    if not all(isinstance(part, torch.Tensor) for part in tensors.values()):
        raise DataError(f"{path}: something is no tensor; save it anew.")
    parameters = tensors[f"{scale.name}|parameters"].numpy()
    expected = parameter_count(scale)
    if parameters.ndim != 2 or parameters.shape[1] != expected:
        raise DataError(
            f"{path}: scale {scale.name!r} has parameters of shape "
            f"{parameters.shape}, (replicas, {expected}) is allowed; save "
            "it anew."
        )
    groups: dict[str, dict[str, Scaler]] = {"": {}}
    for key, tensor in tensors.items():
        owner, kind, *rest = key.split("|")
        if owner == scale.name and kind == "scaler" and rest[-1] == "mean":
            lower, block, _ = rest
            deviation = tensors.get(key.removesuffix("mean") + "deviation")
            if deviation is None:
                continue
            groups.setdefault(lower, {})[block] = Scaler(
                tensor.numpy(), deviation.numpy()
            )
    wanted = {
        part.name
        for part in (*scale.inputs, *scale.predicted)
        if part.scaling == "standard"
    }
    if set(groups[""]) != wanted:
        raise DataError(
            f"{path}: scale {scale.name!r} has scalers of "
            f"{sorted(groups[''])}, {sorted(wanted)} are needed; save it "
            "anew."
        )
    return FittedScale(
        scale=scale,
        parameters=parameters,
        scalers=groups.pop(""),
        lower_scalers=groups,
    )
