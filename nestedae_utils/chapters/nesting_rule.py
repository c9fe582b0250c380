"""Least squares for the rule of `nestedae_utils.own.advise`, and their intervals."""

from __future__ import annotations

import numpy as np
from scipy import stats

from nestedae_utils.study import statistics


def least_squares(
    seen: np.ndarray, gains: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Fit gains (n,) linearly to features (n, k).

    Returns the weights (k + 1,), the constant first; the deviation of what is
    missed, each row by a fit that leaves it out (from the leverages: Allen 1974,
    doi:10.1080/00401706.1974.10489157); the least and the largest features.
    """
    x = np.hstack([np.ones((len(seen), 1)), seen])
    inverse = np.linalg.pinv(x)
    weights, leverage = inverse @ gains, np.einsum("ij,ji->i", x, inverse)
    # a row that alone has a feature is not told by the others
    missed = (gains - x @ weights) / np.maximum(1 - leverage, 1e-6)
    return weights, float(np.sqrt(np.mean(missed**2))), seen.min(0), seen.max(0)


def ends(seen: np.ndarray, gains: np.ndarray) -> list[statistics.Ends]:
    """Return the 95 % intervals of all weights, and last of the deviation.

    Of the weights with a variance that may differ from row to row (HC3:
    MacKinnon and White 1985, doi:10.1016/0304-4076(85)90158-7).
    """
    weights, spread, *_ = least_squares(seen, gains)
    x = np.hstack([np.ones((len(seen), 1)), seen])
    inverse = np.linalg.pinv(x)
    left = 1 - np.einsum("ij,ji->i", x, inverse)
    missed = (gains - x @ weights) / np.maximum(left, 1e-6)
    errors = np.sqrt(((inverse * missed) ** 2).sum(1))
    n = len(seen)
    # that of a standard deviation; see `statistics.by_models`
    errors = np.append(errors, spread / np.sqrt(2 * max(1, n - 1)))
    reach = stats.t.ppf(0.975, max(1, n - x.shape[1])) * errors
    values = np.append(weights, spread)
    return list(zip((values - reach).tolist(), (values + reach).tolist(), strict=True))
