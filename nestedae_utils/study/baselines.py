"""Other models on the same folds, all from scikit-learn.

Their settings are fixed here, scikit-learn's own where none is named; what
they learn from (scalers, penalties) is the training rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from nestedae_utils import errors as checks
from nestedae_utils.errors import DataError
from nestedae_utils.model.cache import cached
from nestedae_utils.model.training import Split

BASELINES: Mapping[str, Callable[[], RegressorMixin]] = {
    "median": lambda: DummyRegressor(strategy="median"),
    # a full tree on absolute errors ends in the median of equal inputs
    "group median": lambda: DecisionTreeRegressor(
        criterion="absolute_error", random_state=0
    ),
    "ridge": lambda: make_pipeline(
        StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))
    ),
    "random forest": lambda: RandomForestRegressor(300, random_state=0),
    "extra trees": lambda: ExtraTreesRegressor(300, random_state=0),
    "gradient boosting": lambda: GradientBoostingRegressor(
        loss="absolute_error", n_estimators=300, random_state=0
    ),
    "histogram boosting": lambda: HistGradientBoostingRegressor(
        loss="absolute_error", random_state=0
    ),
    "SVR, C = 1": lambda: make_pipeline(StandardScaler(), SVR(C=1.0)),
    "SVR, C = 10": lambda: make_pipeline(StandardScaler(), SVR(C=10.0)),
}
"""The models by name; each call gives a fresh one."""


@cached
def predict(
    name: str,
    features: np.ndarray,
    target: np.ndarray,
    splits: Sequence[Split],
) -> np.ndarray:
    """Predict every row by the model whose training left it out.

    Parameters
    ----------
    name
        One of `BASELINES`.
    features
        Shape (n, width), or (folds, n, width) where the folds differ in
        them, latents of a fold's own model, say.
    target
        Shape (n,) or (n, 1).
    splits
        For every fold its (training, held-out) rows.

    Returns
    -------
    numpy.ndarray
        Shape (n,), in the target's units; NaN for a row never held out.

    Raises
    ------
    ParameterError
        If the name is unknown.
    DataError
        If features, target and splits do not belong together.
    """
    checks.choice("baseline", name, BASELINES)
    features = np.asarray(features, dtype=float)
    wide = features if features.ndim == 3 else features[None]
    target = np.asarray(target, dtype=float).reshape(-1)
    if wide.shape[1] != len(target) or len(wide) not in (1, len(splits)):
        raise DataError(
            f"features: shape {features.shape} given, ({len(target)}, width) "
            f"is allowed, or with {len(splits)} folds in front."
        )
    predicted = np.full(len(target), np.nan)
    for fold, (seen, held_out) in enumerate(splits):
        own = wide[fold if len(wide) > 1 else 0]
        model = BASELINES[name]().fit(own[seen], target[seen])
        predicted[held_out] = model.predict(own[held_out])
    return predicted
