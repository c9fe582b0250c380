"""The paper's experiments: its scales, folds and trainings.

All follows the paper's text, Sec. 3, and the inputs published with its code;
where the two differ, both are given by name. More folds than there are rows,
or groups, are a `ParameterError`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.chain import NestedAutoencoder, fit
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.model.scales import Block, Head, Scale

SETTINGS = ("inputs", "text")
FOLDS_BY = ("row", "input", "composition")
Arrays = Mapping[str, NDArray]


def row_folds(rows: int, folds: int, state: int = 0) -> list[Split]:
    """Return folds drawn by row; those of the paper have the random state 0."""
    _enough(folds, rows, "rows")
    return list(KFold(folds, shuffle=True, random_state=state).split(np.zeros(rows)))


def group_folds(groups: NDArray, folds: int) -> list[Split]:
    """Return folds, of nearly one size, that keep each group (n,) together."""
    _enough(folds, len(np.unique(groups)), "groups")
    return list(GroupKFold(folds).split(groups, groups=groups))


def _enough(folds: int, count: int, what: str) -> None:
    if folds > count:
        raise ParameterError(
            f"folds: {folds} given for {count} {what}, at most one fold for "
            f"each of the {what} is allowed."
        )


def same(*blocks: NDArray) -> NDArray:
    """Return numbers (n,) of the rows of blocks (n, width).

    Rows that are equal to eight decimals have the same.
    """
    rows = np.concatenate(blocks, axis=1).round(8)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def folds_by(by: str, table: Arrays, folds: int) -> list[Split]:
    """Return folds of the devices' table.

    By ``"row"``; by ``"input"``, devices of one composition, ETL and HTL share
    a fold; by ``"composition"``, those of one composition do.
    """
    fractions = table["fractions"]
    if by == "row":
        return row_folds(len(fractions), folds)
    layers = [table["etl"], table["htl"]] if by == "input" else []
    return group_folds(same(fractions, *layers), folds)


def inner_folds(
    splits: Sequence[Split], folds: int, groups: NDArray | None = None
) -> list[Split]:
    """Split the training rows of every outer fold again, by row or groups (n,).

    Returns ``len(splits) * folds`` splits, the first outer fold's first; what
    an outer fold holds out is in none of its own.
    """
    inner = []
    for seen, _ in splits:
        if groups is None:
            drawn = row_folds(len(seen), folds, state=1)
        else:
            drawn = group_folds(groups[seen], folds)
        inner += [(seen[train], seen[test]) for train, test in drawn]
    return inner


def held_out(rows: int, share: float, seeds: int, first: int = 0) -> Replicas:
    """Return replicas that each draw the held-out share by their own seed.

    Seeds ``first``, ``first + 1``, ... (paper, Fig. 2).
    """
    numbers = np.arange(first, first + seeds)
    shares = [ShuffleSplit(1, test_size=share, random_state=seed) for seed in numbers]
    splits = tuple(next(drawn.split(np.zeros(rows))) for drawn in shares)
    return Replicas(splits, {"fold": np.zeros(seeds, int), "seed": numbers})


def synthetic_scale(
    name: str,
    blocks: Sequence[Block],
    hidden: Sequence[int],
    latent: int,
    settings: str,
    l1_factor: float = 1.0,
) -> Scale:
    """Declare an autoencoder with one decoder for all its inputs.

    Settings ``"text"``: mirrored decoder, linear output, L1 0.01 on the encoder,
    Xavier normal. ``"inputs"``, as published with the code: a decoder that
    starts with a layer as wide as the latent, tanh output, L1 0.001 on all
    layers, Xavier uniform. (There, the layers before and behind the latent have
    no activation; with tanh, which the text has for all, the values come closer
    to Fig. 2.) ``l1_factor`` multiplies L1.
    """
    width, of = sum(b.width for b in blocks), [b.name for b in blocks]
    head = Head("inputs", width, hidden=hidden[::-1], activation="tanh", of=of)
    scale = Scale(name, blocks, latent, [head], hidden=hidden, l1=0.01 * l1_factor)
    if settings != "inputs":
        return scale
    head = head.with_(hidden=(*hidden[1:], latent)[::-1], output="tanh")
    how = {"l1_on": "all", "initialisation": "xavier_uniform"}
    return scale.with_(heads=[head], l1=0.001 * l1_factor, **how)


def synthetic_single(
    settings: str,
    l1_factor: float = 1.0,
    latent: int = 5,
    hidden: Sequence[int] = (13, 8, 6),
) -> list[Scale]:
    """Declare the single autoencoder over all 13 functions.

    Its shape is not published. As in the published others, the first layer is
    as wide as the input; the next are those of the second nested scale.
    """
    blocks = [Block("scale_1", 4), Block("scale_2", 9)]
    return [synthetic_scale("single", blocks, hidden, latent, settings, l1_factor)]


def synthetic_nested(
    settings: str, l1_factor: float = 1.0, latent: int = 5
) -> list[Scale]:
    """Declare the two nested scales: f1..f4, then f5..f13 and 2 latents."""
    first = [Block("scale_1", 4)]
    second = [Block("scale_2", 9), Block("latents", 2, latents_of="fine")]
    hidden = (11, 8, 6) if settings == "inputs" else (9, 7, 6)
    return [
        synthetic_scale("fine", first, (4, 3), 2, settings, l1_factor),
        synthetic_scale("coarse", second, hidden, latent, settings, l1_factor),
    ]


def fit_synthetic(
    scales: Sequence[Scale],
    tables: NDArray,
    *,
    seeds: int,
    first: int = 0,
    share: float = 0.2,
    **settings: Any,
) -> NestedAutoencoder:
    """Fit a chain on several tables and seeds (paper, Sec. 3.1, Fig. 2).

    ``tables`` (T, n, 13) are the functions f1..f13 of each. Every seed, from
    ``first``, draws its own weights and held-out share; the ``settings`` are
    those of :func:`nestedae_utils.model.training.train`. Labels of the replicas
    are ``table``, slowest, and ``seed``.
    """
    replicas = held_out(tables.shape[1], share, seeds, first)
    values = np.repeat(tables, seeds, axis=0)
    table = {"scale_1": values[..., :4], "scale_2": values[..., 4:]}
    return fit(scales, table, replicas.times(table=range(len(tables))), **settings)


def band_gap_scale(latent: int = 12, l1: float = 0.01) -> Scale:
    """Declare AE1: 15 ion properties, reconstructed; the PBE gap (eV)."""
    gap = Head("gap", 1, hidden=(100,), dropout=0.1, output="relu")
    heads = [gap, Head("ions", 15)]
    return Scale("band_gap", [Block("ions", 15)], latent, heads, l1=l1)


def device_scale(
    latent: int = 18,
    l1: float = 0.01,
    composition: str = "latents",
    lower_latent: int = 12,
    lower_scaler: str = "refitted",
) -> Scale:
    """Declare AE2: contact layers and composition; the PCE (%).

    Of the ``composition`` it knows AE1's ``"latents"`` (NestedAE), ``"nothing"``
    (the paper's single AE) or the ``"ions"``' properties (a single AE that sees
    what NestedAE sees). For AE1 the paper standardises the devices' properties
    with their own statistics (``"refitted"``), not AE1's (``"carried"``).
    """
    latents = Block("latents", lower_latent, "standard", "band_gap", lower_scaler)
    known = {"latents": [latents], "nothing": [], "ions": [Block("ions", 15)]}
    seen = known[composition]
    layers = [Block("etl", 7, "none"), Block("htl", 4, "none")]
    pce = Head("pce", 1, hidden=(100,), dropout=0.1, output="relu", gain=10.0)
    heads = [pce, *(Head(block.name, block.width) for block in seen)]
    heads += [Head(block.name, block.width, "cross_entropy") for block in layers]
    return Scale("device", [*seen, *layers], latent, heads, l1=l1)


def chosen(below: NestedAutoencoder) -> int:
    """Return the place of the AE1, of the first seed, with the least sum of errors."""
    ae1 = below.fitted["band_gap"]
    first = ae1.replicas.where(seed=ae1.replicas.labels["seed"][0])
    if len(first) == 1:  # taken from others, it has no history
        return int(first[0])
    each = [ae1.at_end("validation_as_made", of) for of in ("gap_mae", "ions_mae")]
    return int(first[np.sum(each, axis=0)[first].argmin()])


def fit_perovskites(
    scale: Scale,
    table: Arrays,
    lower: NestedAutoencoder | None = None,
    *,
    folds: int,
    seeds: int,
    by: str = "row",
    latents: Sequence[int] = (),
    **settings: Any,
) -> NestedAutoencoder:
    """Fit AE1, AE2 or a single AE on all folds and seeds (paper, Sec. 3.2).

    The ``table`` is one of :mod:`nestedae_utils.data.perovskites`. Of the fitted AE1,
    ``lower``, the one `chosen` serves every fold of AE2, as in the paper. Seeds lie
    within the folds of `folds_by`; ``latents``, at most ``scale``'s, are a label. The
    settings: :meth:`nestedae_utils.model.chain.NestedAutoencoder.fit_scale`.
    """
    replicas = Replicas.cross(folds_by(by, table, folds), seeds)
    if len(latents):
        replicas = replicas.times(latent=latents)
    below = None if lower is None else lower.take([chosen(lower)])
    return fit(scale, table, replicas, below, **settings)
