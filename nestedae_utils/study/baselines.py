"""Other models on the same folds, all from scikit-learn.

Their settings are fixed here, scikit-learn's own where none is named, or, of
those in `GRIDS`, chosen by inner folds; what they learn from (scalers, units,
penalties, settings) is the training rows only.  Nothing depends on a unit: what
has settings in the target's has it standardised, and all see `unitless` numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import ensemble
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from nestedae_utils.model.cache import cached
from nestedae_utils.model.replicas import Split


def _svr(cost: float) -> BaseEstimator:
    svr = make_pipeline(StandardScaler(), SVR(C=cost))
    return TransformedTargetRegressor(svr, transformer=StandardScaler())


ABSOLUTE: dict[str, Any] = {"loss": "absolute_error", "random_state": 0}
BASELINES: Mapping[str, Callable[[], BaseEstimator]] = {
    "median": lambda: DummyRegressor(strategy="median"),
    # a full tree on absolute errors ends in the median of equal inputs
    "group median": lambda: DecisionTreeRegressor(
        criterion="absolute_error", random_state=0
    ),
    "ridge": lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))),
    "random forest": lambda: ensemble.RandomForestRegressor(random_state=0),
    "extra trees": lambda: ensemble.ExtraTreesRegressor(random_state=0),
    "gradient boosting": lambda: ensemble.GradientBoostingRegressor(
        n_estimators=300, **ABSOLUTE
    ),
    "histogram boosting": lambda: ensemble.HistGradientBoostingRegressor(**ABSOLUTE),
    "SVR, C = 1": lambda: _svr(1.0),
    "SVR, C = 10": lambda: _svr(10.0),
}
"""Models of a number by name; each call gives a fresh one."""

_LEAVES = {"min_samples_leaf": (1, 3), "max_features": (0.3, 1.0)}
GRIDS: Mapping[str, tuple[str, Mapping[str, Sequence[float]]]] = {
    "SVR, tuned": ("SVR, C = 10", {"regressor__svr__C": (3.0, 10.0, 30.0)}),
    "extra trees, tuned": ("extra trees", _LEAVES),
}
"""Of `BASELINES`, by a name of their own, the settings to choose from."""

CLASSIFIERS: Mapping[str, Callable[[], BaseEstimator]] = {
    "most frequent": lambda: DummyClassifier(strategy="most_frequent"),
    "logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000)
    ),
    "random forest": lambda: ensemble.RandomForestClassifier(random_state=0),
}
"""Models of a category, given as whole numbers."""


def unitless(values: np.ndarray, seen: np.ndarray) -> tuple[Any, Any, Any]:
    """Return values (n, ...), 0 to 1 in the rows seen, their least and spread.

    Trees take differences below 1e-7 for none, and what rounding does to sums
    decides between splits of equal worth: of these numbers, whole multiples of
    a power of two, sums are exact.
    """
    low, spread = values[seen].min(axis=0), np.ptp(values[seen], axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return np.rint((values - low) / spread * 2.0**30) / 2.0**30, low, spread


@cached
def held_out(
    model: str | BaseEstimator,
    features: np.ndarray,
    target: np.ndarray,
    splits: Sequence[Split],
    category: bool = False,
    inner: Sequence[Split] = (),
    likely: bool = False,
) -> list[np.ndarray]:
    """Predict each split's held-out rows by a model that learnt from its others.

    ``model`` is one of `BASELINES`, of `GRIDS` with ``inner`` folds, or of
    `CLASSIFIERS` for a category; or scikit-learn's own, not yet fitted.
    Features are (n, width), or (splits, n, width) where the splits differ in
    them, latents of a fold's own model, say; the target is (n,) or (n, 1).
    ``inner`` are folds within each split's training rows, the first split's
    first, by whose mean absolute errors settings are chosen.  Returns an array
    for each split, in the target's units; of a ``likely`` category 0 or 1 the
    probability of 1.
    """
    models = CLASSIFIERS if category else BASELINES
    features = np.asarray(features, dtype=float)
    target = np.asarray(target, dtype=float).reshape(-1)
    found = []
    for number, (seen, held) in enumerate(splits):
        x = features[number] if features.ndim == 3 else features
        # a split may leave one kind only, which no classifier takes
        alone = category and len(set(target[seen])) == 1
        name, grid = ("most frequent", None) if alone else (model, None)
        y, low, scale = target, 0.0, 1.0
        if isinstance(name, str):
            fixed, grid = GRIDS.get(name, (name, None))
            fitted, (x, *_) = models[fixed](), unitless(x, seen)
            y, low, scale = (y, 0.0, 1.0) if category else unitless(y, seen)
        else:
            fitted = clone(name)
        if grid:
            order, count = np.argsort(seen), len(inner) // len(splits)
            places = [
                tuple(order[np.searchsorted(seen, rows, sorter=order)] for rows in one)
                for one in inner[number * count : (number + 1) * count]
            ]
            score = "neg_mean_absolute_error"
            fitted = GridSearchCV(fitted, grid, cv=places, scoring=score)
        # of a single row ridge regression divides 0 by 0, and takes its mean
        with np.errstate(invalid="ignore"):
            fitted.fit(x[seen], y[seen])
        predicted = fitted.predict_proba if likely else fitted.predict
        predicted = predicted(x[held])
        found.append(predicted @ fitted.classes_ if likely else low + scale * predicted)
    return found


def predict(
    model: str | BaseEstimator,
    features: np.ndarray,
    target: np.ndarray,
    splits: Sequence[Split],
    category: bool = False,
    inner: Sequence[Split] = (),
) -> np.ndarray:
    """Predict every row by the model whose training left it out, as `held_out`.

    Returns (n,), in the target's units; NaN for a row never held out.
    """
    by_split = held_out(model, features, target, splits, category, inner)
    predicted = np.full(len(target), np.nan)
    for (_, held), own in zip(splits, by_split, strict=True):
        predicted[held] = own
    return predicted
