"""Scales that read the descriptor: heads on a latent, and a convolution.

After doi:10.21428/594757db.07402193, Sec. 2.2.  Its target-learning heads are
predicted heads of a `Scale`; the variational latent is the code ``gaussian``.
Importing this module registers the net ``conv``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nestedae_utils.model.layers import ACTIVATIONS, NETS, Net, Parameters, Shapes
from nestedae_utils.model.scales import Block, Head, Scale

ELEMENTS = ("element1", "element2", "element3")
ROLES = ("role1", "role2", "role3")
WIDTHS = {
    **dict.fromkeys(ELEMENTS, 103),
    **dict.fromkeys(ROLES, 3),
    **{"size": 4, "cell": 12, "coordinates": 60, "properties": 390},
}
"""Columns of each block of the direct space."""
NUMBERS = ("cell", "coordinates")
PIECE = 256
"""Images that are convolved at once: thousands would take gigabytes."""
PUBLISHED = {"image": 5280.0, "divergence": 1.0, "heads": 10.0}
"""The authors' factors of the summed squared error, of the divergence and of
each of the two heads, in their code."""


# --- the convolution ---------------------------------------------------------


def convolution(height: int, width: int, channels: int, kernel: int = 3) -> Net:
    """Return a net of convolutions of stride 2 with one dense layer behind.

    It reads rows that are images (height, width, channels), the channel last;
    ``hidden`` are the numbers of filters.  The replicas are the groups of one
    grouped convolution.  Not for decoders, and without dropout.
    """
    pad = kernel // 2

    def shapes(
        path: str, hidden: Sequence[int], rows: int, columns: int, gain: float
    ) -> Shapes:
        found, high, wide, deep = {}, height, width, channels
        for layer, filters in enumerate(hidden):
            patch = deep * kernel**2
            found[f"{path}.{layer}"] = patch, filters, gain
            high, wide, deep = -(-high // 2), -(-wide // 2), filters
        found[f"{path}.{len(hidden)}"] = high * wide * deep, columns, 1.0
        return found

    def apply(
        path: str,
        kinds: Sequence[str],
        p: Parameters,
        x: Tensor,
        masks: Sequence[Tensor] = (),
    ) -> Tensor:
        count, rows = x.shape[:2]
        if rows > PIECE:
            parts = [apply(path, kinds, p, part) for part in x.split(PIECE, 1)]
            return torch.cat(parts, 1)
        # (R, n, ...) to (n, R * channels, height, width)
        image = x.reshape(count, rows, height, width, channels)
        image = image.permute(1, 0, 4, 2, 3).reshape(rows, -1, height, width)
        for layer, kind in enumerate(kinds[:-1]):
            weight, bias = (p[f"{path}.{layer}.{w}"] for w in ("weight", "bias"))
            filters = weight.transpose(1, 2).reshape(-1, weight.shape[1])
            filters = filters.reshape(len(filters), -1, kernel, kernel)
            ends = bias.reshape(-1)
            image = functional.conv2d(image, filters, ends, 2, pad, groups=count)
            image = ACTIVATIONS[kind](image)
        flat = image.reshape(rows, count, -1).transpose(0, 1)
        last = f"{path}.{len(kinds) - 1}"
        flat = torch.baddbmm(p[f"{last}.bias"], flat, p[f"{last}.weight"])
        return ACTIVATIONS[kinds[-1]](flat)

    return Net(shapes, apply)


NETS["conv"] = convolution(60, 88, 3)


# --- declarations -------------------------------------------------------------


def targets(
    weight: float, hidden: Sequence[int] = (64, 32), scaling: str = "standard"
) -> tuple[Head, ...]:
    """Return the heads ``energy`` and ``stable`` (two classes) on a latent."""
    common = {"hidden": tuple(hidden), "weight": weight}
    return (
        Head("energy", 1, loss="mse", scaling=scaling, **common),
        Head("stable", 2, loss="cross_entropy", **common),
    )


def by_blocks(
    name: str, latent: int, hidden: int, heads: Sequence[Head] = (), **code: object
) -> Scale:
    """Return a scale of the direct space that rebuilds it block by block.

    Elements, roles and size by cross-entropy, cell and coordinates, which are
    standardised, by squared errors, all with the weight 1; the properties are
    inputs only.  Further ``heads``, and settings of the ``code``, as given.
    """
    rebuilt = [
        Head(
            block,
            width,
            loss="mse" if block in NUMBERS else "cross_entropy",
            hidden=(hidden,),
        )
        for block, width in WIDTHS.items()
        if block != "properties"
    ]
    inputs = tuple(
        Block(block, width, "standard" if block in NUMBERS else "none")
        for block, width in WIDTHS.items()
    )
    return Scale(
        name=name,
        inputs=inputs,
        latent=latent,
        hidden=(hidden,),
        heads=(*rebuilt, *heads),
        **{"activation": "relu", "latent_activation": "linear", **code},
    )


def as_published(
    name: str, latent: int, hidden: int, learns: bool, heads: Sequence[int] = (64, 32)
) -> Scale:
    """Return a variational scale with the authors' weights of the losses.

    Of the direct space, min-max scaled, as one ``pixels`` block with a sigmoid
    and a squared error; the factors are divided by that of the summed squared
    error, whose mean over the columns counts here.
    """
    width = sum(WIDTHS.values())
    unit = 1 / (PUBLISHED["image"] * width)
    added = targets(PUBLISHED["heads"] * unit, heads, "none") if learns else ()
    image = Head(
        "pixels", width, loss="mse", hidden=(hidden,), output="sigmoid"
    )  # fmt: skip
    return Scale(
        name=name,
        inputs=(Block("pixels", width, "none"),),
        latent=latent,
        hidden=(hidden,),
        heads=(image, *added),
        activation="relu",
        latent_activation="linear",
        code="gaussian",
        code_weight=PUBLISHED["divergence"] * unit,
    )


def forward(
    name: str, block: str, width: int, hidden: Sequence[int], latent: int, net: str
) -> Scale:
    """Return an encoder with both heads, and nothing that is rebuilt."""
    return Scale(
        name=name,
        inputs=(Block(block, width, "none"),),
        latent=latent,
        hidden=tuple(hidden),
        heads=targets(1.0),
        activation="relu",
        latent_activation="relu",
        net=net,
    )
