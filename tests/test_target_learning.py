"""The convolution, the screens and the scores of generated cells."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from nestedae_utils.chapters import (
    cell_twin,
    crystals,
    generated,
    latent_scores,
    screening,
    target_learning,
)
from nestedae_utils.errors import DataError


def perovskite(edge=3.905, symbols=("Sr", "Ti", "O")):
    """Return one cubic cell of ABX3 as arrays."""
    frame = cell_twin.cells(rows=1)
    places = [0.5, 0.5, 0.5, 0, 0, 0, 0.5, 0, 0, 0, 0.5, 0, 0, 0, 0.5]
    frame.loc[0, crystals.PLACES] = np.array(places + [0] * 105, float)
    frame.loc[0, crystals.SPECIES] = list(symbols)
    frame.loc[0, ["formula", "atoms"]] = ["".join(symbols), 5]
    frame.loc[0, crystals.LENGTHS] = edge
    frame.loc[0, crystals.ANGLES] = 90.0
    return crystals.cells(frame)


@pytest.mark.parametrize("piece", [4, 256])
def test_the_grouped_convolution_is_torchs_own_in_a_loop(piece, monkeypatch):
    monkeypatch.setattr(target_learning, "PIECE", piece)
    net, hidden = target_learning.convolution(7, 6, 2), (3, 4)
    generator = torch.Generator().manual_seed(0)
    shapes, p = net.shapes("encoder", hidden, 84, 5, 1.0), {}
    for name, (rows, columns, _) in shapes.items():
        for part, n in (("weight", rows), ("bias", 1)):
            drawn = torch.randn(3, n, columns, generator=generator, dtype=torch.double)
            p[f"{name}.{part}"] = drawn.requires_grad_()
    x = torch.randn(3, 9, 84, generator=generator, dtype=torch.double)
    found = net.apply("encoder", ["relu", "tanh", "linear"], p, x)
    for r in range(3):  # replica by replica, with nn's layout of filters
        y = x[r].reshape(9, 7, 6, 2).permute(0, 3, 1, 2)
        for layer, (deep, kind) in enumerate(((2, torch.relu), (3, torch.tanh))):
            weight = p[f"encoder.{layer}.weight"][r].T.reshape(-1, deep, 3, 3)
            bias = p[f"encoder.{layer}.bias"][r, 0]
            y = kind(functional.conv2d(y, weight, bias, stride=2, padding=1))
        y = y.flatten(1) @ p["encoder.2.weight"][r] + p["encoder.2.bias"][r]
        assert torch.allclose(found[r], y)
    # a replica's gradient knows nothing of its neighbours
    slopes = torch.autograd.grad(found[1].square().sum(), list(p.values()))
    assert all(not s[0].any() and not s[2].any() and s[1].any() for s in slopes)


def test_slerp():
    first, second = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    middle = generated.slerp(first, second, np.array([0.5]))[0, 0]
    assert np.allclose(middle, np.sqrt([0.5, 0.5]))
    ends = generated.slerp(first, 3 * second, np.array([0.0, 1.0]))[0]
    assert np.allclose(ends, [[1, 0], [0, 3]])
    assert np.allclose(generated.straight(first, second, np.array([0.5]))[0, 0], 0.5)


def test_points_are_where_their_names_say():
    stable = np.random.default_rng(0).normal(5, 1, (30, 4))
    found = generated.points(stable, stable, 40, 3, 0)
    assert {len(own) for own in found.values()} == {120}
    assert np.abs(found["fitted Gaussian"].mean(0) - 5).max() < 1
    assert np.abs(found["prior N(0, 1)"].mean(0)).max() < 0.5


def test_an_ideal_perovskite_passes_and_a_shaken_one_does_not():
    ideal = perovskite()
    assert generated.chemistry(ideal).all()
    assert generated.geometry(ideal).all()
    assert generated.connected(ideal).all()
    shortest, around = generated.bonds(ideal)
    assert shortest[0] == pytest.approx(3.905 / np.sqrt(2))
    assert around[0]["Ti"] == [6]
    assert around[0]["Sr"] == [12]
    assert not generated.geometry(perovskite(edge=2.0)).any()
    off = {**ideal, "positions": ideal["positions"] + 0.0}
    off["positions"][0, 2] = [0.05, 0, 0]  # an oxygen on top of Ti
    assert not generated.geometry(off).any()
    assert not generated.connected(off).any()
    assert not generated.chemistry(perovskite(symbols=("Na", "Ti", "O"))).any()
    assert not generated.chemistry(perovskite(symbols=("Sr", "O", "Ti"))).any()


def test_distances_see_the_images_of_a_skewed_cell():
    lattice = np.array([[3.0, 0, 0], [2.9, 1.0, 0], [0, 0, 5]])
    place = np.zeros((1, 3))
    found = generated.between(lattice, place, place, 3.2)
    # b - a is 1.005 long
    assert found.min() == pytest.approx(np.hypot(0.1, 1.0))


def test_matching_ignores_origin_elements_and_size(tmp_path):
    one = screening.structure(perovskite(), 0)
    moved = perovskite(edge=4.2, symbols=("K", "Mg", "F"))
    moved["positions"][0, :5] = (moved["positions"][0, :5] + 0.3) % 1
    assert screening.is_like(one, screening.structure(moved, 0))
    tilted = cell_twin.cells(rows=60)  # of twice the cell
    row = int(np.flatnonzero(tilted["atoms"] == 10)[0])
    assert screening.is_like(one, screening.structure(crystals.cells(tilted), row))
    assert screening.space_group(one) == "Pm-3m"
    path = screening.write_cif(one, tmp_path / "a.cif", "of a test")
    assert path.read_text().startswith("# of a test\n# generated using pymatgen")


def test_a_threshold_that_leaves_one_class_is_told_in_a_line():
    with pytest.raises(DataError, match="threshold: -9 eV/atom leaves one class"):
        latent_scores.classes(np.array([-1.0, 0.0]), -9)
    assert latent_scores.classes(np.array([-2.0, 0.0]), -1.5).tolist() == [
        [0, 1],
        [1, 0],
    ]


def test_folds_keep_groups_whole():
    groups = np.random.default_rng(0).integers(0, 40, 200)
    splits = latent_scores.folds(groups)
    assert sorted(np.concatenate([held for _, held in splits])) == list(range(200))
    for seen, held in splits:
        assert not set(groups[seen]) & set(groups[held])
    replicas = latent_scores.thirds(splits, 2)
    for (seen, held), (whole, same) in zip(replicas.splits, splits, strict=False):
        assert (held == same).all()
        assert set(seen) < set(whole)


def test_the_mean_cell_knows_only_the_size():
    atoms, seen = np.array([5, 5, 10, 10]), np.array([0, 2])
    truth = {"cell": np.arange(8.0).reshape(4, 2)}
    found = latent_scores.same_size(truth, atoms, seen)["cell"]
    assert (found == truth["cell"][[0, 0, 2, 2]]).all()


def test_neighbours_and_axes_find_an_order():
    random = np.random.default_rng(0)
    z = random.standard_normal((300, 3))
    own, held = np.arange(200), np.arange(200, 300)
    assert latent_scores.neighbours(z, z[:, 0], own, held) > 0.6
    noise = random.standard_normal(300)
    assert latent_scores.neighbours(z, noise, own, held) < 0.1
    assert latent_scores.axes(z, z[:, 1] < 0).argmax() == 1
