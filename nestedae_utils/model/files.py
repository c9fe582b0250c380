"""A fitted chain as one file: tensors and one JSON text, no pickled code."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nestedae_utils.errors import DataError, ParameterError, replacing
from nestedae_utils.model.chain import Fitted, NestedAutoencoder, Scaler
from nestedae_utils.model.layers import Arrays
from nestedae_utils.model.networks import parameter_shapes
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale

FORMAT = 2


def save(
    chain: NestedAutoencoder, path: str | Path, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write declarations, parameters, scalers and labels (no history).

    ``extra`` is what else belongs to it, plain values.  The file appears
    when it is whole; DataError if it cannot be written.
    """
    path = Path(path)
    tensors: dict[str, torch.Tensor] = {}
    for name, fitted in chain.fitted.items():
        arrays = {f"parameter|{k}": v for k, v in fitted.parameters.items()}
        arrays |= {f"label|{k}": v for k, v in fitted.replicas.labels.items()}
        for lower, group in {"": fitted.scalers, **fitted.lower_scalers}.items():
            for key, scaler in group.items():
                arrays[f"mean|{lower}|{key}"] = scaler.mean
                arrays[f"deviation|{lower}|{key}"] = scaler.deviation
        tensors |= {f"{name}|{k}": torch.tensor(v) for k, v in arrays.items()}
    scales = [scale.model_dump() for scale in chain.scales.values()]
    content = {"format": FORMAT, "scales": scales, "extra": dict(extra or {})}
    text = json.dumps(content, allow_nan=False)
    # torch has no words of its own for a disk that is full
    torch.save({"json": text, "tensors": tensors}, whole := io.BytesIO())
    try:
        with replacing(path) as beside:
            beside.write_bytes(whole.getvalue())
    except OSError as error:
        words = f"{path}: cannot be written ({error.strerror}); choose another folder."
        raise DataError(words) from None
    return path


def load(path: str | Path, scales: Sequence[Scale] | None = None) -> NestedAutoencoder:
    """Read a chain that :func:`save` wrote; nothing in it is executed.

    DataError if the file is missing, cut short, altered, of another format,
    not such a file, or saved by other settings than ``scales``; the first
    difference is named.
    """
    content, arrays = _read(path)
    try:
        declared = [Scale(**plain) for plain in content["scales"]]
        if difference := _difference(declared, scales or declared):
            raise ValueError(difference)
        chain = NestedAutoencoder(declared)
        for scale in declared:
            chain.attach(_fitted(scale, arrays))
    except (ParameterError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip(".'\"")
        words = f"{path}: {reason}; load it with its own settings or fit anew."
        raise DataError(words) from None
    return chain


def load_extra(path: str | Path) -> dict[str, Any]:
    """Return what else :func:`save` wrote."""
    return _read(path)[0]["extra"]


def _read(path: str | Path) -> tuple[dict[str, Any], Arrays]:
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
        # torch reads past an altered byte, the archive's sums tell it
        with zipfile.ZipFile(path) as archive:
            if altered := archive.testzip():
                raise ValueError(f"{altered} is altered")
        # format 1 had no JSON text
        content = json.loads(payload["json"]) if "json" in payload else payload
        version = content.get("format", 0)
        if version == FORMAT:
            return content, {k: v.numpy() for k, v in payload["tensors"].items()}
        words = f"format {str(version)[:20]} found, format {FORMAT} is allowed; "
        words += "fit and save it anew with this version."
    except FileNotFoundError:
        words = "no such file; give the path of a saved model."
    except Exception as error:
        # torch's own words are for those who pickle
        reason = f" ({error})" if type(error) is ValueError else ""
        words = f"not a saved model, or cut short{reason}; fit and save it anew."
    raise DataError(f"{path}: {words}")


def _difference(found: Sequence[Scale], wanted: Sequence[Scale]) -> str:
    """Return in what the scales of a file differ from those that are wanted."""
    names = [[scale.name for scale in scales] for scales in (found, wanted)]
    if names[0] != names[1]:
        return f"saved with the scales {names[0]}, not {names[1]}"
    for one, other in zip(found, wanted, strict=True):
        now = other.model_dump()
        for key, was in one.model_dump().items():
            if was != now[key]:
                words = f"scale {one.name!r} was saved with {key} = {was}, but "
                return f"{words}{now[key]} is wanted"
    return ""


def _fitted(scale: Scale, arrays: Arrays) -> Fitted:
    """Return a scale's part of a file, whole and of finite numbers."""
    groups: dict[str, Arrays] = {"mean": {}, "deviation": {}}
    for key, value in arrays.items():
        owner, kind, rest = key.split("|", 2)
        if owner == scale.name:
            groups.setdefault(kind, {})[rest] = value
    labels, parameters = groups["label"], groups["parameter"]
    count, scalers = len(labels["seed"]), dict[str, dict[str, Scaler]]({"": {}})
    for key, mean in groups["mean"].items():
        lower, block = key.split("|")
        both = Scaler(mean, groups["deviation"][key])
        scalers.setdefault(lower, {})[block] = both
    whole = {k: v.shape for k, v in parameters.items()} == {
        k: (count, *shape) for k, shape in parameter_shapes(scale).items()
    }
    for part in scale.blocks.values():
        if part.scaling != "none":
            scaler = scalers[""][part.name]
            for shape in (scaler.mean.shape, scaler.deviation.shape):
                whole &= shape in ((1, 1, part.width), (count, 1, part.width))
    for group in groups.values():
        whole &= all(np.isfinite(value).all() for value in group.values())
    if not whole:
        raise ValueError(f"scale {scale.name!r} is incomplete")
    own = scalers.pop("")
    return Fitted(scale, Replicas((), labels), parameters, own, scalers)
