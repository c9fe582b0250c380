"""From a declaration to a fitted, cross-validated and saved model.

Every scale is cross-validated beside baselines that see the same columns and
folds. One whose latents are needed is then trained on all rows of its table:
it may know the materials that the folds of the scale above hold out, but not
their targets there. Of the last scale the very models that were
cross-validated are saved; their mean predicts, they differ by the spread.
"""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from nestedae_utils.data.tables import numbers, read_text
from nestedae_utils.errors import DataError, ParameterError, nearest, replacing, shown
from nestedae_utils.model import cache, chain, files
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.replicas import Replicas, Split
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.own.declaration import Declaration, Raw, from_plain
from nestedae_utils.study import baselines
from nestedae_utils.study.protocol import group_folds, row_folds

ENDING = ".nestedae"
LARGEST = 1e150  # the square of a larger number is none
NUMBER = r"(?a)[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?"
WHOLE = r"^([+-]?(?:0|[1-9]\d*))\.0+$", r"\1"
ROUNDED = Context(prec=15)
MOST_KINDS = 200  # different words of a category
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
    units: Units  # what the columns of each block were divided by

    def write(self, folder: str | Path) -> list[Path]:
        """Write model, report and held-out rows, all or none; return their paths."""
        folder, title = Path(folder), self.declaration.title
        report = self.report.astype(object)
        extra = {
            "declaration": {**self.declaration.plain(), "name": title},
            "kinds": self.kinds,
            "units": self.units,
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


@dataclass(frozen=True)
class _Table:
    """A table's columns, checked; ``fault`` makes the error of one."""

    frame: pd.DataFrame
    fault: Callable[[str, str], DataError]

    @property
    def rows(self) -> np.ndarray:
        """The number of each row below the header, as in its file, (n,)."""
        index = self.frame.index
        known = index.is_unique and pd.api.types.is_integer_dtype(index)
        return 1 + (index.to_numpy() if known else np.arange(len(index)))

    def words(self, name: str, allowed: str = "a word", right: Any = None) -> pd.Series:
        """Return the texts of a column, (n,); none is empty or not right."""
        names = [str(column) for column in self.frame.columns]
        if name not in names:
            words = f"no such column in the table.{nearest(name, names)}"
            if len(names) == 1:
                words += f" Its header is one field, {shown(names[0])}; separate "
                words += "fields by commas, semicolons or tabs."
            raise self.fault(name, words)
        if names.count(name) > 1:
            raise self.fault(name, "stands twice in the table; rename one of the two.")
        values = self.frame.iloc[:, names.index(name)]
        texts = values.astype(str).where(values.notna(), "").str.strip()
        wrong = np.flatnonzero(~right(texts) if right else texts == "")
        if len(wrong):
            text, more = texts.iloc[wrong[0]], len(wrong) - 1
            found = ascii(text[:40]) if text else "nothing"
            words = f"row {self.rows[wrong[0]]} below the header: {found} found, "
            words += f"{allowed} is allowed; correct it or leave the row out"
            words += f" ({more} further rows)." if more else "."
            raise self.fault(name, words)
        return texts

    def numbers(self, name: str) -> np.ndarray:
        """Return a column of finite numbers, (n,)."""
        allowed = f"a finite number, at most {LARGEST:g} in size,"
        words = self.words(name, allowed, lambda w: numbers(w).abs() <= LARGEST)
        return numbers(words).to_numpy()

    def kinds(self, name: str) -> list[str]:
        """Return the different words of a column, in order; 225.0 is 225."""
        kinds = sorted(set(self.words(name).str.replace(*WHOLE, regex=True)))
        if not 2 <= len(kinds) <= MOST_KINDS:
            words = f"{len(kinds)} different words found, 2 to {MOST_KINDS} "
            raise self.fault(name, f"{words}are allowed in a category.")
        return kinds

    def array(self, raw: Raw, kinds: list[str]) -> np.ndarray:
        """Return a block's numbers or one-hot words, shape (n, width)."""
        if not raw.category:
            return np.stack([self.numbers(name) for name in raw.columns], 1)
        known = ", ".join(kinds[:10]) + (", …" if len(kinds) > 10 else "")
        allowed = f"a word known from the training ({known})"

        def alike(words: pd.Series) -> pd.Series:
            # a word as it is, or a number that is written otherwise
            return words.where(words.isin(kinds), words.map(_value).map(same))

        values = [_value(kind) for kind in kinds]
        same = {v: k for k, v in zip(kinds, values, strict=True) if values.count(v) == 1}
        words = self.words(raw.columns[0], allowed, lambda w: alike(w).notna())
        return (alike(words).to_numpy()[:, None] == np.array(kinds)).astype(float)

    def groups(self, columns: list[str]) -> np.ndarray:
        """Return the group of each row, (n,); 1 and 1.00 are one value."""
        keys = []
        for name in columns:
            keys.append(self.words(name).map(_value))
        return pd.concat(keys, axis=1).groupby(keys).ngroup().to_numpy()


def _value(text: str) -> str:
    """Return what numbers of one value share, to 15 digits; a word as it is."""
    if not re.fullmatch(NUMBER, text):
        return text
    # a whole number, an identifier say, has all its digits
    number = Decimal(text)
    whole = number == number.to_integral_value()
    return str(int(number) if whole else ROUNDED.plus(number).normalize())


def _unit(values: np.ndarray, exact: bool = False) -> float:
    """Return the spread of values (n,), which they are divided by.

    A power of two unless it has to be exact: nothing but their unit changes.
    """
    most = np.ptp(values) or np.abs(values).max() or 1.0
    unit = 2.0 ** (np.frexp(most)[1] - 1)
    return float((values / unit).std() * unit if exact else unit)


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
        if not raw.category and target.output == "linear":
            fields["scaling"] = "standard"
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
        table = _Table(read_text(path), fault)
    except DataError as error:
        raise declaration.fault(str(error), *at, "table") from None
    if by == "group" and not scale.group:
        words = "none given, by which folds are to be drawn; name columns, or draw "
        raise declaration.fault(f"{words}them as declared or by row.", *at, "group")
    blocks, targets = declaration.blocks(name), scale.targets()
    outputs = {f"{name}.{key}": one.output for key, one in scale.predict.items()}
    arrays, truth = {}, {}
    for key, raw in {**blocks, **targets}.items():
        if raw.category and key not in kinds:
            kinds[key] = table.kinds(raw.columns[0])
        arrays[key] = values = table.array(raw, kinds.get(key, []))
        if not raw.category and outputs.get(key, "relu") in ("linear", "relu"):
            exact = outputs.get(key) == "relu"  # no scaler follows
            units.setdefault(key, [_unit(column, exact) for column in values.T])
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
            results = cache.together(*calls.values())
        except ParameterError as error:
            raise declaration.fault(str(error), "training") from None
        done = dict(zip(calls, results, strict=True))
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
    return Fitted(declaration, kinds, below, *both, units)


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
    unit = _unit(observed.to_numpy())  # in which squares can be told
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
    table, predicted, kinds = _Table(frame, fault), frame.copy(), fitted.kinds
    blocks = declaration.blocks(name).items()
    arrays = {key: table.array(raw, kinds.get(key, [])) for key, raw in blocks}
    arrays = {k: v / fitted.units.get(k, 1) for k, v in arrays.items()}
    outputs = fitted.chain.predict(arrays, name)
    for key in declaration.scale(name).targets():
        values = outputs[key] * fitted.units.get(key, 1)
        mean, spread = values.mean(0), values.std(0)
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
        units = {k: [float(u) for u in us] for k, us in extra["units"].items()}
        report = pd.DataFrame(extra["report"], columns=list(REPORT))
        networks = [network_of(declaration, s.name, kinds) for s in declaration.scales]
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"not a fitted declaration ({error}); fit it anew."
        raise DataError(f"{path}: {words}") from None
    fitted = files.load(path, networks)
    return Fitted(declaration, kinds, fitted, report, pd.DataFrame(), units)
