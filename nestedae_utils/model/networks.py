"""The network of a scale on a replica axis: shapes, first values, passes.

Every parameter is a named tensor with a leading axis R, the replicas, so that
a layer is one batched product.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.model.layers import CODES, LOSSES, NETS, Arrays, Parameters, Shapes
from nestedae_utils.model.scales import Head, Scale


def shapes(scale: Scale) -> Shapes:
    """Return every layer's rows, columns and gain, the encoder's first."""
    code, columns = CODES[scale.code], CODES[scale.code].width(scale.latent)
    found = NETS[scale.net].shapes("encoder", scale.hidden, scale.width, columns, 1.0)
    for h in scale.heads:
        ends = scale.latent, h.width
        found |= NETS[h.net].shapes(f"head {h.name}", h.hidden, *ends, h.gain)
    return found | code.shapes(scale.latent, scale.codebook)


def parameter_shapes(scale: Scale) -> dict[str, tuple[int, int]]:
    """Return the shapes of one replica's weights and biases, in order."""
    return {
        f"{name}.{part}": (rows if part == "weight" else 1, columns)
        for name, (rows, columns, _) in shapes(scale).items()
        for part in ("weight", "bias")
    }


def parameter_count(scale: Scale) -> int:
    """Return the number of weights and biases of one replica."""
    return sum(rows * columns for rows, columns in parameter_shapes(scale).values())


def unpacked(scale: Scale, flat: Any) -> dict[str, Any]:
    """Return parameters, an array or a tensor (R, P), as views by name."""
    named, start = {}, 0
    for name, (rows, columns) in parameter_shapes(scale).items():
        part = flat[:, start : (start := start + rows * columns)]
        named[name] = part.reshape(-1, rows, columns)
    return named


def initial(scale: Scale, seed: int, latent: int | None = None) -> Arrays:
    """Draw one replica's first parameters (rows, columns) from its own seed.

    With fewer latents than ``scale.latent`` the further ones start with zero
    weights on both sides, hence stay zero for ever (of a dense net, with an
    activation that is zero at zero): replicas of different sizes can so be
    trained together.
    """
    size = scale.latent if latent is None else latent
    random = np.random.default_rng([seed, 0])
    writes = f"encoder.{len(scale.hidden)}"
    reads = {f"head {head.name}.0" for head in scale.heads}
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
    return NETS[head.net].apply(f"head {head.name}", kinds, p, z, masks)


def row_losses(
    scale: Scale,
    p: Parameters,
    x: Tensor,
    targets: Sequence[Tensor],
    masks: Sequence[Tensor] = (),
    noise: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return the rows' losses (R, n), and every head's output.

    A loss is the weighted sum of the heads' losses and of the code's penalty,
    without L1.  ``targets`` stand in the order of the heads, and so do the
    ``masks`` of all layers with dropout, unless it is off; ``weights`` (R, n)
    are those of the rows in a batch.
    """
    code, columns = CODES[scale.code], columns_of(scale, p, x)
    z, ahead, out, rows = code.apply(columns, noise, p), iter(masks), [], []
    for head, target in zip(scale.heads, targets, strict=True):
        drops = [next(ahead) for _ in head.hidden] if head.dropout and masks else []
        out.append(decode(head, p, z, drops))
        rows.append(head.weight * LOSSES[head.loss](out[-1], target))
    total = torch.stack(rows).sum(0)
    if code.penalty is not None:
        total = total + scale.code_weight * code.penalty(columns, z, p, weights)
    return total, out


def penalised(scale: Scale) -> list[str]:
    """Return the names of the weights on which L1 acts."""
    every = scale.l1_on == "all"
    layers = [n for n in shapes(scale) if every or n.startswith("encoder.")]
    return [f"{name}.weight" for name in layers]


def row_metrics(head: Head, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return every row's loss and, for categories, two accuracies.

    ``accuracy_as_made`` is the share of one-hot columns on the right side of
    0.5 after a sigmoid of each logit (multilabel, as in the paper's code);
    ``accuracy`` is top-1.
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
    rows = [(head, *torch.zeros(2, 1, head.width)) for head in scale.heads]
    return [f"{row[0].name}_{metric}" for row in rows for metric in row_metrics(*row)]
