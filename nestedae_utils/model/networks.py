"""The network of a scale on a replica axis: shapes, first values, passes.

Every parameter is a named tensor with a leading axis R, the replicas (folds,
seeds, sizes), so that a layer is one batched product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.model.layers import CODES, LOSSES, NETS, Parameters, Shapes
from nestedae_utils.model.scales import Head, Scale


def path_of(head: Head) -> str:
    """Return the first part of the names of a head's layers."""
    return f"head {head.name}"


def shapes(scale: Scale) -> Shapes:
    """Return every layer's rows, columns and gain, the encoder's first."""
    code = CODES[scale.code]
    found = NETS[scale.net].shapes(
        "encoder", scale.hidden, scale.width, code.width(scale.latent), 1.0
    )
    for head in scale.heads:
        found |= NETS[head.net].shapes(
            path_of(head), head.hidden, scale.latent, head.width, head.gain
        )
    return found | code.shapes(scale.latent)


def parameter_count(scale: Scale) -> int:
    """Return the number of weights and biases of one replica."""
    return sum((rows + 1) * columns for rows, columns, _ in shapes(scale).values())


def initial(
    scale: Scale, seed: int, latent: int | None = None
) -> dict[str, np.ndarray]:
    """Draw one replica's first parameters from its own seed.

    Parameters
    ----------
    scale, seed
        The declaration; the replica's seed.
    latent
        A number of latents below ``scale.latent``: the further ones start
        with zero weights on both sides, hence stay zero for ever (of a
        dense net, with an activation that is zero at zero).  Replicas of
        different sizes can so be trained together.

    Returns
    -------
    dict
        ``LAYER.weight`` (rows, columns) and ``LAYER.bias`` (1, columns),
        float32.
    """
    size = scale.latent if latent is None else latent
    random = np.random.default_rng([seed, 0])
    writes = f"encoder.{len(scale.hidden)}"
    reads = {f"{path_of(head)}.0" for head in scale.heads}
    drawn = {}
    for name, (rows, columns, gain) in shapes(scale).items():
        r = size if name in reads else rows
        c = size if name == writes and size < scale.latent else columns
        if scale.initialisation == "xavier_normal":
            weight = random.standard_normal((r, c)) * (gain * np.sqrt(2 / (r + c)))
        else:
            bound = gain * np.sqrt(6 / (r + c))
            weight = random.uniform(-bound, bound, (r, c))
        drawn[f"{name}.weight"] = np.zeros((rows, columns), np.float32)
        drawn[f"{name}.weight"][:r, :c] = weight
        drawn[f"{name}.bias"] = np.zeros((1, columns), np.float32)
    return drawn


def columns_of(scale: Scale, p: Parameters, x: Tensor) -> Tensor:
    """Map scaled inputs (R, n, width) to the encoder's last columns."""
    kinds = [scale.activation] * len(scale.hidden) + [scale.latent_activation]
    return NETS[scale.net].apply("encoder", kinds, p, x)


def encode(scale: Scale, p: Parameters, x: Tensor) -> Tensor:
    """Map scaled inputs (R, n, width) to latents (R, n, latent)."""
    return CODES[scale.code].apply(columns_of(scale, p, x), None, p)


def decode(
    head: Head, p: Parameters, z: Tensor, masks: Sequence[Tensor] = ()
) -> Tensor:
    """Map latents (R, n, latent) to a head's output (R, n, width)."""
    kinds = [head.activation] * len(head.hidden) + [head.output]
    return NETS[head.net].apply(path_of(head), kinds, p, z, masks)


def row_losses(
    scale: Scale,
    p: Parameters,
    x: Tensor,
    targets: Mapping[str, Tensor],
    masks: Mapping[str, Sequence[Tensor]],
    noise: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Return every head's output and row losses, and the rows' total.

    The total (R, n) is the weighted sum of the heads' losses and of the
    code's penalty, without L1.
    """
    code = CODES[scale.code]
    columns = columns_of(scale, p, x)
    z = code.apply(columns, noise, p)
    out = {h.name: decode(h, p, z, masks[h.name]) for h in scale.heads}
    rows = {h.name: LOSSES[h.loss](out[h.name], targets[h.name]) for h in scale.heads}
    total = sum(head.weight * rows[head.name] for head in scale.heads)
    if code.penalty is not None:
        total = total + code.penalty(columns, z, p)
    return out, rows, total


def penalised(scale: Scale) -> list[str]:
    """Return the names of the weights on which L1 acts."""
    return [
        f"{name}.weight"
        for name in shapes(scale)
        if scale.l1_on == "all" or name.startswith("encoder.")
    ]


def row_metrics(head: Head, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return every row's loss and, for categories, two accuracies.

    ``accuracy_as_made`` is the share of one-hot columns on the right side
    of 0.5 after a sigmoid of each logit (multilabel, as in the paper's
    code); ``accuracy`` is top-1.
    """
    found = {head.loss: LOSSES[head.loss](output, target)}
    if head.loss == "cross_entropy":
        right = (output > 0) == (target > 0.5)
        found["accuracy_as_made"] = right.float().mean(-1)
        # the true class has the largest logit
        picked = (output * target).sum(-1)
        found["accuracy"] = (picked >= output.amax(-1)).float()
    return found


def metric_names(scale: Scale) -> list[str]:
    """Return the names of all metrics, ``<head>_<metric>``, in order."""
    more = {"cross_entropy": ["accuracy_as_made", "accuracy"]}
    return [
        f"{head.name}_{metric}"
        for head in scale.heads
        for metric in [head.loss, *more.get(head.loss, [])]
    ]


def tensors(
    parameters: Mapping[str, np.ndarray], replicas: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return parameters (1 or R, rows, columns) as tensors of R replicas."""
    return {
        name: torch.as_tensor(value, dtype=dtype).expand(replicas, -1, -1)
        for name, value in parameters.items()
    }
