"""The declaration of scales: what is allowed, and how faults are told."""

import pickle

import numpy as np
import pytest
import torch
from conftest import told
from hypothesis import given
from hypothesis import strategies as st
from models import fine, tensors

from nestedae_utils.errors import ParameterError
from nestedae_utils.model import layers, networks
from nestedae_utils.model.scales import Block, Head, Scale

X = Block("x", 2)
CASES = {
    "no text": (lambda: Block("", 1), "block, name: '' given"),
    "a bar": (lambda: Head("a|b", 1), "'a|b' given, a text"),
    "a bool": (lambda: Block("x", True), "block 'x', width: True given"),
    "half": (lambda: Block("x", 1.5), "1.5 given, a whole number"),
    "a text": (lambda: Block("x", "3"), "'3' given, a whole number"),
    "nothing": (lambda: Block("x", 0), "0 given, a number of at least 1"),
    "missing": (lambda: Block("x"), "block 'x', width: is missing"),
    "a key": (lambda: Block("x", 1, foo=2), "foo: unknown key, one of name"),
    "near key": (lambda: Block("x", 1, widths=3), "mean 'width'?"),
    "near word": (
        lambda: Head("y", 1, activation="rely"),
        "head 'y', activation: 'rely' given, one of 'linear', 'tanh', "
        "'relu', 'sigmoid', 'elu' is allowed. Did you mean 'relu'?",
    ),
    "dropout": (lambda: Head("y", 1, dropout=1), "1 given, a number below 1"),
    "not finite": (lambda: Head("y", 1, weight=np.nan), "nan given, a finite"),
    "below": (lambda: fine(l1=-1.0), "-1.0 given, a number of at least 0"),
    "hidden": (lambda: Head("y", 1, hidden=(3, 0)), "hidden, item 2: 0 given"),
    "logits": (
        lambda: Head("y", 2, loss="cross_entropy", output="tanh"),
        "head 'y', output: 'tanh' given, only 'linear' is allowed",
    ),
    "twice": (lambda: Head("y", 2, of=("a", "a")), "each block may stand"),
    "no block": (lambda: fine(inputs=()), "inputs: 0 given, at least one"),
    "two blocks": (lambda: fine(inputs=(X, X)), "inputs: ['x', 'x'] given"),
    "of what": (
        lambda: fine(heads=(Head("y", 3, of=("X",)),)),
        "scale 'fine': head 'y', of: 'X' given, one of 'x' is allowed",
    ),
    "width": (
        lambda: fine(heads=(Head("x", 2),)),
        "heads, item 1, width: 2 given, but what head 'x' reconstructs has 3",
    ),
    "standard": (
        lambda: fine(heads=(Head("x", 3, loss="cross_entropy"),)),
        "give one-hot blocks the scaling 'none'",
    ),
    "net": (lambda: fine(net="convolution"), "net: 'convolution' given"),
    "code": (lambda: fine(code="vk"), "code: 'vk' given, one of 'plain'"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_one_line(case):
    declare, words = CASES[case]
    assert words in told(declare, error=ParameterError)


def test_numbers_of_numpy_are_plain_numbers():
    head = Head("y", np.int64(2), weight=np.float32(0.5))
    assert type(head.width) is int
    assert type(head.weight) is float


def test_kinds_of_heads():
    scale = fine(
        inputs=(X, Block("z", 1)),
        heads=(Head("both", 3, of=("z", "x")), Head("z", 1), Head("p", 1)),
    )
    assert [scale.blocks_of(h) for h in scale.heads] == [("z", "x"), ("z",), ()]
    assert [h.name for h in scale.predicted] == ["p"]
    assert {k: b.width for k, b in scale.blocks.items()} == {"x": 2, "z": 1, "p": 1}
    assert scale.width == 3


@st.composite
def scales(draw):
    """Draw a scale of up to two blocks and three heads."""
    widths = st.integers(1, 5)
    hidden = st.lists(widths, max_size=2)
    kinds = st.sampled_from(list(layers.ACTIVATIONS))
    kinds_of_b = draw(st.integers(2, 5))
    blocks = [Block("a", draw(widths)), Block("b", kinds_of_b, "none")]
    heads = [Head("b", blocks[1].width, "cross_entropy")]
    for name, width in (("a", blocks[0].width), ("t", draw(widths))):
        heads.append(
            Head(
                name,
                width,
                draw(st.sampled_from(["mae", "mse", "huber"])),
                weight=draw(st.sampled_from([0.5, 1.0, 3.0])),
                hidden=draw(hidden),
                activation=draw(kinds),
                dropout=draw(st.sampled_from([0.0, 0.3])),
                output=draw(kinds),
                gain=draw(st.sampled_from([0.5, 1.0])),
            )
        )
    return Scale(
        name="s",
        inputs=blocks,
        latent=draw(widths),
        heads=draw(st.permutations(heads)),
        hidden=draw(hidden),
        activation=draw(kinds),
        latent_activation=draw(kinds),
        l1=draw(st.sampled_from([0.0, 0.01])),
        l1_on=draw(st.sampled_from(["encoder", "all"])),
        initialisation=draw(st.sampled_from(["xavier_normal", "xavier_uniform"])),
    )


@given(scales())
def test_a_declaration_is_its_plain_values(scale):
    assert Scale(**scale.model_dump()) == scale == scale.with_()
    assert pickle.loads(pickle.dumps(scale)) == scale
    assert hash(scale.with_()) == hash(scale)
    drawn = networks.initial(scale, 0)
    assert sum(v.size for v in drawn.values()) == networks.parameter_count(scale)


@pytest.mark.parametrize("kind", ["xavier_normal", "xavier_uniform"])
def test_xavier(kind):
    scale = fine(
        inputs=(Block("x", 300),),
        heads=(Head("p", 200, hidden=(400,), gain=2.0),),
        hidden=(),
        latent=100,
        initialisation=kind,
    )
    drawn = networks.initial(scale, 3)
    fans = {"encoder.0": 400, "head p.0": 500, "head p.1": 600}
    for name, fan in fans.items():
        weight, gain = drawn[f"{name}.weight"], 1 + (name == "head p.0")
        assert weight.std() == pytest.approx(gain * (2 / fan) ** 0.5, rel=0.02)
        if kind == "xavier_uniform":
            assert np.abs(weight).max() <= gain * (6 / fan) ** 0.5
        assert not drawn[f"{name}.bias"].any()


def test_the_seed_alone_decides_the_first_weights():
    one, same, other = (networks.initial(fine(), s) for s in (1, 1, 2))
    assert all((one[k] == same[k]).all() for k in one)
    assert (one["encoder.0.weight"] != other["encoder.0.weight"]).any()


@pytest.mark.parametrize("kind", layers.ACTIVATIONS)
def test_a_pass_is_that_of_torch_layers(kind):
    head = Head("p", 2, hidden=(4,), activation=kind)
    scale = fine(heads=(head,), hidden=(5,), activation=kind)
    p = tensors({k: v[None] for k, v in networks.initial(scale, 0).items()}, 1)
    act = {"linear": torch.nn.Identity(), "elu": torch.nn.ELU()}.get(
        kind, getattr(torch, kind, None)
    )
    x = torch.randn(1, 7, 3, dtype=torch.float64)

    def linear(name, values):
        weight = p[f"{name}.weight"][0].T
        return torch.nn.functional.linear(values, weight, p[f"{name}.bias"][0, 0])

    z = torch.tanh(linear("encoder.1", act(linear("encoder.0", x))))
    out = linear("head p.1", act(linear("head p.0", z)))
    torch.testing.assert_close(networks.encode(scale, p, x), z)
    torch.testing.assert_close(networks.decode(head, p, z), out)


def test_row_metrics_of_categories():
    head = Head("k", 3, loss="cross_entropy")
    logits = torch.tensor([[2.0, -1.0, 0.5], [-1.0, -2.0, -3.0]])
    target = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    found = networks.row_metrics(head, logits, target)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(found["cross_entropy"], expected)
    assert found["accuracy"].tolist() == [1, 0]
    assert found["accuracy_as_made"].tolist() == pytest.approx([2 / 3, 2 / 3])
