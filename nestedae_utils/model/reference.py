"""The definition of training: autograd over stacked replicas, on any device."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.errors import ParameterError
from nestedae_utils.model import cache, networks
from nestedae_utils.model.fitted import Fitted, History
from nestedae_utils.model.layers import CODES, Arrays
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale

TOGETHER = 50
"""Replicas that are stacked on the CPU."""
ONE_ON_A_CARD = threading.Lock()
"""Held by a training on a card: another would break into what it records."""
VIEWS = ("train_per_sample", "validation_as_made", "validation_per_sample")
KINDS = ("train_as_made", *VIEWS)
Result = Arrays
"""Of a replica: parameters ``p`` (P,), ``as_made`` (k, metrics), and
``measured`` (k, views, metrics)."""


class Job:
    """A training on one table; by replica its rows, steps, seed and latents.

    ``table`` (1 or R, n, columns) has the inputs, then every head's target;
    ``batches`` are the steps of an epoch, ``told`` (epochs,) says after which
    epochs all rows are measured.
    """

    dtype = torch.float32

    def __init__(
        self,
        scale: Scale,
        inputs: np.ndarray,
        targets: Arrays,
        replicas: Replicas,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        place: torch.device,
    ) -> None:
        self.scale, self.replicas, self.place = scale, replicas, place
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.told = learning_rate, told(epochs)
        parts = [inputs, *(targets[head.name] for head in scale.heads)]
        wide = [p[None] if p.ndim == 2 else p for p in map(np.asarray, parts)]
        count = max(map(len, wide))
        wide = [np.broadcast_to(p, (count, *p.shape[1:])) for p in wide]
        self.table = np.concatenate(wide, -1, dtype=np.float32)
        self.rows = [np.asarray(rows, np.int64) for rows, _ in replicas.splits]
        self.held = [np.asarray(held, np.int64) for _, held in replicas.splits]
        self.batches = [-(-len(rows) // batch_size) for rows in self.rows]
        every = np.full(len(replicas), scale.latent)
        self.seeds: list[int] = replicas.labels["seed"].tolist()
        self.latents: list[int] = replicas.labels.get("latent", every).tolist()

    def keys(self, path: str, sources: str) -> list[str]:
        """Return for every replica the key of its result.

        It is made of all that the result depends on, so that the cache finds it
        whoever asks for it: also of the path and of a digest of the sources.
        """
        common = cache.fingerprint(
            [self.scale.model_dump(), self.epochs, self.batch_size]
            + [self.learning_rate, path, self.place.type, sources]
        )
        tables = [cache.fingerprint(table) for table in self.table]
        own = zip(self.seeds, self.latents, self.rows, self.held, strict=True)
        return [
            cache.fingerprint([common, tables[r % len(tables)], *parts])
            for r, parts in enumerate(own)
        ]

    def initial(self, replica: int) -> np.ndarray:
        """Return a replica's first parameters (P,), layer by layer."""
        seed, latent = self.seeds[replica], self.latents[replica]
        drawn = networks.initial(self.scale, seed, latent)
        return np.concatenate([value.ravel() for value in drawn.values()])

    def views(self, replica: int) -> np.ndarray:
        """Return the weights that turn row metrics into means, (views, n)."""
        rows, held = self.rows[replica], self.held[replica]
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

    def gather(self, results: Sequence[Result]) -> Fitted:
        """Stack the replicas' results to a fitted scale without scalers."""
        p, as_made, measured = (np.stack([r[k] for r in results]) for k in results[0])
        names, heads = networks.metric_names(self.scale), self.scale.heads
        by_kind = zip(KINDS, [as_made, *measured.transpose(2, 0, 1, 3)], strict=True)
        values = {
            kind: {name: array[..., m] for m, name in enumerate(names)}
            for kind, array in by_kind
        }
        for one in values.values():
            one["loss"] = sum(h.weight * one[f"{h.name}_{h.loss}"] for h in heads)
        history = History(np.flatnonzero(self.told) + 1, values)
        parameters = networks.unpacked(self.scale, p)
        return Fitted(self.scale, self.replicas, parameters, history=history)


def told(epochs: int) -> np.ndarray:
    """Return after which epochs all rows are measured: the last 200, (epochs,)."""
    densely = np.arange(epochs) >= epochs - 200  # before, ever more rarely
    densely[np.geomspace(1, epochs, 120).round().astype(int) - 1] = True
    return densely


def batch_means(count: int, size: int) -> np.ndarray:
    """Return for each of ``count`` rows one over the size of its batch."""
    rest = count % size
    whole = np.full(count - rest, 1 / size)
    return np.concatenate([whole, np.full(rest, 1 / max(rest, 1))])


def train(job: Job, missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """Train stacked replicas by autograd; yield each one at the end."""
    cpu = job.place.type == "cpu"
    count = TOGETHER if cpu else max(1, len(missing))
    for first in range(0, len(missing), count):
        some = missing[first : first + count]
        with one_thread(), nullcontext() if cpu else ONE_ON_A_CARD:
            results = _stacked(job, some)
        yield from zip(some, results, strict=True)


def _stacked(job: Job, some: Sequence[int]) -> list[Result]:
    stack, as_made, measured = Stack(job, some), [], []
    take = stack.captured() if job.place.type == "cuda" else stack.step
    steps = [job.batches[r] for r in some]
    for epoch, told in enumerate(job.told):
        total = torch.zeros_like(stack.metrics)
        for batch in stack.epoch():
            for static, values in zip(stack.batch, batch, strict=True):
                static.copy_(values)
            take()
            total += stack.metrics
        if told:
            as_made.append((total.cpu().numpy() / steps).T.astype(np.float32))
            measured.append(stack.measure())
            p = stack.flat.detach().cpu().numpy()
            job.check(p, measured[-1], epoch + 1)
    ended = zip(p, np.stack(as_made, 1), np.stack(measured, 1), strict=True)
    return [dict(zip(("p", "as_made", "measured"), one, strict=True)) for one in ended]


class Stack:
    """Stacked replicas: their random streams, and a masked step of all.

    A step reads ``batch`` (rows, weights, noise, masks of each layer with
    dropout), changes ``flat`` (R, P) and writes ``metrics``: static tensors, and
    nothing in it waits for the device, so that CUDA can record it.
    """

    def __init__(self, job: Job, some: Sequence[int]) -> None:
        self.job, self.some, size = job, list(some), job.batch_size
        put = partial(torch.tensor, device=job.place, dtype=job.dtype)
        self.flat = put(np.stack([job.initial(r) for r in some]))
        self.mean, self.square = (torch.zeros_like(self.flat) for _ in range(2))
        # float64: one minus a power of 0.999 needs it
        self.taken = torch.zeros_like(self.flat[:, :1], dtype=torch.float64)
        self.leaves = {
            name: leaf.requires_grad_()
            for name, leaf in networks.unpacked(job.scale, self.flat).items()
        }
        whole = len(job.table) in (1, len(some))  # and is not copied on the CPU
        table = torch.from_numpy(job.table if whole else job.table[self.some])
        self.table = table.to(job.place, job.dtype).expand(len(some), -1, -1)
        self.views = put(np.stack([job.views(r) for r in some]))
        self.each = torch.arange(len(some), device=job.place)[:, None]
        self.steps = max(job.batches[r] for r in some)
        weights = np.zeros((len(some), self.steps * size), np.float32)
        for own, r in zip(weights, some, strict=True):
            own[: len(job.rows[r])] = batch_means(len(job.rows[r]), size)
        self.weights = put(weights).split(size, 1)
        # of noise, then of each layer with dropout: its width and its share
        self.drawn = [(CODES[job.scale.code].noise(job.scale.latent), 0.0)]
        for head in job.scale.heads:
            self.drawn += [(n, head.dropout) for n in head.hidden if head.dropout]
        self.shuffling = [np.random.default_rng([job.seeds[r], 1]) for r in some]
        self.dropout = [np.random.SFC64([job.seeds[r], 2]) for r in some]
        self.noise = [np.random.default_rng([job.seeds[r], 3]) for r in some]
        drawn = [self.flat.new_zeros(len(some), size, n) for n, _ in self.drawn]
        rows = torch.zeros(len(some), size, dtype=torch.int64, device=job.place)
        self.batch = [rows, torch.zeros_like(self.weights[0]), *drawn]
        metrics = len(networks.metric_names(job.scale))
        self.metrics = self.flat.new_zeros(metrics, len(some))

    def epoch(self) -> Iterator[list[Tensor]]:
        """Yield every step's rows, weights, noise and dropout masks."""
        job, size, shape = self.job, self.job.batch_size, (len(self.some), self.steps)
        order = np.zeros((shape[0], self.steps * size), np.int64)
        drawn = [
            np.zeros((*shape, size, n), np.int16 if share else np.float32)
            for n, share in self.drawn
        ]
        for place, r in enumerate(self.some):
            rows = self.shuffling[place].permutation(job.rows[r])
            order[place, : len(rows)] = rows
            for array, (_, share) in zip(drawn, self.drawn, strict=True):
                # each replica for its own steps
                into = array[place, : job.batches[r]]
                if share:  # 16 random bits a unit are enough, of whole words
                    words = self.dropout[place].random_raw(-(-into.size // 4))
                    into[:] = words.view(np.int16)[: into.size].reshape(into.shape)
                else:
                    into[:] = self.noise[place].standard_normal(into.shape)
        index = torch.from_numpy(order).to(job.place).split(size, 1)
        parts = [torch.from_numpy(one).to(job.place) for one in drawn]
        for part, (_, share) in enumerate(self.drawn):
            if share:  # an unsigned comparison of signed numbers
                kept = (parts[part] ^ -32768) >= round(share * 65536) - 32768
                parts[part] = kept.float().mul_(1 / (1 - share))
        parts = [part.to(job.dtype) for part in parts]
        for step, rows in enumerate(index):
            yield [rows, self.weights[step], *(part[:, step] for part in parts)]

    def _passed(
        self,
        rows: Tensor,
        masks: Sequence[Tensor] = (),
        noise: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return every row's loss (R, n), and its metrics (metrics, R, n)."""
        scale, p = self.job.scale, self.leaves
        x, *targets = rows.split([scale.width, *(h.width for h in scale.heads)], -1)
        total, out = networks.row_losses(scale, p, x, targets, masks, noise, weights)
        found = [
            networks.row_metrics(head, o.detach(), t).values()
            for head, o, t in zip(scale.heads, out, targets, strict=True)
        ]
        return total, torch.stack([value for values in found for value in values])

    def step(self) -> None:
        """Take a step."""
        index, weights, noise, *masks = self.batch
        rows, scale = self.table[self.each, index], self.job.scale
        drawn = noise if noise.shape[-1] else None
        total, metrics = self._passed(rows, masks, drawn, weights)
        loss = (total * weights).sum()
        if scale.l1:
            sizes = [self.leaves[n].abs().sum() for n in networks.penalised(scale)]
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
        taken = self.taken.clamp(min=1)  # none before the first
        size = self.job.learning_rate / (1 - first**taken) * active
        correct = (1 - second**taken).to(g.dtype)
        scale = (self.square / correct).sqrt().add_(1e-8)
        self.flat.addcdiv_(self.mean * size.to(g.dtype), scale, value=-1)

    @torch.no_grad()
    def measure(self) -> np.ndarray:
        """Return the means over rows, dropout off, (R, views, metrics)."""
        metrics = self._passed(self.table)[1]
        return torch.einsum("mrn,rvn->rvm", metrics, self.views).cpu().numpy()

    def captured(self) -> Callable[[], None]:
        """Record the step as a CUDA graph: one of rows without weight."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: more of them slow such small products down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
