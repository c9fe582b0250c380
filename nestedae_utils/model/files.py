"""A fitted chain as one file: tensors and one JSON text, no pickled code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nestedae_utils.errors import DataError, ParameterError, replacing
from nestedae_utils.model.chain import Fitted, NestedAutoencoder, Scaler
from nestedae_utils.model.networks import shapes
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale

FORMAT = 2


def save(
    chain: NestedAutoencoder,
    path: str | Path,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write declarations, parameters, scalers and labels (no history).

    ``extra`` is what else belongs to it, plain values.  The file appears
    when it is whole; DataError if it cannot be written.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    for name, fitted in chain.fitted.items():
        for key, value in fitted.parameters.items():
            arrays[f"{name}|parameter|{key}"] = value
        for key, value in fitted.replicas.labels.items():
            arrays[f"{name}|label|{key}"] = value
        for lower, group in {
            "": fitted.scalers,
            **fitted.lower_scalers,
        }.items():
            for key, scaler in group.items():
                where = f"{name}|scaler|{lower}|{key}"
                arrays[f"{where}|mean"] = scaler.mean
                arrays[f"{where}|deviation"] = scaler.deviation
    content = {
        "format": FORMAT,
        "scales": [scale.model_dump() for scale in chain.scales.values()],
        "extra": dict(extra or {}),
    }
    payload = {
        "json": json.dumps(content, allow_nan=False),
        "tensors": {k: torch.tensor(np.asarray(v)) for k, v in arrays.items()},
    }
    try:
        with replacing(path) as beside:
            torch.save(payload, beside)
    # torch has no word of its own for a folder that is not there
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "is its folder there?"
        raise DataError(
            f"{path}: cannot be written ({reason}); choose another folder."
        ) from None
    return path


def load(path: str | Path, scales: Sequence[Scale] | None = None) -> NestedAutoencoder:
    """Read a chain that :func:`save` wrote; nothing in it is executed.

    Raises
    ------
    DataError
        If the file is missing, cut short, altered, of another format, not
        such a file, or saved by other settings than ``scales``; the first
        difference is named.
    """
    path = Path(path)
    content, tensors = _read(path)
    try:
        declared = [Scale(**plain) for plain in content["scales"]]
        chain = NestedAutoencoder(declared)
        for scale in declared if scales is None else _same(declared, scales):
            chain.attach(_fitted(scale, tensors))
    except (ParameterError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip(".'\"")
        raise DataError(
            f"{path}: {reason}; load it with its own settings or fit anew."
        ) from None
    return chain


def load_extra(path: str | Path) -> dict[str, Any]:
    """Return what else :func:`save` wrote."""
    return _read(Path(path))[0]["extra"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
        # torch reads past an altered byte, the archive's sums tell it
        with zipfile.ZipFile(path) as archive:
            if altered := archive.testzip():
                raise ValueError(f"{altered} is altered")
        version = payload.get("format", 0)
        if "json" in payload:
            content = json.loads(payload["json"])
            version = content["format"]
            tensors = {k: v.numpy() for k, v in payload["tensors"].items()}
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; give the path of a saved model."
        ) from None
    except Exception as error:
        reason = str(error).split("\n", 1)[0][:120]
        raise DataError(
            f"{path}: not a saved model, or cut short "
            f"({type(error).__name__}: {reason}); fit and save it anew."
        ) from None
    if version != FORMAT:
        raise DataError(
            f"{path}: format {str(version)[:20]} found, format {FORMAT} is "
            "allowed; fit and save it anew with this version."
        )
    return content, tensors


def _same(found: Sequence[Scale], wanted: Sequence[Scale]) -> Sequence[Scale]:
    names = [[scale.name for scale in scales] for scales in (found, wanted)]
    if names[0] != names[1]:
        raise ValueError(f"saved with the scales {names[0]}, not {names[1]}")
    for have, want in zip(found, wanted, strict=True):
        plain = want.model_dump()
        for key, value in have.model_dump().items():
            if value != plain[key]:
                raise ValueError(
                    f"scale {have.name!r} was saved with {key} = {value}, but "
                    f"{plain[key]} is wanted"
                )
    return found


def _fitted(scale: Scale, arrays: Mapping[str, np.ndarray]) -> Fitted:
    """Return a scale's part of a file, whole and of finite numbers."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in arrays.items():
        owner, kind, rest = key.split("|", 2)
        if owner == scale.name:
            groups.setdefault(kind, {})[rest] = value
    labels, parameters = groups["label"], groups["parameter"]
    count = len(labels["seed"])
    expected = {}
    for name, (rows, columns, _) in shapes(scale).items():
        expected[f"{name}.weight"] = (count, rows, columns)
        expected[f"{name}.bias"] = (count, 1, columns)
    scalers: dict[str, dict[str, Scaler]] = {"": {}}
    found = groups.get("scaler", {})
    for key in [key for key in found if key.endswith("|mean")]:
        lower, block, _ = key.split("|")
        both = [found[f"{lower}|{block}|{n}"] for n in ("mean", "deviation")]
        scalers.setdefault(lower, {})[block] = Scaler(*both)
    for part in (*scale.inputs, *scale.predicted):
        if part.scaling == "standard":
            scaler = scalers[""][part.name]
            for value in (scaler.mean, scaler.deviation):
                whole = len(value) in (1, count)
                if not whole or value.shape[1:] != (1, part.width):
                    raise ValueError(f"scale {scale.name!r} is incomplete")
    shaped = {key: value.shape for key, value in parameters.items()}
    numbers = [*parameters.values(), *found.values()]
    if shaped != expected or not all(np.isfinite(v).all() for v in numbers):
        raise ValueError(f"scale {scale.name!r} is incomplete")
    lower = {key: group for key, group in scalers.items() if key}
    return Fitted(scale, Replicas((), labels), parameters, scalers[""], lower)
