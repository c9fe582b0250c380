"""Chapters under other settings of the arithmetic: what moved is listed."""

import sys

import numpy as np
import pytest
from conftest import ROOT
from test_records import GAP, record, results

from nestedae_utils.book import claims
from nestedae_utils.model import training
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale

sys.path.insert(0, str(ROOT / "benchmarks"))
import arithmetic  # noqa: E402

CLAIM = claims.by_quantity()[GAP]


def test_what_moves_and_what_turns_is_listed():
    repeat = claims.quantities()[GAP].repeat
    should = record(CLAIM.as_should, 0.156)
    kept = {"05": results(record(GAP, 0.156), should)}
    near = {"05": results(record(GAP, 0.156 + 0.5 * repeat), should)}
    moved = {"05": results(record(GAP, 0.156 + 3 * repeat + 0.01), should)}
    wide = {"05": results(record(GAP, 0.156, ends=(0.1, 0.2)), should)}
    assert arithmetic.compare(kept, kept) == ([], {})
    assert arithmetic.compare(near, kept)[0] == []
    (line,), turned = arithmetic.compare(moved, kept)
    assert line.startswith(f"05: {GAP}: ")
    assert f"{claims.NOT_REPRODUCED} (" in turned[CLAIM.claim]
    assert "? undecided (" in arithmetic.compare(wide, kept)[1][CLAIM.claim]


def test_a_finished_chapter_is_not_run_again(notebooks, tmp_path, monkeypatch):
    """Nor does a second chapter stumble over the first one's cache."""
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "nowhere"))
    tiny = notebooks / "90_tiny.ipynb"
    first = arithmetic.run(tiny, "plain", tmp_path)
    before = first.stat().st_mtime_ns
    assert arithmetic.run(tiny, "plain", tmp_path) == first
    assert first.stat().st_mtime_ns == before
    first.unlink()
    assert arithmetic.run(tiny, "plain", tmp_path).exists()
    tiny.write_text(tiny.read_text().replace("if fail:", "if True:"))
    first.unlink()
    with pytest.raises(SystemExit, match="90_tiny failed under plain; its words: "):
        arithmetic.run(tiny, "plain", tmp_path)


def test_what_turned_is_undecided(tmp_path, monkeypatch):
    path = tmp_path / "turned.csv"
    path.write_text("claim,setting,verdicts\nother,plain,before\nother,card,kept\n")
    arithmetic.keep({"plain": {CLAIM.claim: "one, another"}}, path)
    lines = path.read_text().splitlines()[1:]
    assert lines == [f'{CLAIM.claim},plain,"one, another"', "other,card,kept"]
    within = [(CLAIM.paper,) * 3]
    assert claims.verdict(CLAIM, within, otherwise=frozenset()) == claims.REPRODUCED
    monkeypatch.setattr(claims, "settled_otherwise", lambda: {CLAIM.claim})
    assert claims.verdict(CLAIM, within) == claims.UNDECIDED
    assert claims.verdict(CLAIM, within, source="twin") == claims.TWIN


@pytest.mark.parametrize("path", ["dense", "reference"])
def test_the_reference_path_is_a_setting(path, monkeypatch, tmp_path):
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path))
    for name, value in arithmetic.SETTINGS["reference"].items():
        monkeypatch.setenv(name, value if path == "reference" else "")
    x = np.random.default_rng(0).normal(size=(8, 2))
    scale = Scale("a", [Block("x", 2)], 1, [Head("x", 2)])
    before = training.tally.copy()
    rows = np.arange(8)
    training.train(
        scale,
        x,
        {"x": x},
        Replicas.cross([(rows, rows)]),
        epochs=1,
        batch_size=4,
        learning_rate=0.01,
    )
    assert training.tally[f"{path} replicas"] - before[f"{path} replicas"] == 1
