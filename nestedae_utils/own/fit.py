"""From a declaration to a fitted, cross-validated and saved model.

Every scale is cross-validated on its own table, beside baselines that see
the same columns and the same folds.  A lower scale whose latents are needed
is then trained on all rows of its table: it may know the materials that the
folds of the scale above hold out, but not their targets there.  What is kept
of the last scale are the very models that were cross-validated, one for each
fold and seed; their mean predicts, and they differ by the spread.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nestedae_utils import errors as checks
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import cache
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.model.training import Split
from nestedae_utils.own.declaration import Declaration, Raw, Target, from_plain
from nestedae_utils.study import baselines, selection
from nestedae_utils.study import statistics as metrics
from nestedae_utils.study.protocol import row_folds

FORMAT = 1
ENDING = ".nestedae"
LARGEST = 1e15
"""Size of a number beyond which it is taken for a mistake."""
MOST_KINDS = 200
"""Different words of a category."""
BY = ("declared", "row", "group")
REPORT = ("scale", "target", "model", "metric", "value", "spread", "n", "by")

NESTED = "nested autoencoder"
SINGLE = "single autoencoder"
REGRESSORS = ("median", "ridge", "SVR, C = 10", "random forest")
"""Baselines of a number, by their names in `baselines.BASELINES`."""
CLASSIFIERS: Mapping[str, Callable[[], Any]] = {
    "most frequent": lambda: DummyClassifier(strategy="most_frequent"),
    "logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000)
    ),
    "random forest": lambda: RandomForestClassifier(300, random_state=0),
}
"""Baselines of a category."""

_LOWER = "lower"
_DECLARED, _CHAIN = "declaration.json", "chain.pt"
_MOST_JSON = 16 * 1024**2
Kinds = dict[str, list[str]]


@dataclass(frozen=True)
class Fitted:
    """A fitted declaration.

    Attributes
    ----------
    declaration
        What was fitted.
    kinds
        The words of every category, by ``"scale.block"``, in the order of
        their one-hot columns.
    chain
        The trained scales; the last one has folds times seeds replicas.
    report
        Columns `REPORT`: for each scale, target and model the metrics over
        all held-out rows, their standard deviation over the folds, the
        number of rows ``n``, and what the folds were drawn by.
    held_out
        Columns scale, target, model, row, fold, observed and predicted; for
        a category the words.  Empty in a loaded model.
    """

    declaration: Declaration
    kinds: Kinds
    chain: NestedAutoencoder
    report: pd.DataFrame
    held_out: pd.DataFrame

    def save(self, path: str | Path) -> Path:
        """Write declaration, categories, report and models to one file.

        The file is a zip archive of JSON and tensors, without any code.  It
        is written beside and then renamed.

        Raises
        ------
        DataError
            If the folder does not exist or cannot be written.
        """
        path = Path(path)
        plain = {**self.declaration.plain(), "name": self.declaration.title}
        report = self.report.astype(object)
        content = {
            "format": FORMAT,
            "declaration": plain,
            "kinds": self.kinds,
            "report": report.where(report.notna(), None).to_dict("records"),
        }
        text = json.dumps(content, ensure_ascii=True, allow_nan=False)
        with _beside(path) as beside:
            chain = self.chain.save(beside.with_name(f"{path.name}.chain"))
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(_DECLARED, text)
                archive.write(chain, _CHAIN)
        return path

    def write(self, folder: str | Path) -> list[Path]:
        """Write the model, its report and the held-out rows to a folder.

        The files are named after the declaration.  All are written to a
        folder beside and then moved, so that a fault leaves none of them.

        Returns
        -------
        list
            Paths of the model, the report and the held-out rows.

        Raises
        ------
        DataError
            If the folder cannot be written.
        """
        folder, title = Path(folder), self.declaration.title
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=folder) as place:
                stem = os.path.join(place, title)
                made = [
                    self.save(f"{stem}{ENDING}"),
                    write_table(self.report, f"{stem}_report.csv"),
                    write_table(self.held_out, f"{stem}_held_out.csv"),
                ]
                for path in made:
                    os.replace(path, folder / path.name)
        return [folder / path.name for path in made]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell in one line what hinders writing."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); choose another "
            "folder."
        ) from None


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a path, alone in a folder, whose file then takes its place."""
    with (
        _writing(path),
        tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder,
    ):
        yield Path(folder, path.name)
        os.replace(Path(folder, path.name), path)


# --- tables ----------------------------------------------------------------


def read_table(path: str | Path) -> pd.DataFrame:
    """Return a CSV table as texts, exactly as they stand in the file.

    Raises
    ------
    DataError
        If there is no such file, it is no table, or it has no rows.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise FileNotFoundError
        frame = pd.read_csv(
            path,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            compression=None,
        )
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; the path of a CSV table is allowed."
        ) from None
    except pd.errors.EmptyDataError:
        raise DataError(
            f"{path}: the file is empty; a header and rows are needed."
        ) from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a CSV table ({reason}); separate fields by commas, "
            "and save it as UTF-8."
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror})."
        ) from None
    if len(frame) < 2:
        raise DataError(f"{path}: the table has a header, but no rows.")
    header = frame.iloc[0].fillna("").tolist()
    rows = frame.iloc[1:].fillna("").reset_index(drop=True)
    return rows.set_axis(header, axis=1)


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV, beside and then renamed; return its path.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    path = Path(path)
    plain = isinstance(frame.index, pd.RangeIndex)
    with _beside(path) as beside:
        frame.to_csv(beside, index=not plain, lineterminator="\n")
    return path


Told = Callable[[str, str], DataError]
"""Makes the error of a column out of its name and what is wrong."""


def _column(frame: pd.DataFrame, name: str, told: Told) -> pd.Series:
    columns = [str(column) for column in frame.columns]
    if columns.count(name) != 1:
        twice = "stands twice in the table; rename one of the two."
        absent = "no such column in the table." + checks.nearest(name, columns)
        raise told(name, twice if name in columns else absent)
    return frame.iloc[:, columns.index(name)]


def _faulty(
    values: pd.Series, rows: np.ndarray, name: str, allowed: str, told: Told
) -> None:
    """Raise the error of the first faulty row, if there is one."""
    if not rows.any():
        return
    first = int(rows.argmax())
    value = values.iloc[first]
    empty = pd.isna(value) or not str(value).strip()
    found = "nothing" if empty else ascii(str(value)[:40])
    more = f" ({int(rows.sum()) - 1} further rows)" if rows.sum() > 1 else ""
    raise told(
        name,
        f"row {first + 1} below the header: {found} found, {allowed} is "
        f"allowed; correct it or leave the row out{more}.",
    )


def _numbers(frame: pd.DataFrame, name: str, told: Told) -> np.ndarray:
    """Return a column of finite numbers, shape (n,), or raise its error."""
    values = _column(frame, name, told)
    numbers = pd.to_numeric(values, errors="coerce")
    numbers = numbers.to_numpy(dtype=float, na_value=np.nan)
    bad = ~(np.abs(numbers) <= LARGEST)
    allowed = f"a finite number, at most {LARGEST:g} in size,"
    _faulty(values, bad, name, allowed, told)
    return numbers


def _words(frame: pd.DataFrame, name: str, told: Told) -> pd.Series:
    values = _column(frame, name, told)
    texts = values.astype(str).where(values.notna(), "").str.strip()
    _faulty(values, (texts == "").to_numpy(), name, "a word", told)
    return texts


def _kinds(frame: pd.DataFrame, name: str, told: Told) -> list[str]:
    """Return the different words of a column, in order."""
    kinds = sorted(set(_words(frame, name, told)))
    if not 2 <= len(kinds) <= MOST_KINDS:
        raise told(
            name,
            f"{len(kinds)} different words found, 2 to {MOST_KINDS} are "
            "allowed in a category.",
        )
    return kinds


def _one_hot(
    frame: pd.DataFrame, name: str, kinds: list[str], told: Told
) -> np.ndarray:
    """Return a category as one-hot columns, shape (n, kinds)."""
    words = _words(frame, name, told)
    known = ", ".join(kinds[:10]) + (", …" if len(kinds) > 10 else "")
    allowed = f"a word known from the training ({known})"
    _faulty(words, ~words.isin(kinds).to_numpy(), name, allowed, told)
    return (words.to_numpy()[:, None] == np.array(kinds)).astype(float)


def _arrays(
    frame: pd.DataFrame,
    blocks: Mapping[str, Raw],
    kinds: Kinds,
    told: Told,
) -> dict[str, np.ndarray]:
    """Return the arrays (n, width) of blocks by their names."""
    return {
        key: _one_hot(frame, raw.columns[0], kinds[key], told)
        if raw.category
        else np.stack(
            [_numbers(frame, name, told) for name in raw.columns], axis=1
        )
        for key, raw in blocks.items()
    }


def _groups(
    frame: pd.DataFrame, columns: Sequence[str], told: Told
) -> np.ndarray:
    """Return the group of each row, (n,); 1 and 1.00 are one value."""
    parts = []
    for name in columns:
        values = _words(frame, name, told)
        numbers = pd.to_numeric(values, errors="coerce")
        parts.append(values if numbers.isna().any() else numbers.round(8))
    # columns are numbered: two tables may name them alike
    keys = pd.DataFrame(dict(enumerate(parts)))
    return keys.groupby(list(keys.columns)).ngroup().to_numpy()


# --- from the declaration to networks --------------------------------------


def _target_blocks(declaration: Declaration, name: str) -> dict[str, Raw]:
    return {
        f"{name}.{key}": Raw((target.column,), target.kind == "category")
        for key, target in declaration.scale(name).predict.items()
    }


def _network(
    declaration: Declaration, name: str, kinds: Kinds, alone: bool = False
) -> Scale:
    """Return a scale's network.

    With ``alone`` it takes the columns of the scales below in place of their
    latents: a single autoencoder that sees what the nested one does.
    """
    scale = declaration.scale(name)
    blocks = []
    if not alone:
        blocks = [
            Block(
                f"{name}.{key}",
                declaration.scale(block.latents_of).latent,
                latents_of=block.latents_of,
            )
            for key, block in scale.inputs.items()
            if block.latents_of
        ]
    for key, raw in declaration.blocks(name).items():
        if alone or key.startswith(f"{name}."):
            blocks.append(
                Block(key, len(kinds[key]), "none")
                if raw.category
                else Block(key, len(raw.columns))
            )
    heads = [
        _head(f"{name}.{key}", target, kinds)
        for key, target in scale.predict.items()
    ]
    if scale.reconstruction:
        heads += [
            Head(
                block.name,
                block.width,
                loss="mae" if block.scaling == "standard" else "cross_entropy",
                weight=scale.reconstruction,
            )
            for block in blocks
        ]
    return Scale(
        name=name,
        inputs=tuple(blocks),
        latent=scale.latent,
        heads=tuple(heads),
        hidden=tuple(scale.hidden),
        l1=scale.l1,
    )


def _head(key: str, target: Target, kinds: Kinds) -> Head:
    common = {
        "weight": target.weight,
        "hidden": tuple(target.hidden),
        "dropout": target.dropout,
    }
    if target.kind == "category":
        return Head(key, len(kinds[key]), loss="cross_entropy", **common)
    # an output with limits cannot reach both sides of a mean of zero
    scaling = "standard" if target.output == "linear" else "none"
    return Head(
        key,
        1,
        loss=target.loss,
        output=target.output,
        scaling=scaling,
        **common,
    )


# --- fitting ---------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """A scale's table, ready to be trained on."""

    name: str
    table: dict[str, np.ndarray]
    inputs: tuple[str, ...]
    targets: dict[str, Target]
    splits: list[Split]
    by: str

    @property
    def rows(self) -> int:
        """Number of rows of the table."""
        return len(next(iter(self.table.values())))


def fit(
    declaration: Declaration,
    *,
    by: str = "declared",
    compare: bool = True,
    device: str = "cpu",
) -> Fitted:
    """Fit and cross-validate all scales of a declaration.

    Parameters
    ----------
    declaration
        From :func:`nestedae_utils.own.declaration.read_declaration`.
    by
        What the folds are drawn by: ``"declared"`` (by group where a scale
        has one, else by row), ``"row"`` or ``"group"``.
    compare
        Fit also the baselines and, where a scale takes latents, a single
        autoencoder with the columns that these are made of.
    device
        See :func:`nestedae_utils.model.scales.resolve_device`.

    Returns
    -------
    Fitted
        Scalers and baselines have seen training rows only.

    Raises
    ------
    ParameterError
        If a parameter is not allowed.
    DataError
        If a table is not what the declaration says: one line with the file,
        line and key of the declaration, or the table and its row.
    """
    checks.choice("by", by, BY)
    kinds: Kinds = {}
    tasks = []
    # all tables are checked before anything is trained
    for scale in declaration.scales:
        tasks.append(_task(declaration, scale.name, kinds, by))
    training = declaration.training
    settings = {
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "device": device,
        "every": training.epochs,
    }
    seeds = list(range(training.seeds))
    below: NestedAutoencoder | None = None
    report, held_out = [], []
    for task in tasks:
        network = _network(declaration, task.name, kinds)
        nested = any(block.latents_of for block in network.inputs)
        splits = [split for split in task.splits for _ in seeds]
        each = seeds * len(task.splits)
        name = NESTED if nested else SINGLE
        calls: dict[Any, partial] = {
            name: partial(
                selection.fit,
                *(network, task.table, splits, each, below),
                **settings,
            )
        }
        if nested and compare:
            alone = _network(declaration, task.name, kinds, alone=True)
            calls[SINGLE] = partial(
                selection.fit, alone, task.table, splits, each, **settings
            )
        if task is not tasks[-1]:
            rows = np.arange(task.rows)
            calls[_LOWER] = partial(
                selection.fit,
                *(network, task.table, [(rows, rows)] * len(seeds), seeds),
                below,
                **settings,
            )
        if compare:
            calls |= _regressions(task)
        try:
            found = cache.together(*calls.values())
        except ParameterError as error:
            raise declaration.fault(str(error), "training") from None
        done = dict(zip(calls, found, strict=True))
        predicted = {
            (target, model): _out_of_fold(done[model][0], task, target, splits)
            for target in task.targets
            for model in (NESTED, SINGLE)
            if model in done
        }
        # a baseline's key is the pair of its target and its name
        predicted |= {k: v for k, v in done.items() if isinstance(k, tuple)}
        if compare:
            predicted |= _classifications(task)
        for (target, model), values in predicted.items():
            frame = _judged(task, kinds, target, model, values)
            held_out.append(frame)
            report += _measured(task, frame)
        below = done[_LOWER if _LOWER in done else name][0]
    return Fitted(
        declaration=declaration,
        kinds=kinds,
        chain=below,
        report=pd.DataFrame(report, columns=list(REPORT)),
        held_out=pd.concat(held_out, ignore_index=True),
    )


def _task(declaration: Declaration, name: str, kinds: Kinds, by: str) -> _Task:
    """Read and check a scale's table; add the kinds of its categories."""
    path = declaration.table(name)
    scale = declaration.scale(name)
    try:
        frame = read_table(path)
    except DataError as error:
        keys = ("scales", declaration.index(name), "table")
        raise declaration.fault(str(error), *keys) from None

    def told(column: str, words: str) -> DataError:
        keys = declaration.keys_of(name, column)
        return declaration.fault(
            f"table {path.name}, column {ascii(column)}: {words}", *keys
        )

    blocks = declaration.blocks(name)
    targets = _target_blocks(declaration, name)
    for key, raw in {**blocks, **targets}.items():
        if raw.category and key not in kinds:
            kinds[key] = _kinds(frame, raw.columns[0], told)
    table = _arrays(frame, {**blocks, **targets}, kinds, told)
    for key, raw in targets.items():
        if len(np.unique(table[key], axis=0)) < 2:
            raise told(
                raw.columns[0],
                "the target has one and the same value in all rows; there "
                "is nothing to predict.",
            )
    grouped = bool(scale.group) and by != "row"
    folds = declaration.validation.folds
    if grouped:
        groups = _groups(frame, scale.group, told)
        count, what = int(groups.max()) + 1, "groups"
    else:
        count, what = len(frame), "rows"
    if folds > count:
        raise declaration.fault(
            f"{folds} given for the {count} {what} of scale {name!r}, at "
            f"most one fold for each of the {what} is allowed.",
            *("validation", "folds"),
        )
    if grouped:
        splits = list(GroupKFold(folds).split(groups, groups=groups))
    else:
        splits, _ = row_folds(count, folds, 1)
    return _Task(
        name=name,
        table=table,
        inputs=tuple(blocks),
        targets=dict(scale.predict),
        splits=splits,
        by="group" if grouped else "row",
    )


def _features(task: _Task) -> np.ndarray:
    """Return what a scale sees, latents as the columns they are made of."""
    return np.hstack([task.table[key] for key in task.inputs])


def _regressions(task: _Task) -> dict[tuple[str, str], partial]:
    return {
        (key, model): partial(
            baselines.predict,
            *(model, _features(task)),
            *(task.table[f"{task.name}.{key}"], task.splits),
        )
        for key, target in task.targets.items()
        if target.kind == "number"
        for model in REGRESSORS
    }


def _classifications(task: _Task) -> dict[tuple[str, str], np.ndarray]:
    """Return the kinds (n,), as numbers, that each baseline predicts."""
    predicted = {}
    features = _features(task)
    for key, target in task.targets.items():
        if target.kind == "number":
            continue
        truth = task.table[f"{task.name}.{key}"].argmax(1)
        for name, make in CLASSIFIERS.items():
            kinds = np.zeros(len(truth), dtype=int)
            for seen, unseen in task.splits:
                # a fold may leave one kind only, which no classifier takes
                alone = len(set(truth[seen])) == 1
                model = CLASSIFIERS["most frequent"]() if alone else make()
                model.fit(features[seen], truth[seen])
                kinds[unseen] = model.predict(features[unseen])
            predicted[key, name] = kinds
    return predicted


def _out_of_fold(
    chain: NestedAutoencoder,
    task: _Task,
    target: str,
    splits: Sequence[Split],
) -> np.ndarray:
    """Return the seeds' mean prediction of held-out rows, shape (n,)."""
    made = chain.predict(task.table, task.name)[f"{task.name}.{target}"]
    mean = metrics.out_of_fold(made, splits)
    category = task.targets[target].kind == "category"
    return mean.argmax(1) if category else mean[:, 0]


def _judged(
    task: _Task, kinds: Kinds, target: str, model: str, values: np.ndarray
) -> pd.DataFrame:
    """Return observed and predicted values of all rows, with their folds."""
    key = f"{task.name}.{target}"
    observed = task.table[key]
    if key in kinds:
        words = np.array(kinds[key], dtype=object)
        observed, values = words[observed.argmax(1)], words[values]
    else:
        observed = observed[:, 0]
    fold = np.zeros(task.rows, dtype=int)
    for place, (_, unseen) in enumerate(task.splits):
        fold[unseen] = place
    return pd.DataFrame(
        {
            "scale": task.name,
            "target": target,
            "model": model,
            "row": np.arange(1, task.rows + 1),
            "fold": fold + 1,
            "observed": observed,
            "predicted": values,
        }
    )


def _measured(task: _Task, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the report's lines on one model of one target."""
    first = frame.iloc[0]
    category = task.targets[first["target"]].kind == "category"
    found = _metrics(frame, category)
    folds = pd.DataFrame(
        [_metrics(part, category) for _, part in frame.groupby("fold")]
    )
    return [
        {
            "scale": task.name,
            "target": first["target"],
            "model": first["model"],
            "metric": name,
            "value": value,
            "spread": float(folds[name].std(ddof=1)),
            "n": task.rows,
            "by": task.by,
        }
        for name, value in found.items()
    ]


def _metrics(frame: pd.DataFrame, category: bool) -> dict[str, float]:
    observed, predicted = frame["observed"], frame["predicted"]
    if category:
        return {"accuracy": float((observed == predicted).mean())}
    miss = (observed - predicted).astype(float)
    # of one value, or of equal ones, there is no R2
    several = observed.nunique() > 1
    return {
        "MAE": float(miss.abs().mean()),
        "RMSE": float(np.sqrt((miss**2).mean())),
        "R2": float(r2_score(observed, predicted)) if several else np.nan,
    }


# --- using a fitted model --------------------------------------------------


def predict(
    fitted: Fitted,
    frame: pd.DataFrame,
    scale: str = "",
    source: str = "table",
) -> pd.DataFrame:
    """Predict the targets of a scale for new rows.

    Parameters
    ----------
    fitted
        From :func:`fit` or :func:`load`.
    frame
        New rows, from :func:`read_table` or any other frame, with the
        columns of the scale's inputs.  Further columns are kept as they are.
    scale
        Name of the scale; the last one where empty.
    source
        What errors call the table, a file's name, say.

    Returns
    -------
    DataFrame
        The frame, its index too, and for every target ``NAME_predicted``,
        the mean over the models of all folds and seeds, with
        ``NAME_spread``, their standard deviation in the target's units; for
        a category the likeliest word and ``NAME_probability``.

    Raises
    ------
    ParameterError
        If there is no such scale.
    DataError
        If there are no rows, a column is missing or stands for a prediction
        already, or a value is not allowed; the message names its row.
    """
    declaration = fitted.declaration
    name = scale or declaration.scales[-1].name
    declared = declaration.scale(name)

    def told(column: str, words: str) -> DataError:
        return DataError(f"{source}, column {ascii(column)}: {words}")

    if frame.empty:
        raise DataError(f"{source}: no rows; there is nothing to predict.")
    blocks = declaration.blocks(name)
    table = _arrays(frame, blocks, fitted.kinds, told)
    made = fitted.chain.predict(table, name)
    found = frame.copy()
    for key, target in declared.predict.items():
        values = made[f"{name}.{key}"]
        mean = values.mean(0)
        if target.kind == "category":
            words = np.array(fitted.kinds[f"{name}.{key}"], dtype=object)
            new = {
                f"{key}_predicted": words[mean.argmax(1)],
                f"{key}_probability": mean.max(1),
            }
        else:
            new = {
                f"{key}_predicted": mean[:, 0],
                f"{key}_spread": values[..., 0].std(0),
            }
        for column, part in new.items():
            if column in found.columns:
                raise told(
                    column,
                    "stands in the table already; rename or remove it.",
                )
            found[column] = part
    return found


def load(path: str | Path) -> Fitted:
    """Read a model that :meth:`Fitted.save` wrote.

    Nothing in the file is executed.

    Raises
    ------
    DataError
        If the file is missing, cut short, altered, of another version, or
        not such a model.
    """
    path = Path(path)
    try:
        content, chain = _archive(path)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; give the path of a fitted model."
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror})."
        ) from None
    except (ValueError, KeyError, RecursionError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:120]
        raise _no_model(path, f"{type(error).__name__}: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(
            f"{path}: format {ascii(found)[:20]} found, format {FORMAT} is "
            "allowed; fit the declaration anew with this version."
        )
    return _restored(path, content, chain)


def _no_model(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: not a fitted model, or cut short ({reason}); fit the "
        "declaration anew."
    )


def _archive(path: Path) -> tuple[Any, bytes]:
    """Return the two parts of a model file, checked but not understood."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: part for part in archive.infolist()}
        # what is stored as it is cannot grow when it is read
        stored = all(
            part.compress_type == zipfile.ZIP_STORED for part in parts.values()
        )
        if set(parts) != {_DECLARED, _CHAIN} or not stored:
            raise ValueError("other parts than a model has")
        if parts[_DECLARED].file_size > _MOST_JSON:
            raise ValueError("too large")
        return json.loads(archive.read(_DECLARED)), archive.read(_CHAIN)


def _restored(path: Path, content: Mapping[str, Any], raw: bytes) -> Fitted:
    declaration = from_plain(content.get("declaration"), path)
    kinds = content.get("kinds")
    expected = {
        key
        for scale in declaration.scales
        for key, block in {
            **declaration.blocks(scale.name),
            **_target_blocks(declaration, scale.name),
        }.items()
        if block.category
    }
    known = isinstance(kinds, dict) and set(kinds) == expected
    if not known or not all(map(_are_kinds, kinds.values())):
        raise _no_model(path, "its categories do not fit its declaration")
    networks = [
        _network(declaration, scale.name, kinds)
        for scale in declaration.scales
    ]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / _CHAIN
        part.write_bytes(raw)
        try:
            chain = NestedAutoencoder.load(part, networks)
        except DataError as error:
            reason = str(error).removeprefix(f"{part}: ")
            raise _no_model(path, reason.rstrip(".")) from None
    for network in networks:
        if not _is_sound(chain, network):
            raise _no_model(path, f"scale {network.name!r} is incomplete")
    try:
        report = pd.DataFrame(content["report"], columns=list(REPORT))
    except (KeyError, TypeError, ValueError):
        raise _no_model(path, "its report cannot be read") from None
    return Fitted(declaration, kinds, chain, report, pd.DataFrame())


def _are_kinds(words: Any) -> bool:
    return (
        isinstance(words, list)
        and 2 <= len(words) <= MOST_KINDS
        and all(isinstance(word, str) for word in words)
    )


def _is_sound(chain: NestedAutoencoder, network: Scale) -> bool:
    """Tell whether a scale's numbers are all there, and are numbers."""
    fitted = chain.fitted.get(network.name)
    if fitted is None:
        return False
    arrays = [fitted.parameters]
    for part in (*network.inputs, *network.predicted):
        scaler = fitted.scalers.get(part.name)
        if scaler is None:
            continue
        for values in (scaler.mean, scaler.deviation):
            if values.shape[1:] != (1, part.width):
                return False
            if len(values) not in (1, fitted.replicas):
                return False
            arrays.append(values)
    return all(
        values.dtype.kind == "f" and np.isfinite(values).all()
        for values in arrays
    )
