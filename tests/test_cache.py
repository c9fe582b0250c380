"""Fingerprints, cached results, results side by side."""

import functools
import os
import pickle
import string
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nestedae_utils.data import files as datasets
from nestedae_utils.model import cache
from nestedae_utils.model.cache import cached, fingerprint, together
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.scales import Block, Head, Scale

# --- Fingerprints ---------------------------------------------------------

texts = st.text(string.printable, max_size=5)
numbers = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False), st.none(), texts
)
tables = arrays.arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.bool_]),
    arrays.array_shapes(max_dims=3, max_side=4),
)
values = st.recursive(
    st.one_of(numbers, tables),
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
@settings(max_examples=150, deadline=None)
def test_fingerprints_differ_where_values_do(one, other):
    same = str(plain(one)) == str(plain(other))
    assert (fingerprint(one) == fingerprint(other)) == same


@given(values)
@settings(max_examples=80, deadline=None)
def test_equal_content_has_one_fingerprint(value):
    assert fingerprint(value) == fingerprint(value)
    again = pickle.loads(pickle.dumps(value))
    assert fingerprint(again) == fingerprint(value)


@given(tables)
@settings(max_examples=60, deadline=None)
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


def first():
    return 1


def second():
    return 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1.0]), torch.tensor([2.0])),
        (first, second),
        (np.array([[1], "a"], object), np.array([[1], "b"], object)),
        (np.int64(1), np.int64(2)),
        (Path("a"), Path("b")),
        ({1, 2}, {1, 3}),
        (b"1", b"2"),
    ],
    ids=["tensor", "function", "objects", "integer", "path", "set", "bytes"],
)
def test_what_has_no_fields_is_told_apart_or_refused(one, other):
    """Never the same fingerprint for two different things."""
    try:
        marks = fingerprint(one), fingerprint(other)
    except TypeError:
        return
    assert marks[0] != marks[1]
    assert fingerprint(pickle.loads(pickle.dumps(one))) == marks[0]


def test_numbers_of_numpy():
    """The number of seeds may come from an array."""
    assert fingerprint(np.int64(3)) == fingerprint(np.int64(3))
    assert fingerprint(np.int64(3)) != fingerprint(np.int64(4))
    assert fingerprint(np.float32(0.5)) != fingerprint(np.float32(0.25))


def small_chain(seed=0):
    x = np.random.default_rng(3).normal(size=(12, 3))
    scale = Scale("a", (Block("x", 3),), 2, (Head("x", 3),))
    return NestedAutoencoder([scale]).fit_scale(
        "a",
        {"x": x},
        [(np.arange(8), np.arange(8, 12))] * 2,
        [seed, seed + 1],
        epochs=2,
        batch_size=4,
        learning_rate=0.01,
        device="cpu",
    )


def test_fingerprint_of_a_fitted_chain():
    chain = small_chain()
    mark = fingerprint(chain)
    again = pickle.loads(pickle.dumps(chain))
    assert fingerprint(again) == mark
    assert fingerprint(small_chain()) == mark
    assert fingerprint(small_chain(1)) != mark
    again.fitted["a"].parameters[1, 3] += 1e-3
    assert fingerprint(again) != mark
    again = pickle.loads(pickle.dumps(chain))
    again.fitted["a"].scalers["x"].mean[0, 0, 1] += 1e-9
    assert fingerprint(again) != mark


# --- Cached results -------------------------------------------------------


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    """Give each test a cache of its own."""
    place = tmp_path / "cache"
    monkeypatch.setenv("NESTEDAE_CACHE", str(place))
    return place


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


def runs(log):
    """Count how often a logged function ran, by any process."""
    path = Path(log)
    return len(path.read_text().splitlines()) if path.exists() else 0


def note(log, text):
    with open(log, "a") as file:
        file.write(f"{text} {os.getpid()}\n")


@cached
def scaled(log, values, *, factor=2, device="cpu"):
    """Multiply, and leave a line in a log."""
    note(log, "scaled")
    return values * factor


@cached
def shifted(log, values, *, factor=2, device="cpu"):
    """Add, and leave a line in a log."""
    note(log, "shifted")
    return values + factor


@cached
def failing(log):
    note(log, "failing")
    raise ValueError("no result")


def test_the_stored_result_is_returned(log):
    row = np.arange(3.0)
    first = scaled(log, row, factor=3)
    assert runs(log) == 1
    np.testing.assert_array_equal(first, [0, 3, 6])
    again = scaled(log, row.copy(), factor=3)
    assert runs(log) == 1
    np.testing.assert_array_equal(again, first)
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__.startswith("Multiply")


def test_other_arguments_run_anew(log):
    row = np.arange(3.0)
    scaled(log, row)
    changed = row.copy()
    changed[1] += 1e-12
    for count, (given_row, more) in enumerate(
        [
            (row, {"factor": 4}),
            (row, {"factor": 4.0}),
            (changed, {}),
            (row.astype(np.float32), {}),
            (row[:, None], {}),
        ],
        start=2,
    ):
        found = scaled(log, given_row, **more)
        assert runs(log) == count
        np.testing.assert_array_equal(found, given_row * more.get("factor", 2))
        assert found.shape == given_row.shape
    scaled(log, row)
    assert runs(log) == 6


def test_another_function_has_results_of_its_own(log):
    assert scaled(log, 5) == 10
    assert shifted(log, 5) == 7
    assert runs(log) == 2


def test_another_source_runs_anew(log, monkeypatch):
    assert scaled(log, 1) == 2
    real = cache.source_digest
    monkeypatch.setattr(cache, "source_digest", lambda _: "another")
    assert scaled(log, 1) == 2
    assert runs(log) == 2
    assert scaled(log, 1) == 2
    assert runs(log) == 2
    monkeypatch.setattr(cache, "source_digest", real)
    scaled(log, 1)
    assert runs(log) == 2


def test_digest_of_the_source(monkeypatch, tmp_path):
    """A changed, a new and a renamed module, and another library."""
    real = functools.partial(cache.source_digest.__wrapped__, "elsewhere")
    (tmp_path / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    digests = [real()]
    assert real() == digests[0]
    (tmp_path / "notes.txt").write_text("no source")
    assert real() == digests[0]
    (tmp_path / "a.py").write_text("x = 2\n")
    digests.append(real())
    (tmp_path / "b.py").write_text("")
    digests.append(real())
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    digests.append(real())
    monkeypatch.setattr(cache.importlib.metadata, "version", lambda _: "0")
    digests.append(real())
    monkeypatch.setattr(cache.platform, "python_version", lambda: "3.0")
    digests.append(real())
    assert len(set(digests)) == len(digests)


def test_a_result_depends_on_what_its_module_imports(monkeypatch, tmp_path):
    package = cache.__package__
    for name, text in {
        "__init__": "",
        "low": "",
        "middle": f"from {package}.low import x",
        "aside": "",
        "top": f"from {package} import middle",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    real = functools.partial(cache.source_digest.__wrapped__, f"{package}.top")
    before = real()
    (tmp_path / "aside.py").write_text("x = 1")
    assert real() == before
    for name in ("low", "middle", "top"):
        path = tmp_path / f"{name}.py"
        path.write_text(path.read_text() + "\nx = 1\n")
        assert real() != before
        before = real()


def test_trainings_depend_on_the_training():
    names = {path.stem for path in cache._sources("nestedae_utils.study.protocol")}
    assert {"protocol", "nested", "training", "scales", "checks"} <= names
    assert not names & {"figures", "chapter", "records"}


def test_a_failure_is_not_stored(log, store):
    for count in (1, 2):
        with pytest.raises(ValueError, match="no result"):
            failing(log)
        assert runs(log) == count


def test_a_stored_chain_is_a_chain():
    fit = cached(small_chain)
    done, again = fit(), fit()
    assert fingerprint(done) == fingerprint(again)
    x = np.ones((2, 3))
    np.testing.assert_array_equal(
        done.encode({"x": x}), again.encode({"x": x})
    )


def test_the_folder_is_honoured(log, store, monkeypatch, tmp_path):
    assert cache.folder() == store
    assert not store.exists()
    scaled(log, 1)
    assert list(store.rglob("*.pkl"))
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "other"))
    scaled(log, 1)
    assert runs(log) == 2
    assert list((tmp_path / "other").rglob("*.pkl"))
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("NESTEDAE_CACHE")
        else:
            monkeypatch.setenv("NESTEDAE_CACHE", unset)
        assert cache.folder().is_absolute()
        assert cache.folder().name == "nestedae"


# --- Side by side ---------------------------------------------------------


@pytest.fixture
def workers():
    """Have fresh worker processes, which know this test's cache folder."""
    loky = joblib.externals.loky
    loky.get_reusable_executor().shutdown(wait=True)
    yield
    loky.get_reusable_executor().shutdown(wait=True)


def test_together_fills_side_by_side(log, monkeypatch, workers):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    row = np.arange(4.0)
    calls = [
        functools.partial(scaled, log, row),
        functools.partial(shifted, log, row, factor=5, device="auto"),
        functools.partial(scaled, log, row, factor=7),
    ]
    calls[2]()
    found = together(*calls)
    lines = Path(log).read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == [
        "scaled",
        "scaled",
        "shifted",
    ]
    here = str(os.getpid())
    assert [line.split()[1] == here for line in lines] == [True, False, False]
    expected = [row * 2, row + 5, row * 7]
    for one, other, call in zip(found, expected, calls, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(
            one, call.func.__wrapped__(*call.args, **call.keywords)
        )
    count = runs(log)
    for one, other in zip(together(*calls), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert runs(log) == count


@pytest.mark.parametrize("why", ["device", "card", "core", "one"])
def test_together_in_this_process(why, log, monkeypatch):
    """On a GPU, on one core and for one call nothing is spread."""

    def refuse(*args, **settings):
        raise AssertionError("started workers")

    monkeypatch.setattr(joblib, "Parallel", refuse)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1 if why == "core" else 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: why == "card")
    device = {"device": "cuda", "card": "auto"}.get(why, "cpu")
    calls = [
        functools.partial(scaled, log, 3, factor=factor, device=device)
        for factor in (range(1) if why == "one" else range(3))
    ]
    assert together(*calls) == [0, 3, 6][: len(calls)]
    assert runs(log) == len(calls)
    assert together() == []


def test_together_passes_a_failure_on(log, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    with pytest.raises(ValueError, match="no result"):
        together(functools.partial(failing, log))


def test_a_home_folder_is_meant(monkeypatch):
    monkeypatch.setenv("NESTEDAE_CACHE", "~/kept")
    assert cache.folder() == Path.home() / "kept"
    assert datasets.folder() == cache.folder() / "data"
