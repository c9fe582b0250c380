"""Inner folds, and fits on them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study import selection
from nestedae_utils.study.protocol import row_folds

LOW = Scale("low", (Block("x", 2),), 2, (Head("x", 2), Head("y", 1)))
HIGH = Scale(
    "high", (Block("z", 2, latents_of="low"),), 1, (Head("z", 2), Head("y", 1))
)
GIVEN = {"epochs": 2, "batch_size": 5, "learning_rate": 0.01, "device": "cpu"}


@given(
    rows=st.integers(24, 60),
    outer=st.integers(2, 4),
    inner=st.integers(2, 4),
    kinds=st.none() | st.integers(9, 12),
)
@settings(max_examples=30, deadline=None)
def test_inner_folds_never_see_what_is_held_out(rows, outer, inner, kinds):
    splits, _ = row_folds(rows, outer, 1)
    groups = None if kinds is None else np.arange(rows) % kinds
    found = selection.inner_folds(splits, inner, groups)
    assert len(found) == outer * inner
    for place, (train, test) in enumerate(found):
        seen, held_out = splits[place // inner]
        assert sorted([*train, *test]) == sorted(seen)
        assert not {*train, *test} & {*held_out}
        if groups is not None:
            assert not {*groups[train]} & {*groups[test]}
    for place in range(outer):
        own = found[place * inner : (place + 1) * inner]
        tested = np.concatenate([test for _, test in own])
        assert sorted(tested) == sorted(splits[place][0])


def test_inner_folds_errors():
    splits, _ = row_folds(12, 3, 1)
    with pytest.raises(ParameterError, match="inner_folds: 1 given"):
        selection.inner_folds(splits, 1)
    with pytest.raises(ParameterError, match="inner_folds: 9 given for 8"):
        selection.inner_folds(splits, 9)
    with pytest.raises(ParameterError, match="3 given for 2 groups"):
        selection.inner_folds(splits, 3, np.arange(12) % 2)


def test_fit_of_members_on_members(monkeypatch, tmp_path):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    table = {
        "x": random.normal(size=(20, 2)),
        "y": random.normal(size=(20, 1)),
    }
    splits, _ = row_folds(20, 2, 1)
    lower, seconds = selection.fit(LOW, table, splits, [0, 1], **GIVEN)
    assert seconds > 0
    np.testing.assert_allclose(
        lower.fitted["low"].scalers["x"].mean[1, 0],
        table["x"][splits[1][0]].mean(0),
    )
    chain, _ = selection.fit(HIGH, table, splits * 2, [0] * 4, lower, **GIVEN)
    np.testing.assert_array_equal(
        chain.fitted["low"].parameters,
        lower.fitted["low"].parameters[[0, 1, 0, 1]],
    )
    assert chain.predict(table)["y"].shape == (4, 20, 1)
