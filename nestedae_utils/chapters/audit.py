"""What the audit measures: errors by seed, batches, chains, accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nestedae_utils.book.figures import COLOURS
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.fitted import Fitted
from nestedae_utils.model.networks import parameter_count
from nestedae_utils.model.scales import Scale
from nestedae_utils.study import protocol, statistics


def held_out(chain: NestedAutoencoder, table: Table) -> NDArray:
    """Return a chain's predictions of rows it did not see, (seeds, n)."""
    fitted = list(chain.fitted.values())[-1]
    (head,) = fitted.scale.predicted
    predicted = chain.predict(table)[head.name][..., 0]
    return fitted.replicas.out_of_fold(predicted, keep="seed")


def words(low: float, high: float, digits: int = 3) -> str:
    """Write an interval."""
    return f"{low:.{digits}f} to {high:.{digits}f}"


def paired(first: NDArray, second: NDArray | float, share: float = 0.0) -> str:
    """Write the 95 % interval of the difference; one pair has none."""
    second = np.broadcast_to(second, np.shape(first))
    if len(second) < 2:
        return ""
    pair = statistics.paired(first, second, share)
    return words(pair.low, pair.high)


def gain(values: NDArray, share: float = 0.0) -> str:
    """Write the mean of differences, and its 95 % interval."""
    interval = paired(values, 0.0, share)
    return f"{values.mean():.3f}" + (f" ({interval})" if interval else "")


# --- Finding 1 -----------------------------------------------------------


def batch_shift(errors: NDArray, last: NDArray) -> NDArray:
    """Return what a mean over five batches adds to that over rows, (m,).

    Parameters
    ----------
    errors
        Shape (n,), in the order of the rows.
    last
        Shape (m,), sizes of the last batch; the others have equal ones.
    """
    at_end = np.cumsum(errors[::-1])[last - 1]
    before = (errors.sum() - at_end) / (len(errors) - last)
    return (4 * before + at_end / last) / 5 - errors.mean()


def random_shifts(
    errors: Sequence[NDArray], last: NDArray, orders: int = 500
) -> NDArray:
    """Return `batch_shift` over folds in random orders, (orders, m)."""
    random, shifts = np.random.default_rng(0), []
    for _ in range(orders):
        by_fold = [batch_shift(random.permutation(e), last) for e in errors]
        shifts.append(np.mean(by_fold, axis=0))
    return np.stack(shifts)


def epoch_choices(curves: Mapping[str, NDArray]) -> pd.DataFrame:
    """Return what choices of the epoch report, of curves (folds, epochs)."""
    rows = []
    for error, curve in curves.items():
        late = curve[:, -200:]
        for choice, values in {
            "last epoch": curve[:, -1],
            "best epoch": curve.min(1),
            "mean of the last 200": late.mean(1),
        }.items():
            spreads = values.std(ddof=1), late.std(1).mean()
            rows.append((error, choice, values.mean(), *spreads))
    names = ["error", "choice", "mean", "sd over folds"]
    return pd.DataFrame(rows, columns=[*names, "sd over the last 200 epochs"])


# --- Findings 2 to 6 -----------------------------------------------------


def accuracies(fitted: Fitted, table: Table) -> pd.DataFrame:
    """Return the contact layers' accuracies (%), counted in two ways.

    Of the replicas with the first seed, after the last epoch, each beside
    that of a predictor which has learnt nothing.
    """
    first = fitted.replicas.where(seed=fitted.replicas.labels["seed"][0])
    rows = []
    for layer in ("etl", "htl"):
        as_made = f"{layer}_accuracy_as_made"
        multilabel = fitted.at_end("validation_as_made", as_made)[first]
        top = fitted.at_end("validation_per_sample", f"{layer}_accuracy")
        kinds = table[layer].shape[1]
        values = {
            "multilabel, as made": multilabel.mean(),
            "multilabel, predicting none": 1 - 1 / kinds,
            "top-1": top[first].mean(),
            "top-1, most frequent kind": table[layer].mean(0).max(),
        }
        rows += [(layer, name, 100 * v) for name, v in values.items()]
    return pd.DataFrame(rows, columns=["layer", "accuracy", "%"])


def score(
    predicted: NDArray, target: NDArray, groups: NDArray
) -> dict[str, statistics.Estimate]:
    """Estimate MAE and R2 of predictions (seeds, n), rows drawn by groups."""
    return {
        "MAE": statistics.rows(np.abs(predicted - target).mean(0), groups),
        "R2": statistics.resampled(statistics.r2, target, predicted.T, groups=groups),
    }


def against(
    errors: NDArray, ours: NDArray, groups: NDArray | None
) -> dict[str, float | str]:
    """Return a model's MAE and ours minus it, with intervals, from (n,)."""
    low, high = statistics.interval(errors, groups)
    interval = statistics.interval(ours - errors, groups)
    more = {"nested minus it": (ours - errors).mean(), "95 %": words(*interval)}
    return {"MAE": errors.mean(), "low": low, "high": high, **more}


def draw_baselines(ax: Axes, scores: pd.DataFrame, models: list[str]) -> None:
    """Draw one target's errors by model, on four kinds of features."""
    kinds, heights = ("features", "latents", "both", "contacts"), (-1, 0, 1, 0)
    for height, kind, marker in zip(heights, kinds, "os^D", strict=True):
        some = scores[scores["on"] == kind]
        if some.empty:
            continue
        ax.errorbar(
            some["MAE"],
            [models.index(model) + 0.22 * height for model in some["model"]],
            xerr=[some["MAE"] - some["low"], some["high"] - some["MAE"]],
            linestyle="",
            marker=marker,
            markersize=4,
            capsize=2,
            label=kind,
        )


# --- Finding 7 -----------------------------------------------------------


def parameters(scales: Sequence[Scale]) -> int:
    """Return the number of weights and biases of a chain."""
    return sum(map(parameter_count, scales))


def single_as_large(scales: Sequence[Scale]) -> list[Scale]:
    """Declare the single autoencoder with nearest as many parameters.

    Among those with three hidden layers of 13 to 6 units that do not widen.
    """
    single = [
        protocol.synthetic_single("text", hidden=widths)
        for widths in product(range(6, 14), repeat=3)
        if widths[0] >= widths[1] >= widths[2]
    ]
    wanted = parameters(scales)
    return min(single, key=lambda scales: abs(parameters(scales) - wanted))


def function_errors(
    chain: NestedAutoencoder,
    tables: NDArray,
    target: NDArray,
    unit: NDArray,
    whole: bool = True,
) -> dict[str, NDArray]:
    """Return the functions' errors on train and test rows.

    Parameters
    ----------
    chain
        As :func:`nestedae_utils.study.protocol.fit_synthetic` returns it.
    tables
        Shape (T, n, 13), the inputs.
    target, unit
        What to compare with, and in which unit; shapes that broadcast to
        that of ``tables``.
    whole
        Decode all functions from the last latents, else each scale's own
        from its own latents.

    Returns
    -------
    dict
        ``"train"`` and ``"test"``, each (T, seeds, 13).
    """
    replicas = list(chain.fitted.values())[-1].replicas
    of_replica = replicas.labels["table"]
    each = tables[of_replica]
    blocks = {"scale_1": each[..., :4], "scale_2": each[..., 4:]}
    if whole:
        by_scale = chain.decode(chain.encode(blocks))
    else:
        by_scale = {s: chain.reconstruct(blocks, s) for s in chain.scales}
    named = {n: values for s in by_scale.values() for n, values in s.items()}
    functions = np.concatenate([named["scale_1"], named["scale_2"]], axis=-1)
    target, unit = (
        np.broadcast_to(values, tables.shape)[of_replica] for values in (target, unit)
    )
    errors = np.abs(functions - target) / unit
    by_kind = {}
    for side, kind in enumerate(("train", "test")):
        rows = [split[side] for split in replicas.splits]
        means = [e[r].mean(0) for e, r in zip(errors, rows, strict=True)]
        by_kind[kind] = replicas.grid(means, "table", "seed")
    return by_kind


def draw_noise(
    ax: Axes, levels: Sequence[float], errors: Mapping[str, NDArray], line: str
) -> None:
    """Draw models' errors (levels, seeds, 13) with their standard errors."""
    for model, values in errors.items():
        by_seed = values.mean(2)
        spread = by_seed.std(1) / np.sqrt(by_seed.shape[1])
        marker = "s" if model == "nested" else "o"
        ax.errorbar(
            *(levels, by_seed.mean(1), spread),
            color=COLOURS[model],
            linestyle=line,
            marker=marker,
            capsize=3,
            label=model if line == "-" else "_",
        )
