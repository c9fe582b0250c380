"""The fast path: a dense scale trained on the CPU by a compiled kernel.

One replica's parameters, gradient, moments and batch stay in the processor's
first caches; replicas run on threads.  A network is a table of layers and
heads, so that one compilation serves all shapes.  `training` (autograd) is
the definition; tests hold the two together.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import joblib
import numpy as np

from nestedae_utils.model import kernels
from nestedae_utils.model.kernels import ACTIVATIONS, LOSSES, TALL, compiled
from nestedae_utils.model.networks import metric_names, shapes
from nestedae_utils.model.reference import Job, Result
from nestedae_utils.model.scales import Head, Scale


def knows(scale: Scale) -> bool:
    """Tell whether this path can train a scale."""
    nets = {scale.net, *(head.net for head in scale.heads)}
    kinds = {scale.activation, scale.latent_activation}
    kinds |= {k for head in scale.heads for k in (head.activation, head.output)}
    losses = {head.loss for head in scale.heads}
    known = kinds <= set(ACTIVATIONS) and losses <= set(LOSSES)
    known = known and nets == {"dense"} and scale.code == "plain"
    return known and kernels.njit is not None


def train(job: Job, missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """Train replicas on threads; yield each one when it is done."""
    laid_out, stop = plan(job.scale), threading.Event()
    pool = ThreadPoolExecutor(max(1, min(len(missing), joblib.cpu_count())))
    try:
        running = {pool.submit(_replica, job, laid_out, r, stop): r for r in missing}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _replica(job: Job, laid_out: "Plan", replica: int, stop: threading.Event) -> Result:
    """Train one replica: some epochs at a time, so that it can be stopped."""
    p, seed, rows = job.initial(replica), job.seeds[replica], job.rows[replica]
    mean, square = np.zeros_like(p), np.zeros_like(p)
    shuffling = np.random.default_rng([seed, 1])
    state = np.random.SFC64([seed, 2]).state["state"]["state"]
    table, views = job.table[replica % len(job.table)], job.views(replica)
    as_made = np.zeros((job.told.sum(), len(metric_names(job.scale))))
    measured = np.zeros((len(as_made), len(views), as_made.shape[1]))
    few, step = max(1, min(50, 1_000_000 // len(rows))), 0
    for first in range(0, job.epochs, few):
        if stop.is_set():
            break
        told = job.told[first : first + few]
        orders = np.stack([shuffling.permutation(rows) for _ in told])
        done = slice(job.told[:first].sum(), job.told[: first + few].sum())
        step = run(
            *(laid_out, p, mean, square, step, table, orders, told, views, state),
            *(job.batch_size, job.learning_rate, as_made[done], measured[done]),
        )
        job.check(p, measured[done], first + len(told))
    metrics = {"as_made": as_made, "measured": measured}
    return {"p": p, **{k: v.astype(np.float32) for k, v in metrics.items()}}


class Plan(NamedTuple):
    """A network as tables of numbers.

    ``layers`` (int64): rows, columns, first weight, first bias, activation,
    first unit of the output, the layer that feeds it or -1 for the inputs,
    first unit of its dropout mask or -1, 16-bit threshold of the mask.
    ``heads`` (int64): last layer, first column of the target, loss, first
    metric.  ``weights`` of the heads, ``factors`` of what each layer's
    dropout leaves, ``l1`` of every parameter: float32.
    """

    layers: np.ndarray
    heads: np.ndarray
    weights: np.ndarray
    factors: np.ndarray
    l1: np.ndarray


def plan(scale: Scale) -> Plan:
    """Lay out a scale."""
    known, names = shapes(scale), metric_names(scale)
    kinds = [scale.activation] * len(scale.hidden) + [scale.latent_activation]
    paths: list[tuple[str, list[str], Head | None]] = [("encoder", kinds, None)]
    for h in scale.heads:
        kinds = [h.activation] * len(h.hidden) + [h.output]
        paths.append((f"head {h.name}", kinds, h))
    layers: list[tuple[int, ...]] = []
    heads: list[tuple[int, ...]] = []
    factors: list[float] = []
    l1: list[float] = []
    start = units = masked = 0
    column = scale.width
    for path, kinds, head in paths:
        dropout = head.dropout if head else 0.0
        for place, kind in enumerate(kinds):
            rows, cols, _ = known[f"{path}.{place}"]
            source = len(layers) - 1 if place or not head else len(scale.hidden)
            drops = dropout > 0 and place < len(kinds) - 1
            bias = start + rows * cols
            layers.append(
                (rows, cols, start, bias, ACTIVATIONS.index(kind), units)
                + (source, masked if drops else -1, round(dropout * 65536))
            )
            factors.append(1 / (1 - dropout))
            acts = scale.l1_on == "all" or not head
            l1 += [scale.l1 * acts] * (rows * cols) + [0.0] * cols
            masked += cols if drops else 0
            start, units = bias + cols, units + cols
        if head:
            metric = names.index(f"{head.name}_{head.loss}")
            goal = len(layers) - 1, column, LOSSES.index(head.loss)
            heads.append((*goal, metric))
            column += head.width
    weights = [head.weight for head in scale.heads]
    numbers = [np.array(v, np.float32) for v in (weights, factors, l1)]
    return Plan(np.array(layers), np.array(heads), *numbers)


class Space(NamedTuple):
    """Work space for one batch: what goes in, comes out, is dropped, pulls.

    ``data``, ``work`` (outputs), ``seen`` (outputs after dropout), ``drops``
    (dropout's factors) and ``pulls`` hold units times rows; ``each`` every
    row's metrics, ``sums`` float64 sums, ``kept`` an epoch's dropout bits.
    """

    data: np.ndarray
    work: np.ndarray
    seen: np.ndarray
    drops: np.ndarray
    pulls: np.ndarray
    each: np.ndarray
    sums: np.ndarray
    kept: np.ndarray


@compiled
def _batch(net, space, p, g, table, rows, size, low, total, learn):
    """Send a batch forward, and with ``learn`` its losses' slopes back.

    ``space.each`` gets every row's metrics, ``g`` the gradient; the batch's
    rows stand at ``low`` of the epoch's ``total``.
    """
    n, tall, layers = rows.size, size >= TALL, net.layers
    data = kernels.units_of(space.data, 0, layers[0, 0], size, n)
    kernels.gather(table, rows, 0, data, tall)
    if learn:
        space.pulls[:] = 0
    for number in range(len(layers)):
        K, J, w, b, kind, units, source, mask, _ = layers[number]
        x = data
        if source >= 0:
            dropped = learn and layers[source, 7] >= 0
            buffer = space.seen if dropped else space.work
            x = kernels.units_of(buffer, layers[source, 5], K, size, n)
        y = kernels.units_of(space.work, units, J, size, n)
        kernels.forward(x, p[w:b].reshape(K, J), p[b : b + J], y, kind, tall)
        if learn and mask >= 0:
            begin = mask * total + low * J
            drops = kernels.units_of(space.drops, units, J, size, n)
            seen = kernels.units_of(space.seen, units, J, size, n)
            kept = space.kept[begin : begin + n * J]
            kernels.drop(y, kept, net.factors[number], drops, seen, tall)
    for h in range(len(net.heads)):
        last, column, kind, metric = net.heads[h]
        J, units = layers[last, 1], layers[last, 5]
        goal = kernels.units_of(space.data, column, J, size, n)
        kernels.gather(table, rows, column, goal, tall)
        y = kernels.units_of(space.work, units, J, size, n)
        pull = kernels.units_of(space.pulls, units, J, size, n)
        kernels.loss(y, goal, kind, net.weights[h], pull, space.each[metric:], tall)
    if not learn:
        return
    for number in range(len(layers) - 1, -1, -1):
        K, J, w, b, kind, units, source, mask, _ = layers[number]
        first, last = units * size, units * size + n * J
        pull = space.pulls[first:last]
        if mask >= 0:
            pull *= space.drops[first:last]
        kernels.slope(space.work[first:last], pull, kind)
        x, down = data, data[:0]
        if source >= 0:
            dropped = layers[source, 7] >= 0
            buffer = space.seen if dropped else space.work
            x = kernels.units_of(buffer, layers[source, 5], K, size, n)
            down = kernels.units_of(space.pulls, layers[source, 5], K, size, n)
        pull = kernels.units_of(space.pulls, units, J, size, n)
        into_w, into_b = g[w:b].reshape(K, J), g[b : b + J]
        weight = p[w:b].reshape(K, J)
        kernels.backward(x, weight, pull, into_w, into_b, down, tall, space.sums)


@compiled
def run(net, p, mean, square, step, table, orders, told, views, state, size,
        rate, as_made, measured):  # fmt: skip
    """Train one replica for some epochs; return its number of Adam steps.

    Parameters
    ----------
    net
        The plan.
    p, mean, square, step
        Parameters and Adam's moments (P,), changed in place; steps before.
    table
        Shape (n, columns), float32: inputs, then every head's target.
    orders, told
        The shuffled training rows of each epoch, (epochs, rows), and after
        which epochs all rows are measured, (epochs,).
    views
        Shape (views, n), float32: weights that turn row metrics into means.
    state
        Of the dropout's generator, see `kernels.keep`.
    size, rate
        Rows a batch; learning rate.
    as_made, measured
        Written, (told, metrics) and (told, views, metrics): means over the
        batches as they were trained, and over rows.
    """
    layers, metrics, count = net.layers, as_made.shape[1], orders.shape[1]
    batches = (count + size - 1) // size
    total, units = batches * size, layers[-1, 5] + layers[-1, 1]
    bits = layers[layers[:, 7] >= 0, 1].sum() * total
    blank = np.empty(units * size, np.float32)
    space = Space(
        np.empty(table.shape[1] * size, np.float32),
        blank,
        np.empty_like(blank),
        np.empty_like(blank),
        np.empty_like(blank),
        np.empty((metrics, size), np.float32),
        np.empty(units),
        np.empty(bits, np.uint8),
    )
    every, g, at = np.arange(len(table)), np.empty_like(p), 0
    words = np.empty((bits + 3) // 4, np.uint64)
    for epoch in range(len(orders)):
        for number in range(len(layers)):
            if layers[number, 7] >= 0:
                first, units = layers[number, 7], layers[number, 1]
                kept = space.kept[first * total : (first + units) * total]
                kernels.keep(state, layers[number, 8], kept, words)
        for low in range(0, count, size):
            rows = orders[epoch, low : low + size]
            _batch(net, space, p, g, table, rows, size, low, total, True)
            step += 1
            kernels.adam(p, g, mean, square, net.l1, step, rate)
            for m in range(metrics if told[epoch] else 0):
                as_made[at, m] += space.each[m, : rows.size].mean() / batches
        if told[epoch]:
            for low in range(0, every.size, size):
                rows = every[low : low + size]
                _batch(net, space, p, g, table, rows, size, low, total, False)
                for v in range(len(views)):
                    for m in range(metrics):
                        for i in range(rows.size):
                            value = views[v, low + i] * space.each[m, i]
                            measured[at, v, m] += value
            at += 1
    return step
