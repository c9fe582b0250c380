"""Design: points of the latents for a wish, and the materials made of them.

A material is a row of a table: site fractions (columns ``IONS``), and the
numbers ``etl`` and ``htl`` of its contact layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestedae_utils.data.perovskites import (
    ETL,
    FEATURES,
    HTL,
    IONS,
    SITES,
    formula,
    mix,
    unmix,
)
from nestedae_utils.study.inverse import Points, Search, decode
from nestedae_utils.study.protocol import same

MATERIAL = [*IONS, "etl", "htl"]
PATHS = ("linear", "spherical")
STEPS = 20
"""Fractions are rounded to this part of one."""
FAR = 2.0
"""Materials farther from the training rows are not counted."""


def design(search: Search, aim: Callable[[Mapping[str, Tensor]], Tensor]) -> Points:
    """Search for points of a high aim.

    ``aim`` of everything that is decoded, by name and in its own units, is a
    tensor (R, n).  The points are one row, the highest aim first; their
    ``misfit`` is minus the aim, and ``fits`` says which are distinct.
    """
    z = search.lowest(lambda decoded: -aim(decoded))
    with torch.no_grad():
        misfit = -aim(decode(search.chain, z))
    return search.points(z, misfit, rows=1)


def judged(search: Search, materials: pd.DataFrame) -> pd.DataFrame:
    """Add what all models say of materials.

    ``pce`` (%) and its standard deviation ``sd`` over the models, ``gap``
    (eV) and ``distance`` from the training rows.
    """
    pce, gap, distance = look(search, materials)
    return materials.assign(
        pce=pce.mean(0), sd=pce.std(0, ddof=1),
        gap=gap.mean(0), distance=distance.mean(0),
    )  # fmt: skip


def look(search: Search, materials: pd.DataFrame) -> tuple[NDArray, NDArray, NDArray]:
    """Return every model's PCE (%), gap (eV) and distance, each (R, n)."""
    chain = search.chain
    table = _encodable(materials, mix(materials).to_numpy())
    return (
        chain.predict(table)["pce"][..., 0],
        chain.predict(table, "band_gap")["gap"][..., 0],
        search.around.distance(chain.encode(table)).numpy(),
    )


def _encodable(materials: pd.DataFrame, ions: NDArray) -> dict[str, NDArray]:
    return {
        "ions": ions,
        "etl": np.eye(len(ETL))[materials["etl"]],
        "htl": np.eye(len(HTL))[materials["htl"]],
    }


def realise(search: Search, points: Points, unit: NDArray) -> pd.DataFrame:
    """Return materials made of the points that count, one row each.

    The decoded ions are projected on the valid mixtures, the nearest
    fractions, rounded to twentieths; the layers become the most probable.

    Parameters
    ----------
    search, points
        The search and what it ended in.
    unit
        Shape (15,): the ion properties' standard deviations.

    Returns
    -------
    DataFrame
        Materials, :func:`judged`, with the model whose point it is and its
        ``rank`` there; the PCE decoded at the point (``promised``), of the
        decoded ions and layers encoded ``again``, of the material in the
        same model (``own``) and in the ``others``; ``decoded_gap`` and
        ``point_distance`` of the point; ``ions_miss``, how far the ions
        were moved, in units.
    """
    model, _, _ = np.nonzero(points.fits)
    row = np.arange(len(model))
    decoded = {name: v[points.fits] for name, v in points.decoded.items()}
    ions = pd.DataFrame(decoded["ions"], columns=list(FEATURES))
    materials = rounded(unmix(ions)).assign(
        etl=decoded["etl"].argmax(1), htl=decoded["htl"].argmax(1)
    )
    pce, _, _ = look(search, materials)
    again = search.chain.predict(_encodable(materials, ions.to_numpy()))
    own = pce[model, row]
    moved = (mix(materials).to_numpy() - ions.to_numpy()) / unit
    return judged(search, materials).assign(
        model=model,
        rank=pd.Series(model).groupby(model).cumcount(),
        promised=decoded["pce"][:, 0],
        again=again["pce"][model, row, 0],
        own=own,
        others=(pce.sum(0) - own) / max(1, len(pce) - 1),
        decoded_gap=decoded["gap"][:, 0],
        point_distance=points.distance[points.fits],
        ions_miss=np.sqrt((moved**2).mean(1)),
    )


def rounded(fractions: pd.DataFrame) -> pd.DataFrame:
    """Round site fractions to twentieths that sum to one.

    What is missing goes to the largest share of a site.
    """
    shares = fractions[list(IONS)].to_numpy()
    steps, row = (shares * STEPS).round(), np.arange(len(shares))
    for members in SITES.values():
        site = np.array([IONS.index(ion) for ion in members])
        largest = site[shares[:, site].argmax(1)]
        steps[row, largest] += STEPS - steps[:, site].sum(1)
    return pd.DataFrame(steps / STEPS, columns=list(IONS))


def table_inputs(table: Mapping[str, NDArray]) -> pd.DataFrame:
    """Return the device table's different inputs as materials.

    With what was measured: ``size``, ``median`` and ``max`` of the PCE (%),
    and ``row``, a row of the table.
    """
    names = ("fractions", "etl", "htl", "pce")
    fractions, etl, htl, pce = (np.asarray(table[name]) for name in names)
    number = same(fractions, etl, htl)
    _, row = np.unique(number, return_index=True)
    materials = pd.DataFrame(fractions[row], columns=list(IONS))
    return materials.assign(
        etl=etl[row].argmax(1),
        htl=htl[row].argmax(1),
        row=row,
        **pd.Series(pce[:, 0]).groupby(number).agg(["size", "median", "max"]),
    )


def all_layers(materials: pd.DataFrame) -> pd.DataFrame:
    """Return every composition of materials with every pair of layers."""
    compositions = materials[list(IONS)].round(6).drop_duplicates()
    pairs = pd.MultiIndex.from_product(
        [range(len(ETL)), range(len(HTL))], names=["etl", "htl"]
    )
    return compositions.merge(pairs.to_frame(index=False), how="cross")


def ranked(materials: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """Return the materials that count, the best first, each once.

    Those with a gap from ``low`` to ``high`` (eV) that are not far from the
    training rows; by ``score``, the PCE minus its standard deviation.
    """
    counts = materials["gap"].between(low, high)
    counts &= materials["distance"] <= FAR
    scored = materials.assign(score=materials["pce"] - materials["sd"])
    scored = scored[counts].sort_values("score", ascending=False)
    return scored.drop_duplicates(MATERIAL)


def front(materials: pd.DataFrame, column: str, sign: int) -> pd.DataFrame:
    """Return the Pareto front of a high PCE and a column.

    ``sign`` says whether the column is to be high (1) or low (-1).
    """
    materials = materials.drop_duplicates(MATERIAL)
    values = np.array([materials["pce"], sign * materials[column]], float).T
    # by one that is at least as good in both, and better in one
    ahead = (values[:, None] >= values).all(-1)
    beaten = np.any(ahead & ~ahead.T, axis=0)
    return materials[~beaten].sort_values(column)


def nearest(inputs: pd.DataFrame, material: pd.Series) -> tuple[int, float]:
    """Return the place of the nearest input, and its distance.

    The share of ions to be exchanged, summed over the sites, and one for
    each layer that differs.
    """
    ions = inputs[list(IONS)].to_numpy() - material[list(IONS)].to_numpy(float)
    apart = np.abs(ions).sum(1) / 2
    for layer in ("etl", "htl"):
        apart += (inputs[layer] != material[layer]).to_numpy()
    return int(apart.argmin()), float(apart.min())


def in_words(material: pd.Series) -> tuple[str, str, str]:
    """Return a material's formula, ETL and HTL."""
    etl, htl = ETL[int(material["etl"])], HTL[int(material["htl"])]
    return formula(material), etl, htl


def interpolate(
    first: NDArray, second: NDArray, count: int, path: str = "linear"
) -> NDArray:
    """Return points (..., count, latent) on the way between latents.

    Parameters
    ----------
    first, second
        Both ends, (..., latent).
    count
        Number of points, the ends among them.
    path
        ``"linear"``: a straight line.  ``"spherical"``: along the arc about
        the origin, direction and length changing evenly; a straight line
        where the directions are equal, opposite or undefined.
    """
    share = np.linspace(0, 1, count)[:, None]
    ends = np.stack([first, second]).astype(float)[..., None, :]
    line = (1 - share) * ends[0] + share * ends[1]
    if path == "linear":
        return line
    norms = np.linalg.norm(ends, axis=-1, keepdims=True)
    units = ends / np.where(norms > 0, norms, 1.0)
    angle = np.arccos((units[0] * units[1]).sum(-1, keepdims=True).clip(-1, 1))
    bent = (np.sin(angle) > 1e-6) & (norms > 0).all(0)
    sine = np.where(bent, np.sin(angle), 1.0)
    parts = np.sin((1 - share) * angle), np.sin(share * angle)
    turned = (parts[0] * units[0] + parts[1] * units[1]) / sine
    length = (1 - share) * norms[0] + share * norms[1]
    return np.where(bent, turned * length, line)
