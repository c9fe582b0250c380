"""The paper's experiments: its scales, folds and trainings.

Everything here follows the paper's text, Sec. 3, and the inputs published
with its code; where the two differ, both are given by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, train_test_split

from nestedae_utils import errors as checks
from nestedae_utils.errors import ParameterError
from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.model.training import Split

SETTINGS = ("inputs", "text")
FOLDS_BY = ("row", "input", "composition")


def row_folds(rows: int, folds: int, seeds: int) -> tuple[list[Split], list]:
    """Return splits and seeds of ``folds * seeds`` replicas.

    Folds are drawn as in the paper, by row, shuffled once with the random
    state 0; the seeds 0, 1, ... lie within each fold.

    Raises
    ------
    ParameterError
        If there are fewer than two folds, more folds than rows, or no seed.
    """
    checks.whole("folds", folds, 2)
    checks.whole("seeds", seeds, 1)
    if folds > rows:
        raise ParameterError(
            f"folds: {folds} given for {rows} rows, at most one fold a row "
            "is allowed."
        )
    drawn = KFold(folds, shuffle=True, random_state=0).split(np.zeros(rows))
    splits = [split for split in drawn for _ in range(seeds)]
    return splits, list(range(seeds)) * folds


def same(*blocks: np.ndarray) -> np.ndarray:
    """Return numbers of the rows that are equal where the rows are.

    Parameters
    ----------
    blocks
        Each of shape (n, width); rows are equal where all blocks are, up to
        a rounding at the eighth decimal.

    Returns
    -------
    numpy.ndarray
        Shape (n,), whole numbers from 0.
    """
    rows = np.concatenate(blocks, axis=1).round(8)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def folds_by(
    by: str, table: Table, folds: int, seeds: int
) -> tuple[list[Split], list[int]]:
    """Return splits and seeds of ``folds * seeds`` replicas.

    Parameters
    ----------
    by
        ``"row"``: as :func:`row_folds`.  ``"input"``: devices with the same
        composition, ETL and HTL share a fold; ``"composition"``: those with
        the same composition do (scikit-learn's ``GroupKFold``, which keeps
        the folds' sizes as equal as it can).
    table
        Arrays ``fractions``, and ``etl`` and ``htl`` for ``"input"``.
    folds, seeds
        As in :func:`row_folds`.

    Raises
    ------
    ParameterError
        If a parameter is not allowed, or there are more folds than groups.
    """
    checks.choice("by", by, FOLDS_BY)
    fractions = table["fractions"]
    if by == "row":
        return row_folds(len(fractions), folds, seeds)
    layers = [table["etl"], table["htl"]] if by == "input" else []
    groups = same(fractions, *layers)
    checks.whole("folds", folds, 2)
    checks.whole("seeds", seeds, 1)
    if folds > groups.max() + 1:
        raise ParameterError(
            f"folds: {folds} given for {groups.max() + 1} groups by {by}, at "
            "most one fold a group is allowed."
        )
    drawn = GroupKFold(folds).split(fractions, groups=groups)
    splits = [split for split in drawn for _ in range(seeds)]
    return splits, list(range(seeds)) * folds


def held_out(
    rows: int, share: float, seeds: int, first: int = 0
) -> tuple[list[Split], list[int]]:
    """Return one split and seed for each of ``seeds`` replicas.

    The held-out share is drawn with the replica's own seed, ``first``,
    ``first + 1``, ... (paper, Fig. 2).
    """
    checks.whole("seeds", seeds, 1)
    checks.whole("seed", first, 0)
    checks.real("share", share, positive=True)
    if np.ceil(share * rows) >= rows:
        raise ParameterError(
            f"share: {share} given, a number between 0 and 1 is allowed "
            f"that leaves some of {rows} rows on both sides."
        )
    splits = []
    numbers = list(range(first, first + seeds))
    for seed in numbers:
        seen, unseen = train_test_split(
            np.arange(rows), test_size=share, random_state=seed
        )
        splits.append((seen, unseen))
    return splits, numbers


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
    checks.choice("settings", settings, SETTINGS)
    checks.real("l1_factor", l1_factor, 0)
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
    return [
        synthetic_scale("single", blocks, hidden, latent, settings, l1_factor)
    ]


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


@cached
def fit_synthetic(
    scales: Sequence[Scale],
    tables: np.ndarray,
    *,
    seeds: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    device: str = "cpu",
    share: float = 0.2,
    every: int = 1,
    first: int = 0,
) -> NestedAutoencoder:
    """Fit a chain on several tables and seeds, all on the replica axis.

    Parameters
    ----------
    scales
        From :func:`synthetic_single` or :func:`synthetic_nested`.
    tables
        Shape (T, n, 13), the functions f1..f13 of each table.
    seeds, first
        Number of seeds, and the first of them; each draws its own held-out
        ``share`` and weights.

    Returns
    -------
    NestedAutoencoder
        With T * seeds replicas, the first table's seeds first.
    """
    splits, numbers = held_out(tables.shape[1], share, seeds, first)
    own = np.repeat(tables, seeds, axis=0)
    chain = NestedAutoencoder(scales)
    for scale in scales:
        chain.fit_scale(
            scale.name,
            {"scale_1": own[..., :4], "scale_2": own[..., 4:]},
            splits * len(tables),
            numbers * len(tables),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            device=device,
            every=every,
        )
    return chain


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
    seen = known[checks.choice("composition", composition, known)]
    return Scale(
        name="device",
        inputs=(
            *seen,
            Block("etl", 7, scaling="none"),
            Block("htl", 4, scaling="none"),
        ),
        latent=latent,
        heads=(
            Head(
                "pce", 1, hidden=(100,), dropout=0.1, output="relu", gain=10.0
            ),
            *(Head(block.name, block.width) for block in seen),
            Head("etl", 7, loss="cross_entropy"),
            Head("htl", 4, loss="cross_entropy"),
        ),
        l1=l1,
    )


@cached
def fit_perovskites(
    scale: Scale,
    table: Table,
    lower: NestedAutoencoder | None = None,
    *,
    folds: int,
    seeds: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    device: str = "cpu",
    by: str = "row",
    latents: Sequence[int] = (),
    standardise_on: str = "all",
    every: int = 1,
) -> NestedAutoencoder:
    """Fit AE1, AE2 or a single AE on all folds and seeds.

    Seeds lie within folds, and folds within ``latents``.

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
        See :func:`folds_by`.
    latents
        Numbers of latents, at most that of ``scale``, all trained at once.
    epochs, batch_size, learning_rate, device, every
        See :func:`nestedae_utils.model.training.train`.
    standardise_on
        See :meth:`nestedae_utils.model.chain.NestedAutoencoder.fit_scale`.
    """
    splits, numbers = folds_by(by, table, folds, seeds)
    below = {} if lower is None else lower.fitted
    chain = NestedAutoencoder(
        [*(fitted.scale for fitted in below.values()), scale]
    )
    for fitted in below.values():
        chain.attach(fitted.select([0]))
    sizes = [size for size in latents for _ in splits]
    return chain.fit_scale(
        scale.name,
        table,
        splits * max(1, len(latents)),
        numbers * max(1, len(latents)),
        standardise_on=standardise_on,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        device=device,
        latents=sizes or None,
        every=every,
    )
