"""Declarations, first weights, the backward pass, devices."""

import json
import string
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nestedae_utils.errors import ParameterError
from nestedae_utils.model import scales
from nestedae_utils.model.scales import (
    ACTIVATIONS,
    INITIALISATIONS,
    LOSSES,
    SCALINGS,
    Block,
    Head,
    Network,
    Scale,
    initial_parameters,
    layers_of,
    parameter_count,
    resolve_device,
)
from nestedae_utils.model.training import train

X = Block("x", 3)
C = Block("c", 2, scaling="none")


def toy(**changes):
    settings = {
        "name": "toy",
        "inputs": (X, C),
        "latent": 2,
        "heads": (Head("x", 3), Head("y", 1, hidden=(4,))),
    }
    return Scale(**{**settings, **changes})


def weights(scale, flat):
    """Return every layer's weight matrix and biases, cut by hand."""
    cut, start = {}, 0
    for layer in layers_of(scale):
        middle = start + layer.rows * layer.columns
        stop = middle + layer.columns
        cut[layer.name] = (
            flat[..., start:middle].reshape(
                *flat.shape[:-1], layer.rows, layer.columns
            ),
            flat[..., middle:stop],
        )
        start = stop
    assert start == flat.shape[-1]
    return cut


# --- Declarations ---------------------------------------------------------

ERRORS = {
    "no latents": (
        lambda: toy(latent=0),
        ["scale 'toy', latent: 0 given", "whole number of at least 1"],
    ),
    "half a latent": (
        lambda: toy(latent=1.5),
        ["latent: 1.5 given", "whole number of at least 1"],
    ),
    "a truth value": (lambda: toy(latent=True), ["latent: True given"]),
    "a hidden width of zero": (
        lambda: toy(hidden=(4, 0)),
        ["scale 'toy', hidden: 0 given", "of at least 1"],
    ),
    "a head's hidden width of zero": (
        lambda: Head("y", 1, hidden=(0,)),
        ["head 'y', hidden: 0 given", "of at least 1"],
    ),
    "negative weight": (
        lambda: Head("y", 1, weight=-0.5),
        ["head 'y', weight: -0.5 given", "finite number of at least 0"],
    ),
    "weight not a number": (
        lambda: Head("y", 1, weight=float("nan")),
        ["head 'y', weight: nan given", "finite number of at least 0"],
    ),
    "negative L1": (
        lambda: toy(l1=-0.01),
        ["scale 'toy', l1: -0.01 given", "finite number of at least 0"],
    ),
    "infinite L1": (lambda: toy(l1=float("inf")), ["l1: inf given"]),
    "L1 as text": (lambda: toy(l1="0.01"), ["l1: '0.01' given"]),
    "gain of zero": (
        lambda: Head("y", 1, gain=0),
        ["head 'y', gain: 0 given", "above 0"],
    ),
    "everything dropped": (
        lambda: Head("y", 1, dropout=1),
        ["head 'y', dropout: 1 given", "from 0 to 0.99"],
    ),
    "unknown loss": (
        lambda: Head("y", 1, loss="hubert"),
        ["head 'y', loss: 'hubert' given", "Did you mean 'huber'?"],
    ),
    "unknown activation": (
        lambda: toy(activation="relux"),
        ["activation: 'relux' given", "'tanh'", "Did you mean 'relu'?"],
    ),
    "unknown latent activation": (
        lambda: toy(latent_activation="tan"),
        ["latent_activation: 'tan' given", "Did you mean 'tanh'?"],
    ),
    "unknown activation of a head": (
        lambda: Head("y", 1, activation="sigmoids"),
        ["head 'y', activation: 'sigmoids'", "Did you mean 'sigmoid'?"],
    ),
    "unknown output": (
        lambda: Head("y", 1, output="lineal"),
        ["head 'y', output: 'lineal' given", "Did you mean 'linear'?"],
    ),
    "unknown scaling": (
        lambda: Block("x", 3, scaling="standards"),
        ["block 'x', scaling: 'standards'", "Did you mean 'standard'?"],
    ),
    "unknown scaling of a head": (
        lambda: Head("y", 1, scaling="nonne"),
        ["head 'y', scaling: 'nonne' given", "Did you mean 'none'?"],
    ),
    "unknown lower scaler": (
        lambda: Block("z", 2, latents_of="low", lower_scaler="refited"),
        ["block 'z', lower_scaler", "Did you mean 'refitted'?"],
    ),
    "unknown initialisation": (
        lambda: toy(initialisation="xavier_norm"),
        ["initialisation: 'xavier_norm'", "Did you mean 'xavier_normal'?"],
    ),
    "unknown place of L1": (
        lambda: toy(l1_on="decoder"),
        ["l1_on: 'decoder' given", "'encoder', 'all' is allowed"],
    ),
    "cross-entropy of tanh": (
        lambda: Head("c", 2, loss="cross_entropy", output="tanh"),
        ["head 'c', output: 'tanh' given", "'linear'", "'cross_entropy'"],
    ),
    "two blocks of one name": (
        lambda: toy(inputs=(X, X)),
        ["scale 'toy', inputs: ['x', 'x'] given", "name of its own"],
    ),
    "two heads of one name": (
        lambda: toy(heads=(Head("y", 1), Head("y", 1))),
        ["scale 'toy', heads: ['y', 'y'] given", "name of its own"],
    ),
    "no block": (
        lambda: toy(inputs=()),
        ["scale 'toy', inputs: [] given", "at least one"],
    ),
    "no head": (lambda: toy(heads=()), ["toy", "heads: [] given"]),
    "a block of width zero": (
        lambda: Block("x", 0),
        ["block 'x', width: 0 given", "of at least 1"],
    ),
    "a head of width zero": (
        lambda: Head("y", 0),
        ["head 'y', width: 0 given", "of at least 1"],
    ),
    "a reconstruction of the wrong width": (
        lambda: toy(heads=(Head("x", 4),)),
        ["scale 'toy', head 'x', width: 4 given", "has 3 columns"],
    ),
    "a reconstruction of two, of the wrong width": (
        lambda: toy(heads=(Head("both", 4, of=("x", "c")),)),
        ["head 'both', width: 4 given", "has 5 columns"],
    ),
    "a reconstruction of an unknown block": (
        lambda: toy(
            inputs=(Block("ions", 3),), heads=(Head("a", 3, of=("ion",)),)
        ),
        ["head 'a', of: 'ion' given", "'ions'", "Did you mean 'ions'?"],
    ),
    "a block reconstructed twice by one head": (
        lambda: toy(heads=(Head("twice", 6, of=("x", "x")),)),
        ["head 'twice', of", "'x'"],
    ),
    # The cross-entropy of standardised columns has no meaning.
    "categories that are standardised": (
        lambda: toy(heads=(Head("x", 3, loss="cross_entropy"),)),
        ["head 'x'", "cross_entropy", "'none'"],
    ),
    "a target of categories that is standardised": (
        lambda: Head("y", 3, loss="cross_entropy", scaling="standard"),
        ["head 'y'", "cross_entropy", "'none'"],
    ),
    # "|" separates names in saved files, and "" means the last scale.
    "a separator in a block's name": (lambda: Block("a|b", 1), ["'a|b'"]),
    "a separator in a head's name": (lambda: Head("a|b", 1), ["'a|b'"]),
    "a separator in a scale's name": (lambda: toy(name="a|b"), ["'a|b'"]),
    "no name": (lambda: toy(name=""), ["name: '' given"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_declaration_errors(case):
    declare, words = ERRORS[case]
    with pytest.raises(ParameterError) as caught:
        declare()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_from_dict_errors():
    plain = toy().to_dict()
    for wrong in (
        {**plain, "latents": 3},
        {key: value for key, value in plain.items() if key != "latent"},
        {key: value for key, value in plain.items() if key != "heads"},
        {**plain, "inputs": [{"name": "x", "columns": 3}]},
        None,
    ):
        with pytest.raises(ParameterError, match="does not fit.*keys are"):
            Scale.from_dict(wrong)
    with pytest.raises(ParameterError, match="latent: 0 given"):
        Scale.from_dict({**plain, "latent": 0})


words = st.text(string.ascii_lowercase + "_ ", min_size=1, max_size=6)
widths = st.integers(1, 9)
hidden = st.lists(widths, max_size=3).map(tuple)
activations = st.sampled_from(list(ACTIVATIONS))


@st.composite
def heads(draw, name, width, of=(), one_hot=False):
    scaling = draw(st.sampled_from(SCALINGS))
    losses = list(LOSSES)
    if not (one_hot or (scaling == "none" and not of)):
        losses.remove("cross_entropy")
    loss = draw(st.sampled_from(losses))
    return Head(
        name,
        width,
        loss=loss,
        weight=draw(st.floats(0, 10)),
        hidden=draw(hidden),
        activation=draw(activations),
        dropout=draw(st.floats(0, 0.99)),
        output="linear" if loss == "cross_entropy" else draw(activations),
        gain=draw(st.floats(0.1, 20)),
        scaling="none" if loss == "cross_entropy" else scaling,
        of=of,
    )


@st.composite
def valid_scales(draw):
    names = draw(st.lists(words, min_size=3, max_size=6, unique=True))
    count = draw(st.integers(1, len(names) - 2))
    latents_of = st.one_of(st.just(""), words)
    blocks = tuple(
        Block(
            name,
            draw(widths),
            draw(st.sampled_from(SCALINGS)),
            draw(latents_of),
            draw(st.sampled_from(scales.SCALERS)),
        )
        for name in names[:count]
    )
    several = draw(st.lists(st.sampled_from(blocks), min_size=1, unique=True))
    made = [
        draw(heads(names[-1], draw(widths))),
        draw(
            heads(
                names[-2],
                sum(block.width for block in several),
                tuple(block.name for block in several),
                all(block.scaling == "none" for block in several),
            )
        ),
        *(
            draw(
                heads(
                    block.name,
                    block.width,
                    (block.name,),
                    block.scaling == "none",
                )
            )
            for block in draw(st.lists(st.sampled_from(blocks), unique=True))
        ),
    ]
    return Scale(
        draw(words),
        blocks,
        draw(widths),
        tuple(draw(st.permutations(made))),
        hidden=draw(hidden),
        activation=draw(activations),
        latent_activation=draw(activations),
        l1=draw(st.floats(0, 1)),
        l1_on=draw(st.sampled_from(scales.PENALISED)),
        initialisation=draw(st.sampled_from(INITIALISATIONS)),
    )


@given(valid_scales())
@settings(max_examples=60, deadline=None)
def test_declarations_survive_json(scale):
    text = json.dumps(scale.to_dict())
    again = Scale.from_dict(json.loads(text))
    assert again == scale
    assert hash(again) == hash(scale)
    assert json.dumps(again.to_dict()) == text


@given(valid_scales())
@settings(max_examples=60, deadline=None)
def test_parameter_count(scale):
    def chain(*widths):
        pairs = zip(widths[:-1], widths[1:], strict=True)
        return sum((rows + 1) * columns for rows, columns in pairs)

    inputs = sum(block.width for block in scale.inputs)
    count = chain(inputs, *scale.hidden, scale.latent)
    for head in scale.heads:
        count += chain(scale.latent, *head.hidden, head.width)
    assert parameter_count(scale) == count
    assert len(initial_parameters(scale, 0)) == count


def test_numpy_numbers_are_plain_numbers():
    """NumPy's integers come from a range of latents, say."""
    head = Head(
        "y",
        np.int64(1),
        weight=np.float32(0.5),
        hidden=np.array([4]),
        dropout=np.float32(0.25),
    )
    scale = toy(
        inputs=(Block("x", np.int64(3)),),
        latent=np.int64(2),
        heads=(head,),
        hidden=np.array([5, 4]),
        l1=np.float32(0.5),
    )
    text = json.dumps(scale.to_dict())
    assert Scale.from_dict(json.loads(text)) == scale


def test_kinds_of_heads():
    scale = toy(
        heads=(
            Head("y", 1),
            Head("c", 2),
            Head("both", 5, of=("c", "x")),
        )
    )
    assert scale.width == 5
    assert [head.name for head in scale.predicted] == ["y"]
    assert [head.name for head in scale.reconstructed] == ["c", "both"]
    blocks = [scale.blocks_of(head) for head in scale.heads]
    assert blocks == [(), ("c",), ("c", "x")]


# --- First weights --------------------------------------------------------

WIDE = Scale(
    "wide",
    (Block("x", 200),),
    100,
    (Head("x", 200), Head("y", 150, hidden=(120, 80), gain=10.0)),
    hidden=(160,),
)


@pytest.mark.parametrize("kind", INITIALISATIONS)
def test_xavier(kind):
    scale = replace(WIDE, initialisation=kind)
    cut = weights(scale, initial_parameters(scale, 5))
    gains = {"head y.0": 10, "head y.1": 10}
    assert list(cut) == [
        "encoder.0",
        "encoder.1",
        "head x.0",
        "head y.0",
        "head y.1",
        "head y.2",
    ]
    for name, (weight, bias) in cut.items():
        assert not bias.any()
        fan = sum(weight.shape)
        spread = gains.get(name, 1) * np.sqrt(2 / fan)
        assert weight.std() == pytest.approx(spread, rel=0.03)
        assert weight.mean() == pytest.approx(0, abs=0.04 * spread)
        bound = gains.get(name, 1) * np.sqrt(6 / fan)
        if kind == "xavier_uniform":
            assert 0.99 * bound < np.abs(weight).max() <= bound * 1.000001
        else:
            assert np.abs(weight).max() > 1.3 * bound


def test_first_weights_depend_on_the_seed_only():
    first = initial_parameters(WIDE, 3)
    np.random.default_rng(0).random(10)
    np.random.seed(1)
    torch.manual_seed(1)
    np.testing.assert_array_equal(first, initial_parameters(WIDE, 3))
    other = initial_parameters(WIDE, 4)
    drawn = first != 0
    assert (first != other)[drawn].mean() > 0.999
    # seeds beyond 32 bits are seeds of their own
    far = initial_parameters(WIDE, 3 + 2**32)
    assert (first != far)[drawn].mean() > 0.999
    # and no two layers begin with the same numbers
    cut = weights(WIDE, first)
    starts = [weight[0, 0] for weight, _ in cut.values()]
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("latent", [0, 3, 1.0, True])
def test_latent_size_out_of_range(latent):
    with pytest.raises(ParameterError, match="latent: .* from 1 to 2 is"):
        initial_parameters(toy(), 0, latent)


def test_unused_latents_of_a_sigmoid():
    scale = toy(latent_activation="sigmoid")
    initial_parameters(scale, 0, 2)
    with pytest.raises(ParameterError, match="latent: 1 of 2 .*'sigmoid'"):
        initial_parameters(scale, 0, 1)


@pytest.mark.parametrize(
    ("activation", "l1_on"),
    [("tanh", "encoder"), ("elu", "all"), ("relu", "all"), ("linear", "all")],
)
def test_unused_latents_stay_zero(activation, l1_on):
    scale = Scale(
        "sizes",
        (X,),
        4,
        (Head("x", 3), Head("y", 1, hidden=(5,), dropout=0.2)),
        hidden=(6,),
        latent_activation=activation,
        l1=0.01,
        l1_on=l1_on,
    )
    random = np.random.default_rng(2)
    x = random.normal(size=(30, 3))
    targets = {"x": x, "y": x[:, :1] * x[:, 1:2]}
    split = (np.arange(20), np.arange(20, 30))
    given = {"epochs": 10, "batch_size": 6, "learning_rate": 0.01}
    done = train(
        scale,
        x,
        targets,
        [split, split],
        [7, 7],
        latents=[2, 4],
        device="cpu",
        **given,
    )
    cut = weights(scale, done.parameters)
    assert not cut["encoder.1"][0][0, :, 2:].any()
    assert not cut["encoder.1"][1][0, 2:].any()
    for name in ("head x.0", "head y.0"):
        assert not cut[name][0][0, 2:].any()
        assert cut[name][0][0, :2].all()
        assert cut[name][0][1].all()
    network = Network(scale, torch.tensor(done.parameters))
    z = network.encode(torch.tensor(np.stack([x, x]), dtype=torch.float32))
    assert not z[0, :, 2:].any()
    assert z[1, :, 2:].any()
    # and the replica is the one of a scale that has no others
    alone = train(
        replace(scale, latent=2),
        x,
        targets,
        [split],
        [7],
        device="cpu",
        **given,
    )
    for kind, metrics in alone.history.items():
        for metric, values in metrics.items():
            np.testing.assert_allclose(
                done.history[kind][metric][:1], values, atol=1e-4
            )


# --- The backward pass ----------------------------------------------------

FORWARD = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
}
ROWS = {
    "mae": lambda o, t: functional.l1_loss(o, t, reduction="none").mean(-1),
    "mse": lambda o, t: functional.mse_loss(o, t, reduction="none").mean(-1),
    "huber": lambda o, t: functional.smooth_l1_loss(
        o, t, reduction="none"
    ).mean(-1),
    "cross_entropy": lambda o, t: functional.cross_entropy(
        o.flatten(0, 1), t.flatten(0, 1), reduction="none"
    ).view(o.shape[:2]),
}


def test_every_activation_and_loss_is_held_against_torch():
    assert set(FORWARD) == set(ACTIVATIONS)
    assert set(ROWS) == set(LOSSES)


def forward(scale, cut, prefix, x, activations, masks=()):
    """Compute a path layer by layer, with torch's own functions."""
    for index, activation in enumerate(activations):
        weight, bias = cut[f"{prefix}.{index}"]
        x = FORWARD[activation](x @ weight + bias[:, None])
        if index < len(masks):
            x = x * masks[index]
    return x


def everything(activation, loss):
    """Return a scale that has all kinds of heads."""
    output = "linear" if loss == "cross_entropy" else activation
    return Scale(
        "everything",
        (
            Block("x", 3, scaling="none"),
            Block("c", 2, scaling="none"),
            Block("d", 4, scaling="none"),
        ),
        3,
        (
            Head("x", 3, loss, 0.7, output=output),
            Head(
                "both",
                6,
                loss,
                1.3,
                hidden=(4,),
                activation=activation,
                dropout=0.3,
                output=output,
                of=("c", "d"),
            ),
            Head(
                "y",
                2,
                loss,
                2.0,
                hidden=(5, 4),
                activation=activation,
                dropout=0.5,
            ),
        ),
        hidden=(7, 5),
        activation=activation,
        latent_activation=activation,
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_pass_against_autograd(activation, loss):
    scale = everything(activation, loss)
    replicas, rows = 3, 8
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(
            replicas, rows, *shape, generator=generator, dtype=torch.float64
        )

    flat = torch.randn(
        replicas,
        parameter_count(scale),
        generator=generator,
        dtype=torch.float64,
    ).requires_grad_()
    x = draw(9)
    targets, factors, masks = {}, {}, {}
    for head in scale.heads:
        targets[head.name] = draw(head.width)
        if loss == "cross_entropy":
            picked = targets[head.name].argmax(-1)
            targets[head.name] = functional.one_hot(
                picked, head.width
            ).double()
        factors[head.name] = draw(1).abs()
        masks[head.name] = [
            (draw(width) > 0.5) / (1 - head.dropout) for width in head.hidden
        ]
    masks["x"] = []

    cut = weights(scale, flat)
    z = forward(scale, cut, "encoder", x, [activation] * 3)
    total, outputs = 0.0, {}
    for head in scale.heads:
        path = [activation] * len(head.hidden) + [head.output]
        outputs[head.name] = output = forward(
            scale, cut, f"head {head.name}", z, path, masks[head.name]
        )
        by_row = ROWS[loss](output, targets[head.name])
        torch.testing.assert_close(
            LOSSES[loss].rows(output, targets[head.name]), by_row
        )
        # a factor's share is told a column where the loss is a mean of them
        columns = 1 if loss == "cross_entropy" else head.width
        total = total + (columns * factors[head.name][..., 0] * by_row).sum()
    (expected,) = torch.autograd.grad(total, flat)

    network = Network(scale, flat.detach())
    found = torch.full_like(flat, 7.0, requires_grad=False)
    made = network.differentiate(
        x, targets, factors, masks, Network(scale, found)
    )
    for name, output in outputs.items():
        torch.testing.assert_close(
            made[name], output.detach(), rtol=0, atol=1e-10
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for weight, _ in weights(scale, expected).values():
        assert weight.abs().sum() > 0
    torch.testing.assert_close(network.encode(x), z.detach())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_encoding_is_differentiable(activation):
    scale = everything(activation, "mse")
    flat = torch.tensor(
        initial_parameters(scale, 1)[None], dtype=torch.float64
    )
    flat += 0.1
    x = torch.linspace(-1, 1, 45, dtype=torch.float64).view(1, 5, 9)
    assert torch.autograd.gradcheck(
        lambda x: Network(scale, flat).encode(x), x.requires_grad_()
    )

    def output(flat):
        network = Network(scale, flat)
        return network.head(scale.heads[1], network.encode(x))

    assert torch.autograd.gradcheck(output, flat.requires_grad_())


@pytest.mark.parametrize(("l1_on", "layers"), [("encoder", 1), ("all", 4)])
def test_penalised_parameters(l1_on, layers):
    scale = replace(toy(), l1_on=l1_on)
    flat = torch.ones(2, parameter_count(scale))
    chosen = Network(scale, flat).penalised()
    assert chosen.shape == (1, parameter_count(scale))
    for index, (weight, bias) in enumerate(weights(scale, chosen).values()):
        assert (weight == (index < layers)).all()
        assert not bias.any()


# --- Devices --------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch):
    """Return a function that pretends a number of CUDA cards."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return pretend


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "'cuda:N' or 'mps' is allowed"),
        ("cud", "Did you mean 'cuda'?"),
        ("cuda:x", "'cuda:x' given, 'auto', 'cpu', 'cuda', 'cuda:N'"),
        ("cuda:", "'cuda:' given, 'auto'"),
        ("cuda:-1", "'cuda:-1' given, 'auto'"),
        ("cuda:1:1", "'cuda:1:1' given, 'auto'"),
        ("cpu:1", "'cpu:1' given, 'auto', 'cpu'"),
        ("mps:0", "'mps:0' given, 'auto'"),
        ("", "'' given, 'auto'"),
        (None, "None given, 'auto'"),
        ("cuda:99", "'cuda:99' given, but this machine has 1 CUDA"),
        ("cuda:1", "'cuda:1' given, but this machine has 1 CUDA"),
        ("mps", "'mps' given, but this machine has no such device"),
    ],
)
def test_device_errors(device, message, cards):
    cards(1)
    with pytest.raises(ParameterError) as caught:
        resolve_device(device)
    assert str(caught.value).startswith(f"device: {device!r} given")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices(cards):
    cards(0)
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ParameterError, match="has 0 CUDA devices; use 'auto'"):
        resolve_device("cuda")
    cards(2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cpu") == torch.device("cpu")
