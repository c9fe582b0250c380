"""Cells of crystals and their descriptor: there and back without loss."""

import numpy as np
import pytest
from conftest import told
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.chapters import cell_twin, crystals, descriptor


@st.composite
def frames(draw):
    """Return a table of some random cells of 5, 10, 15 or 20 atoms."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.integers(1, 4))
    frame = cell_twin.cells(draw(st.integers(0, 5)), rows)
    for row in range(rows):
        atoms = 5 * draw(st.integers(1, 4))
        symbols = random.choice(crystals.ELEMENTS.index, 3, replace=False)
        frame.loc[row, crystals.SPECIES] = symbols
        frame.loc[row, crystals.ROLES] = draw(st.permutations("ABX"))
        frame.loc[row, "formula"] = "".join(symbols)
        frame.loc[row, "atoms"] = atoms
        frame.loc[row, crystals.LENGTHS] = random.uniform(2, 30, 3)
        frame.loc[row, crystals.ANGLES] = random.uniform(62, 118, 3)
        places = np.zeros(120)
        places[: 3 * atoms] = random.uniform(-0.1, 1.1, 3 * atoms)
        frame.loc[row, crystals.PLACES] = places
    return frame


def same(found, cells):
    assert (found["number"] == cells["number"]).all()
    assert (found["site"] == cells["site"]).all()
    assert (found["atoms"] == cells["atoms"]).all()
    assert np.abs(found["lattice"] - cells["lattice"]).max() < 1e-5
    assert np.abs(found["positions"] - cells["positions"]).max() < 1e-6


@settings(max_examples=30)
@given(frames())
def test_there_and_back(frame):
    cells = crystals.cells(frame)
    raw = descriptor.raw(cells)
    assert raw.shape[1:] == (264, 60)
    assert raw[0].size == np.prod(descriptor.IMAGE)
    around = np.stack([raw.min(0) - 1, raw.max(0) + 2])  # of a larger table
    scaler = descriptor.Range.fit(np.concatenate([raw, around]))
    same(descriptor.invert(scaler.unscale(scaler.scale(raw))), cells)
    same(descriptor.of_blocks(descriptor.blocks(cells)), cells)
    stated = frame[crystals.ANGLES].to_numpy(float)
    assert np.allclose(descriptor.angles(cells["lattice"]), stated, atol=1e-6)


@settings(max_examples=20)
@given(frames())
def test_reciprocal_rows(frame):
    cells = crystals.cells(frame)
    lattice = cells["lattice"]
    duality = descriptor.reciprocal(lattice) @ lattice.swapaxes(1, 2)
    assert np.allclose(duality, 2 * np.pi * np.eye(3), atol=1e-9)
    s = descriptor.planes(cells)
    unit = [(e == descriptor.PLANES).all(1).argmax() for e in np.eye(3)]
    assert np.abs(s - s[..., unit] @ descriptor.PLANES.T).max() < 1e-4
    # the planes h, k, l of any cell: points r with h . r = 1 lie d away
    normal = descriptor.PLANES @ descriptor.reciprocal(lattice)
    size = np.linalg.norm(normal, axis=-1)
    d = descriptor.distances(lattice)
    assert np.allclose(np.where(size > 0, d * size, 2 * np.pi), 2 * np.pi)
    # a wrapped phase is blind to whole lattice vectors, the printed sum is not
    moved = {**cells, "positions": cells["positions"].copy()}
    moved["positions"][:, 0] += [1, 0, 0]
    wrapped = [descriptor.planes(one, wrapped=True) for one in (cells, moved)]
    turned = np.abs(np.exp(2j * wrapped[0]) - np.exp(2j * wrapped[1])).max()
    assert turned < 1e-3
    assert np.abs(descriptor.planes(moved) - s).max() > 1


def test_planes_and_right_angles():
    assert len(descriptor.ALL_PLANES) == 63
    assert len(descriptor.PLANES) == 57
    cubic = np.eye(3)[None] * [[[4.0], [5.0], [6.0]]]
    both = [descriptor.distances(cubic, exact) for exact in (True, False)]
    assert np.allclose(*both)
    skewed = cubic + np.eye(3, k=-1)
    both = [descriptor.distances(skewed, exact) for exact in (True, False)]
    assert not np.allclose(*both)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("element1", "Zz", "'Zz' found, one of H to Pu"),
        ("atoms", 25, "a multiple of 5 up to 20"),
        ("site1", "X", "each of A, B, X once"),
        ("a", np.nan, "not finite"),
        ("x1", np.inf, "not finite"),
        ("gamma", 0.0, "singular"),
        ("alpha", 180.0, "singular"),
        ("x40", 0.1, "behind the last atom"),
        ("formula", "NaCl", "those listed"),
    ],
)
def test_wrong_cells_are_told_in_a_line(column, value, words):
    frame = cell_twin.cells(rows=3)
    frame.loc[1, column] = value
    line = told(crystals.cells, frame)
    assert "cells: row 1" in line
    assert words in line


def test_canonical_cells_forget_origin_and_order():
    frame = cell_twin.cells(rows=20)
    cells, random = crystals.cells(frame), np.random.default_rng(0)
    kind = crystals.labels(cells)
    assert (kind == descriptor.listed(cells)).all()
    moved = cells["positions"].copy()
    for row, own in enumerate(moved):
        inside = kind[row] >= 0
        own[inside] = (own[inside] + random.random(3)) % 1
        for element in (0, 2):  # another first B is another origin
            some = np.flatnonzero(kind[row] == element)
            own[some] = own[random.permutation(some)]
    both = [crystals.canonical(one) for one in (cells, {**cells, "positions": moved})]
    assert np.allclose(*(one["positions"] for one in both), atol=1e-5)


def test_public_tables(public):
    tables = crystals.load("paper", cell_twin.TWINS)
    assert tables.cells.shape == (4200, 139)
    assert len(tables.candidates) == 4
    same(
        descriptor.invert(descriptor.raw(cells := crystals.cells(tables.candidates))),
        cells,
    )


def test_twin_has_the_columns_and_passes_the_door():
    tables = crystals.load("twin", cell_twin.TWINS)
    assert set(tables.cells) == set(crystals.COLUMNS)
    cells = crystals.cells(tables.cells)
    assert set(cells["atoms"]) == {5, 10, 20}
    assert 0.3 < (tables.cells["energy"] <= -1.5).mean() < 0.8
