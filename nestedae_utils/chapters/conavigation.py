"""Two finite pools of real data to navigate, and the spaces to do it in.

Devices: an arm is a composition with its contact layers, its value the mean
PCE.  Solvents: an arm is a composition with a molecule, its value the binding
energy (doi:10.1039/D3MH01484C, second example).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nestedae_utils.data import perovskites, solvents, tables
from nestedae_utils.model import chain
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study import protocol, tune

LATENTS = 5


def load(data_source: str = "auto") -> tuple[tables.Tables, solvents.Solvents]:
    """Return the tables of this book and those of solvents, of one source.

    The parameter and errors as `tables.obtain`; where either would be the
    twin, both are.
    """
    both = tables.load(data_source), solvents.load(data_source)
    if both[0].source != both[1].source:
        both = tables.load("twin"), solvents.load("twin")
    return both


@dataclass(frozen=True)
class Pool:
    """Arms: blocks of features by name, each (n, width), and values (n,).

    ``rows`` has what each arm was measured to be, one array an arm.
    """

    blocks: Mapping[str, np.ndarray]
    rows: Sequence[np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """The mean of each arm (n,)."""
        return np.array([row.mean() for row in self.rows])

    @property
    def raw(self) -> np.ndarray:
        """All blocks side by side (n, d)."""
        return np.hstack(list(self.blocks.values()))

    @property
    def groups(self) -> list[list[int]]:
        """Columns of the composition, and of what goes with it."""
        width = self.blocks["ions"].shape[1]
        return [list(range(width)), list(range(width, self.raw.shape[1]))]

    def take(self, arms: np.ndarray) -> Pool:
        """Return the pool with these arms only."""
        blocks = {name: block[arms] for name, block in self.blocks.items()}
        return Pool(blocks, [self.rows[arm] for arm in arms])

    def draws(self, count: int, seed: int) -> np.ndarray:
        """Draw what measurements of each arm give, (n, count), from its rows."""
        rng = np.random.default_rng([seed, 5])
        return np.array([rng.choice(row, count) for row in self.rows])


def device_pool(frame: pd.DataFrame) -> Pool:
    """Return the arms of the device table: ions, etl and htl."""
    arrays = perovskites.device_arrays(frame)
    names = ("ions", "etl", "htl")
    arm = protocol.same(arrays["fractions"], arrays["etl"], arrays["htl"])
    first = np.unique(arm, return_index=True)[1]
    rows = [arrays["pce"][arm == one, 0] for one in range(len(first))]
    return Pool({name: arrays[name][first] for name in names}, rows)


def solvent_pool(frame: pd.DataFrame) -> Pool:
    """Return the arms of the binding table: ions and molecule."""
    fractions = pd.DataFrame(0.0, frame.index, list(perovskites.IONS))
    halides = list(perovskites.SITES["X"])
    fractions[halides] = frame[halides].to_numpy(float)
    fractions["Pb"] = 1.0
    for cation in frame["Cation"].unique():
        fractions[cation] = (frame["Cation"] == cation).astype(float)
    ions = perovskites.mix(fractions).to_numpy(float)
    values = frame["Target"].to_numpy(float)[:, None]
    # the file is sorted by its target: ties must not find the best by themselves
    molecule = frame.filter(regex="^SOLV_").to_numpy(float)
    pool = Pool({"ions": ions, "molecule": molecule}, values)
    return pool.take(np.random.default_rng(0).permutation(len(frame)))


def materials_scale(gaps: Mapping[str, np.ndarray], epochs: int) -> NestedAutoencoder:
    """Fit the paper's scale of PBE gaps on all its rows, one replica."""
    whole = Replicas.cross([(np.arange(len(gaps["gap"])),) * 2])
    scale = protocol.band_gap_scale(l1=0.0)
    learning: dict[str, Any] = {"batch_size": 50, "learning_rate": 1e-3}
    return chain.fit(scale, gaps, whole, epochs=epochs, **learning)


def arm_scale(pool: Pool, below: int, predicts: bool) -> Scale:
    """Declare the scale of arms: 5 latents of its blocks, or of those below.

    ``below`` is the number of latents that stand for the ions, or 0.
    """
    blocks = [Block(n, b.shape[1]) for n, b in pool.blocks.items() if n != "ions"]
    ions = Block("ions", pool.blocks["ions"].shape[1])
    if below:
        how = {"latents_of": "band_gap", "lower_scaler": "refitted"}
        ions = Block("latents", below, **how)
    blocks.insert(0, ions)
    heads = [Head(block.name, block.width, loss="mse") for block in blocks]
    if predicts:
        heads.append(Head("value", 1, loss="mse", hidden=(16,), scaling="standard"))
    return Scale("arms", blocks, LATENTS, heads, hidden=(16,))


def spaces(
    pool: Pool, lower: NestedAutoencoder, seeds: int, epochs: int
) -> dict[str, np.ndarray]:
    """Return features by the name of their space, each (seeds, n, d).

    Raw, its first principal components, the latents of an autoencoder of the
    arms, and those of a nested one on the scale of gaps; none has seen a value.
    """
    scaled = make_pipeline(StandardScaler(), PCA(LATENTS))
    plain = {"raw": pool.raw, "PCA": scaled.fit_transform(pool.raw)}
    found = {name: np.stack([values] * seeds) for name, values in plain.items()}
    replicas = Replicas.cross([(np.arange(len(pool.raw)),) * 2], seeds)
    how: dict[str, Any] = {"batch_size": 50, "learning_rate": 3e-3, "epochs": epochs}
    for name, chained, below in (("autoencoder", None, 0), ("nested", lower, 12)):
        scale = arm_scale(pool, below, predicts=False)
        fitted = chain.fit(scale, pool.blocks, replicas, chained, **how)
        found[name] = fitted.encode(pool.blocks)
    return found


def supervised(
    pool: Pool,
    gaps: Mapping[str, np.ndarray],
    lower: NestedAutoencoder,
    measured: Sequence[np.ndarray],
    epochs: int,
) -> np.ndarray:
    """Return latents (seeds, n, 5) of a nested chain taught by each campaign.

    The arms' scale learns the values of the ``measured`` arms alone, then both
    scales are tuned together, that of gaps on its own table too.
    """
    every = np.arange(len(pool.raw))
    known = [np.unique(arms) for arms in measured]
    splits = tuple((arms, np.setdiff1d(every, arms)) for arms in known)
    labels = {"fold": np.arange(len(known)), "seed": np.arange(len(known))}
    table = {**pool.blocks, "value": pool.values[:, None]}
    fitted = chain.fit(
        arm_scale(pool, 12, predicts=True),
        table,
        Replicas(splits, labels),
        lower,
        standardise_on="train",
        **{"batch_size": 10, "learning_rate": 3e-3, "epochs": epochs},
    )
    rows = {"band_gap": [np.arange(len(gaps["gap"]))] * len(known), "arms": known}
    tuned = tune.fine_tune(
        fitted,
        {"band_gap": gaps, "arms": table},
        rows,
        **{"epochs": 10, "steps": 5, "batch_size": 20, "learning_rate": 1e-3},
    )
    return tuned.encode(pool.blocks)


def regret(pool: Pool, replayed: Sequence[Any]) -> np.ndarray:
    """Return how far below the best arm the advice is, (seeds, budget)."""
    advice = np.array([one.recommended for one in replayed])
    return pool.values.max() - pool.values[advice]
