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

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from torch import Tensor

from nestedae_utils.errors import ParameterError, nearest
from nestedae_utils.model import cache, dense, networks
from nestedae_utils.model.layers import CODES
from nestedae_utils.model.progress import bar
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


@dataclass(frozen=True)
class History:
    """Metrics of R replicas after some epochs.

    Attributes
    ----------
    epochs
        Shape (k,), counted from 1: the last ones, and before that on a
        stride that looks even on a logarithmic axis.
    values
        Four kinds, each a mapping from ``<head>_<metric>`` (and ``loss``,
        the weighted sum of the heads' losses) to an array (R, k).
        ``train_as_made`` is the mean over the epoch's batches with dropout
        on and the weights moving; ``validation_as_made`` the unweighted
        mean over the validation batches, as the paper's code logs them; the
        ``per_sample`` ones are means over rows, dropout off.
    """

    epochs: np.ndarray
    values: Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Trained:
    """Parameters by name, each (R, rows, columns), and their history."""

    parameters: dict[str, np.ndarray]
    history: History


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

    Parameters
    ----------
    inputs, targets
        Scaled, (n, width), or (R, n, width) where replicas differ; a target
        for every head.
    replicas
        Their rows and seeds, and with a label ``latent`` their latents.
    device
        See :func:`resolve_device`.

    Raises
    ------
    ParameterError
        If there is no such device, or the loss stops being finite.
    """
    place = resolve_device(device)
    path = "dense" if dense.knows(scale) and place.type == "cpu" else "reference"
    job = Job(scale, *side_by_side(scale, inputs, targets), replicas,
              epochs, batch_size, learning_rate, place)  # fmt: skip
    keys = job.keys(path)
    results: dict[int, Result] = {}
    for replica, key in enumerate(keys):
        if kept := cache.load(key):
            results[replica] = (kept["p"], kept["as_made"], kept["measured"])
    missing = [r for r in range(len(replicas)) if r not in results]
    for replica in range(len(replicas)):
        name = path if replica in missing else "found"
        tally[f"{name} replicas"] += 1
        tally[f"{name} steps"] += epochs * job.batches(replica)
    run = _run_dense if path == "dense" else _run_reference
    with bar(scale.name, len(missing)) as shown:
        for replica, result in run(job, missing):
            names = ("p", "as_made", "measured")
            cache.store(keys[replica], dict(zip(names, result, strict=True)))
            results[replica] = result
            shown.step(1)
    return job.gather([results[r] for r in range(len(replicas))])


Result = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of a replica: parameters (P,), ``as_made`` (k, metrics), and ``measured``
(k, views, metrics)."""


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
    """What both paths need to know of a training."""

    scale: Scale
    table: np.ndarray
    columns: Mapping[str, int]
    replicas: Replicas
    epochs: int
    batch_size: int
    learning_rate: float
    place: torch.device
    dtype: torch.dtype = torch.float32

    def keys(self, path: str) -> list[str]:
        """Return for every replica the key of its result."""
        common = cache.fingerprint(
            [self.scale.model_dump(), self.epochs, self.batch_size]
            + [self.learning_rate, path, self.place.type]
            + [cache.source_digest(__name__)]
        )
        tables = [cache.fingerprint(own) for own in self.table]
        return [
            cache.fingerprint(
                [common, tables[r % len(tables)], self.seed(r), self.latent(r)]
                + [np.asarray(rows, np.int64) for rows in split]
            )
            for r, split in enumerate(self.replicas.splits)
        ]

    def seed(self, replica: int) -> int:
        """Return a replica's seed."""
        return int(self.replicas.labels["seed"][replica])

    def latent(self, replica: int) -> int:
        """Return a replica's number of latents."""
        every = [self.scale.latent] * len(self.replicas)
        return int(self.replicas.labels.get("latent", every)[replica])

    def rows(self, replica: int) -> np.ndarray:
        """Return a replica's training rows."""
        return np.asarray(self.replicas.splits[replica][0], np.int64)

    def batches(self, replica: int) -> int:
        """Return a replica's number of steps in an epoch."""
        return -(-len(self.rows(replica)) // self.batch_size)

    def initial(self, replica: int) -> np.ndarray:
        """Return a replica's first parameters (P,), layer by layer."""
        seed, latent = self.seed(replica), self.latent(replica)
        drawn = networks.initial(self.scale, seed, latent)
        return np.concatenate([value.ravel() for value in drawn.values()])

    def views(self, replica: int) -> np.ndarray:
        """Return the weights that turn row metrics into means, (views, n)."""
        train, held = self.replicas.splits[replica]
        weights = np.zeros((len(VIEWS), self.table.shape[1]), np.float32)
        weights[0, train] = 1 / len(train)
        batches = -(-len(held) // self.batch_size)
        weights[1, held] = batch_means(len(held), self.batch_size) / batches
        weights[2, held] = 1 / len(held)
        return weights

    def told(self) -> np.ndarray:
        """Return whether all rows are measured after each epoch."""
        steps = np.geomspace(1, self.epochs, 120).round().astype(int)
        told = np.arange(self.epochs) >= self.epochs - DENSELY
        told[steps - 1] = True
        return told

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
        p, as_made, measured = map(np.stack, zip(*results, strict=True))
        parameters, start = {}, 0
        for name, (rows, columns, _) in networks.shapes(self.scale).items():
            for part, n in (("weight", rows), ("bias", 1)):
                stop = start + n * columns
                own = p[:, start:stop].reshape(-1, n, columns)
                parameters[f"{name}.{part}"], start = own, stop
        names = networks.metric_names(self.scale)
        by_kind = {KINDS[0]: as_made}
        by_kind |= {kind: measured[:, :, v] for v, kind in enumerate(VIEWS)}
        values = {}
        for kind, array in by_kind.items():
            found = {name: array[..., m] for m, name in enumerate(names)}
            found["loss"] = sum(
                head.weight * found[f"{head.name}_{head.loss}"]
                for head in self.scale.heads
            )
            values[kind] = found
        epochs = np.flatnonzero(self.told()) + 1
        return Trained(parameters, History(epochs, values))


def batch_means(count: int, size: int) -> np.ndarray:
    """Return for each of ``count`` rows one over the size of its batch."""
    rest = count % size
    whole = np.full(count - rest, 1 / size)
    return np.concatenate([whole, np.full(rest, 1 / max(rest, 1))])


# --- the fast path -----------------------------------------------------------


def _run_dense(job: Job, missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """Train replicas on threads; yield each one when it is done."""
    plan = dense.plan(job.scale, job.columns)
    stop = threading.Event()
    pool = ThreadPoolExecutor(max(1, min(len(missing), joblib.cpu_count())))
    try:
        running = {pool.submit(_dense, job, plan, r, stop): r for r in missing}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _dense(job: Job, plan: dense.Plan, replica: int, stop: threading.Event) -> Result:
    """Train one replica with the compiled kernel."""
    p, seed, rows = job.initial(replica), job.seed(replica), job.rows(replica)
    mean, square = np.zeros_like(p), np.zeros_like(p)
    shuffling = np.random.default_rng([seed, 1])
    dropout = np.random.SFC64([seed, 2]).state["state"]["state"]
    state = np.concatenate([dropout, np.zeros(2, np.uint64)])
    table = job.table[replica % len(job.table)]
    views, told, step = job.views(replica), job.told(), 0
    as_made = np.zeros((told.sum(), len(networks.metric_names(job.scale))))
    measured = np.zeros((len(as_made), *views.shape[:1], as_made.shape[1]))
    few = max(1, min(50, 1_000_000 // len(rows)))
    for first in range(0, job.epochs, few):
        if stop.is_set():
            break
        part = told[first : first + few]
        orders = np.stack([shuffling.permutation(rows) for _ in part])
        done = slice(told[:first].sum(), told[: first + few].sum())
        step = dense.run(
            *(plan, p, mean, square, step, table, orders, part, views, state),
            *(job.batch_size, job.learning_rate),
            *(as_made[done], measured[done]),
        )
        job.check(p, measured[done], first + len(part))
    return p, as_made.astype(np.float32), measured.astype(np.float32)


# --- the definition ----------------------------------------------------------


def _run_reference(job: Job, missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """Train stacked replicas by autograd; yield each one at the end."""
    count = TOGETHER if job.place.type == "cpu" else max(1, len(missing))
    for first in range(0, len(missing), count):
        some = missing[first : first + count]
        with one_thread():
            results = _reference(job, some)
        yield from zip(some, results, strict=True)


def _reference(job: Job, some: Sequence[int]) -> list[Result]:
    rows = Rows(job, some)
    step = Step(job, rows, np.stack([job.initial(r) for r in some]))
    take = step.captured() if job.place.type == "cuda" else step
    as_made, measured = [], []
    for epoch, told in enumerate(job.told()):
        total = torch.zeros_like(step.metrics)
        for batch in rows.epoch():
            for static, values in zip(step.batch, batch, strict=True):
                static.copy_(values)
            take()
            if told:
                total += step.metrics
        if not told:
            continue
        steps = [job.batches(r) for r in some]
        as_made.append((total.cpu().numpy() / steps).T)
        measured.append(step.measure())
        flat = step.flat.detach().cpu().numpy()
        job.check(flat, measured[-1], epoch + 1)
    made, seen = np.stack(as_made, 1), np.stack(measured, 1)
    return [
        (flat[r].copy(), made[r].astype(np.float32), seen[r]) for r in range(len(some))
    ]


class Rows:
    """The rows of stacked replicas, and their random streams."""

    def __init__(self, job: Job, some: Sequence[int]) -> None:
        self.job, self.some, size = job, some, job.batch_size
        self.steps = [job.batches(r) for r in some]
        length = max(self.steps) * size
        weights = np.zeros((len(some), length), np.float32)
        for own, r in zip(weights, some, strict=True):
            count = len(job.rows(r))
            own[:count] = batch_means(count, size)
        weights = torch.tensor(weights, device=job.place, dtype=job.dtype)
        self.weights = weights.split(size, 1)
        seeds = [job.seed(r) for r in some]
        self.shuffling = [np.random.default_rng([s, 1]) for s in seeds]
        self.dropout = [np.random.Generator(np.random.SFC64([s, 2])) for s in seeds]
        self.noise = [np.random.default_rng([s, 3]) for s in seeds]
        self.numbers = CODES[job.scale.code].noise(job.scale.latent)

    def epoch(self) -> Iterator[list[Tensor]]:
        """Yield every step's rows, weights, noise and dropout masks."""
        size, place = self.job.batch_size, self.job.place
        order = np.zeros((len(self.some), max(self.steps) * size), np.int64)
        for own, r, random in zip(order, self.some, self.shuffling, strict=True):
            own[: len(self.job.rows(r))] = random.permutation(self.job.rows(r))
        index = torch.from_numpy(order).to(place).split(size, 1)
        normal = self._drawn(self.numbers, self._normal)
        masks = [
            self._drawn(width, self._kept(head.dropout))
            for head in self.job.scale.heads
            if head.dropout
            for width in head.hidden
        ]
        for step, own in enumerate(index):
            parts = [part[:, step] for part in (normal, *masks)]
            yield [own, self.weights[step], *parts]

    def _drawn(
        self, width: int, draw: Callable[[int, tuple[int, ...]], np.ndarray]
    ) -> Tensor:
        """Draw (R, steps, batch, width); each replica for its own steps."""
        size = self.job.batch_size
        shape = len(self.some), max(self.steps), size, width
        drawn = np.zeros(shape, np.float32)
        for place, steps in enumerate(self.steps):
            drawn[place, :steps] = draw(place, (steps, size, width))
        return torch.from_numpy(drawn).to(self.job.place, self.job.dtype)

    def _normal(self, place: int, shape: tuple[int, ...]) -> np.ndarray:
        return self.noise[place].standard_normal(shape)

    def _kept(self, dropout: float) -> Callable[[int, tuple[int, ...]], np.ndarray]:
        def draw(place: int, shape: tuple[int, ...]) -> np.ndarray:
            # 16 random bits a unit are enough
            raw = self.dropout[place].bytes(2 * math.prod(shape))
            kept = np.frombuffer(raw, np.uint16) >= round(dropout * 65536)
            return kept.reshape(shape) / (1 - dropout)

        return draw


class Step:
    """One masked step of stacked replicas, from static tensors to others.

    It reads ``batch`` (rows, weights, noise, masks) and changes ``flat``;
    nothing in it waits for the device, so that CUDA can record it.
    """

    def __init__(self, job: Job, rows: Rows, flat: np.ndarray) -> None:
        self.job, place = job, job.place
        as_here = {"device": place, "dtype": job.dtype}
        self.flat = torch.tensor(flat, **as_here)
        self.mean = torch.zeros_like(self.flat)
        self.square = torch.zeros_like(self.flat)
        # float64: one minus a power of 0.999 needs it
        self.taken = torch.zeros_like(self.flat[:, :1], dtype=torch.float64)
        table = torch.tensor(job.table, **as_here)
        if len(table) > 1:
            table = table[list(rows.some)]
        self.table = table.expand(len(flat), -1, -1)
        views = np.stack([job.views(r) for r in rows.some])
        self.views = torch.tensor(views, **as_here)
        self.each = torch.arange(len(flat), device=place)[:, None]
        self.batch = [part.clone() for part in next(Rows(job, rows.some).epoch())]
        names = networks.metric_names(job.scale)
        self.metrics = torch.zeros(len(names), len(flat), **as_here)
        self.leaves: dict[str, Tensor] = {}
        start = 0
        for name, (height, width, _) in networks.shapes(job.scale).items():
            for part, n in (("weight", height), ("bias", 1)):
                own = slice(start, start := start + n * width)
                shape = len(flat), n, width
                leaf = self.flat[:, own].view(shape).requires_grad_()
                self.leaves[f"{name}.{part}"] = leaf

    def _passed(
        self, rows: Tensor, masks: Sequence[Tensor], noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return every row's loss (R, n), and its metrics (metrics, R, n)."""
        scale, x = self.job.scale, rows[..., : self.job.scale.width]
        first = self.job.columns
        targets = {
            h.name: rows[..., first[h.name] : first[h.name] + h.width]
            for h in scale.heads
        }
        ahead = iter(masks)
        by_head = {
            h.name: [next(ahead) for _ in h.hidden] if h.dropout and masks else []
            for h in scale.heads
        }
        out, _, total = networks.row_losses(
            scale, self.leaves, x, targets, by_head, noise
        )
        metrics = [
            value
            for h in scale.heads
            for value in networks.row_metrics(
                h, out[h.name].detach(), targets[h.name]
            ).values()
        ]
        return total, torch.stack(metrics)

    def __call__(self) -> None:
        """Take the step."""
        index, weights, noise, *masks = self.batch
        scale, l1 = self.job.scale, 0.0
        rows = self.table[self.each, index]
        total, metrics = self._passed(rows, masks, noise if noise.shape[-1] else None)
        if scale.l1:
            names = networks.penalised(scale)
            l1 = scale.l1 * sum(self.leaves[n].abs().sum() for n in names)
        slopes = torch.autograd.grad(
            (total * weights).sum() + l1, list(self.leaves.values())
        )
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
        found = torch.einsum("mrn,rvn->rvm", metrics, self.views)
        return found.cpu().numpy()

    def captured(self) -> Callable[[], None]:
        """Record the step as a CUDA graph, without taking it."""
        kept = [self.flat, self.mean, self.square, self.taken]
        before = [part.detach().clone() for part in kept]
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
            for part, value in zip(kept, before, strict=True):
                part.copy_(value)
        return graph.replay


def resolve_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device.

    Raises
    ------
    ParameterError
        If the name is unknown or the machine has no such device.
    """
    kinds = ("auto", "cpu", "cuda", "mps")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ParameterError(
            f"device: {device!r} given, 'auto', 'cpu', 'cuda', 'cuda:N' or "
            f"'mps' is allowed.{nearest(device, kinds)}"
        )
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        # small batched products run faster on the CPU than on Apple's GPU
        device = "cuda" if cards else "cpu"
    number = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and number >= cards:
        raise ParameterError(
            f"device: {device!r} given, but this machine has {cards} CUDA "
            "devices; use 'auto' or 'cpu'."
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise ParameterError(
            "device: 'mps' given, but this machine has no such device; use "
            "'auto' or 'cpu'."
        )
    return torch.device(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: more of them slow such small products down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
