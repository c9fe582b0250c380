"""The definition of training: autograd over stacked replicas, on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.model import networks
from nestedae_utils.model.jobs import Job, Result, batch_means
from nestedae_utils.model.layers import CODES

TOGETHER = 50
"""Replicas that are stacked on the CPU."""


def train(job: Job, missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
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
        self,
        rows: Tensor,
        masks: Sequence[Tensor],
        noise: Tensor | None,
        weights: Tensor | None = None,
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
            scale, self.leaves, x, targets, by_head, noise, weights
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
        drawn = noise if noise.shape[-1] else None
        total, metrics = self._passed(rows, masks, drawn, weights)
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: more of them slow such small products down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
