"""Codes with a constraint, held against their definitions and a plain one."""

import numpy as np
import pytest
import torch
from models import SETTINGS, fine, replicas, tables

from nestedae_utils.errors import ParameterError
from nestedae_utils.model import cache, dense, files, networks, training
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.model.layers import CODES
from nestedae_utils.model.scales import Head
from nestedae_utils.study import codes

NAMES = ("gaussian", "mmd", "vq")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Train anew in every test, and draw the same."""
    torch.manual_seed(0)
    monkeypatch.setattr(cache, "load", lambda key: None)
    monkeypatch.setattr(cache, "store", lambda key, arrays: None)


def scale(code="plain", **changes):
    fields = {"heads": (Head("x", 3, loss="mse"),), "latent_activation": "linear"}
    return fine(**{**fields, "code": code, "codebook": 9, "l1": 0.0, **changes})


def passed(one, p, x, **given):
    """Return the loss of a batch and the slopes of all parameters."""
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    total = networks.row_losses(one, leaves, x, [x], **given)[0]
    loss = total.mean(-1).sum()
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), dict(zip(leaves, slopes, strict=True))


def setup(one, seed=0):
    drawn = networks.initial(one, seed)
    p = {k: torch.tensor(v[None], dtype=torch.float64) for k, v in drawn.items()}
    return p, torch.tensor(tables()["x"])[None]


@pytest.mark.parametrize("name", ["gaussian", "mmd"])
def test_gradients_are_those_of_finite_differences(name):
    one = scale(name, code_weight=0.7)
    p, x = setup(one)
    noise = torch.randn(1, 40, CODES[name].noise(2), dtype=x.dtype)
    _, slopes = passed(one, p, x, noise=noise)
    for key, slope in slopes.items():
        way, step = torch.randn_like(p[key]), 1e-6
        ends = [
            passed(one, {**p, key: p[key] + side * step * way}, x, noise=noise)[0]
            for side in (1, -1)
        ]
        there = (ends[0] - ends[1]) / (2 * step)
        assert float((slope * way).sum()) == pytest.approx(float(there), abs=1e-7)


def test_gradients_of_the_codebook_and_through_it():
    """Each of VQ's terms against differences with the other side held still."""
    columns = torch.randn(1, 40, 2, dtype=torch.float64)
    p = {"codebook.weight": 0.1 * torch.randn(1, 9, 2, dtype=torch.float64)}
    p["codebook.bias"] = torch.zeros(1, 1, 2, dtype=torch.float64)
    index = codes.nearest_rows(columns, p)[0]
    leaves = [columns.requires_grad_(), p["codebook.weight"].requires_grad_()]
    total = CODES["vq"].penalty(columns, columns, p, None).sum()
    to_columns, to_book = torch.autograd.grad(total, leaves)
    apart = (columns - codes.codebook(p)[:, index]).detach()
    torch.testing.assert_close(to_columns, 2 * codes.BETA * apart)
    summed = torch.zeros(9, 2, dtype=apart.dtype).index_add_(0, index, -2 * apart[0])
    torch.testing.assert_close(to_book[0], summed)
    z = CODES["vq"].apply(columns, None, p)
    torch.testing.assert_close(z, codes.codebook(p)[:, index])
    (through,) = torch.autograd.grad((z**2).sum(), columns)
    torch.testing.assert_close(through, 2 * z.detach())


def test_the_discrepancy_is_that_of_many_draws():
    """MMD^2 in closed form against a sample of the prior, for some weights."""
    z = torch.randn(1, 6, 2, dtype=torch.float64) + 0.5
    weights = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2, 0.0]], dtype=torch.float64)
    found = (CODES["mmd"].penalty(z, z, {}, weights) * weights).sum()
    draws = torch.randn(4000, 2, dtype=z.dtype)

    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b).square() / 4).mean()

    rows = z[0, :5]
    expected = kernel(rows, rows) + kernel(draws, draws) - 2 * kernel(rows, draws)
    assert float(found) == pytest.approx(float(expected), abs=0.02)
    normal = torch.randn(1, 2000, 2, dtype=z.dtype)
    assert 0 < float(CODES["mmd"].penalty(normal, normal, {}, None).mean()) < 0.003


def test_the_divergence_is_none_only_for_the_prior():
    assert not CODES["gaussian"].penalty(torch.zeros(1, 1, 4), None, {}, None).any()
    one = CODES["gaussian"].penalty(torch.tensor([[[2.0, 0, 0, 1]]]), None, {}, None)
    assert float(one) == pytest.approx((4 + np.e - 2) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_code_without_weight_is_a_plain_autoencoder(name):
    """In loss and gradients, at the same encoder and without noise.

    VQ's decoder then sees the encoder's own numbers where each is a row of
    the codebook.
    """
    one = scale(name, code_weight=0.0, codebook=40)
    p, x = setup(one)
    if name == "vq":
        columns = networks.columns_of(one, p, x)
        p["codebook.weight"] = columns - codes.mesh(40, 2)
    cut = {k: v[..., :2] if k[:9] == "encoder.1" else v for k, v in p.items()}
    plain, slopes = passed(
        scale(), {k: v for k, v in cut.items() if "book" not in k}, x
    )
    loss, found = passed(one, p, x)
    assert float(loss) == pytest.approx(float(plain), rel=1e-12)
    for key, slope in slopes.items():
        same = found[key][..., :2] if key[:9] == "encoder.1" else found[key]
        torch.testing.assert_close(same, slope)
    for key in {*p} - {*slopes}:
        assert found[key] is None or not found[key].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_replica_alone_equals_itself_among_fifty(name):
    """Also one whose batches are fewer than its neighbours'."""
    one, table = scale(name, code_weight=0.1), tables()
    assert not dense.knows(one)
    many = replicas(5, 10)
    together = training.train(one, table["x"], {"x": table["x"]}, many, **SETTINGS)
    for place in (0, 17, 49):
        alone = training.train(
            one, table["x"], {"x": table["x"]}, many.take([place]), **SETTINGS
        )
        for key, value in alone.parameters.items():
            same = together.parameters[key][place]
            np.testing.assert_allclose(value[0], same, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_acts_and_training_lowers_the_penalty(name):
    table, ends = tables(), {}
    for weight in (0.0, 5.0):
        one = scale(name, code_weight=weight)
        settings = {**SETTINGS, "epochs": 150}
        chain = NestedAutoencoder([one]).fit_scale(
            "fine", table, replicas(), **settings
        )
        columns = codes.before(chain, "fine", table)
        p, _ = chain.fitted["fine"].together(columns)
        z = CODES[name].apply(columns, None, p)
        ends[weight] = float(CODES[name].penalty(columns, z, p, None).mean())
    assert ends[5.0] < ends[0.0] / 2


@pytest.mark.parametrize("name", NAMES)
def test_save_load_encode(name, tmp_path):
    one, table = scale(name), tables()
    chain = NestedAutoencoder([one]).fit_scale("fine", table, replicas(), **SETTINGS)
    again = files.load(files.save(chain, tmp_path / "a.pt"), [one])
    np.testing.assert_array_equal(chain.encode(table), again.encode(table))
    assert chain.encode(table).shape == (2, 40, 2)
    columns = codes.before(again, "fine", table)
    assert columns.shape == (2, 40, CODES[name].width(2))
    if name == "vq":
        p, _ = again.fitted["fine"].together(columns)
        z = torch.tensor(again.encode(table))
        apart = torch.cdist(z, codes.codebook(p)).amin(-1)
        assert float(apart.max()) < 1e-6 < float((z - columns).abs().max())


def test_a_mesh_has_as_many_rows_as_asked_for_and_none_twice():
    ten = codes.mesh(100, 2)
    assert [len(ten[:, k].unique()) for k in (0, 1)] == [10, 10]
    for rows, size in ((2, 1), (2, 3), (7, 2), (64, 6), (512, 8)):
        found = codes.mesh(rows, size)
        assert found.shape == (rows, size) == (len(found.unique(dim=0)), size)
        assert float(found.abs().max()) == codes.EXTENT


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codebook": 1}, "codebook: 1 given, a number of at least 2 is allowed"),
        ({"code_weight": -1.0}, "code_weight: -1.0 given, a number of at least 0"),
        ({"latent": 0}, "latent: 0 given, a number of at least 1 is allowed"),
        ({"code": "vk"}, "'vk' given, one of .*'vq'"),
    ],
)
def test_what_is_refused(changes, words):
    with pytest.raises(ParameterError, match=words):
        scale(**changes)
