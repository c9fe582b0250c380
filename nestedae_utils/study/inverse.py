"""A fitted chain read backwards: completion and design.

The paper's conclusion proposes to complete materials of which only one scale
is known, by points of the latent space that decode to what is known, and to
design materials by their latents; it shows neither.  Here both are the same
search: many points at once move by gradient steps through a scale's latent
box, rows and starts side by side on the batch axis, and the chain's replicas
on theirs.  What differs is the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nestedae_utils import errors as checks
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.chain import (
    FittedScale,
    NestedAutoencoder,
    Scaler,
    Table,
)
from nestedae_utils.model.scales import Head, Network
from nestedae_utils.model.training import Split, one_thread

BOX = {
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "relu": (0.0, np.inf),
    "elu": (-1.0, np.inf),
    "linear": (-np.inf, np.inf),
}
"""Where latents of each activation can lie."""
PATHS = ("linear", "spherical")
# the largest float32 chunk of distances held at once, in numbers
_CHUNK = 2_000_000
# torch's faster way, by products, loses small distances
_EXACT = "donot_use_mm_for_euclid_dist"


class Decoder:
    """What a scale's latents stand for, down the chain, with gradients.

    The same numbers as :meth:`nestedae_utils.model.chain.NestedAutoencoder.decode`
    gives, each computed when it is asked for, and their derivatives.

    Parameters
    ----------
    chain
        Fitted as far down as the scale reaches.
    scale
        Name of the scale whose latents are decoded; the last where empty.

    Raises
    ------
    ParameterError
        If the scale is unknown or not fitted.
    """

    def __init__(self, chain: NestedAutoencoder, scale: str = "") -> None:
        self.name = scale or list(chain.scales)[-1]
        self.fitted = _fitted(chain, self.name)
        self.replicas = 1
        self.parts: dict[str, Part] = {}
        self.owners: dict[str, str] = {}
        self._add(chain, self.fitted, {}, None)
        for part in self.parts.values():
            flat = part.network.flat.expand(self.replicas, -1)
            part.network = Network(part.network.scale, flat.contiguous())

    def _add(
        self,
        chain: NestedAutoencoder,
        fitted: FittedScale,
        refitted: Mapping[str, Scaler],
        source: tuple[str, str] | None,
    ) -> None:
        scale = fitted.scale
        scalers = {
            key: tuple(
                torch.tensor(values, dtype=torch.float32)
                for values in (scaler.mean, scaler.deviation)
            )
            for key, scaler in {**fitted.scalers, **refitted}.items()
        }
        sizes = [len(mean) for mean, _ in scalers.values()]
        self.replicas = max(self.replicas, fitted.replicas, *sizes, 1)
        network = Network(scale, torch.tensor(fitted.parameters))
        places = {}
        widths = {block.name: block.width for block in scale.inputs}
        for head in scale.heads:
            start = 0
            for name in scale.blocks_of(head) or (head.name,):
                stop = start + widths.get(name, head.width)
                places[name] = head, slice(start, stop)
                # a name that two scales share means the upper one
                self.owners.setdefault(name, scale.name)
                start = stop
        self.parts[scale.name] = Part(network, scalers, places, source)
        for block in scale.inputs:
            if block.latents_of and block.name in places:
                own = block.lower_scaler == "refitted"
                self._add(
                    chain,
                    _fitted(chain, block.latents_of),
                    fitted.lower_scalers[block.latents_of] if own else {},
                    (scale.name, block.name),
                )

    def find(self, name: str) -> tuple[Part, Head, slice]:
        """Return where a block or a target is decoded.

        Raises
        ------
        ParameterError
            If it is not.
        """
        if name not in self.owners:
            raise ParameterError(
                f"{name!r}: not decoded from scale {self.name!r}, one of "
                f"{', '.join(map(repr, self.owners))} is allowed."
                + checks.nearest(name, self.owners)
            )
        part = self.parts[self.owners[name]]
        return part, *part.places[name]

    def __call__(self, z: Tensor) -> Decoded:
        """Decode latents, shape (R, n, latent), R this decoder's replicas."""
        return Decoded(self, z)


def _fitted(chain: NestedAutoencoder, name: str) -> FittedScale:
    if name not in chain.fitted:
        raise ParameterError(
            f"scale: {name!r} given, a fitted scale is allowed "
            f"({', '.join(map(repr, chain.fitted)) or 'none'})."
            + checks.nearest(name, chain.fitted)
        )
    return chain.fitted[name]


@dataclass
class Part:
    """A scale of a decoder; ``source`` says which block is its latents."""

    network: Network
    scalers: dict[str, tuple[Tensor, Tensor]]
    places: dict[str, tuple[Head, slice]]
    source: tuple[str, str] | None


class Decoded(Mapping[str, Tensor]):
    """Blocks and targets by name, each (R, n, width), in its own units.

    Categories come as probabilities.  A name that two scales share means
    the upper one.
    """

    def __init__(self, decoder: Decoder, z: Tensor) -> None:
        self._decoder = decoder
        self._z = z
        self._made: dict[tuple[str, str], Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return what the decoder makes of its latents."""
        self._decoder.find(name)
        return self._make(self._decoder.owners[name], name)

    def __iter__(self) -> Iterator[str]:
        """Name everything that is decoded."""
        return iter(self._decoder.owners)

    def __len__(self) -> int:
        """Count it."""
        return len(self._decoder.owners)

    def _make(self, owner: str, name: str) -> Tensor:
        part = self._decoder.parts[owner]
        head, columns = part.places[name]
        key = owner, head.name
        if key not in self._made:
            z = self._z if part.source is None else self._make(*part.source)
            values = part.network.head(head, z)
            if head.loss == "cross_entropy":
                values = torch.softmax(values, -1)
            self._made[key] = values
        values = self._made[key][..., columns]
        if name in part.scalers:
            mean, deviation = part.scalers[name]
            values = values * deviation + mean
        return values


@dataclass(frozen=True)
class Neighbourhood:
    """Where the training rows lie in the latents of a scale.

    Attributes
    ----------
    points
        For every replica its training rows' distinct latents, (m, latent).
    typical
        Shape (R,): the median over these points of their mean distance to
        the nearest others.
    neighbours
        How many nearest points a distance is the mean of.
    """

    points: tuple[Tensor, ...]
    typical: Tensor
    neighbours: int

    @classmethod
    @one_thread()
    def of(
        cls,
        chain: NestedAutoencoder,
        table: Table,
        splits: Sequence[Split] = (),
        scale: str = "",
        neighbours: int = 5,
    ) -> Neighbourhood:
        """Measure it on each replica's training rows.

        Parameters
        ----------
        chain, table, scale
            As in :meth:`nestedae_utils.model.chain.NestedAutoencoder.encode`.
        splits
            For every replica its (training, held-out) rows; all rows where
            none are given.
        neighbours
            Number of nearest points.

        Raises
        ------
        ParameterError
            If there are too few distinct points, or not as many splits as
            replicas.
        """
        checks.whole("neighbours", neighbours, 1)
        z = chain.encode(table, scale)
        replicas = Decoder(chain, scale).replicas
        z = np.broadcast_to(z, (replicas, *z.shape[1:]))
        if splits and len(splits) != replicas:
            raise ParameterError(
                f"splits: {len(splits)} given for {replicas} replicas, one "
                "for each is needed."
            )
        points, typical = [], []
        for place in range(replicas):
            own = z[place][splits[place][0]] if splits else z[place]
            # rows of equal inputs are one point, up to float32's rounding
            own = np.unique(own.round(5), axis=0)
            if len(own) <= neighbours:
                raise ParameterError(
                    f"neighbours: {neighbours} given for {len(own)} distinct "
                    "training rows, fewer than these are allowed."
                )
            kept = torch.tensor(own, dtype=torch.float32)
            away = torch.cdist(kept, kept, compute_mode=_EXACT)
            near = away.topk(neighbours + 1, largest=False).values
            points.append(kept)
            typical.append(near[:, 1:].mean(1).median())
        return cls(tuple(points), torch.stack(typical), neighbours)

    @one_thread()
    def distance(self, z: Tensor) -> Tensor:
        """Return how far points lie from the training rows.

        Parameters
        ----------
        z
            Shape (R, n, latent).

        Returns
        -------
        Tensor
            Shape (R, n): the mean distance to the nearest training points,
            in units of what is typical of these themselves; 1 is where the
            data lie, 3 is far from them.
        """
        made = []
        for own, points, typical in zip(
            z, self.points, self.typical, strict=True
        ):
            # only the nearest ones have a gradient, so only they are kept
            with torch.no_grad():
                parts = [
                    torch.cdist(part, points, compute_mode=_EXACT)
                    .topk(self.neighbours, largest=False)
                    .indices
                    for part in own.split(max(1, _CHUNK // len(points)))
                ]
            away = own[:, None] - points[torch.cat(parts)]
            made.append(away.norm(dim=-1).mean(-1) / typical)
        return torch.stack(made)

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw points to start from, shape (R, count, latent).

        Different ones as far as there are enough.
        """
        checks.whole("starts", count, 1)
        random = np.random.default_rng(checks.whole("seed", seed, 0))
        return torch.stack(
            [
                points[np.resize(random.permutation(len(points)), count)]
                for points in self.points
            ]
        )


@one_thread()
def search(
    decoder: Decoder,
    starts: Tensor,
    loss: Callable[[Decoded, Tensor, float], Tensor],
    steps: int = 200,
    rate: float = 0.05,
) -> Tensor:
    """Lower a loss from many starts at once (Adam, the rate falls to zero).

    Parameters
    ----------
    decoder
        Of the scale whose latents are searched.
    starts
        Shape (R, n, latent).
    loss
        Of what is decoded, the latents, and the share of the steps that is
        done; shape (R, n).  Every point moves by its own loss only.
    steps, rate
        Number and size of the steps, in units of the latents.

    Returns
    -------
    Tensor
        Shape (R, n, latent), within the box of the latents' activation.
    """
    checks.whole("steps", steps, 1)
    checks.real("rate", rate, positive=True)
    low, high = BOX[decoder.fitted.scale.latent_activation]
    z = starts.detach().clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        adam.zero_grad()
        loss(decoder(z), z, (step + 1) / steps).sum().backward()
        adam.step()
        falling.step()
        with torch.no_grad():
            z.clamp_(low, high)
    return z.detach()


@dataclass(frozen=True)
class Points:
    """Points of a latent space with what they stand for.

    The axes are replicas R, rows n and starts S; along the last, those
    within the tolerance come first, the nearest to the training rows
    foremost (of a design the highest objective).  Repeated points keep their
    place; ``fits`` leaves them out.

    Attributes
    ----------
    latents
        Shape (R, n, S, latent).
    decoded
        By name, each (R, n, S, width), in its own units; see
        :class:`Decoded`.
    misfit
        Shape (R, n, S).  For a completion how far the decoded values are
        from the known ones; for a design minus the objective.
    distance
        Shape (R, n, S); see :meth:`Neighbourhood.distance`.
    fits
        Shape (R, n, S): within the tolerance, and distinct from every
        point before it.
    """

    latents: np.ndarray
    decoded: dict[str, np.ndarray]
    misfit: np.ndarray
    distance: np.ndarray
    fits: np.ndarray

    def best(self, name: str) -> np.ndarray:
        """Return a head's values at each row's first point, (R, n, width).

        NaN where no point of a row fits.
        """
        values = self.decoded[name][:, :, 0]
        return np.where(self.fits[:, :, :1], values, np.nan)

    def over_replicas(
        self, name: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean and spread of the first points over the replicas.

        Returns
        -------
        tuple
            Mean and standard deviation (``ddof=1``), each (n, width), over
            the replicas in which a point fits, NaN where there are too few;
            and their number, (n,).
        """
        values = self.best(name)
        known = self.fits[:, :, :1]
        count = known.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, values, 0).sum(0) / count
            square = np.where(known, (values - mean) ** 2, 0).sum(0)
            spread = np.sqrt(square / np.where(count > 1, count - 1, np.nan))
        return mean, spread, count[:, 0]


def complete(
    chain: NestedAutoencoder,
    known: Mapping[str, np.ndarray],
    around: Neighbourhood,
    *,
    scale: str = "",
    tolerance: float = 0.1,
    starts: int = 32,
    steps: int = 200,
    rate: float = 0.05,
    density: float = 0.0,
    reach: float = 1.0,
    apart: float = 0.5,
    seed: int = 0,
) -> Points:
    """Search a scale's latents for points that decode to what is known.

    Which scale or half is missing makes no difference: ``known`` may be the
    block of lower latents (the paper's first task), the contact layers and
    the efficiency (its converse), or any other of the decoded values.

    Parameters
    ----------
    chain
        Fitted.
    known
        Blocks and targets that the scale or one below decodes, each of
        shape (n, width), or (R, n, width) where the replicas differ in
        them (latents of a lower scale do), in their own units; categories
        one-hot.
    around
        The training rows' place, :meth:`Neighbourhood.of` of the same chain
        and scale; the search starts at random points of it.
    scale
        Whose latents are searched; the last where empty.
    tolerance
        Largest misfit of a solution.  The misfit is the largest over the
        known parts of: the root mean square difference over the columns, in
        the units of the block's scaler (without one, in standard deviations
        of what is decoded at the training rows); for categories one minus
        the probability of the known one.
    starts, seed
        Number of starts for each row, and the seed that draws them.
    steps, rate
        See :func:`search`.
    density, reach
        Weight of a penalty on the distance from the training rows beyond
        ``reach``; 0 leaves the points where the search takes them.
    apart
        Two solutions are one where they are nearer to each other than this
        share of the distance typical of the training rows.

    Returns
    -------
    Points
        R replicas, n rows, S starts.

    Raises
    ------
    ParameterError, DataError
        If a parameter is not allowed, a name is not decoded, or a shape
        does not fit.
    """
    decoder = Decoder(chain, scale)
    _check(decoder, around, density, reach, apart)
    checks.real("tolerance", tolerance, positive=True)
    targets = _targets(decoder, known)
    rows = next(iter(targets.values())).shape[1]
    first = around.draw(starts, seed).repeat(1, rows, 1)
    units = _units(decoder, around, targets)
    every = {
        name: part.repeat_interleave(starts, 1)
        for name, part in targets.items()
    }

    def loss(made: Decoded, z: Tensor, done: float) -> Tensor:
        total = _far(around, z, done * density, reach)
        for name, target in every.items():
            _, head, _ = decoder.find(name)
            values = made[name]
            if head.loss == "cross_entropy":
                told = (values * target).sum(-1).clamp(min=1e-12)
                total = total - torch.log(told)
            else:
                miss = (values - target) / units[name]
                total = total + miss.square().mean(-1)
        return total

    z = search(decoder, first, loss, steps, rate)
    with torch.no_grad():
        made = decoder(z)
        misfit = torch.stack(
            [
                _misfit(decoder, made, name, target, units)
                for name, target in every.items()
            ]
        ).amax(0)
    return _points(decoder, around, z, misfit, rows, tolerance, apart)


def design(
    chain: NestedAutoencoder,
    objective: Callable[[Decoded], Tensor],
    around: Neighbourhood,
    *,
    scale: str = "",
    starts: int = 32,
    steps: int = 200,
    rate: float = 0.05,
    density: float = 10.0,
    reach: float = 1.0,
    apart: float = 0.5,
    seed: int = 0,
) -> Points:
    """Search a scale's latents for points of a high objective.

    Parameters
    ----------
    chain, around, scale, starts, seed, steps, rate, apart
        As in :func:`complete`.
    objective
        Of what :class:`Decoder` decodes, in its own units; a tensor (R, n)
        that is to be high.
    density, reach
        The training rows hold the search back: ``density`` times the square
        of the distance beyond ``reach`` is taken off the objective.  The
        weight grows from nothing over the steps, lest points are caught by
        the data where they start.

    Returns
    -------
    Points
        R replicas, one row, S starts; ``misfit`` is minus the objective,
        without the penalty, and ``fits`` says which points are distinct.
        The highest objective stands first among them; a point whose
        objective is not finite does not count.

    Raises
    ------
    ParameterError, DataError
        If a parameter is not allowed, or the objective's shape is another.
    """
    decoder = Decoder(chain, scale)
    _check(decoder, around, density, reach, apart)
    first = around.draw(starts, seed)

    def value(made: Decoded) -> Tensor:
        found = objective(made)
        if found.shape != first.shape[:2]:
            raise DataError(
                f"objective: shape {tuple(found.shape)} found, "
                f"{tuple(first.shape[:2])} is allowed, one number a point."
            )
        return found

    def loss(made: Decoded, z: Tensor, done: float) -> Tensor:
        return _far(around, z, done * density, reach) - value(made)

    z = search(decoder, first, loss, steps, rate)
    with torch.no_grad():
        misfit = -value(decoder(z))
    return _points(decoder, around, z, misfit, 1, None, apart)


def interpolate(
    first: np.ndarray, second: np.ndarray, count: int, path: str = "linear"
) -> np.ndarray:
    """Return points on the way between latents, both ends included.

    Parameters
    ----------
    first, second
        Shape (..., latent).
    count
        Number of points, at least two.
    path
        ``"linear"``: a straight line.  ``"spherical"``: along the arc about
        the origin, direction and length changing evenly; a straight line
        where the directions are equal, opposite or undefined.

    Returns
    -------
    numpy.ndarray
        Shape (..., count, latent).
    """
    checks.whole("count", count, 2)
    checks.choice("path", path, PATHS)
    first, second = np.asarray(first, float), np.asarray(second, float)
    share = np.linspace(0, 1, count)[:, None]
    first, second = first[..., None, :], second[..., None, :]
    line = (1 - share) * first + share * second
    if path == "linear":
        return line
    norms = [
        np.linalg.norm(x, axis=-1, keepdims=True) for x in (first, second)
    ]
    safe = [np.where(norm > 0, norm, 1.0) for norm in norms]
    units = [x / norm for x, norm in zip((first, second), safe, strict=True)]
    angle = np.arccos((units[0] * units[1]).sum(-1, keepdims=True).clip(-1, 1))
    sine = np.sin(angle)
    bent = (sine > 1e-6) & (norms[0] > 0) & (norms[1] > 0)
    sine = np.where(bent, sine, 1.0)
    turned = (
        np.sin((1 - share) * angle) * units[0]
        + np.sin(share * angle) * units[1]
    ) / sine
    length = (1 - share) * norms[0] + share * norms[1]
    return np.where(bent, turned * length, line)


def _check(
    decoder: Decoder,
    around: Neighbourhood,
    density: float,
    reach: float,
    apart: float,
) -> None:
    checks.real("density", density, 0)
    checks.real("reach", reach, positive=True)
    checks.real("apart", apart, 0)
    found = len(around.points), around.points[0].shape[1]
    if found != (decoder.replicas, decoder.fitted.scale.latent):
        raise ParameterError(
            f"around: made of {found[0]} replicas and {found[1]} latents, "
            f"but scale {decoder.name!r} has {decoder.replicas} and "
            f"{decoder.fitted.scale.latent}; make it of the same chain and "
            "scale."
        )


def _targets(
    decoder: Decoder, known: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """Return the known values as tensors (R, n, width), checked."""
    if not known:
        raise ParameterError(
            "known: nothing given, at least one of "
            f"{', '.join(map(repr, decoder.owners))} is needed."
        )
    targets, rows = {}, set()
    for name, given in known.items():
        _, head, columns = decoder.find(name)
        width = columns.stop - columns.start
        values = np.asarray(given, dtype=float)
        values = values[None] if values.ndim == 2 else values
        fits = values.ndim == 3 and values.shape[-1] == width
        if (
            not fits
            or not values.shape[1]
            or len(values) not in (1, decoder.replicas)
        ):
            raise DataError(
                f"known, {name!r}: shape {np.shape(given)} given, (rows, "
                f"{width}) is allowed, or with {decoder.replicas} replicas "
                "in front."
            )
        if not np.isfinite(values).all():
            raise DataError(
                f"known, {name!r}: a value is not finite; leave out what is "
                "not known."
            )
        if head.loss == "cross_entropy" and not (
            np.isin(values, (0, 1)).all() and (values.sum(-1) == 1).all()
        ):
            raise DataError(
                f"known, {name!r}: a row is not one-hot; give one 1 in each "
                "row, and 0 elsewhere."
            )
        rows.add(values.shape[1])
        values = np.broadcast_to(values, (decoder.replicas, *values.shape[1:]))
        targets[name] = torch.tensor(values, dtype=torch.float32)
    if len(rows) != 1:
        raise DataError(
            f"known: {sorted(rows)} rows given, the same number everywhere "
            "is allowed."
        )
    return targets


def _units(
    decoder: Decoder, around: Neighbourhood, names: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return what the misfit of each known part is measured in."""
    units = {}
    for name in names:
        scalers = decoder.find(name)[0].scalers
        if name in scalers:
            units[name] = scalers[name][1]
            continue
        with torch.no_grad():
            unit = torch.stack(
                [
                    decoder(own.expand(decoder.replicas, -1, -1))[name][
                        place
                    ].std(0, keepdim=True)
                    for place, own in enumerate(around.points)
                ]
            )
        units[name] = torch.where(unit > 1e-6, unit, 1.0)
    return units


def _misfit(
    decoder: Decoder,
    made: Decoded,
    name: str,
    target: Tensor,
    units: Mapping[str, Tensor],
) -> Tensor:
    _, head, _ = decoder.find(name)
    values = made[name]
    if head.loss == "cross_entropy":
        return 1 - (values * target).sum(-1)
    return ((values - target) / units[name]).square().mean(-1).sqrt()


def _far(
    around: Neighbourhood, z: Tensor, density: float, reach: float
) -> Tensor:
    """Return the penalty of points far from the training rows, (R, n)."""
    if not density:
        return z.new_zeros(z.shape[:2])
    return density * (around.distance(z) - reach).clamp(min=0).square()


def _points(
    decoder: Decoder,
    around: Neighbourhood,
    z: Tensor,
    misfit: Tensor,
    rows: int,
    tolerance: float | None,
    apart: float,
) -> Points:
    """Sort the points of every row, and mark those that count."""
    with torch.no_grad():
        far = around.distance(z)
        if tolerance is None:
            good = misfit.isfinite()
            first = misfit
        else:
            good = misfit <= tolerance
            first = torch.where(good, far, misfit)
    shape = (len(z), rows, -1)

    def split(values: Tensor) -> np.ndarray:
        return values.double().numpy().reshape(*shape, *values.shape[2:])

    latents, misfits, distances = split(z), split(misfit), split(far)
    good, first = good.numpy().reshape(shape), split(first)
    order = np.lexsort((first, ~good), axis=-1)

    def sort(values: np.ndarray) -> np.ndarray:
        place = order.reshape(*order.shape, *(1,) * (values.ndim - 3))
        return np.take_along_axis(values, place, 2)

    latents, good = sort(latents), sort(good)
    near = apart * around.typical.double().numpy()[:, None]
    fits = np.zeros_like(good)
    for place in range(good.shape[-1]):
        gap = np.linalg.norm(
            latents[:, :, :place] - latents[:, :, place, None], axis=-1
        )
        twin = (fits[:, :, :place] & (gap < near[..., None])).any(-1)
        fits[:, :, place] = good[:, :, place] & ~twin
    with torch.no_grad():
        made = decoder(z)
        decoded = {name: sort(split(values)) for name, values in made.items()}
    return Points(latents, decoded, sort(misfits), sort(distances), fits)
