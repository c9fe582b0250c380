"""A fitted chain read backwards: its latents searched by gradient.

The paper's conclusion proposes to complete materials of which one scale is
known, by points of the latent space that decode to it, and to design them by
their latents; it shows neither.  Both are one search with another loss: many
points at once move through the box of the last scale's latents, rows and
starts side by side on the batch axis, the replicas on theirs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.fitted import Fitted
from nestedae_utils.model.reference import one_thread

BOX = {
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "relu": (0.0, np.inf),
    "elu": (-1.0, np.inf),
    "linear": (-np.inf, np.inf),
}
"""Where latents of each activation can lie."""
# torch's faster way, by products, loses small distances
_distances = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
TOGETHER = 2_000
"""Points of a replica whose distances are held at once."""


def last(chain: NestedAutoencoder) -> Fitted:
    """Return the scale whose latents are searched."""
    return list(chain.fitted.values())[-1]


def decode(
    chain: NestedAutoencoder, z: Tensor, wanted: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return what latents of the last scale stand for, with gradients.

    By name, each (R, n, width), all or at least those ``wanted``, in their
    own units, categories as probabilities; a name that two scales share
    means the upper one.
    """
    decoded: dict[str, Tensor] = {}
    for values in chain.down(last(chain).scale.name, z, wanted=wanted).values():
        decoded = values | decoded
    return decoded


@dataclass(frozen=True)
class Neighbourhood:
    """Where each replica's training rows lie in the last scale's latents.

    ``points`` (R, m, latent) are the distinct ones, infinite behind the last
    of a replica that has fewer; ``typical`` (R,) is the median of their mean
    distances to the nearest others, so many as there are ``neighbours``.
    """

    points: Tensor
    typical: Tensor
    neighbours: int

    @classmethod
    @one_thread()
    def of(cls, chain: NestedAutoencoder, table: Table, neighbours: int = 5) -> Self:
        """Measure it on the table on which the last scale was trained."""
        points, typical = [], []
        splits = last(chain).replicas.splits
        for z, (seen, _) in zip(chain.encode(table), splits, strict=True):
            # rows of equal inputs are one point, up to float32's rounding
            distinct = np.unique(z[seen].round(5), axis=0)
            points.append(torch.tensor(distinct, dtype=torch.float32))
            apart = _distances(points[-1], points[-1])
            near = apart.topk(neighbours + 1, largest=False).values
            typical.append(near[:, 1:].mean(1).median())
        padded = pad_sequence(points, batch_first=True, padding_value=np.inf)
        return cls(padded, torch.stack(typical), neighbours)

    @one_thread()
    def distance(self, z: Tensor | np.ndarray) -> Tensor:
        """Return how far points (R, n, latent) lie from the training rows.

        Shape (R, n): the mean distance to the nearest training points over
        what is typical of these; 1 is where the data lie, 3 is far away.
        """
        if isinstance(z, np.ndarray):
            z = torch.tensor(z, dtype=torch.float32)
        # only the nearest ones have a gradient, so only they are kept
        with torch.no_grad():
            parts = (_distances(y, self.points) for y in z.split(TOGETHER, 1))
            near = [y.topk(self.neighbours, largest=False) for y in parts]
        replica = torch.arange(len(z))[:, None, None]
        rows = torch.cat([y.indices for y in near], 1)
        apart = z[:, :, None] - self.points[replica, rows]
        return apart.norm(dim=-1).mean(-1) / self.typical[:, None]

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw points (R, count, latent), different ones where possible."""
        random = np.random.default_rng(seed)
        drawn = []
        for points in self.points:
            order = random.permutation(int(points[:, 0].isfinite().sum()))
            drawn.append(points[np.resize(order, count)])
        return torch.stack(drawn)


@dataclass(frozen=True)
class Points:
    """Points of a latent space with what they stand for.

    The axes are replicas R, rows n and starts S, the best first: ``latents``
    (R, n, S, latent), ``decoded`` by name, each (R, n, S, width), and (R, n, S)
    ``misfit``, how far a point is from what is asked for, ``distance`` (see
    :meth:`Neighbourhood.distance`), and ``fits``: is it within the tolerance
    and distinct from every point before it?
    """

    latents: np.ndarray
    decoded: Mapping[str, np.ndarray]
    misfit: np.ndarray
    distance: np.ndarray
    fits: np.ndarray


@dataclass(frozen=True)
class Search:
    """How the latents of a chain's last scale are searched.

    Each row has some ``starts`` at random points of the neighbourhood
    ``around`` the training rows, drawn by the ``seed``; Adam takes the
    ``steps``, and its ``rate`` falls to zero.  ``density`` times the square of
    the distance beyond ``reach`` is added to the loss, with a weight that grows
    from nothing over the steps, lest points are caught by the data where they
    start.  Two points are one where they are nearer to each other than the
    share ``apart`` of the distance typical of the training rows.
    """

    chain: NestedAutoencoder
    around: Neighbourhood
    starts: int = 32
    seed: int = 0
    steps: int = 200
    rate: float = 0.05
    density: float = 0.0
    reach: float = 1.0
    apart: float = 0.5

    @one_thread()
    def lowest(
        self,
        loss: Callable[[dict[str, Tensor]], Tensor],
        rows: int = 1,
        wanted: Collection[str] | None = None,
    ) -> Tensor:
        """Lower a loss from all starts of all rows at once.

        The loss is of what is decoded, or only of the names ``wanted``:
        (R, rows x starts), a row's starts side by side; so are the latents
        that are returned, (R, rows x starts, latent).  Every point moves by
        its own loss only, in the box of the latents' activation.
        """
        low, high = BOX[last(self.chain).scale.latent_activation]
        z = self.around.draw(self.starts, self.seed).repeat(1, rows, 1)
        adam = torch.optim.Adam([z.requires_grad_()], lr=self.rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        for step in range(self.steps):
            adam.zero_grad()
            total = loss(decode(self.chain, z, wanted))
            if self.density:
                beyond = (self.around.distance(z) - self.reach).clamp(min=0)
                weight = self.density * (step + 1) / self.steps
                total = total + weight * beyond.square()
            total.sum().backward()
            adam.step()
            falling.step()
            with torch.no_grad():
                z.clamp_(low, high)
        return z.detach()

    def points(
        self, z: Tensor, misfit: Tensor, rows: int, tolerance: float = np.inf
    ) -> Points:
        """Sort each row's points, and mark those that count.

        Within a tolerance the nearest to the training rows come first, and
        then the lowest misfit; without one, only the misfit counts.
        """
        far = self.around.distance(z)
        good = misfit.isfinite() & (misfit <= tolerance)
        near_first = good & (tolerance < np.inf)
        keys = torch.where(near_first, far, misfit), ~good
        shape = len(z), rows, -1
        order = np.lexsort([key.reshape(shape).numpy() for key in keys])

        def placed(values: Tensor) -> np.ndarray:
            starts = values.double().numpy().reshape(*shape, *values.shape[2:])
            index = order.reshape(*order.shape, *(1,) * (starts.ndim - 3))
            return np.take_along_axis(starts, index, 2)

        latents, fits = placed(z), placed(good).astype(bool)
        near = self.apart * self.around.typical.double().numpy()[:, None, None]
        for place in range(1, self.starts):
            away = latents[:, :, :place] - latents[:, :, place, None]
            same = np.linalg.norm(away, axis=-1) < near
            fits[:, :, place] &= ~(same & fits[:, :, :place]).any(-1)
        with torch.no_grad():
            decoded = {n: placed(v) for n, v in decode(self.chain, z).items()}
        return Points(latents, decoded, placed(misfit), placed(far), fits)
