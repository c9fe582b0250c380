"""Choices made inside the training rows: inner folds, and any fit on them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold

from nestedae_utils import errors as checks
from nestedae_utils.errors import ParameterError
from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.scales import Scale
from nestedae_utils.model.training import Split


def inner_folds(
    splits: Sequence[Split], folds: int, groups: np.ndarray | None = None
) -> list[Split]:
    """Split the training rows of every outer fold again.

    Parameters
    ----------
    splits
        The outer folds' (training, held-out) rows; their held-out rows
        appear nowhere in the result.
    folds
        Inner folds of each outer one.
    groups
        Shape (n,): rows of one group share an inner fold; none where the
        folds are by row.

    Returns
    -------
    list
        ``len(splits) * folds`` splits, the first outer fold's first.

    Raises
    ------
    ParameterError
        If there are fewer than two folds, or more than rows or groups.
    """
    checks.whole("inner_folds", folds, 2)
    inner = []
    for seen, _ in splits:
        seen = np.asarray(seen)
        own = None if groups is None else groups[seen]
        count = len(seen) if groups is None else len(set(own))
        if folds > count:
            raise ParameterError(
                f"inner_folds: {folds} given for {count} groups of training "
                "rows, at most one fold a group is allowed."
            )
        drawn = (
            KFold(folds, shuffle=True, random_state=1)
            if groups is None
            else GroupKFold(folds)
        )
        inner += [
            (seen[train], seen[test])
            for train, test in drawn.split(seen, groups=own)
        ]
    return inner


@cached
def fit(
    scale: Scale,
    table: Table,
    splits: Sequence[Split],
    seeds: Sequence[int],
    lower: NestedAutoencoder | None = None,
    **settings: Any,
) -> tuple[NestedAutoencoder, float]:
    """Fit a scale on any splits, standardised on training rows only.

    Parameters
    ----------
    scale, table, splits, seeds
        As in :meth:`nestedae_utils.model.chain.NestedAutoencoder.fit_scale`.
    lower
        A fitted chain whose latents the scale takes.  Replica k takes those
        of the lower replica with the same place in its cycle, so that one
        member of an ensemble stands on one member below.
    settings
        Passed on to :func:`nestedae_utils.model.training.train`.

    Returns
    -------
    tuple
        The chain, and the seconds of one core that its training took when
        it was computed.
    """
    start = time.process_time()
    below = {} if lower is None else lower.fitted
    chain = NestedAutoencoder(
        [*(part.scale for part in below.values()), scale]
    )
    for part in below.values():
        cycle = [place % part.replicas for place in range(len(splits))]
        chain.attach(part.select(cycle))
    chain.fit_scale(
        scale.name, table, splits, seeds, standardise_on="train", **settings
    )
    return chain, time.process_time() - start
