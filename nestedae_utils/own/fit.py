"""From a declaration to a fitted, cross-validated and saved model.

Every scale is cross-validated beside baselines that see the same columns and
folds. One whose latents are needed is then trained on all rows of its table:
it may know the materials that the folds of the scale above hold out, but not
their targets there. Of the last scale the very models that were
cross-validated are saved; their mean predicts, they differ by the spread.
"""

import logging
import tempfile
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from nestedae_utils.data.tables import read_text
from nestedae_utils.errors import DataError, ParameterError, nearest, replacing
from nestedae_utils.model import cache, chain, files
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.fitted import Scaler, Scalers
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.own.columns import Columns, unit_of
from nestedae_utils.own.declaration import Declaration, from_plain
from nestedae_utils.study import baselines
from nestedae_utils.study.protocol import group_folds, row_folds

_LOG = logging.getLogger(__name__)
ENDING = ".nestedae"
REPORT = ("scale", "target", "model", "metric", "value", "spread", "n", "by")
NESTED, SINGLE = "nested autoencoder", "single autoencoder"
REGRESSORS = ("median", "ridge", "SVR, C = 10", "random forest")
Kinds = dict[str, list[str]]
Units = dict[str, list[float]]


@dataclass(frozen=True)
class Fitted:
    """A fitted declaration; loaded, it has no held-out rows."""

    declaration: Declaration
    kinds: Kinds  # the words of each category, as its one-hot columns
    chain: NestedAutoencoder  # folds times seeds replicas
    report: pd.DataFrame  # REPORT: of held-out rows, spread over the folds
    held_out: pd.DataFrame  # scale, target, model, row, fold and both values

    def write(self, folder: str | Path) -> list[Path]:
        """Write model, report and held-out rows, all or none; return their paths."""
        folder, title = Path(folder), self.declaration.title
        report = self.report.astype(object)
        extra = {
            "declaration": {**self.declaration.plain(), "name": title},
            "kinds": self.kinds,
            "report": report.where(report.notna(), None).to_dict("records"),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # to a folder beside first, and then moved
            with tempfile.TemporaryDirectory(prefix=".", dir=folder) as beside:
                paths = written(self.declaration, beside)
                files.save(self.chain, paths[0], extra)
                write_table(self.report, paths[1])
                write_table(self.held_out, paths[2])
                return [path.replace(folder / path.name) for path in paths]
        except OSError as error:
            words = f"{folder}: cannot be written ({error.strerror}); make room or "
            raise DataError(f"{words}give another folder with -o.") from None


def written(declaration: Declaration, folder: str | Path) -> list[Path]:
    """Return the paths that `Fitted.write` writes: model, report, held-out rows."""
    ends = (ENDING, "_report.csv", "_held_out.csv")
    return [Path(folder, f"{declaration.title}{end}") for end in ends]


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV, beside and then renamed; return its path."""
    index = not isinstance(frame.index, pd.RangeIndex)
    with replacing(Path(path)) as beside:
        frame.to_csv(beside, index=index, lineterminator="\n")
    return Path(path)


def network_of(
    declaration: Declaration, name: str, kinds: Kinds, alone: bool = False
) -> Scale:
    """Return a scale's network; alone it has columns in place of latents."""
    scale, blocks, heads = declaration.scale(name), [], []
    for key, lower in scale.latents().items() if not alone else ():
        latent = declaration.scale(lower).latent
        blocks.append(Block(f"{name}.{key}", latent, latents_of=lower))
    raws = declaration.blocks(name) if alone else scale.blocks()
    for key, raw in raws.items():
        scaling = "none" if raw.category else "standard"
        blocks.append(Block(key, len(kinds.get(key, raw.columns)), scaling))
    targets = zip(scale.targets().items(), scale.predict.values(), strict=True)
    for (key, raw), target in targets:
        fields = target.model_dump(include={"weight", "hidden", "dropout", "output"})
        fields["loss"] = "cross_entropy" if raw.category else target.loss
        # an output with limits cannot reach both sides of a mean of zero
        scalings = {"linear": "standard", "relu": "size"}
        if not raw.category:
            fields["scaling"] = scalings.get(target.output, "none")
        heads.append(Head(key, len(kinds.get(key, raw.columns)), **fields))
    for block in blocks if scale.reconstruction else ():
        loss = "mae" if block.scaling == "standard" else "cross_entropy"
        heads.append(Head(block.name, block.width, loss, scale.reconstruction))
    return Scale(name, blocks, scale.latent, heads, hidden=scale.hidden, l1=scale.l1)


@dataclass(frozen=True)
class Task:
    """A scale's table, ready to be trained on."""

    name: str
    table: dict[str, np.ndarray]  # divided by their units
    features: np.ndarray  # (n, width), latents as the columns they stand for
    truth: dict[str, np.ndarray]  # by target (n,); of a category its number
    folds: list[Split]
    by: str
    rows: np.ndarray  # their numbers in the file, (n,)


def task_of(
    declaration: Declaration, name: str, kinds: Kinds, units: Units, by: str
) -> Task:
    """Read and check a scale's table; add kinds of categories, units of numbers."""
    path, scale = declaration.table(name), declaration.scale(name)

    def fault(column: str, words: str) -> DataError:
        words = f"table {path.name}, column {ascii(column)}: {words}"
        return declaration.fault(words, *at, *scale.keys_of(column))

    at = ("scales", declaration.scales.index(scale))
    try:
        table = Columns(read_text(path), fault)
    except DataError as error:
        raise declaration.fault(str(error), *at, "table") from None
    if by == "group" and not scale.group:
        if not any(one.group for one in declaration.scales):
            words = "none given in any scale, by which folds were to be drawn; name "
            raise declaration.fault(
                f"{words}its columns, or draw by row.", *at, "group"
            )
        _LOG.info("scale %r has no group; its folds are drawn by row.", name)
    blocks, targets = declaration.blocks(name), scale.targets()
    outputs = {f"{name}.{key}": one.output for key, one in scale.predict.items()}
    arrays, truth = {}, {}
    for key, raw in {**blocks, **targets}.items():
        if raw.category and key not in kinds:
            kinds[key] = table.kinds(raw.columns[0])
        arrays[key] = values = table.array(raw, kinds.get(key, []))
        # other outputs have limits in the column's unit
        if not raw.category and outputs.get(key, "linear") in ("linear", "relu"):
            units.setdefault(key, [unit_of(column) for column in values.T])
            arrays[key] = values / units[key]
        if key in targets:
            truth[key] = values.argmax(1) if raw.category else values[:, 0]
            if len(set(truth[key])) < 2:
                words = "one and the same value in all rows; there is nothing "
                raise fault(raw.columns[0], f"{words}to predict.")
    features = np.hstack([arrays[key] for key in blocks])
    folds, drawn = declaration.validation.folds, "row"
    try:
        if scale.group and by != "row":
            drawn, splits = "group", group_folds(table.groups(scale.group), folds)
        else:
            splits = row_folds(len(table.frame), folds)
    except ParameterError as error:
        words = f"scale {name!r}, {error}"
        raise declaration.fault(words, "validation", "folds") from None
    return Task(name, arrays, features, truth, splits, drawn, table.rows)


def fit(
    declaration: Declaration,
    *,
    by: str = "declared",
    compare: bool = True,
    device: str = "cpu",
) -> Fitted:
    """Fit and cross-validate all scales; nothing sees a held-out row.

    Folds are drawn by what is ``"declared"`` (by group where a scale has one,
    else by row), or by ``"row"``. With ``compare`` there are baselines and,
    where a scale takes latents, a single autoencoder with the columns that
    these are made of. A `DataError` tells in one line where a table is not
    what the declaration says.
    """
    kinds, units = Kinds(), Units()
    # all tables are checked before anything is trained
    every = (scale.name for scale in declaration.scales)
    tasks = [task_of(declaration, name, kinds, units, by) for name in every]
    settings = declaration.training.model_dump() | {"device": device}
    seeds = settings.pop("seeds")
    train = partial(chain.fit, standardise_on="train", **settings)
    below: Any = None
    held_out, report = [], []
    for task in tasks:
        replicas = Replicas.cross(task.folds, seeds)
        network = network_of(declaration, task.name, kinds)
        nested = any(block.latents_of for block in network.inputs)
        name = NESTED if nested else SINGLE
        lower = below and below.take(replicas.labels["seed"])
        calls: dict[Any, partial] = {}
        calls[name] = partial(train, network, task.table, replicas, lower)
        if nested and compare:
            alone = network_of(declaration, task.name, kinds, alone=True)
            calls[SINGLE] = partial(train, alone, task.table, replicas)
        if task is not tasks[-1]:
            rows = np.arange(len(task.features))
            one = Replicas.cross([(rows, rows)], seeds)
            calls["below"] = partial(train, network, task.table, one, below)
        for key, truth in task.truth.items() if compare else ():
            data = task.features, truth, task.folds, key in kinds
            for model in baselines.CLASSIFIERS if key in kinds else REGRESSORS:
                calls[key, model] = partial(baselines.predict, model, *data)
        try:
            done = dict(zip(calls, cache.together(*calls.values()), strict=True))
        except ParameterError as error:
            raise declaration.fault(str(error), "training") from None
        below = done.get("below", done[name])
        predicted = {}
        for key in task.truth:
            for model in [name for name in (NESTED, SINGLE) if name in done]:
                values = done[model].predict(task.table, task.name)[key]
                mean = replicas.out_of_fold(values)
                unit = units.get(key, [1.0])[0]
                mean = mean.argmax(1) if key in kinds else mean[:, 0] * unit
                predicted[key, model] = mean
        predicted |= {k: v for k, v in done.items() if isinstance(k, tuple)}
        for (key, model), values in predicted.items():
            held_out.append(_held_out(task, key, model, values, kinds))
            report.append(_report(held_out[-1], task.by))
    both = (pd.concat(frames, ignore_index=True) for frames in (report, held_out))
    return Fitted(declaration, kinds, _undivided(below, units), *both)


def _undivided(fitted: NestedAutoencoder, units: Units) -> NestedAutoencoder:
    """Return a chain, fitted on columns divided by units, that takes them whole."""

    def whole(scalers: Scalers) -> Scalers:
        each = {key: np.array(units.get(key, 1.0)) for key in scalers}
        both = {key: (one.mean, one.deviation) for key, one in scalers.items()}
        return {k: Scaler(m * each[k], d * each[k]) for k, (m, d) in both.items()}

    result = copy(fitted)
    result.fitted = {
        name: replace(
            one,
            scalers=whole(one.scalers),
            lower_scalers={k: whole(v) for k, v in one.lower_scalers.items()},
        )
        for name, one in fitted.fitted.items()
    }
    return result


def _held_out(
    task: Task, key: str, model: str, values: np.ndarray, kinds: Kinds
) -> pd.DataFrame:
    """Return observed and predicted values of all rows, with their folds."""
    fold = np.zeros(len(values), dtype=int)
    for number, (_, rows) in enumerate(task.folds, start=1):
        fold[rows] = number
    both = {"observed": task.truth[key], "predicted": values}
    if key in kinds:
        words = np.array(kinds[key], dtype=object)
        both = {what: words[kind.astype(int)] for what, kind in both.items()}
    named = {"scale": task.name, "target": key.partition(".")[2]}
    where = {"row": task.rows, "fold": fold}
    return pd.DataFrame({**named, "model": model, **where, **both})


def _report(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the report's lines on one model of one target."""
    named = frame.iloc[0][["scale", "target", "model"]]
    folds = pd.DataFrame([_scores(rows) for _, rows in frame.groupby("fold")])
    both = pd.DataFrame({"value": _scores(frame), "spread": folds.std(ddof=1)})
    lines = both.rename_axis("metric").reset_index()
    return lines.assign(**named, n=len(frame), by=by)[list(REPORT)]


def _scores(frame: pd.DataFrame) -> dict[str, float]:
    observed, predicted = frame["observed"], frame["predicted"]
    if not pd.api.types.is_numeric_dtype(observed):
        return {"accuracy": float((observed == predicted).mean())}
    unit = unit_of(observed.to_numpy())  # in which squares can be told
    observed, predicted = observed / unit, predicted / unit
    miss = observed - predicted  # of equal values there is no R2
    r2 = r2_score(observed, predicted) if observed.nunique() > 1 else np.nan
    mae, rmse = float(miss.abs().mean()), float((miss**2).mean() ** 0.5)
    return {"MAE": mae * unit, "RMSE": rmse * unit, "R2": r2}


def predict(
    fitted: Fitted, frame: pd.DataFrame, scale: str = "", source: str = "table"
) -> pd.DataFrame:
    """Predict the targets of a scale, the last one where empty, for new rows.

    Returns the frame, its index too, and for every target ``NAME_predicted``,
    the mean over the models of all folds and seeds, with ``NAME_spread``,
    their standard deviation; for a category the likeliest word and
    ``NAME_probability``. A `ParameterError` tells of an unknown scale, a
    `DataError` of a fault in the table, which it calls ``source``.
    """
    declaration = fitted.declaration
    names = [declared.name for declared in declaration.scales]
    if (name := scale or names[-1]) not in names:
        words = (
            f"scale: {name!r} given, one of {', '.join(map(repr, names))} is allowed."
        )
        raise ParameterError(words + nearest(name, names))

    def fault(column: str, words: str) -> DataError:
        return DataError(f"{source}, column {ascii(column)}: {words}")

    if frame.empty:
        raise DataError(f"{source}: no rows; there is nothing to predict.")
    table, predicted, kinds = Columns(frame, fault), frame.copy(), fitted.kinds
    blocks = declaration.blocks(name).items()
    arrays = {key: table.array(raw, kinds.get(key, [])) for key, raw in blocks}
    outputs = fitted.chain.predict(arrays, name)
    for key in declaration.scale(name).targets():
        mean, spread = outputs[key].mean(0), outputs[key].std(0)
        columns = {"predicted": mean[:, 0], "spread": spread[:, 0]}
        if key in kinds:
            words = np.array(kinds[key], dtype=object)[mean.argmax(1)]
            columns = {"predicted": words, "probability": mean.max(1)}
        for what, column in columns.items():
            title = f"{key.partition('.')[2]}_{what}"
            if title in predicted:
                raise fault(title, "stands in the table already; rename or remove it.")
            predicted[title] = column
    return predicted


def load(path: str | Path) -> Fitted:
    """Read a model that `Fitted.write` wrote; no code is executed.

    A `DataError` tells if it is missing, altered or not such a model.
    """
    extra = files.load_extra(path)
    try:
        declaration = from_plain(extra["declaration"], path)
        kinds = {key: list(words) for key, words in extra["kinds"].items()}
        report = pd.DataFrame(extra["report"], columns=list(REPORT))
        networks = [network_of(declaration, s.name, kinds) for s in declaration.scales]
    except (KeyError, TypeError, AttributeError, ParameterError) as error:
        words = f"not a fitted declaration ({error}); fit it anew."
        raise DataError(f"{path}: {words}") from None
    fitted = files.load(path, networks)
    return Fitted(declaration, kinds, fitted, report, pd.DataFrame())
