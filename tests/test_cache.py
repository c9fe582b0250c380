"""Fingerprints, cached results, and what their keys depend on."""

import pickle
import shutil
import string
from collections import namedtuple
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from models import SETTINGS, coarse, fine, replicas, tables

from nestedae_utils.model import cache, training
from nestedae_utils.model.cache import cached, fingerprint, together
from nestedae_utils.model.chain import fit

# --- Fingerprints ---------------------------------------------------------

pytestmark = pytest.mark.usefixtures("own_cache")

texts = st.text(string.printable, max_size=5)
numbers = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False), st.none(), texts
)
grids = arrays.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.bool_]),
    arrays.array_shapes(max_dims=3, max_side=4),
)
values = st.recursive(
    st.one_of(numbers, grids),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(texts, inner, max_size=3),
    ),
    max_leaves=6,
)


def plain(value):
    """Return what tells two values apart, written out in full."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return kind, sorted((key, plain(part)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return kind, [plain(part) for part in value]
    return kind, repr(value)


@given(values, values)
@settings(max_examples=150)
def test_fingerprints_differ_where_values_do(one, other):
    same = str(plain(one)) == str(plain(other))
    assert (fingerprint(one) == fingerprint(other)) == same


@given(values)
@settings(max_examples=80)
def test_equal_content_has_one_fingerprint(value):
    assert fingerprint(value) == fingerprint(value)
    again = pickle.loads(pickle.dumps(value))
    assert fingerprint(again) == fingerprint(value)


@given(grids)
@settings(max_examples=60)
def test_one_changed_number_is_seen(table):
    raw = bytearray(table.tobytes())
    raw[-1] ^= 1
    other = np.frombuffer(bytes(raw), table.dtype).reshape(table.shape)
    assume(other.tobytes() != table.tobytes())
    assert fingerprint(other) != fingerprint(table)
    assert fingerprint([table, other]) != fingerprint([other, table])
    turned = np.asfortranarray(table)
    assert fingerprint(turned) == fingerprint(table)


Pair = namedtuple("Pair", "a b")


@dataclass
class One:
    a: object


@dataclass
class Two:
    a: object


def test_fingerprints_of_pairs():
    row = np.arange(6.0)
    pairs = [
        (1, True),
        (1, 1.0),
        (1, "1"),
        (0.0, -0.0),
        (None, "None"),
        ("ab", ["ab"]),
        (["ab", "c"], ["a", "bc"]),
        ([1, [2]], [[1], 2]),
        ([], [[]]),
        ((1, 2), [1, 2]),
        ((1, 2), (2, 1)),
        ({"a": 1}, {"b": 1}),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (row, row.reshape(2, 3)),
        (row.reshape(3, 2), row.reshape(2, 3)),
        (row, row.astype(np.float32)),
        (row.view(np.int64), row),
        (row, row.astype(">f8")),
        (row, list(row)),
        (One(1), One(2)),
        (One(1), Two(1)),
        (One(row), One(row + 1)),
        (np.nan, 0.0),
        (np.int64(1), np.int64(2)),
    ]
    for one, other in pairs:
        assert fingerprint(one) != fingerprint(other), (one, other)
    same = [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.nan, float("nan")),
        (row, np.arange(12.0)[::2] / 2),
        (One(row), One(row.copy())),
    ]
    for one, other in same:
        assert fingerprint(one) == fingerprint(other), (one, other)


@pytest.mark.parametrize(
    "value",
    [torch.ones(1), pickle.loads, np.array([[1], "a"], object), Path("a"), {1}, b"1"],
    ids=["tensor", "function", "objects", "path", "set", "bytes"],
)
def test_what_has_no_fields_is_refused(value):
    with pytest.raises(TypeError, match="has no fields; pass arrays"):
        fingerprint(value)


@pytest.mark.parametrize("place", ["parameters", "scalers"])
def test_fingerprint_of_a_fitted_chain(place):
    chain = fit(fine(), tables(), replicas(2), **SETTINGS)
    again = pickle.loads(pickle.dumps(chain))
    assert fingerprint(again) == fingerprint(chain)
    if place == "parameters":
        again.fitted["fine"].parameters["encoder.0.weight"][1, 0, 0] += 1e-3
    else:
        again.fitted["fine"].scalers["x"].mean[0, 0, 1] += 1e-9
    assert fingerprint(again) != fingerprint(chain)


# --- results -----------------------------------------------------------------


calls = []


@cached
def scaled(values, *, factor=2):
    """Multiply, and note it."""
    calls.append(factor)
    return values * factor


def test_a_result_is_computed_once():
    calls.clear()
    row = np.arange(3.0)
    for _ in range(2):
        assert scaled(row.copy(), factor=3).tolist() == [0, 3, 6]
    assert calls == [3]
    scaled(row, factor=4)
    scaled(row + 1, factor=3)
    assert calls == [3, 4, 3]
    found = together(*(partial(scaled, row, factor=f) for f in (3, 5, 4)))
    assert [f.max() for f in found] == [6, 10, 8]
    assert calls == [3, 4, 3, 5]


@pytest.mark.parametrize("state", ["damaged", "unwritable"])
def test_a_result_is_computed_where_it_cannot_be_kept(state, own_cache, recwarn):
    calls.clear()
    if state == "unwritable":
        own_cache.write_text("in the way")
    for _ in range(2):
        assert scaled(np.arange(3.0)).tolist() == [0, 2, 4]
        for path in own_cache.rglob("*.pickle"):
            path.write_bytes(path.read_bytes()[:40])
    assert calls == [2, 2]
    assert not recwarn.list


def test_a_failure_is_passed_on_and_not_kept():
    def fail():
        raise ValueError("no result")

    with pytest.raises(ValueError, match="no result"):
        together(fail, fail)


def test_the_home_folder_is_meant(monkeypatch):
    monkeypatch.setenv("NESTEDAE_CACHE", "~/kept")
    assert cache.folder() == Path.home() / "kept"


# --- trainings: each replica by itself ---------------------------------------


def trained(*args, **settings):
    """Fit and return how many replicas ran, and how many were found."""
    before = training.tally.copy()
    fit(*args, **{**SETTINGS, **settings})
    ran = training.tally - before
    return ran["dense replicas"], ran["found replicas"]


def test_a_replica_is_found_whoever_trained_it():
    table = tables()
    assert trained(fine(), table, replicas(2)) == (2, 0)
    assert trained(fine(), table, replicas(2)) == (0, 2)
    assert trained(fine(), table, replicas(2, 3)) == (4, 2)
    assert trained(fine(), table, replicas(2), epochs=4) == (2, 0)
    assert trained(fine(l1=0.5), table, replicas(2)) == (2, 0)
    assert trained(fine(), {**table, "p": table["p"] + 1e-3}, replicas(2)) == (2, 0)
    assert trained(fine(), table, replicas(4).take([0])) == (1, 0)


def test_equal_replicas_are_trained_once():
    assert trained(fine(), tables(), replicas(2).times(draw=[0, 1])) == (2, 2)


def test_a_scale_above_is_found_on_the_same_scale_below():
    below = fit(fine(), tables(), replicas(2), **SETTINGS)
    table, some = tables(30, 1), replicas(2, 1, 30)
    assert trained(coarse(), table, some, below.take([0])) == (2, 0)
    many = fit(fine(), tables(), replicas(2, 2), **SETTINGS)
    assert trained(coarse(), table, some, many.take([0])) == (0, 2)
    assert trained(coarse(), table, some, many.take([1])) == (2, 0)


def test_what_is_found_is_what_was_trained():
    one, again = (
        fit(fine(), tables(), replicas(2), **SETTINGS).fitted["fine"] for _ in range(2)
    )
    for name, value in one.parameters.items():
        assert (value == again.parameters[name]).all()
    end = [f.at_end("validation_as_made", "loss") for f in (one, again)]
    assert (end[0] == end[1]).all()


def test_an_interruption_keeps_what_is_done(monkeypatch):
    real, done = cache.store, []

    def store(key, values):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(key)
        real(key, values)

    monkeypatch.setattr(cache, "store", store)
    with pytest.raises(KeyboardInterrupt):
        fit(fine(), tables(), replicas(3, 2), **SETTINGS)
    monkeypatch.setattr(cache, "store", real)
    assert trained(fine(), tables(), replicas(3, 2)) == (3, 3)


@pytest.mark.parametrize("state", ["cut short", "empty", "folder"])
def test_a_damaged_training_is_trained_anew(state, own_cache):
    fit(fine(), tables(), replicas(2), **SETTINGS)
    path = next((own_cache / "trainings").iterdir())
    content = path.read_bytes()
    path.unlink()
    if state == "folder":
        path.mkdir()
    else:
        path.write_bytes(content[:300] if state == "cut short" else b"")
    assert trained(fine(), tables(), replicas(2)) == (1, 1)


def test_a_cache_that_cannot_be_written_costs_only_time(own_cache):
    own_cache.mkdir()
    (own_cache / "trainings").write_text("in the way")
    assert trained(fine(), tables(), replicas(2)) == (2, 0)


# --- keys depend on sources --------------------------------------------------


def test_a_training_depends_on_its_room_only():
    names = {path.stem for path in cache.sources(training.__name__)}
    assert {"training", "reference", "dense", "kernels", "networks"} <= names
    assert not names & {"chapter", "protocol", "runs", "tables", "chain"}


def test_a_changed_line_changes_the_key(tmp_path, monkeypatch):
    """Through what a module imports at second hand, too; or another library."""
    package = shutil.copytree(cache.PACKAGE, tmp_path / "nestedae_utils")
    monkeypatch.setattr(cache, "PACKAGE", package)
    protocol = "nestedae_utils.study.protocol"
    key = cache.digest(cache.sources(protocol))
    (package / "model" / "kernels.py").write_text("changed = 1\n")
    assert cache.digest(cache.sources(protocol)) != key
    numpy = cache.digest([], ["numpy"])
    monkeypatch.setattr(cache.importlib.metadata, "version", lambda name: "0")
    assert cache.digest([], ["numpy"]) != numpy
