"""Training: replicas in, parameters and histories out.

All replicas (folds, seeds, sizes) train at once, on one of two paths.  The
definition is autograd over stacked replicas, on any device and for any net;
`dense` does the same on the CPU with a compiled kernel, where it knows all
parts of a scale.  A replica's result does not depend on its neighbours: its
first weights, shuffling, dropout and noise come from its own seed, ragged
folds are masked, and Adam counts each replica's steps.  Hence each replica
is kept in the cache by itself, and found again whoever trains it beside
others; what is interrupted keeps the replicas that are done.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.errors import ParameterError, nearest
from nestedae_utils.model import cache, dense, networks
from nestedae_utils.model.layers import CODES
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale

VIEWS = ("train_per_sample", "validation_as_made", "validation_per_sample")
KINDS = ("train_as_made", *VIEWS)
DENSELY = 200
"""Last epochs after which all rows are measured; before, ever more rarely."""
TOGETHER = 50
"""Replicas that the reference path stacks on the CPU."""

tally: Counter[str] = Counter()
"""Replicas and replica-steps of this process: ``dense``, ``reference`` (what
ran) and ``found`` (in the cache), each with `` replicas`` and `` steps``."""
trained: list[str] = []
"""The keys of what this process has trained, in order."""
Watch = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
watch: Watch = lambda name, count: nullcontext(lambda: None)  # noqa: E731
"""Gives what is called when one more of a scale's replicas is trained."""


@dataclass(frozen=True)
class History:
    """Metrics of R replicas after some epochs.

    ``epochs`` (k,) count from 1: the last ones, and before that on a stride
    that looks even on a logarithmic axis.  ``values`` has four kinds, each a
    mapping from ``<head>_<metric>`` (and ``loss``, the weighted sum of the
    heads' losses) to an array (R, k).  ``train_as_made`` is the mean over the
    epoch's batches with dropout on and the weights moving;
    ``validation_as_made`` the unweighted mean over the validation batches, as
    the paper's code logs them; the ``per_sample`` ones are means over rows,
    dropout off.
    """

    epochs: np.ndarray
    values: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Trained:
    """Parameters by name, each (R, rows, columns), and their history."""

    parameters: dict[str, np.ndarray]
    history: History


Result = dict[str, np.ndarray]
"""Of a replica: parameters ``p`` (P,), ``as_made`` (k, metrics), and
``measured`` (k, views, metrics)."""


def train(
    scale: Scale,
    inputs: np.ndarray,
    targets: Mapping[str, np.ndarray],
    replicas: Replicas,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    device: str = "cpu",
) -> Trained:
    """Train the replicas of a scale with Adam (arXiv:1412.6980).

    ``inputs`` and a target for every head are scaled, (n, width), or
    (R, n, width) where the replicas differ; ``replicas`` have rows and seeds,
    and with a label ``latent`` their latents.

    ParameterError if there is no such device (see :func:`resolve_device`), or
    the loss stops being finite.
    """
    place = resolve_device(device)
    path = "dense" if dense.knows(scale) and place.type == "cpu" else "reference"
    table, columns = side_by_side(scale, inputs, targets)
    settings = epochs, batch_size, learning_rate, place
    job = Job(scale, table, columns, replicas, *settings)
    keys = job.keys(path)
    results = {r: kept for r, key in enumerate(keys) if (kept := cache.load(key))}
    missing = [r for r in range(len(replicas)) if r not in results]
    for replica in range(len(replicas)):
        name = path if replica in missing else "found"
        tally[f"{name} replicas"] += 1
        tally[f"{name} steps"] += epochs * job.batches[replica]
    run = dense.train if path == "dense" else reference
    with watch(scale.name, len(missing)) as done:
        for replica, result in run(job, missing):
            cache.store(keys[replica], result)
            trained.append(keys[replica])
            results[replica] = result
            done()
    return job.gather([results[r] for r in range(len(replicas))])


def side_by_side(
    scale: Scale, inputs: np.ndarray, targets: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, int]]:
    """Return one table (1 or R, n, columns), and where each target begins."""
    parts, columns, start = [inputs], {}, scale.width
    for head in scale.heads:
        parts.append(targets[head.name])
        columns[head.name], start = start, start + head.width
    wide = [p[None] if p.ndim == 2 else p for p in map(np.asarray, parts)]
    count = max(map(len, wide))
    wide = [np.broadcast_to(p, (count, *p.shape[1:])) for p in wide]
    return np.concatenate(wide, -1).astype(np.float32), columns


@dataclass(frozen=True)
class Job:
    """What both paths need to know of a training; lists are by replica."""

    scale: Scale
    table: np.ndarray
    columns: Mapping[str, int]
    replicas: Replicas
    epochs: int
    batch_size: int
    learning_rate: float
    place: torch.device
    dtype: torch.dtype = torch.float32

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Training rows."""
        return [np.asarray(rows, np.int64) for rows, _ in self.replicas.splits]

    @cached_property
    def batches(self) -> list[int]:
        """Steps in an epoch."""
        return [-(-len(rows) // self.batch_size) for rows in self.rows]

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds."""
        return self.replicas.labels["seed"].tolist()

    @cached_property
    def latents(self) -> list[int]:
        """Numbers of latents."""
        every = np.full(len(self.replicas), self.scale.latent)
        return self.replicas.labels.get("latent", every).tolist()

    @cached_property
    def told(self) -> np.ndarray:
        """Whether all rows are measured after each epoch, (epochs,)."""
        told = np.arange(self.epochs) >= self.epochs - DENSELY
        told[np.geomspace(1, self.epochs, 120).round().astype(int) - 1] = True
        return told

    def keys(self, path: str) -> list[str]:
        """Return for every replica the key of its result."""
        common = cache.fingerprint(
            [self.scale.model_dump(), self.epochs, self.batch_size]
            + [self.learning_rate, path, self.place.type]
            + [cache.source_digest(__name__)]
        )
        tables = [cache.fingerprint(table) for table in self.table]
        return [
            cache.fingerprint(
                [common, tables[r % len(tables)], self.seeds[r], self.latents[r]]
                + [self.rows[r], np.asarray(held, np.int64)]
            )
            for r, (_, held) in enumerate(self.replicas.splits)
        ]

    def initial(self, replica: int) -> np.ndarray:
        """Return a replica's first parameters (P,), layer by layer."""
        seed, latent = self.seeds[replica], self.latents[replica]
        drawn = networks.initial(self.scale, seed, latent)
        return np.concatenate([value.ravel() for value in drawn.values()])

    def views(self, replica: int) -> np.ndarray:
        """Return the weights that turn row metrics into means, (views, n)."""
        rows, held = self.replicas.splits[replica]
        weights = np.zeros((len(VIEWS), self.table.shape[1]), np.float32)
        weights[0, rows] = 1 / len(rows)
        batches = -(-len(held) // self.batch_size)
        weights[1, held] = batch_means(len(held), self.batch_size) / batches
        weights[2, held] = 1 / len(held)
        return weights

    def check(self, p: np.ndarray, values: np.ndarray, epoch: int) -> None:
        """Refuse parameters or metrics that are not finite."""
        if not (np.isfinite(p).all() and np.isfinite(values).all()):
            raise ParameterError(
                f"learning_rate: {self.learning_rate} given, but the loss of "
                f"scale {self.scale.name!r} is not finite in epoch {epoch}; "
                "lower it."
            )

    def gather(self, results: Sequence[Result]) -> Trained:
        """Stack the replicas' results."""
        p, as_made, measured = (np.stack([r[k] for r in results]) for k in results[0])
        parameters, start = {}, 0
        for name, shape in networks.parameter_shapes(self.scale).items():
            part = p[:, start : (start := start + shape[0] * shape[1])]
            parameters[name] = part.reshape(-1, *shape)
        values = {}
        names = networks.metric_names(self.scale)
        by_kind = [as_made, *measured.transpose(2, 0, 1, 3)]
        for kind, array in zip(KINDS, by_kind, strict=True):
            values[kind] = {name: array[..., m] for m, name in enumerate(names)}
            values[kind]["loss"] = sum(
                head.weight * values[kind][f"{head.name}_{head.loss}"]
                for head in self.scale.heads
            )
        return Trained(parameters, History(np.flatnonzero(self.told) + 1, values))


def batch_means(count: int, size: int) -> np.ndarray:
    """Return for each of ``count`` rows one over the size of its batch."""
    rest = count % size
    whole = np.full(count - rest, 1 / size)
    return np.concatenate([whole, np.full(rest, 1 / max(rest, 1))])


# --- the definition ----------------------------------------------------------


def reference(job: Job, missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """Train stacked replicas by autograd; yield each one at the end."""
    count = TOGETHER if job.place.type == "cpu" else max(1, len(missing))
    for first in range(0, len(missing), count):
        some = missing[first : first + count]
        with one_thread():
            results = _stacked(job, some)
        yield from zip(some, results, strict=True)


def _stacked(job: Job, some: Sequence[int]) -> list[Result]:
    rows = Rows(job, some)
    step = Step(job, rows, np.stack([job.initial(r) for r in some]))
    take = step.captured() if job.place.type == "cuda" else step
    steps = [job.batches[r] for r in some]
    as_made, measured = [], []
    for epoch, told in enumerate(job.told):
        total = torch.zeros_like(step.metrics)
        for batch in rows.epoch():
            for static, values in zip(step.batch, batch, strict=True):
                static.copy_(values)
            take()
            total += step.metrics
        if told:
            as_made.append((total.cpu().numpy() / steps).T.astype(np.float32))
            measured.append(step.measure())
            job.check(step.flat.detach().cpu().numpy(), measured[-1], epoch + 1)
    ended = (
        step.flat.detach().cpu().numpy(),
        np.stack(as_made, 1),
        np.stack(measured, 1),
    )
    names = ("p", "as_made", "measured")
    return [dict(zip(names, one, strict=True)) for one in zip(*ended, strict=True)]


class Rows:
    """The rows of stacked replicas, and their random streams."""

    def __init__(self, job: Job, some: Sequence[int]) -> None:
        self.job, self.some, size = job, some, job.batch_size
        self.steps = max(job.batches[r] for r in some)
        weights = np.zeros((len(some), self.steps * size), np.float32)
        for own, r in zip(weights, some, strict=True):
            own[: len(job.rows[r])] = batch_means(len(job.rows[r]), size)
        self.weights = torch.from_numpy(weights).to(job.place, job.dtype).split(size, 1)
        # of noise, then of each layer with dropout: its width and its share
        self.drawn: list[tuple[int, float | None]] = [
            (CODES[job.scale.code].noise(job.scale.latent), None)
        ]
        for head in job.scale.heads:
            self.drawn += [(n, head.dropout) for n in head.hidden if head.dropout]
        self.random = [
            (
                np.random.default_rng([job.seeds[r], 1]),
                np.random.Generator(np.random.SFC64([job.seeds[r], 2])),
                np.random.default_rng([job.seeds[r], 3]),
            )
            for r in some
        ]

    def epoch(self) -> Iterator[list[Tensor]]:
        """Yield every step's rows, weights, noise and dropout masks."""
        job, size, shape = self.job, self.job.batch_size, (len(self.some), self.steps)
        order = np.zeros((shape[0], self.steps * size), np.int64)
        drawn = [np.zeros((*shape, size, n), np.float32) for n, _ in self.drawn]
        for place, r in enumerate(self.some):
            shuffling, dropout, noise = self.random[place]
            order[place, : len(job.rows[r])] = shuffling.permutation(job.rows[r])
            # each replica for its own steps
            own = [array[place, : job.batches[r]] for array in drawn]
            for into, (_, share) in zip(own, self.drawn, strict=True):
                if share is None:
                    into[:] = noise.standard_normal(into.shape)
                else:  # 16 random bits a unit are enough
                    bits = np.frombuffer(dropout.bytes(2 * into.size), np.uint16)
                    kept = bits >= round(share * 65536)
                    into[:] = kept.reshape(into.shape) / (1 - share)
        index = torch.from_numpy(order).to(job.place).split(size, 1)
        parts = [torch.from_numpy(one).to(job.place, job.dtype) for one in drawn]
        for step, rows in enumerate(index):
            yield [rows, self.weights[step], *(part[:, step] for part in parts)]


class Step:
    """One masked step of stacked replicas, from static tensors to others.

    It reads ``batch`` (rows, weights, noise, masks) and changes ``flat``;
    nothing in it waits for the device, so that CUDA can record it.
    """

    def __init__(self, job: Job, rows: Rows, flat: np.ndarray) -> None:
        self.job, some, place = job, list(rows.some), job.place
        self.flat = torch.tensor(flat, device=place, dtype=job.dtype)
        self.mean = torch.zeros_like(self.flat)
        self.square = torch.zeros_like(self.flat)
        # float64: one minus a power of 0.999 needs it
        self.taken = torch.zeros_like(self.flat[:, :1], dtype=torch.float64)
        table = torch.tensor(job.table[some] if len(job.table) > 1 else job.table)
        self.table = table.to(place, job.dtype).expand(len(flat), -1, -1)
        views = np.stack([job.views(r) for r in some])
        self.views = torch.tensor(views, device=place, dtype=job.dtype)
        self.each = torch.arange(len(flat), device=place)[:, None]
        self.batch = [part.clone() for part in next(Rows(job, some).epoch())]
        metrics = len(networks.metric_names(job.scale))
        self.metrics = self.flat.new_zeros(metrics, len(flat))
        self.leaves: dict[str, Tensor] = {}
        start = 0
        for name, shape in networks.parameter_shapes(job.scale).items():
            columns = slice(start, start := start + shape[0] * shape[1])
            leaf = self.flat[:, columns].view(-1, *shape)
            self.leaves[name] = leaf.requires_grad_()

    def _passed(
        self, rows: Tensor, masks: Sequence[Tensor], noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return every row's loss (R, n), and its metrics (metrics, R, n)."""
        scale, ahead = self.job.scale, iter(masks)
        x, *parts = rows.split([scale.width, *(h.width for h in scale.heads)], -1)
        targets = {h.name: part for h, part in zip(scale.heads, parts, strict=True)}
        by_head = {
            h.name: [next(ahead) for _ in h.hidden] if h.dropout and masks else []
            for h in scale.heads
        }
        out, _, total = networks.row_losses(
            scale, self.leaves, x, targets, by_head, noise
        )
        metrics: list[Tensor] = []
        for h in scale.heads:
            found = networks.row_metrics(h, out[h.name].detach(), targets[h.name])
            metrics += found.values()
        return total, torch.stack(metrics)

    def __call__(self) -> None:
        """Take the step."""
        index, weights, noise, *masks = self.batch
        rows, scale = self.table[self.each, index], self.job.scale
        total, metrics = self._passed(rows, masks, noise if noise.shape[-1] else None)
        loss = (total * weights).sum()
        if scale.l1:
            names = networks.penalised(scale)
            sizes = [self.leaves[name].abs().sum() for name in names]
            loss = loss + scale.l1 * torch.stack(sizes).sum()
        slopes = torch.autograd.grad(loss, list(self.leaves.values()))
        with torch.no_grad():
            self.metrics.copy_((metrics * weights).sum(-1))
            active = (weights.sum(1, keepdim=True) > 0).to(self.flat.dtype)
            self._adam(torch.cat([s.flatten(1) for s in slopes], 1), active)

    def _adam(self, g: Tensor, active: Tensor) -> None:
        """Step the replicas that still have rows in this epoch."""
        first, second = 0.9, 0.999
        self.taken += active
        self.mean.lerp_(g, (1 - first) * active)
        self.square.lerp_(g * g, (1 - second) * active)
        size = self.job.learning_rate / (1 - first**self.taken) * active
        correct = (1 - second**self.taken).to(g.dtype)
        scale = (self.square / correct).sqrt().add_(1e-8)
        self.flat.addcdiv_(self.mean * size.to(g.dtype), scale, value=-1)

    @torch.no_grad()
    def measure(self) -> np.ndarray:
        """Return the means over rows, dropout off, (R, views, metrics)."""
        _, metrics = self._passed(self.table, [], None)
        return torch.einsum("mrn,rvn->rvm", metrics, self.views).cpu().numpy()

    def captured(self) -> Callable[[], None]:
        """Record the step as a CUDA graph, without taking it."""
        state = [self.flat, self.mean, self.square, self.taken]
        before = [part.detach().clone() for part in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self()
        with torch.no_grad():
            for part, value in zip(state, before, strict=True):
                part.copy_(value)
        return graph.replay


def resolve_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device.

    ParameterError if the name is unknown or the machine has no such device.
    """
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    words = ""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        words = "'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' is allowed."
        words += nearest(device, ("auto", "cpu", "cuda", "mps"))
    elif device == "mps" and not torch.backends.mps.is_available():
        words = "but this machine has no such device; use 'auto' or 'cpu'."
    elif device[:4] == "cuda" and int(device.partition(":")[2] or 0) >= cards:
        words = f"but this machine has {cards} CUDA devices; use 'auto' or 'cpu'."
    if words:
        raise ParameterError(f"device: {device!r} given, {words}")
    # small batched products run faster on the CPU than on Apple's GPU
    auto = "cuda" if cards else "cpu"
    return torch.device(auto if device == "auto" else device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: more of them slow such small products down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
