"""The book's perovskite networks as one small text, for a page to compute with.

A device is its fractions on the sites, its ETL and its HTL.  The distance of two
is the share of ions that differ, summed over the three sites, and one more for
each contact layer that differs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nestedae_utils.book import parameters
from nestedae_utils.data import perovskites
from nestedae_utils.data.tables import Tables
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.fitted import Fitted, Scaler
from nestedae_utils.study import protocol

IONS, LAYERS = list(perovskites.IONS), list(perovskites.LAYERS)
SHARE = 0.9
"""Of the known rows: so many have another one near."""


@dataclass(frozen=True)
class Models:
    """What chapters 5 to 8 trained, of each scale one replica a fold, seed 0.

    ``lower`` is AE1, whose replica ``served`` stands below the others;
    ``device`` is AE2, and ``apart`` AE2 on folds by composition; ``flat`` is AE2
    with two latents, whose replica ``drawn`` is the map of Fig. 5.
    """

    lower: NestedAutoencoder
    device: NestedAutoencoder
    apart: NestedAutoencoder
    flat: NestedAutoencoder
    served: int
    drawn: int


def models(tables: Tables, **given: Any) -> Models:
    """Return the models of chapters 5 to 8, from the cache where they are there.

    Their parameters are those of the chapters, unless ``given`` for all three.
    """
    common = ("folds", "epochs", "batch_size", "learning_rate", "device")
    gap, six, seven = (
        parameters.effective(parameters.find(chapter), given)
        for chapter in ("05", "06", "07")
    )
    how = {name: gap[name] for name in common}
    scale = protocol.band_gap_scale(gap["latent"], gap["l1"])
    alloys = perovskites.band_gap_arrays(tables.band_gaps)
    lower = protocol.fit_perovskites(scale, alloys, seeds=1, **how)
    devices, chains = perovskites.device_arrays(tables.devices), []
    for own, by, latent in (
        (six, "row", six["latent"]),
        (six, "composition", six["latent"]),
        (seven, "row", 2),
    ):
        how = {name: own[name] for name in common} | {"by": by, "seeds": 1}
        scale = protocol.device_scale(latent, own["l1"], lower_latent=gap["latent"])
        chains.append(protocol.fit_perovskites(scale, devices, lower, **how))
    device, apart, flat = chains
    fitted = flat.fitted["device"]
    # the paper's rule for Fig. 5
    told = [
        fitted.at_end("validation_as_made", f"{layer}_accuracy_as_made")
        for layer in LAYERS
    ]
    drawn = int(np.sum(told, axis=0).argmax())
    return Models(lower, device, apart, flat, protocol.chosen(lower), drawn)


def arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    """Return a frame of fractions and layers as the arrays that models take."""
    mixed = perovskites.mix(frame[IONS])
    wanted = frame[IONS + LAYERS].join(mixed).assign(pce=np.nan)
    return perovskites.device_arrays(wanted)


def predicted(frame: pd.DataFrame, found: Models) -> dict[str, NDArray]:
    """Return gap (eV), gap as made, PCE (%), and place on the map (n, 2).

    Of ``frame``, fractions and layers; gap and PCE are (folds, n).
    """
    table = arrays(frame)
    as_made = found.device.seen_by("device").predict(table, "band_gap")["gap"]
    return {
        "gap": found.lower.predict(table)["gap"][..., 0],
        "gap_as_made": as_made[0, :, 0],
        "pce": found.device.predict(table)["pce"][..., 0],
        "place": found.flat.encode(table)[found.drawn],
    }


# --- known rows -----------------------------------------------------------------


def rows(frame: pd.DataFrame) -> NDArray:
    """Return fractions and one-hot layers (n, 25) of devices."""
    return np.hstack([arrays(frame)[name] for name in ("fractions", *LAYERS)])


def distances(one: NDArray, other: NDArray) -> NDArray:
    """Return the distances (n, m) of two sets of rows."""
    return np.abs(one[:, None] - other).sum(-1) / 2


def near(known: NDArray) -> float:
    """Return the distance within which `SHARE` of distinct rows has another."""
    apart = distances(known, known)
    np.fill_diagonal(apart, np.inf)
    # a row at that distance is near, whatever the rounding
    return float(np.quantile(apart.min(1), SHARE)) + 1e-6


def known_devices(tables: Tables, found: Models) -> pd.DataFrame:
    """Return the distinct devices, with their places ``x``, ``y`` on the map.

    ``pce`` (%) is the median of the ``count`` measured ones.
    """
    frame = tables.devices.round(dict.fromkeys(IONS, 5)).assign(count=1)
    how = {"composition": "first", "pce": "median", "count": "sum"}
    known = frame.groupby(IONS + LAYERS, as_index=False).agg(how)
    known[["x", "y"]] = predicted(known, found)["place"]
    return known.sort_values("count", ascending=False, ignore_index=True)


def held_out(tables: Tables, found: Models, limit: float) -> pd.DataFrame:
    """Return each device's error where its composition was hidden.

    The absolute error of the PCE (% points) of the model that saw none of the
    device's ``composition``, a number; whether one is ``warned``: no row that this
    model saw lies within the limit.
    """
    known, fitted = rows(tables.devices), found.apart.fitted["device"]
    pce, table = tables.devices["pce"].to_numpy(), arrays(tables.devices)
    error = np.abs(found.apart.predict(table)["pce"][..., 0] - pce)
    held = [
        pd.DataFrame({
            "warned": distances(known[unseen], known[seen]).min(1) > limit,
            "composition": protocol.same(table["fractions"])[unseen],
            "error": error[place, unseen],
        })
        for place, (seen, unseen) in enumerate(fitted.replicas.splits)
    ]  # fmt: skip
    return pd.concat(held, ignore_index=True)


def examples(tables: Tables, found: Models) -> pd.DataFrame:
    """Return ten known devices of ten compositions, those most often measured.

    With what `predicted` says of them, and their rows of `known_devices`.
    """
    ten = known_devices(tables, found).drop_duplicates(IONS).head(10)
    told = predicted(ten, found)
    for name in ("gap", "pce"):
        of = told[name]
        ends = {"": of.mean(0), "_low": of.min(0), "_high": of.max(0)}
        ten = ten.assign(**{f"told_{name}{end}": value for end, value in ends.items()})
    return ten


# --- what the page computes with --------------------------------------------------


def _net(fitted: Fitted, head: str, places: Sequence[int], scaler: Scaler) -> dict:
    """Return the layers from a scale's inputs to a head, or to the latents."""
    kinds, names = [fitted.scale.latent_activation], ["encoder.0"]
    for one in fitted.scale.heads:
        if one.name == head:
            kinds += [*[one.activation] * len(one.hidden), one.output]
            names += [f"head {head}.{layer}" for layer in range(len(kinds) - 1)]
    parts = [fitted.parameters[f"{n}.{of}"] for n in names for of in ("weight", "bias")]
    shapes = [weight.shape[1:] for weight in parts[::2]]
    flat = [
        np.concatenate([part[place].ravel() for part in parts]).astype("<f4").tobytes()
        for place in places
    ]
    return {
        "layers": [[*shape, kind] for shape, kind in zip(shapes, kinds, strict=True)],
        "replicas": [base64.b64encode(weights, b"+_").decode() for weights in flat],
        "mean": scaler.mean.ravel().tolist(),
        "deviation": scaler.deviation.ravel().tolist(),
    }


def export(tables: Tables, found: Models) -> dict[str, Any]:
    """Return all that the page needs to compute what `predicted` returns.

    Weights are float32 in base64 (with _ for /), layer by layer, weight before bias.
    """
    known, properties = known_devices(tables, found), list(perovskites.PROPERTIES)
    alloys = tables.band_gaps.round(dict.fromkeys(IONS, 5)).drop_duplicates(IONS)
    ae1, ae2 = found.lower.fitted["band_gap"], found.device.fitted["device"]
    flat = found.flat.fitted["device"]
    often = {ion: int((tables.devices[ion] > 0).sum()) for ion in IONS}
    every, as_made = range(len(ae1.replicas)), ae2.lower_scalers["band_gap"]["ions"]
    return {
        "twin": tables.source == "twin",
        # the commonest first
        "sites": {
            site: sorted(members, key=lambda ion: -often[ion])
            for site, members in perovskites.SITES.items()
        },
        "properties": properties,
        "ions": {
            ion: {"properties": own.tolist(), "devices": often[ion]}
            for ion, own in perovskites.ions()[properties].iterrows()
        },
        "layers": {name: list(kinds) for name, kinds in perovskites.LAYERS.items()},
        "served": found.served,
        "nets": {
            "gap": _net(ae1, "gap", every, ae1.scalers["ions"]),
            "latents": _net(ae1, "", [found.served], as_made),
            "pce": _net(ae2, "pce", every, ae2.scalers["latents"]),
            "map": _net(flat, "", [found.drawn], flat.scalers["latents"]),
        },
        "errors": {
            "gap": float(ae1.at_end("validation_per_sample", "gap_mae").mean()),
            "pce": float(ae2.at_end("validation_per_sample", "pce_mae").mean()),
        },
        "examples": examples(tables, found).index.tolist(),
        "near": {"devices": near(rows(known)), "alloys": near(alloys[IONS].to_numpy())},
        "devices": known.round(4)[[*LAYERS, "composition", "count", "pce", "x", "y"]]
        .to_dict("list") | {"fractions": known[IONS].to_numpy().tolist()},
        "alloys": {"fractions": alloys[IONS].to_numpy().tolist(),
                   "gap": alloys["gap"].round(4).tolist()},
    }  # fmt: skip


def as_text(content: Mapping[str, Any]) -> str:
    """Return an export as JSON for a page, whole numbers without their point."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for end in ",]}":
        text = text.replace(f".0{end}", end)
    return text.replace("</", "<\\/")
