"""Codes with a constraint: ELBO, MMD and VQ, as values of `Scale.code`.

Importing this module registers them.  Their penalties are in units of the
heads' losses: with one head, a mean square over D columns with variance s^2,
the textbook's ELBO has ``code_weight`` 2 s^2 / D.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nestedae_utils.model.chain import NestedAutoencoder, Table, beside
from nestedae_utils.model.layers import CODES, Code, Parameters, Shapes
from nestedae_utils.model.networks import columns_of

EXTENT = 2.0
"""The codebook starts on a mesh from minus this to this in each latent."""
BETA = 0.25
"""How far the encoder commits to its row of the codebook (arXiv:1711.00937)."""


def _sampled(columns: Tensor, noise: Tensor | None, p: Parameters) -> Tensor:
    mean, log_variance = columns.chunk(2, -1)
    return mean if noise is None else mean + noise * torch.exp(log_variance / 2)


def _divergence(
    columns: Tensor, z: Tensor, p: Parameters, weights: Tensor | None
) -> Tensor:
    """Return each row's KL divergence from N(0, 1) (arXiv:1312.6114, App. B)."""
    mean, log = columns.chunk(2, -1)
    return (mean.square() + log.exp() - log - 1).sum(-1) / 2


def _discrepancy(
    columns: Tensor, z: Tensor, p: Parameters, weights: Tensor | None
) -> Tensor:
    """Return each row's share in MMD^2 between a batch and N(0, 1).

    The kernel is exp(-|a - b|^2 / 2d) in d latents; what InfoVAE
    (arXiv:1706.02262) estimates by draws of the prior is its expectation here.
    """
    size = z.shape[-1]
    if weights is None:
        weights = z.new_full(z.shape[:-1], 1 / z.shape[-2])
    apart = (z[..., :, None, :] - z[..., None, :, :]).square().sum(-1)
    among = (torch.exp(-apart / (2 * size)) * weights[..., None, :]).sum(-1)
    # of one side and of both sides drawn from the prior
    shrunk = [(size / (size + sides)) ** (size / 2) for sides in (1, 2)]
    prior = torch.exp(-z.square().sum(-1) / (2 * (size + 1)))
    return among - 2 * shrunk[0] * prior + shrunk[1]


def mesh(rows: int, size: int) -> Tensor:
    """Return a codebook's first rows (rows, size), spread evenly on a mesh."""
    side = math.ceil(round(rows ** (1 / size), 9))
    at = torch.linspace(0, side**size - 1, rows, dtype=torch.float64).round()
    axes = [(at // side**axis) % side for axis in range(size)]
    return (torch.stack(axes, -1) / (side - 1) * 2 - 1) * EXTENT


def codebook(p: Parameters) -> Tensor:
    """Return the rows of a VQ scale's codebook, (R, rows, latent)."""
    moved = p["codebook.weight"]
    return mesh(*moved.shape[-2:]).to(moved) + moved + p["codebook.bias"]


def nearest_rows(z: Tensor, p: Parameters) -> Tensor:
    """Return the number of the codebook's row nearest to each latent, (R, n)."""
    return torch.cdist(z.detach(), codebook(p).detach()).argmin(-1)


def _row(z: Tensor, p: Parameters) -> Tensor:
    index = nearest_rows(z, p)[..., None].expand(z.shape)
    return codebook(p).gather(-2, index)


def _quantised(z: Tensor, noise: Tensor | None, p: Parameters) -> Tensor:
    # the value of the row, the gradient of the latents
    return z + (_row(z, p) - z).detach()


def _commitment(
    columns: Tensor, z: Tensor, p: Parameters, weights: Tensor | None
) -> Tensor:
    """Return the codebook's and the encoder's terms (arXiv:1711.00937, Eq. 3)."""
    row = _row(columns, p)
    moved = (columns.detach() - row).square().sum(-1)
    return moved + BETA * (columns - row.detach()).square().sum(-1)


def _codebook(latent: int, rows: int) -> Shapes:
    return {"codebook": (rows, latent, 0.0)}  # no gain: it starts on the mesh


CODES["gaussian"] = Code(lambda n: 2 * n, _sampled, lambda n: n, _divergence)
CODES["mmd"] = Code(lambda n: n, lambda z, noise, p: z, penalty=_discrepancy)
CODES["vq"] = Code(lambda n: n, _quantised, penalty=_commitment, shapes=_codebook)


def before(chain: NestedAutoencoder, name: str, table: Table) -> Tensor:
    """Return a scale's encoder columns (R, n, width): VQ's before quantisation."""
    fitted = chain.fitted[name]
    x = beside([chain.scaled(name, block.name, table) for block in fitted.scale.inputs])
    return columns_of(fitted.scale, *fitted.together(x))
