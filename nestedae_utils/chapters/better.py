"""A fair choice: candidates, chosen by inner folds, judged by outer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nestedae_utils.data import perovskites
from nestedae_utils.model import chain
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.model.scales import Block, Head, Scale

WIDTH = {"ions": 15, "spread": 15, "fractions": 14, "factors": 2}
"""Features that follow from a formula, and their columns."""
INNER_MEMBERS = 2
"""Members of the ensemble that a candidate is on the inner folds."""
KEEP = 2
"""Candidates that each outer fold keeps."""

Candidate = tuple[Scale, Mapping[str, Any]]
"""A declaration, and the settings of its training."""


def describe(frame: pd.DataFrame, arrays: Callable[[pd.DataFrame], Table]) -> Table:
    """Return a table's arrays with the further features of its formulas."""
    factors = [
        perovskites.tolerance_factor(frame),
        perovskites.octahedral_factor(frame),
    ]
    return {
        **arrays(frame),
        "factors": np.stack(factors, axis=1),
        "spread": perovskites.spread(frame).to_numpy(),
    }


# --- Declarations --------------------------------------------------------


def _blocks(names: Iterable[str]) -> list[Block]:
    """Declare features as input blocks; fractions stay as they are."""
    scaling = {"fractions": "none"}
    return [Block(n, WIDTH[n], scaling.get(n, "standard")) for n in names]


def gap_scale(
    names: Iterable[str],
    latent: int = 24,
    l1: float = 0.0,
    as_paper: bool = False,
    loss: str = "mae",
) -> Scale:
    """Declare a band gap scale over some features."""
    blocks = _blocks(names)
    ends = {"output": "relu"} if as_paper else {"scaling": "standard"}
    predictor = Head("gap", 1, loss, hidden=(100,), dropout=0.1, **ends)
    heads = (predictor, *(Head(b.name, b.width) for b in blocks))
    return Scale("band_gap", tuple(blocks), latent, heads, l1=l1)


def device_scale(
    names: Iterable[str],
    lower: int,
    latent: int = 24,
    hidden: int = 200,
    dropout: float = 0.3,
    encoder: tuple[int, ...] = (),
) -> Scale:
    """Declare a device scale; ``lower`` latents, or none, are of the gaps."""
    blocks = _blocks(names)
    if lower:
        blocks.insert(0, Block("latents", lower, latents_of="band_gap"))
    layers = [Block("etl", 7, "none"), Block("htl", 4, "none")]
    heads = [
        Head("pce", 1, hidden=(hidden,), dropout=dropout, scaling="standard"),
        *(Head(b.name, b.width) for b in blocks),
        *(Head(b.name, b.width, loss="cross_entropy") for b in layers),
    ]
    inputs = (*blocks, *layers)
    return Scale("device", inputs, latent, tuple(heads), hidden=encoder)


# --- Choice and judgement ------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A target with its outer folds, and what is chosen inside them.

    Attributes
    ----------
    table, target
        Arrays by name, and the name of the target (n, 1).
    folds, inner
        The outer folds; the inner ones of each, the first fold's first.
    members
        Replicas of each chosen candidate.
    candidates
        By name; what is fitted with ``lower``, a chain whose replica k
        stands below the member with seed k.
    groups
        Shape (n,): rows that a bootstrap draws together.
    device
        Where to train.
    """

    table: Table
    target: str
    folds: Sequence[Split]
    inner: Sequence[Split]
    members: int
    device: str
    candidates: Mapping[str, Candidate]
    lower: NestedAutoencoder | None = None
    groups: np.ndarray | None = None

    @property
    def truth(self) -> np.ndarray:
        """Return the target, (n,)."""
        return np.asarray(self.table[self.target])[:, 0]

    def fit(
        self, name: str, splits: Sequence[Split], members: int
    ) -> NestedAutoencoder:
        """Fit members of a candidate on each split, scaled on its rows."""
        scale, settings = self.candidates[name]
        replicas = Replicas.cross(splits, members)
        seeds = list(replicas.labels["seed"])
        below = self.lower.take(seeds) if self.lower else None
        settings = {**settings, "device": self.device}
        return chain.fit(
            scale, self.table, replicas, below, standardise_on="train", **settings
        )

    def steps(self, name: str, splits: Sequence[Split], members: int) -> int:
        """Return the replica-steps of such a training."""
        _, settings = self.candidates[name]
        size, epochs = settings["batch_size"], settings["epochs"]
        batches = sum(-(-len(seen) // size) for seen, _ in splits)
        return epochs * members * batches

    def held_out(self, fitted: NestedAutoencoder, keep: str) -> np.ndarray:
        """Return predictions of rows not seen, by a label; NaN for others."""
        replicas = list(fitted.fitted.values())[-1].replicas
        outer = replicas.labels["fold"] // (len(self.inner) // len(self.folds))
        labels = {**replicas.labels, "outer": outer}
        predicted = fitted.predict(self.table)[self.target][..., 0]
        labelled = Replicas(replicas.splits, labels)
        return labelled.out_of_fold(predicted, keep=keep)

    def inner_errors(self, fitted: NestedAutoencoder) -> np.ndarray:
        """Return the ensemble's inner error in each outer fold."""
        predicted = self.held_out(fitted, "outer")
        return np.nanmean(np.abs(predicted - self.truth), axis=1)

    def try_all(self) -> pd.DataFrame:
        """Return all candidates' inner errors, a column for each fold."""
        errors = {
            name: self.inner_errors(self.fit(name, self.inner, INNER_MEMBERS))
            for name in self.candidates
        }
        return pd.DataFrame(errors).T

    def tried(self, errors: pd.DataFrame) -> pd.DataFrame:
        """Return what was tried, for the page: errors and cost."""
        steps = [self.steps(name, self.inner, INNER_MEMBERS) for name in errors.index]
        return pd.DataFrame(
            {
                "candidate": errors.index,
                "inner error": errors.mean(axis=1).round(4).to_numpy(),
                "among the best in folds": (errors.rank() <= KEEP)
                .sum(axis=1)
                .to_numpy(),
                "thousand replica-steps": np.round(np.divide(steps, 1000), 1),
            }
        )

    def judge(
        self, chosen: Sequence[Sequence[str]], splits: Sequence[Split]
    ) -> tuple[np.ndarray, int]:
        """Train the candidates that each fold chose; predict what it holds.

        Returns
        -------
        tuple
            Predictions (members of all candidates, n), NaN where a row's
            fold did not choose the candidate; and the replica-steps.
        """
        predicted, steps = [], 0
        for name in sorted({name for names in chosen for name in names}):
            own = [
                split
                for split, names in zip(splits, chosen, strict=True)
                if name in names
            ]
            fitted = self.fit(name, own, self.members)
            predicted.append(self.held_out(fitted, "seed"))
            steps += self.steps(name, own, self.members)
        return np.concatenate(predicted), steps


def best_of(errors: pd.DataFrame) -> list[list[str]]:
    """Return for each fold its candidates with the lowest errors."""
    return [list(errors[fold].nsmallest(KEEP).index) for fold in errors]
