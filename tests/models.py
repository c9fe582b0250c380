"""Small scales, tables and replicas that several tests share."""

import numpy as np
import torch

from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale

SETTINGS = {"epochs": 3, "batch_size": 7, "learning_rate": 0.01}


def fine(**changes) -> Scale:
    """Return a lower scale: x (3) in, x and a target p (1) out."""
    fields = {
        "name": "fine",
        "inputs": (Block("x", 3),),
        "latent": 2,
        "heads": (Head("x", 3), Head("p", 1, hidden=(5,), dropout=0.2)),
        "hidden": (6,),
        "l1": 0.001,
    }
    return Scale(**{**fields, **changes})


def coarse(scaler: str = "carried", **changes) -> Scale:
    """Return an upper scale: latents of the lower one and a category."""
    fields = {
        "name": "coarse",
        "inputs": (
            Block("latents", 2, latents_of="fine", lower_scaler=scaler),
            Block("kind", 4, "none"),
        ),
        "latent": 3,
        "heads": (
            Head("latents", 2),
            Head("kind", 4, loss="cross_entropy"),
            Head("y", 1, scaling="standard"),
        ),
    }
    return Scale(**{**fields, **changes})


def tables(rows: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Return blocks and targets of both scales."""
    random = np.random.default_rng(seed)
    x = random.normal(1, [1, 2, 3], (rows, 3))
    kind = np.eye(4)[random.integers(0, 4, rows)]
    return {"x": x, "p": np.tanh(x[:, :1]), "kind": kind, "y": x[:, 1:2] + kind[:, :1]}


def tensors(parameters, count: int, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Return parameters (1 or R, rows, columns) as tensors of R replicas."""
    return {
        name: torch.as_tensor(value, dtype=dtype).expand(count, -1, -1)
        for name, value in parameters.items()
    }


def replicas(folds: int = 2, seeds: int = 1, rows: int = 40) -> Replicas:
    """Return folds of even and uneven sizes with some seeds."""
    cuts = np.array_split(np.arange(rows), folds)
    splits = [
        (np.setdiff1d(np.arange(rows), held)[place:], held)
        for place, held in enumerate(cuts)
    ]
    return Replicas.cross(splits, seeds)
