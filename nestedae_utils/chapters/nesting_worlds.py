"""Generated worlds of two and three scales, with a dial for each thing.

A world has 15 inputs, standard normal numbers that are rotated.  Some hidden
directions in them matter.  With h the first half of these, k the other half,
r the relevance, and F, G, H smooth random functions of unit variance::

    fine    F(h) + noise
    coarse  sqrt(r) (sqrt(l) F(h) + sqrt(1 - l) G(h)) + sqrt(1 - r) H(k) + noise

r is hence the share of the coarse property's variance that lies in the
directions of the fine one, l, the likeness, the share of that which is the
fine property itself.  A middle scale is as the coarse one, with functions G
and H of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ortho_group

INPUTS = 15
ASKED = 400
"""Rows of each world on which errors are measured, of no training."""
Function = Callable[[np.ndarray], np.ndarray]
Table = dict[str, np.ndarray]


@dataclass(frozen=True)
class Dials:
    """What is turned: rows, shares (0 to 1), noise in deviations of a property.

    ``shift`` moves the coarse table's inputs by so many deviations along a
    random direction; ``duplicates`` is the share of coarse rows that repeat
    the inputs of others, with noise of their own.
    """

    fine: int = 800
    coarse: int = 60
    relevance: float = 1.0
    fine_noise: float = 0.1
    coarse_noise: float = 0.1
    directions: int = 4
    shift: float = 0.0
    duplicates: float = 0.0
    likeness: float = 0.5


def function(random: np.random.Generator, width: int) -> Function:
    """Return a smooth random function of standard normal (n, width).

    Twelve sines of random waves; mean 0 and variance 1, by 4096 draws.
    """
    waves = random.normal(0, 1 / np.sqrt(width), (width, 12))
    phases, heights = random.uniform(0, 2 * np.pi, 12), random.normal(size=12)

    def raw(h: np.ndarray) -> np.ndarray:
        return np.sin(1.5 * h @ waves + phases) @ heights

    drawn = raw(random.standard_normal((4096, width)))
    return lambda h: (raw(h) - drawn.mean()) / drawn.std()


def world(dials: Dials, seed: int) -> dict[str, Table]:
    """Return the tables of a world: fine, middle, coarse and asked.

    Each has ``inputs`` (n, 15) and ``y`` (n, 1).  The seed draws rotation,
    functions and rows, alike whatever the dials: the first rows of a larger
    table are those of a smaller one.  The middle table has as many rows as
    the geometric mean of the others'; ``asked`` are `ASKED` further coarse
    rows.
    """
    random = np.random.default_rng([seed, dials.directions])
    turn = ortho_group.rvs(INPUTS, random_state=random)
    half = dials.directions // 2
    shared, middle, like = (function(random, half) for _ in range(3))
    other, another = (function(random, dials.directions - half) for _ in range(2))
    away = random.standard_normal(INPUTS)
    away *= dials.shift / np.linalg.norm(away)

    def mixed(z: np.ndarray, own: Function, rest: Function) -> np.ndarray:
        h, k = z[:, :half], z[:, half : dials.directions]
        l, r = dials.likeness, dials.relevance  # noqa: E741
        part = np.sqrt(l) * shared(h) + np.sqrt(1 - l) * own(h)
        # own and fine function may be alike by chance
        scale = np.sqrt(1 + 2 * np.sqrt(l * (1 - l)) * overlap(shared, own, half))
        return np.sqrt(r) * part / scale + np.sqrt(1 - r) * rest(k)

    tables = {}
    rows = {"fine": dials.fine, "middle": round(np.sqrt(dials.fine * dials.coarse))}
    rows |= {"coarse": dials.coarse, "asked": ASKED}
    for place, (name, count) in enumerate(rows.items()):
        drawn = np.random.default_rng([seed, dials.directions, place])
        z = drawn.standard_normal((count, INPUTS))
        if name != "fine":
            z = z + away
        if name == "coarse":
            repeated = round(dials.duplicates * count)
            z[count - repeated :] = z[np.arange(repeated) % max(1, count - repeated)]
        drawn = np.random.default_rng([seed, dials.directions, place, 1])
        if name == "fine":
            y, noise = shared(z[:, :half]), dials.fine_noise
        else:
            functions = (middle, another) if name == "middle" else (like, other)
            y, noise = mixed(z, *functions), dials.coarse_noise
        y = y + noise * drawn.standard_normal(count)
        tables[name] = {"inputs": z @ turn, "y": y[:, None]}
    return tables


def overlap(one: Function, other: Function, width: int) -> float:
    """Return the correlation of two functions over standard normal numbers."""
    h = np.random.default_rng(0).standard_normal((4096, width))
    return float(np.mean(one(h) * other(h)))


def at_random(
    rows: int,
    seed: int,
    directions: Sequence[int] = (2, 4, 6, 8),
    likeness: tuple[float, float] = (0.0, 1.0),
) -> Dials:
    """Draw all dials but the number of coarse rows, as a rule should know them.

    Half of the worlds have no shift, half no duplicates.
    """
    random = np.random.default_rng([seed, rows])
    return Dials(
        fine=400,
        coarse=rows,
        relevance=random.uniform(),
        fine_noise=random.uniform(0, 0.8),
        coarse_noise=random.uniform(0, 0.5),
        directions=int(random.choice(directions)),
        shift=random.uniform(0, 1.5) * random.integers(2),
        duplicates=random.uniform(0, 0.5) * random.integers(2),
        likeness=random.uniform(*likeness),
    )
