"""What scales are built of: activations, losses, nets and codes by name.

Pure functions in open registries: a chapter adds its own from its module,
and a declaration may then name it.  Parameters are tensors by name with a
leading axis R, the replicas.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Arrays = dict[str, np.ndarray]
Parameters = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, int, float]]
"""By a layer's name its rows, its columns and its gain."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": lambda o, t: (o - t).abs().mean(-1),
    "mse": lambda o, t: (o - t).square().mean(-1),
    "huber": lambda o, t: functional.huber_loss(o, t, reduction="none").mean(-1),
    # of logits, for one-hot targets
    "cross_entropy": lambda o, t: torch.logsumexp(o, -1) - (o * t).sum(-1),
}
"""Losses of a row: output and target, (..., n, width), to (..., n)."""


class Net(NamedTuple):
    """How an encoder or a decoder maps rows (R, n, rows) to (R, n, columns).

    ``shapes(path, hidden, rows, columns, gain)`` names its layers, each with a
    weight (R, rows, columns) and a bias (R, 1, columns); ``apply(path, kinds,
    p, x, masks)`` is the map, ``kinds`` being the activations of all layers
    and ``masks`` the dropout factors behind the hidden ones.
    """

    shapes: Callable[[str, Sequence[int], int, int, float], Shapes]
    apply: Callable[..., Tensor]


def _shapes(
    path: str, hidden: Sequence[int], rows: int, columns: int, gain: float
) -> Shapes:
    widths = [rows, *hidden, columns]
    gains = [gain] * len(hidden) + [1.0]
    layers = zip(widths, widths[1:], gains, strict=False)
    return {f"{path}.{layer}": shape for layer, shape in enumerate(layers)}


def _apply(
    path: str,
    kinds: Sequence[str],
    p: Parameters,
    x: Tensor,
    masks: Sequence[Tensor] = (),
) -> Tensor:
    for layer, kind in enumerate(kinds):
        name = f"{path}.{layer}"
        x = torch.baddbmm(p[f"{name}.bias"], x, p[f"{name}.weight"])
        x = ACTIVATIONS[kind](x)
        x = x * masks[layer] if layer < len(masks) else x
    return x


NETS: dict[str, Net] = {"dense": Net(_shapes, _apply)}


class Code(NamedTuple):
    """What the encoder's last columns mean for the latents.

    ``width(latent)`` is their number, ``shapes(latent, codebook)`` names further
    layers, ``noise(latent)`` is how many standard normal numbers a row needs.
    ``apply(columns, noise, p)`` gives the latents (R, n, latent), without noise
    (None) those that stand for a row; ``penalty(columns, latents, p, weights)``
    its term in each row's loss, (R, n), where a row counts in its batch's mean
    with its weight, (R, n), zero for none; None stands for equal ones.
    """

    width: Callable[[int], int]
    apply: Callable[[Tensor, Tensor | None, Parameters], Tensor]
    noise: Callable[[int], int] = lambda latent: 0
    penalty: Callable[[Tensor, Tensor, Parameters, Tensor | None], Tensor] | None = None
    shapes: Callable[[int, int], Shapes] = lambda latent, codebook: {}


CODES: dict[str, Code] = {
    "plain": Code(lambda latent: latent, lambda columns, noise, p: columns)
}
REGISTRIES: dict[str, Mapping[str, Any]] = {
    "activation": ACTIVATIONS,
    "loss": LOSSES,
    "net": NETS,
    "code": CODES,
}
