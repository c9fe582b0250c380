"""The paper's experiments: its scales, folds and trainings.

Everything here follows the paper's text, Sec. 3, and the inputs published
with its code; where the two differ, both are given by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, train_test_split

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.chain import NestedAutoencoder, Table, fit
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.model.scales import Block, Head, Scale

SETTINGS = ("inputs", "text")
FOLDS_BY = ("row", "input", "composition")


def row_folds(rows: int, folds: int) -> list[Split]:
    """Return folds drawn as in the paper: by row, random state 0.

    Raises
    ------
    ParameterError
        If there are more folds than rows.
    """
    _enough(folds, rows, "rows")
    drawn = KFold(folds, shuffle=True, random_state=0)
    return list(drawn.split(np.zeros(rows)))


def group_folds(groups: np.ndarray, folds: int) -> list[Split]:
    """Return folds in which the rows of a group stay together.

    scikit-learn's ``GroupKFold``, which keeps the folds' sizes as equal as
    it can; ``groups`` (n,) are whole numbers from 0.

    Raises
    ------
    ParameterError
        If there are more folds than groups.
    """
    _enough(folds, len(np.unique(groups)), "groups")
    return list(GroupKFold(folds).split(groups, groups=groups))


def _enough(folds: int, count: int, what: str) -> None:
    if folds > count:
        raise ParameterError(
            f"folds: {folds} given for {count} {what}, at most one fold for "
            f"each of the {what} is allowed."
        )


def same(*blocks: np.ndarray) -> np.ndarray:
    """Return numbers (n,) of the rows that are equal where the rows are.

    Of blocks (n, width), up to a rounding at the eighth decimal.
    """
    rows = np.concatenate(blocks, axis=1).round(8)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def folds_by(by: str, table: Table, folds: int) -> list[Split]:
    """Return folds of the devices' table.

    ``"row"``: as :func:`row_folds`; ``"input"``: devices with the same
    composition, ETL and HTL share a fold; ``"composition"``: those with the
    same composition do.
    """
    fractions = table["fractions"]
    if by == "row":
        return row_folds(len(fractions), folds)
    layers = [table["etl"], table["htl"]] if by == "input" else []
    return group_folds(same(fractions, *layers), folds)


def inner_folds(
    splits: Sequence[Split], folds: int, groups: np.ndarray | None = None
) -> list[Split]:
    """Split the training rows of every outer fold again.

    Parameters
    ----------
    splits
        The outer folds; their held-out rows appear nowhere in the result.
    folds, groups
        Inner folds of each outer one, by row or by groups (n,).

    Returns
    -------
    list
        ``len(splits) * folds`` splits, the first outer fold's first.
    """
    inner = []
    for seen, _ in splits:
        seen = np.asarray(seen)
        own = None if groups is None else groups[seen]
        count = len(seen) if groups is None else len(set(own))
        _enough(folds, count, "rows" if groups is None else "groups")
        drawn = (
            KFold(folds, shuffle=True, random_state=1)
            if groups is None
            else GroupKFold(folds)
        )
        inner += [
            (seen[train], seen[test]) for train, test in drawn.split(seen, groups=own)
        ]
    return inner


def held_out(rows: int, share: float, seeds: int, first: int = 0) -> Replicas:
    """Return replicas that each draw the held-out share by their own seed.

    Seeds ``first``, ``first + 1``, ... (paper, Fig. 2).
    """
    numbers = np.arange(first, first + seeds)
    splits = [
        tuple(
            train_test_split(np.arange(rows), test_size=share, random_state=int(seed))
        )
        for seed in numbers
    ]
    return Replicas(tuple(splits), {"fold": np.zeros(seeds, int), "seed": numbers})


# --- Synthetic benchmark (paper, Sec. 3.1, Fig. 2) -----------------------


def synthetic_scale(
    name: str,
    blocks: Sequence[Block],
    hidden: Sequence[int],
    latent: int,
    settings: str,
    l1_factor: float = 1.0,
) -> Scale:
    """Declare an autoencoder with one decoder for all its inputs.

    Parameters
    ----------
    name, blocks, hidden, latent
        As in :class:`nestedae_utils.model.scales.Scale`.
    settings
        ``"text"``: mirrored decoder, linear output, L1 0.01 on the encoder,
        Xavier normal.  ``"inputs"``, as in the inputs published with the
        paper's code: a decoder that starts with a layer as wide as the
        latent, tanh output, L1 0.001 on encoder and decoder, Xavier
        uniform.  (There, the layers before and behind the latent have no
        activation; with tanh, which the text has for all, the values come
        closer to Fig. 2.)
    l1_factor
        Multiplies the weight of the L1 term.
    """
    published = settings == "inputs"
    decoder = Head(
        "inputs",
        sum(block.width for block in blocks),
        hidden=(latent, *reversed(hidden[1:]))
        if published
        else tuple(reversed(hidden)),
        activation="tanh",
        output="tanh" if published else "linear",
        of=tuple(block.name for block in blocks),
    )
    return Scale(
        name=name,
        inputs=tuple(blocks),
        latent=latent,
        heads=(decoder,),
        hidden=tuple(hidden),
        l1=l1_factor * (0.001 if published else 0.01),
        l1_on="all" if published else "encoder",
        initialisation="xavier_uniform" if published else "xavier_normal",
    )


def synthetic_single(
    settings: str,
    l1_factor: float = 1.0,
    latent: int = 5,
    hidden: Sequence[int] = (13, 8, 6),
) -> list[Scale]:
    """Declare the single autoencoder over all 13 functions.

    Its shape is not published; ours follows the published rule for the
    others, a first layer as wide as the input, and then the widths of the
    second nested scale.
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
    tables: np.ndarray,
    *,
    seeds: int,
    first: int = 0,
    share: float = 0.2,
    **settings: Any,
) -> NestedAutoencoder:
    """Fit a chain on several tables and seeds, all on the replica axis.

    Parameters
    ----------
    scales
        From :func:`synthetic_single` or :func:`synthetic_nested`.
    tables
        Shape (T, n, 13), the functions f1..f13 of each table.
    seeds, first, share
        Number of seeds, and the first of them; each draws its own held-out
        share and weights.
    settings
        See :func:`nestedae_utils.model.training.train`.

    Returns
    -------
    NestedAutoencoder
        With the labels ``table``, slowest, and ``seed``.
    """
    replicas = held_out(tables.shape[1], share, seeds, first)
    values = np.repeat(tables, seeds, axis=0)
    table = {"scale_1": values[..., :4], "scale_2": values[..., 4:]}
    return fit(scales, table, replicas.times(table=range(len(tables))), **settings)


# --- Perovskites (paper, Sec. 3.2, Table 1, Figs. 3-5) -------------------


def band_gap_scale(latent: int = 12, l1: float = 0.01) -> Scale:
    """Declare AE1: 15 ion properties, reconstructed; the PBE gap (eV)."""
    return Scale(
        name="band_gap",
        inputs=(Block("ions", 15),),
        latent=latent,
        heads=(
            Head("gap", 1, hidden=(100,), dropout=0.1, output="relu"),
            Head("ions", 15),
        ),
        l1=l1,
    )


def device_scale(
    latent: int = 18,
    l1: float = 0.01,
    composition: str = "latents",
    lower_latent: int = 12,
    lower_scaler: str = "refitted",
) -> Scale:
    """Declare AE2: contact layers and composition; the PCE (%).

    Parameters
    ----------
    latent, l1
        As in :class:`nestedae_utils.model.scales.Scale`.
    composition
        What the scale knows of it: AE1's ``"latents"`` (NestedAE),
        ``"nothing"`` (the paper's single AE) or the ``"ions"``' properties
        themselves (a single AE that sees what NestedAE sees).
    lower_latent
        Number of AE1's latents.
    lower_scaler
        The paper standardises the devices' ion properties with their own
        statistics (``"refitted"``), not with AE1's (``"carried"``).
    """
    known = {
        "latents": (
            Block(
                "latents",
                lower_latent,
                latents_of="band_gap",
                lower_scaler=lower_scaler,
            ),
        ),
        "nothing": (),
        "ions": (Block("ions", 15),),
    }
    seen = known[composition]
    return Scale(
        name="device",
        inputs=(
            *seen,
            Block("etl", 7, scaling="none"),
            Block("htl", 4, scaling="none"),
        ),
        latent=latent,
        heads=(
            Head("pce", 1, hidden=(100,), dropout=0.1, output="relu", gain=10.0),
            *(Head(block.name, block.width) for block in seen),
            Head("etl", 7, loss="cross_entropy"),
            Head("htl", 4, loss="cross_entropy"),
        ),
        l1=l1,
    )


def fit_perovskites(
    scale: Scale,
    table: Table,
    lower: NestedAutoencoder | None = None,
    *,
    folds: int,
    seeds: int,
    by: str = "row",
    latents: Sequence[int] = (),
    **settings: Any,
) -> NestedAutoencoder:
    """Fit AE1, AE2 or a single AE on all folds and seeds.

    Parameters
    ----------
    scale
        From :func:`band_gap_scale` or :func:`device_scale`.
    table
        From :func:`nestedae_utils.data.perovskites.band_gap_arrays` or
        :func:`nestedae_utils.data.perovskites.device_arrays`.
    lower
        The fitted AE1, where ``scale`` takes its latents; as in the paper,
        the model of its first fold serves every fold of AE2.
    folds, seeds, by
        See :func:`folds_by`; seeds lie within folds.
    latents
        Numbers of latents, at most that of ``scale``: a label ``latent``.
    settings
        See :meth:`nestedae_utils.model.chain.NestedAutoencoder.fit_scale`.
    """
    replicas = Replicas.cross(folds_by(by, table, folds), seeds)
    if len(latents):
        replicas = replicas.times(latent=latents)
    below = None if lower is None else lower.take([0])
    return fit(scale, table, replicas, below, **settings)
