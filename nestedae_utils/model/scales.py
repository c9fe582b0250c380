"""The declaration of a scale, and its network on a replica axis.

A scale (paper, Sec. 2) is an autoencoder with named input blocks, a latent
and named heads.  A head reconstructs an input block or predicts a target.
The vanilla autoencoder, the single autoencoder and every scale of a nested
one are values of the one class :class:`Scale`.

In a network every parameter has a leading axis R, the replicas (folds times
seeds), and every layer is one batched product.  The backward pass through
these few kinds of layers is written by hand: for such small products it
takes half the time of automatic differentiation, against which it is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nestedae_utils import errors as checks
from nestedae_utils.errors import ParameterError


@dataclass(frozen=True)
class Activation:
    """An activation and its slope, given by its own output."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Loss:
    """A loss of output and target, both (..., n, width).

    ``rows`` gives the loss of every row, shape (..., n); ``slope`` its
    derivative by the output, shape (..., n, width), times the width where
    ``mean`` says that the loss is a mean over columns.
    """

    rows: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    mean: bool = True


ACTIVATIONS = {
    "linear": Activation(lambda x: x, None),
    "tanh": Activation(torch.tanh, lambda y: 1 - y * y),
    "relu": Activation(torch.relu, torch.sign),
    "sigmoid": Activation(torch.sigmoid, lambda y: y * (1 - y)),
    "elu": Activation(functional.elu, lambda y: 1 + y.clamp(max=0)),
}
LOSSES = {
    "mae": Loss(
        lambda o, t: (o - t).abs().mean(-1),
        lambda o, t: (o - t).sign_(),
    ),
    "mse": Loss(
        lambda o, t: (o - t).square().mean(-1),
        lambda o, t: 2 * (o - t),
    ),
    "huber": Loss(
        lambda o, t: functional.huber_loss(o, t, reduction="none").mean(-1),
        lambda o, t: (o - t).clamp_(-1, 1),
    ),
    "cross_entropy": Loss(
        # for one-hot targets; log_softmax would take thrice the time
        lambda o, t: torch.logsumexp(o, -1) - (o * t).sum(-1),
        # along a last axis of a few columns, softmax takes ten times as long
        lambda o, t: functional.softmax(o.mT.contiguous(), -2).mT.sub_(t),
        mean=False,
    ),
}
SCALINGS = ("standard", "none")
SCALERS = ("carried", "refitted")
INITIALISATIONS = ("xavier_normal", "xavier_uniform")
PENALISED = ("encoder", "all")


@dataclass(frozen=True)
class Block:
    """A named group of input columns.

    Attributes
    ----------
    name
        Key of the block in the table, a mapping of arrays.
    width
        Number of columns.
    scaling
        ``"standard"`` (mean 0, standard deviation 1) or ``"none"`` (one-hot
        columns, say).
    latents_of
        Name of an earlier scale whose latents are this block; empty for
        columns of the table itself.
    lower_scaler
        For latents: are the earlier scale's inputs standardised with the
        statistics it was trained with (``"carried"``) or anew with this
        scale's table (``"refitted"``, which is what the paper did)?
    """

    name: str
    width: int
    scaling: str = "standard"
    latents_of: str = ""
    lower_scaler: str = "carried"

    def __post_init__(self) -> None:
        checks.label("block, name", self.name)
        where = f"block {self.name!r}"
        _keep(self, width=checks.whole(f"{where}, width", self.width, 1))
        checks.choice(f"{where}, scaling", self.scaling, SCALINGS)
        checks.choice(f"{where}, lower_scaler", self.lower_scaler, SCALERS)


@dataclass(frozen=True)
class Head:
    """A named output: it reconstructs the input block, or predicts a target.

    Attributes
    ----------
    name
        Name of the input block or, if no block has it, of the target.
    of
        Names of several input blocks, reconstructed side by side by one
        decoder; the head then has a name of its own.
    width
        Number of columns.
    loss, weight
        Loss of the head and its factor in the total loss.
    hidden, activation, dropout
        Widths of the hidden layers between latent and output, their
        activation, and the dropout behind each of them.
    output
        Activation of the output; cross-entropy wants ``"linear"`` (logits).
    gain
        Factor of the Xavier initialisation of the hidden layers' weights.
    scaling
        Scaling of a predicted target; a reconstructed block has its own.
    """

    name: str
    width: int
    loss: str = "mae"
    weight: float = 1.0
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    output: str = "linear"
    gain: float = 1.0
    scaling: str = "none"
    of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.label("head, name", self.name)
        where = f"head {self.name!r}"
        checks.choice(f"{where}, loss", self.loss, LOSSES)
        _keep(
            self,
            width=checks.whole(f"{where}, width", self.width, 1),
            weight=checks.real(f"{where}, weight", self.weight, 0),
            hidden=_widths(where, self.hidden),
            dropout=checks.real(f"{where}, dropout", self.dropout, 0, 0.99),
            gain=checks.real(f"{where}, gain", self.gain, positive=True),
            of=tuple(self.of),
        )
        checks.choice(f"{where}, activation", self.activation, ACTIVATIONS)
        checks.choice(f"{where}, output", self.output, ACTIVATIONS)
        checks.choice(f"{where}, scaling", self.scaling, SCALINGS)
        if len(set(self.of)) != len(self.of):
            raise ParameterError(
                f"{where}, of: {list(self.of)} given, each block may stand "
                "only once."
            )
        if self.loss == "cross_entropy" and self.output != "linear":
            raise ParameterError(
                f"{where}, output: {self.output!r} given, only 'linear' is "
                "allowed with the loss 'cross_entropy', which takes logits."
            )
        if self.loss == "cross_entropy" and self.scaling != "none":
            raise ParameterError(
                f"{where}, scaling: {self.scaling!r} given, only 'none' is "
                "allowed with the loss 'cross_entropy', whose target is "
                "one-hot."
            )


@dataclass(frozen=True)
class Scale:
    """One autoencoder of a nested autoencoder.

    Attributes
    ----------
    name
        Name of the scale.
    inputs
        Input blocks, in the order of the encoder's columns.
    latent
        Number of latents.
    heads
        What is reconstructed and predicted from the latents.
    hidden, activation
        Widths of the encoder's hidden layers and their activation.
    latent_activation
        Activation of the latents.
    l1, l1_on
        Factor of the sum of the absolute weights (no biases) of the
        ``"encoder"`` or of ``"all"`` layers in the total loss.
    initialisation
        ``"xavier_normal"`` or ``"xavier_uniform"``; biases start at zero.

    Raises
    ------
    ParameterError
        If any of it is not allowed, or two blocks or heads share a name.
    """

    name: str
    inputs: tuple[Block, ...]
    latent: int
    heads: tuple[Head, ...]
    hidden: tuple[int, ...] = ()
    activation: str = "tanh"
    latent_activation: str = "tanh"
    l1: float = 0.0
    l1_on: str = "encoder"
    initialisation: str = "xavier_normal"

    def __post_init__(self) -> None:
        checks.label("scale, name", self.name)
        where = f"scale {self.name!r}"
        _keep(
            self,
            inputs=tuple(self.inputs),
            heads=tuple(self.heads),
            latent=checks.whole(f"{where}, latent", self.latent, 1),
            hidden=_widths(where, self.hidden),
            l1=checks.real(f"{where}, l1", self.l1, 0),
        )
        checks.choice(f"{where}, activation", self.activation, ACTIVATIONS)
        checks.choice(
            f"{where}, latent_activation", self.latent_activation, ACTIVATIONS
        )
        checks.choice(f"{where}, l1_on", self.l1_on, PENALISED)
        checks.choice(
            f"{where}, initialisation", self.initialisation, INITIALISATIONS
        )
        for what, parts in (("inputs", self.inputs), ("heads", self.heads)):
            names = [part.name for part in parts]
            if not names or len(set(names)) != len(names):
                raise ParameterError(
                    f"{where}, {what}: {names} given, at least one, each "
                    "with a name of its own, is allowed."
                )
        self._check_heads()

    def _check_heads(self) -> None:
        widths = {block.name: block.width for block in self.inputs}
        standard = {b.name for b in self.inputs if b.scaling == "standard"}
        for head in self.heads:
            where = f"scale {self.name!r}, head {head.name!r}"
            for name in head.of:
                if name not in widths:
                    raise ParameterError(
                        f"{where}, of: {name!r} given, one of the input "
                        f"blocks {', '.join(map(repr, widths))} is allowed."
                        + checks.nearest(name, widths)
                    )
            blocks = self.blocks_of(head)
            if head.loss == "cross_entropy" and standard & set(blocks):
                raise ParameterError(
                    f"{where}, loss: 'cross_entropy' given, but what it "
                    "reconstructs is standardised; give one-hot blocks the "
                    "scaling 'none'."
                )
            expected = sum(widths[name] for name in blocks)
            if blocks and head.width != expected:
                raise ParameterError(
                    f"{where}, width: {head.width} given, but what it "
                    f"reconstructs has {expected} columns."
                )

    def blocks_of(self, head: Head) -> tuple[str, ...]:
        """Return the input blocks a head reconstructs; none if it predicts."""
        if head.of:
            return head.of
        known = any(block.name == head.name for block in self.inputs)
        return (head.name,) if known else ()

    @property
    def width(self) -> int:
        """Number of input columns, all blocks together."""
        return sum(block.width for block in self.inputs)

    @property
    def reconstructed(self) -> tuple[Head, ...]:
        """Heads that reconstruct input blocks."""
        return tuple(head for head in self.heads if self.blocks_of(head))

    @property
    def predicted(self) -> tuple[Head, ...]:
        """Heads that predict a target."""
        return tuple(head for head in self.heads if not self.blocks_of(head))

    def to_dict(self) -> dict[str, Any]:
        """Return the declaration as plain lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Scale:
        """Return the scale that :meth:`to_dict` described.

        Raises
        ------
        ParameterError
            If a key is unknown or missing, or a value is not allowed.
        """
        try:
            return cls(
                **{
                    **plain,
                    "inputs": tuple(Block(**b) for b in plain["inputs"]),
                    "heads": tuple(Head(**h) for h in plain["heads"]),
                }
            )
        except (TypeError, KeyError) as error:
            raise ParameterError(
                f"scale: the declaration does not fit ({error}); its keys "
                f"are {', '.join(field.name for field in fields(cls))}."
            ) from None


def _keep(part: Any, **values: Any) -> None:
    """Set fields of a frozen declaration, to plain Python values."""
    for name, value in values.items():
        object.__setattr__(part, name, value)


def _widths(where: str, widths: Sequence[int]) -> tuple[int, ...]:
    return tuple(checks.whole(f"{where}, hidden", w, 1) for w in widths)


@dataclass(frozen=True)
class Layer:
    """A linear layer of a network, with its place in the flat parameters.

    ``reads`` and ``writes`` say whether its inputs or outputs are latents.
    """

    name: str
    rows: int
    columns: int
    gain: float
    reads: bool
    writes: bool
    start: int

    @property
    def stop(self) -> int:
        """First place behind the layer's weights and biases."""
        return self.start + (self.rows + 1) * self.columns


def layers_of(scale: Scale) -> list[Layer]:
    """Return the layers, encoder first, packed one behind the other."""
    layers: list[Layer] = []

    def add(prefix: str, widths: Sequence[int], gain: float = 1.0) -> None:
        last = len(widths) - 2
        for index, (rows, columns) in enumerate(
            zip(widths[:-1], widths[1:], strict=True)
        ):
            layers.append(
                Layer(
                    name=f"{prefix}.{index}",
                    rows=rows,
                    columns=columns,
                    gain=1.0 if index == last else gain,
                    reads=prefix != "encoder" and index == 0,
                    writes=prefix == "encoder" and index == last,
                    start=layers[-1].stop if layers else 0,
                )
            )

    add("encoder", (scale.width, *scale.hidden, scale.latent))
    for head in scale.heads:
        widths = (scale.latent, *head.hidden, head.width)
        add(f"head {head.name}", widths, head.gain)
    return layers


def parameter_count(scale: Scale) -> int:
    """Return the number of weights and biases of one replica."""
    return layers_of(scale)[-1].stop


def initial_parameters(
    scale: Scale, seed: int, latent: int | None = None
) -> np.ndarray:
    """Draw the first weights of one replica from its own seed.

    Parameters
    ----------
    scale
        The declaration.
    seed
        The replica's seed.
    latent
        A number of latents below ``scale.latent``: the further ones start
        with zero weights on both sides, hence stay zero for ever.  Replicas
        of different latent sizes can so be trained together.

    Returns
    -------
    numpy.ndarray
        Shape (P,), float32.

    Raises
    ------
    ParameterError
        If ``latent`` is out of range, or the latent activation of a zero is
        not zero.
    """
    size = scale.latent if latent is None else latent
    checks.whole("latent", size, 1, scale.latent)
    if size < scale.latent and scale.latent_activation == "sigmoid":
        raise ParameterError(
            f"latent: {size} of {scale.latent} given, but unused latents "
            "cannot be silenced with the latent activation 'sigmoid'."
        )
    random = np.random.default_rng([seed, 0])
    flat = np.zeros(parameter_count(scale), dtype=np.float32)
    for layer in layers_of(scale):
        rows = size if layer.reads else layer.rows
        columns = size if layer.writes else layer.columns
        fan = rows + columns
        if scale.initialisation == "xavier_normal":
            drawn = random.standard_normal((rows, columns))
            drawn *= layer.gain * np.sqrt(2 / fan)
        else:
            bound = layer.gain * np.sqrt(6 / fan)
            drawn = random.uniform(-bound, bound, (rows, columns))
        stop = layer.start + layer.rows * layer.columns
        weight = flat[layer.start : stop].reshape(layer.rows, layer.columns)
        weight[:rows, :columns] = drawn
    return flat


class Network:
    """The layers of a scale for R replicas at once.

    Parameters
    ----------
    scale
        The declaration.
    flat
        Parameters, shape (R, P); the layers' weights are views into it.
    """

    def __init__(self, scale: Scale, flat: Tensor) -> None:
        self.scale = scale
        self.flat = flat
        self.layers = layers_of(scale)
        self.weights: dict[str, tuple[Tensor, Tensor]] = {}
        replicas = flat.shape[0]
        for layer in self.layers:
            middle = layer.start + layer.rows * layer.columns
            self.weights[layer.name] = (
                flat[:, layer.start : middle].view(
                    replicas, layer.rows, layer.columns
                ),
                flat[:, middle : layer.stop].view(replicas, 1, layer.columns),
            )
        hidden = [scale.activation] * len(scale.hidden)
        self.paths = {"": _path("encoder", hidden, scale.latent_activation)}
        for head in scale.heads:
            hidden = [head.activation] * len(head.hidden)
            self.paths[head.name] = _path(
                f"head {head.name}", hidden, head.output
            )

    def encode(self, x: Tensor) -> Tensor:
        """Map inputs (R, n, width) to latents (R, n, latent)."""
        return self._forward("", x)[-1][1]

    def head(self, head: Head, z: Tensor) -> Tensor:
        """Map latents (R, n, latent) to a head's output (R, n, width)."""
        return self._forward(head.name, z)[-1][1]

    def differentiate(
        self,
        x: Tensor,
        targets: Mapping[str, Tensor],
        factors: Mapping[str, Tensor],
        masks: Mapping[str, Sequence[Tensor]],
        gradient: Network,
    ) -> dict[str, Tensor]:
        """Write the losses' gradient; return every head's output.

        Parameters
        ----------
        x
            Scaled inputs, shape (R, n, width).
        targets
            For every head its scaled target, shape (R, n, head width).
        factors
            For every head the factor of each row's loss slope, (R, n, 1).
        masks
            For every head the dropout factors of its hidden layers, each
            (R, n, layer width), or none.
        gradient
            A network over the flat gradient, which is overwritten.
        """
        with torch.no_grad():
            encoder = self._forward("", x)
            z = encoder[-1][1]
            pull = torch.zeros_like(z)
            outputs = {}
            for head in self.scale.heads:
                dropped = masks[head.name]
                kept = self._forward(head.name, z, dropped)
                output = kept[-1][1]
                slope = LOSSES[head.loss].slope(output, targets[head.name])
                slope = slope.mul_(factors[head.name])
                pull += self._backward(
                    head.name, kept, slope, dropped, gradient
                )
                outputs[head.name] = output
            self._backward("", encoder, pull, (), gradient, stop=True)
        return outputs

    def _forward(
        self, path: str, x: Tensor, masks: Sequence[Tensor] = ()
    ) -> list[tuple[Tensor, Tensor]]:
        """Return input and output of every layer on the way."""
        kept = []
        for index, (name, activation) in enumerate(self.paths[path]):
            weight, bias = self.weights[name]
            y = ACTIVATIONS[activation].value(torch.baddbmm(bias, x, weight))
            kept.append((x, y))
            x = y * masks[index] if index < len(masks) else y
        return kept

    def _backward(
        self,
        path: str,
        kept: Sequence[tuple[Tensor, Tensor]],
        pull: Tensor,
        masks: Sequence[Tensor],
        gradient: Network,
        stop: bool = False,
    ) -> Tensor:
        """Turn the pull on the last output into that on the first input.

        With ``stop`` the first input needs none.
        """
        layers = self.paths[path]
        for index in reversed(range(len(layers))):
            name, activation = layers[index]
            x, y = kept[index]
            if index < len(masks):
                pull = pull.mul_(masks[index])
            slope = ACTIVATIONS[activation].slope
            if slope is not None:
                pull = pull.mul_(slope(y))
            into_weight, into_bias = gradient.weights[name]
            torch.bmm(x.transpose(1, 2), pull, out=into_weight)
            torch.sum(pull, 1, keepdim=True, out=into_bias)
            if index or not stop:
                weight = self.weights[name][0]
                pull = torch.bmm(pull, weight.transpose(1, 2))
        return pull

    def penalised(self) -> Tensor:
        """Return which parameters L1 acts on, shape (1, P), ones and zeros."""
        chosen = torch.zeros_like(self.flat[:1])
        for layer in self.layers:
            if self.scale.l1_on == "all" or layer.name.startswith("encoder"):
                weights = layer.rows * layer.columns
                chosen[:, layer.start : layer.start + weights] = 1
        return chosen


def _path(
    prefix: str, hidden: Sequence[str], last: str
) -> list[tuple[str, str]]:
    """Pair the names of consecutive layers with their activations."""
    return [
        (f"{prefix}.{index}", activation)
        for index, activation in enumerate([*hidden, last])
    ]


def resolve_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device.

    Raises
    ------
    ParameterError
        If the name is unknown or the machine has no such device.
    """
    kind, _, number = str(device).partition(":")
    allowed = ("auto", "cpu", "cuda", "mps")
    if kind not in allowed or (
        ":" in str(device) and (kind != "cuda" or not number.isdecimal())
    ):
        raise ParameterError(
            f"device: {device!r} given, 'auto', 'cpu', 'cuda', 'cuda:N' or "
            f"'mps' is allowed.{checks.nearest(device, allowed)}"
        )
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = torch.backends.mps.is_available()
    if kind == "auto":
        # Small batched products run faster on the CPU than on Apple's GPU,
        # hence "auto" means a CUDA card or the CPU.
        return torch.device("cuda" if cards else "cpu")
    if kind == "cuda" and int(number or 0) >= cards:
        raise ParameterError(
            f"device: {device!r} given, but this machine has {cards} CUDA "
            "devices; use 'auto' or 'cpu'."
        )
    if kind == "mps" and not apple:
        raise ParameterError(
            "device: 'mps' given, but this machine has no such device; use "
            "'auto' or 'cpu'."
        )
    return torch.device(device)
