"""Models in files: what is read back, and what is refused."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import told
from models import SETTINGS, coarse, fine, replicas, tables

from nestedae_utils.errors import DataError
from nestedae_utils.model import files
from nestedae_utils.model.chain import fit


@pytest.fixture(scope="module")
def chain():
    """Return a fitted chain."""
    return fit([fine(), coarse("refitted")], tables(), replicas(2, 2), **SETTINGS)


@pytest.fixture
def path(chain, tmp_path):
    """Return the path of its file."""
    return files.save(chain, tmp_path / "chain.pt", {"kinds": ["a", "b"]})


def test_save_and_load(chain, path):
    again = files.load(path, [fine(), coarse("refitted")])
    table = tables(9, 2)
    assert (again.encode(table) == chain.encode(table)).all()
    assert (
        again.seen_by("coarse").encode(table, "fine")
        == chain.seen_by("coarse").encode(table, "fine")
    ).all()
    found = again.fitted["coarse"].replicas
    assert found.labels["seed"].tolist() == [0, 1, 0, 1]
    assert len(again.take([1, 3]).encode(table)) == 2
    assert files.load_extra(path) == {"kinds": ["a", "b"]}


def test_a_failed_save_leaves_what_was_there(chain, path, monkeypatch):
    before = path.read_bytes()

    def full(beside, content):
        beside.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="cannot be written .No space left"):
        files.save(chain, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there(chain, tmp_path):
    line = told(files.save, chain, tmp_path / "no" / "chain.pt")
    assert "cannot be written" in line


class Bomb:
    """What pickle would call."""

    def __reduce__(self):
        return (open, ("pwned", "w"))


def altered(path, change):
    """Write a file anew with a change of its content."""
    payload = torch.load(path, weights_only=True)
    payload["json"] = json.loads(payload["json"])
    change(payload)
    payload["json"] = json.dumps(payload["json"])
    torch.save(payload, path)


def tensor(payload, ending):
    """Return the name of a tensor."""
    return next(k for k in payload["tensors"] if k.endswith(ending))


def no_number(payload):
    """Make a number none."""
    payload["tensors"][tensor(payload, "bias")][0, 0, 0] = np.nan


FAULTS = {
    "absent": (lambda p: p.unlink(), "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "not a saved model"),
    "text": (lambda p: p.write_text("x,y\n1,2\n"), "not a saved model"),
    "cut short": (
        lambda p: p.write_bytes(p.read_bytes()[:-900]),
        "not a saved model, or cut short",
    ),
    "pickle": (lambda p: p.write_bytes(pickle.dumps(Bomb())), "not a saved model"),
    "code in it": (
        lambda p: torch.save({"json": "{}", "tensors": Bomb()}, p),
        "not a saved model",
    ),
    "another payload": (lambda p: torch.save([1, 2], p), "not a saved model"),
    "format 1": (
        lambda p: torch.save({"format": 1, "scales": "[]", "tensors": {}}, p),
        "format 1 found, format 2 is allowed; fit and save it anew",
    ),
    "format 9": (
        lambda p: altered(p, lambda c: c["json"].update(format=9)),
        "format 9 found",
    ),
    "declaration": (
        lambda p: altered(p, lambda c: c["json"]["scales"][0].update(latent=0)),
        "latent: 0 given, a number of at least 1",
    ),
    "shape": (
        lambda p: altered(
            p,
            lambda c: c["tensors"].update(
                {tensor(c, "encoder.0.weight"): torch.ones(4, 2, 6)}
            ),
        ),
        "'fine' is incomplete",
    ),
    "no scaler": (
        lambda p: altered(p, lambda c: c["tensors"].pop("fine|mean||x")),
        "fit anew",
    ),
    "nan": (lambda p: altered(p, no_number), "incomplete"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_refused(case, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    fault, words = FAULTS[case]
    fault(path)
    line = told(files.load, path)
    assert words in line
    assert line.startswith(str(path))
    assert not (path.parent / "pwned").exists(), "code was run"


def test_an_altered_byte(path):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    content[largest.header_offset + largest.file_size // 2 + 90] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="altered|incomplete|not a saved"):
        files.load(path)


def test_a_file_of_other_settings(path):
    line = told(files.load, path, [fine(l1=0.5), coarse("refitted")])
    assert "'fine' was saved with l1 = 0.001" in line
    assert "saved with the scales" in told(files.load, path, [fine()])
