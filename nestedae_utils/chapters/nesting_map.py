"""Nested and single models of many worlds at once, with their controls.

All worlds are trained side by side, a replica for each world and member; a
world's prediction is the mean over its members.  Fine models that are equal,
of worlds that differ in their coarse tables only, are trained once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nestedae_utils.model import chain
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study.tune import fine_tune

Table = Mapping[str, np.ndarray]
World = Mapping[str, Table]
SINGLE, NESTED = "single", "nested"
CONTROLS = {
    "predicted": "inputs and the predicted fine property",
    "PCA": "principal components of the fine inputs",
    "random": "random features of the inputs",
    "shuffled": "latents, fine property shuffled",
    "untaught": "latents, no fine property",
    "tuned": "the chain, fine-tuned",
}
"""What else can be passed on, or done; in words for a table."""
BATCH, RATE, HIDDEN, HELD = 32, 5e-3, 25, 0.1


@dataclass(frozen=True)
class Outcome:
    """What came of W worlds.

    ``errors`` by model: mean absolute errors on each world's asked rows, (W,);
    ``latents`` (W, members, n, latent) of the coarse inputs and ``fine_r2``
    (W,), of held-out fine rows, belong to the fine models.
    """

    errors: dict[str, np.ndarray]
    latents: np.ndarray
    fine_r2: np.ndarray

    def minus_single(self, name: str = NESTED) -> np.ndarray:
        """Return a model's errors minus those of the single one, (W,)."""
        return self.errors[name] - self.errors[SINGLE]


def scale(name: str, block: Block, latent: int, taught: bool = True) -> Scale:
    """Declare a scale that reconstructs a block and, if taught, predicts y."""
    heads = [Head(block.name, block.width)]
    if taught:
        heads.insert(0, Head("y", 1, hidden=(HIDDEN,), scaling="standard"))
    return Scale(name, (block,), latent, heads)


def stack(worlds: Sequence[World], name: str, members: int) -> dict[str, np.ndarray]:
    """Return a table of all worlds, (W M, n, width), members within worlds."""
    return {
        key: np.repeat(np.stack([one[name][key] for one in worlds]), members, axis=0)
        for key in worlds[0][name]
    }


def learn(
    declared: Scale,
    table: Table,
    members: int,
    lower: NestedAutoencoder | None = None,
    held: float = 0.0,
    *,
    steps: int,
    first: int = 0,
) -> NestedAutoencoder:
    """Fit a scale on every world's own table, for so many steps or nearly.

    The last rows, a share ``held``, are held out; where it is 0, none is.
    The members' seeds begin at ``first``.
    """
    count, n = table["y"].shape[:2]
    rows = np.arange(n)
    cut = n - round(held * n)
    split = (rows[:cut], rows[cut:] if cut < n else rows)
    labels = {
        "world": np.repeat(np.arange(count // members), members),
        "seed": np.tile(np.arange(first, first + members), count // members),
    }
    epochs = max(1, round(steps / -(-cut // BATCH)))
    settings = {"epochs": epochs, "batch_size": BATCH, "learning_rate": RATE}
    replicas = Replicas((split,) * count, labels)
    return chain.fit(declared, table, replicas, lower, **settings)


def predicted(fitted: NestedAutoencoder, table: Table) -> np.ndarray:
    """Return the mean prediction over the members of each world, (W, n)."""
    values = fitted.predict(table)["y"][..., 0]
    return next(reversed(fitted.fitted.values())).replicas.grid(values, "world")


def components(fine: np.ndarray, width: int) -> np.ndarray:
    """Return each world's first principal axes, (R, inputs, width)."""
    centred = fine - fine.mean(1, keepdims=True)
    return np.linalg.svd(centred, full_matrices=False)[2][:, :width].transpose(0, 2, 1)


def outcome(
    worlds: Sequence[World],
    members: int = 2,
    latent: int = 6,
    steps: int = 600,
    tuning: int = 100,
    controls: bool = True,
    first: int = 0,
) -> Outcome:
    """Train all models of all worlds, which have equal numbers of rows.

    `SINGLE` sees the coarse inputs, `NESTED` the latents of a fine scale, and,
    with ``controls``, those of `CONTROLS`; all have one width and as many
    steps, but that a chain that is fine-tuned takes ``tuning`` more.
    """
    fine, coarse, asked = (
        stack(worlds, name, members) for name in ("fine", "coarse", "asked")
    )
    width = fine["inputs"].shape[-1]
    inputs = Block("inputs", width)
    fit = partial(learn, members=members, steps=steps, first=first)
    below = fit(scale("fine", inputs, latent), fine, held=HELD)
    passed = scale("coarse", Block("latents", latent, latents_of="fine"), latent)
    fitted = {
        SINGLE: fit(scale("single", inputs, latent), coarse),
        NESTED: fit(passed, coarse, lower=below),
    }
    tables = dict.fromkeys((*fitted, *CONTROLS), asked)
    if controls:
        random = np.random.default_rng(0)
        # one deal for all: equal fine tables stay equal, and are trained once
        dealt = random.permutation(fine["y"].shape[1])
        for name, table in (
            ("shuffled", {**fine, "y": fine["y"][:, dealt]}),
            ("untaught", fine),
        ):
            declared = scale("fine", inputs, latent, taught=name == "shuffled")
            other = fit(declared, table, held=HELD)
            fitted[name] = fit(passed, coarse, lower=other)
        axes = components(fine["inputs"], latent)
        waves = random.normal(0, width**-0.5, (width, latent))
        for name, given in {
            "PCA": lambda x: x @ axes,
            "random": lambda x: np.tanh(2 * x @ waves),
            "predicted": lambda x: np.concatenate(
                [x, below.predict({"inputs": x})["y"]], axis=-1
            ),
        }.items():
            tables[name] = {"given": given(asked["inputs"])}
            known = {"y": coarse["y"], "given": given(coarse["inputs"])}
            block = Block("given", known["given"].shape[-1])
            fitted[name] = fit(scale("given", block, latent), known)
        fitted["tuned"] = tune(fitted[NESTED], fine, coarse, tuning)
    truth = asked["y"][::members, :, 0]
    held = slice(-round(HELD * fine["y"].shape[1]), None)
    missed = predicted(below, fine)[:, held] - fine["y"][::members, held, 0]
    latents = below.encode(coarse)
    return Outcome(
        errors={
            name: np.abs(predicted(one, tables[name]) - truth).mean(1)
            for name, one in fitted.items()
        },
        latents=latents.reshape(-1, members, *latents.shape[1:]),
        fine_r2=1 - (missed**2).mean(1) / fine["y"][::members, held, 0].var(1),
    )


def tune(
    nested: NestedAutoencoder, fine: Table, coarse: Table, steps: int
) -> NestedAutoencoder:
    """Return the chains with both scales trained together, on both tables."""
    tables = {"fine": fine, "coarse": coarse}
    rows = {
        name: [np.arange(table["y"].shape[1])] * len(table["y"])
        for name, table in tables.items()
    }
    settings = {"steps": steps, "batch_size": BATCH, "learning_rate": RATE / 5}
    return fine_tune(nested, tables, rows, epochs=1, **settings)


def through_middle(
    worlds: Sequence[World], members: int = 2, latent: int = 6, steps: int = 600
) -> np.ndarray:
    """Return the errors (W,) of three scales, the coarse on the middle one."""
    fit = partial(learn, members=members, steps=steps)
    tables = {
        name: stack(worlds, name, members)
        for name in ("fine", "middle", "coarse", "asked")
    }
    inputs = Block("inputs", tables["fine"]["inputs"].shape[-1])
    fitted = fit(scale("fine", inputs, latent), tables["fine"], held=HELD)
    for name, below in (("middle", "fine"), ("coarse", "middle")):
        block = Block("latents", latent, latents_of=below)
        fitted = fit(scale(name, block, latent), tables[name], lower=fitted)
    truth = tables["asked"]["y"][::members, :, 0]
    return np.abs(predicted(fitted, tables["asked"]) - truth).mean(1)
