"""The fast path: a dense scale trained on the CPU by a compiled kernel.

One replica's parameters, gradient, moments and batch stay in the processor's
first caches; replicas run on threads.  A network is a table of layers and
heads, so that one compilation serves all shapes.  `training` (autograd) is
the definition; tests hold the two together.

Activations lie unit by unit or row by row, whichever makes the longer inner
loop: (units, rows) for large batches, (rows, units) for small ones.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestedae_utils.model.cache import folder
from nestedae_utils.model.networks import metric_names, path_of, shapes
from nestedae_utils.model.scales import Scale


def _usable() -> Path:
    """Return a folder for compiled code that can be written to."""
    path = folder() / "numba"
    try:
        path.mkdir(parents=True, exist_ok=True)
        return path
    except OSError:
        return Path(tempfile.gettempdir()) / "nestedae-numba"


# numba reads it once; the package's own folder may be read-only
os.environ.setdefault("NUMBA_CACHE_DIR", str(_usable()))
try:
    from numba import njit
except ImportError:  # no wheel for this platform: the reference path
    njit = None

ACTIVATIONS = ("linear", "tanh", "relu", "sigmoid", "elu")
LOSSES = ("mae", "mse", "huber", "cross_entropy")
LINEAR, TANH, RELU, SIGMOID, ELU = range(5)
MAE, MSE, HUBER, CROSS_ENTROPY = range(4)
TALL = 32
"""Rows of a batch from which activations lie unit by unit."""


def knows(scale: Scale) -> bool:
    """Tell whether this path can train a scale."""
    parts = [scale.net, *(head.net for head in scale.heads)]
    kinds = {scale.activation, scale.latent_activation}
    kinds |= {k for h in scale.heads for k in (h.activation, h.output)}
    losses = {head.loss for head in scale.heads}
    return (
        njit is not None
        and set(parts) == {"dense"}
        and scale.code == "plain"
        and kinds <= set(ACTIVATIONS)
        and losses <= set(LOSSES)
    )


@dataclass(frozen=True)
class Plan:
    """A network as tables of numbers.

    ``layers`` (int64): rows, columns, first weight, first bias, activation,
    first unit of the output, the layer that feeds it or -1 for the inputs,
    first unit of its dropout mask or -1, 16-bit threshold of the mask.
    ``heads`` (int64): last layer, first column of the target, loss, first
    metric.  ``weights`` (float32) of the heads' losses; ``l1`` (float32) of
    every parameter.
    """

    layers: np.ndarray
    heads: np.ndarray
    weights: np.ndarray
    factors: np.ndarray
    l1: np.ndarray


def plan(scale: Scale, columns: dict[str, int]) -> Plan:
    """Lay out a scale; ``columns`` is where each head's target begins."""
    known, names = shapes(scale), metric_names(scale)
    encoder = [scale.activation] * len(scale.hidden) + [
        scale.latent_activation
    ]
    paths = [("encoder", encoder, 0.0, None)]
    for head in scale.heads:
        kinds = [head.activation] * len(head.hidden) + [head.output]
        paths.append((path_of(head), kinds, head.dropout, head))
    layers, heads, factors, l1 = [], [], [], []
    start = units = masked = 0
    for path, kinds, dropout, head in paths:
        for place, kind in enumerate(kinds):
            rows, cols, _ = known[f"{path}.{place}"]
            source = (
                len(layers) - 1 if place or head is None else len(encoder) - 1
            )
            mask = masked if dropout and place < len(kinds) - 1 else -1
            masked += cols if mask >= 0 else 0
            layers.append(
                (rows, cols, start, start + rows * cols)
                + (ACTIVATIONS.index(kind), units, source)
                + (mask, round(dropout * 65536))
            )
            factors.append(1 / (1 - dropout))
            factor = scale.l1 if scale.l1_on == "all" or head is None else 0.0
            l1 += [factor] * (rows * cols) + [0.0] * cols
            start, units = start + (rows + 1) * cols, units + cols
        if head is not None:
            metric = names.index(f"{head.name}_{head.loss}")
            loss = LOSSES.index(head.loss)
            heads.append((len(layers) - 1, columns[head.name], loss, metric))
    return Plan(
        np.array(layers),
        np.array(heads),
        np.array([head.weight for head in scale.heads], np.float32),
        np.array(factors, np.float32),
        np.array(l1, np.float32),
    )


def compiled(function):
    """Compile a function for one thread that holds no lock."""
    if njit is None:
        return function
    options = {"fastmath": True, "error_model": "numpy", "cache": True}
    return njit(nogil=True, **options)(function)


# --- products of small matrices ---------------------------------------------


@compiled
def _product(a, b, c):
    """Add a b to c; a (n, m) of any layout, b (m, w) and c (n, w) by rows."""
    for i in range(a.shape[0]):
        k = 0
        while k + 4 <= a.shape[1]:
            s, t, u, v = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            for j in range(b.shape[1]):
                c[i, j] += (
                    s * b[k, j]
                    + t * b[k + 1, j]
                    + u * b[k + 2, j]
                    + v * b[k + 3, j]
                )
            k += 4
        while k < a.shape[1]:
            s = a[i, k]
            for j in range(b.shape[1]):
                c[i, j] += s * b[k, j]
            k += 1


@compiled
def _dots(a, b, c):
    """Add a b' to c; a (n, m), b (w, m) and c (n, w) by rows."""
    for i in range(a.shape[0]):
        j = 0
        while j + 4 <= b.shape[0]:
            s = t = u = v = np.float32(0)
            for k in range(a.shape[1]):
                s += a[i, k] * b[j, k]
                t += a[i, k] * b[j + 1, k]
                u += a[i, k] * b[j + 2, k]
                v += a[i, k] * b[j + 3, k]
            c[i, j] += s
            c[i, j + 1] += t
            c[i, j + 2] += u
            c[i, j + 3] += v
            j += 4
        while j < b.shape[0]:
            s = np.float32(0)
            for k in range(a.shape[1]):
                s += a[i, k] * b[j, k]
            c[i, j] += s
            j += 1


@compiled
def _forward(x, w, b, y, kind, tall):
    """Write a layer's output y; x and y (units, n) if tall, else (n, units)."""
    if tall:
        for j in range(y.shape[0]):
            y[j] = b[j]
        _product(w.T, x, y)
    else:
        for i in range(y.shape[0]):
            y[i] = b
        if w.shape[1] == 1:
            _dots(x, w.reshape(1, w.shape[0]), y)
        else:
            _product(x, w, y)
    flat = y.reshape(y.size)
    if kind == TANH:
        for i in range(flat.size):
            flat[i] = _tanh(flat[i])
    elif kind == RELU:
        for i in range(flat.size):
            flat[i] = flat[i] if flat[i] > 0 else np.float32(0)
    elif kind == SIGMOID:
        half = np.float32(0.5)
        for i in range(flat.size):
            flat[i] = half + half * _tanh(half * flat[i])
    elif kind == ELU:
        for i in range(flat.size):
            if flat[i] < 0:
                flat[i] = np.expm1(flat[i])


@compiled
def _tanh(x):
    """Return tanh to 4e-7 by a quotient of polynomials in x squared.

    Fitted to the least relative error up to 9, where float32 is one; unlike
    the library's, it runs eight abreast.
    """
    x = min(max(x, np.float32(-9)), np.float32(9))
    q = x * x
    above = np.float32(1.3356516e-8) * q + np.float32(2.0610465e-5)
    above = (above * q + np.float32(3.4956740e-3)) * q
    above = (above + np.float32(0.13381099)) * q + np.float32(1)
    below = np.float32(7.7773303e-7) * q + np.float32(3.2857739e-4)
    below = (below * q + np.float32(2.5877311e-2)) * q
    below = (below + np.float32(0.46714414)) * q + np.float32(1)
    return min(max(x * above / below, np.float32(-1)), np.float32(1))


@compiled
def _slope(y, pull, kind):
    """Take the pull back through an activation, by its own output."""
    one, zero = np.float32(1), np.float32(0)
    if kind == TANH:
        for i in range(y.size):
            pull[i] *= one - y[i] * y[i]
    elif kind == RELU:
        for i in range(y.size):
            pull[i] = pull[i] if y[i] > zero else zero
    elif kind == SIGMOID:
        for i in range(y.size):
            pull[i] *= y[i] * (one - y[i])
    elif kind == ELU:
        for i in range(y.size):
            pull[i] *= one + min(y[i], zero)


@compiled
def _backward(x, w, pull, into_w, into_b, down, tall, sums):
    """Write a layer's gradients; add the pull on its input to ``down``.

    Biases are summed in float64: the slopes of absolute errors cancel to
    nothing, and Adam would make a step of what rounding leaves.
    """
    into_w[:] = 0
    sums[: into_b.size] = 0
    if tall:
        for j in range(pull.shape[0]):
            for i in range(pull.shape[1]):
                sums[j] += pull[j, i]
    else:
        for i in range(pull.shape[0]):
            for j in range(pull.shape[1]):
                sums[j] += pull[i, j]
    for j in range(into_b.size):
        into_b[j] = sums[j]
    if tall:
        _dots(x, pull, into_w)
        if down.size:
            _product(w, pull, down)
        return
    if w.shape[1] == 1:
        _product(pull.T, x, into_w.reshape(1, w.shape[0]))
        if down.size:
            _product(pull, w.reshape(1, w.shape[0]), down)
    else:
        _product(x.T, pull, into_w)
        if down.size:
            _dots(pull, w, down)


@compiled
def _loss(y, t, r, c, n, width, kind, weight, pull, each):
    """Write the slopes of a batch's mean loss, and every row's metrics.

    Row i and column j of the output y, the target t and the pull lie at
    ``i * r + j * c``; ``each`` (metrics, n) gets the loss and, for
    categories, the two accuracies.
    """
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    share = np.float32(weight / n)
    each[: 3 if kind == CROSS_ENTROPY else 1] = 0
    if kind == CROSS_ENTROPY:
        _categories(y, t, r, c, n, width, share, pull, each)
        return
    share, part = share / np.float32(width), np.float32(1 / width)
    for j in range(width):
        for i in range(n):
            e = y[i * r + j * c] - t[i * r + j * c]
            a = abs(e)
            if kind == MAE:
                loss = a
                slope = np.float32(e > 0) - np.float32(e < 0)
            elif kind == MSE:
                loss, slope = e * e, e + e
            else:
                loss = a - half if a >= one else half * e * e
                slope = min(max(e, -one), one)
            each[0, i] += part * loss
            pull[i * r + j * c] = share * slope


@compiled
def _categories(y, t, r, c, n, width, share, pull, each):
    """Do what `_loss` does, of logits and a one-hot target."""
    high, norm, picked = each[0], each[1], each[2]
    for i in range(n):
        high[i] = y[i * r]
    for j in range(1, width):
        for i in range(n):
            high[i] = max(high[i], y[i * r + j * c])
    for j in range(width):
        for i in range(n):
            at = i * r + j * c
            pull[at] = _exp(y[at] - high[i])
            norm[i] += pull[at]
            picked[i] += y[at] * t[at]
    for j in range(width):
        for i in range(n):
            at = i * r + j * c
            pull[at] = share * (pull[at] / norm[i] - t[at])
    for i in range(n):
        right = 0
        for j in range(width):
            at = i * r + j * c
            right += (y[at] > 0) == (t[at] > np.float32(0.5))
        loss = high[i] + np.log(norm[i]) - picked[i]
        picked[i] = np.float32(picked[i] >= high[i])
        high[i], norm[i] = loss, np.float32(right / width)


@compiled
def _exp(x):
    """Return exp of x <= 0 to 2e-7, eight abreast: a power of two times e^r."""
    x = max(x, np.float32(-87))
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    x = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    s = np.float32(1 / 720) * x + np.float32(1 / 120)
    s = (s * x + np.float32(1 / 24)) * x + np.float32(1 / 6)
    s = ((s * x + np.float32(0.5)) * x + np.float32(1)) * x + np.float32(1)
    power = np.int32((np.int32(whole) + 127) << 23)
    return s * power.view(np.float32)


@compiled
def _adam(p, g, mean, square, l1, step, rate):
    """Take one step of Adam (arXiv:1412.6980), L1's slope included."""
    zero = np.float32(0)
    first, second = np.float32(0.9), np.float32(0.999)
    size = np.float32(rate / (1 - 0.9**step))
    scale = np.float32(1 / (1 - 0.999**step))
    for i in range(p.size):
        sign = np.float32(p[i] > zero) - np.float32(p[i] < zero)
        s = g[i] + l1[i] * sign
        # not one minus the factor, which float32 rounds by 5e-5
        mean[i] = first * mean[i] + np.float32(0.1) * s
        square[i] = second * square[i] + np.float32(0.001) * s * s
        p[i] -= (
            size * mean[i] / (np.sqrt(square[i] * scale) + np.float32(1e-8))
        )


@compiled
def _keep(state, threshold, kept):
    """Draw which units stay, as numpy's SFC64 gives 16 random bits each.

    ``state`` (6,) holds the generator's four words and, as numpy's, whether
    half of the last draw is left, and that half.
    """
    a, b, c, count, left, bits = state
    for unit in range(0, kept.size, 2):
        if left:
            bits, left = bits >> np.uint64(32), np.uint64(0)
        else:
            bits, left = a + b + count, np.uint64(1)
            count += np.uint64(1)
            a, b = b ^ (b >> np.uint64(11)), c + (c << np.uint64(3))
            c = (c << np.uint64(24) | c >> np.uint64(40)) + bits
        kept[unit] = (bits & np.uint64(0xFFFF)) >= threshold
        if unit + 1 < kept.size:
            second = bits >> np.uint64(16) & np.uint64(0xFFFF)
            kept[unit + 1] = second >= threshold
    state[0], state[1], state[2] = a, b, c
    state[3], state[4], state[5] = count, left, bits


@compiled
def _view(buffer, first, units, size, n, tall):
    """Return the part of a work space that holds some units of n rows."""
    flat = buffer[first * size : first * size + units * n]
    return flat.reshape(units, n) if tall else flat.reshape(n, units)


@compiled
def _gather(table, rows, first, width, size, into, tall):
    """Copy columns of some rows into a work space."""
    n = rows.size
    r, c = (1, n) if tall else (width, 1)
    for i in range(n):
        for k in range(width):
            into[first * size + i * r + k * c] = table[rows[i], first + k]


@compiled
def _mask(kept, factor, n, width, tall, into):
    """Write a layer's dropout factors, (n, width) bytes, as its output lies."""
    if not tall:
        for i in range(kept.size):
            into[i] = factor * kept[i]
        return
    drawn, to = kept.reshape(n, width), into.reshape(width, n)
    for j in range(width):
        for i in range(n):
            to[j, i] = factor * drawn[i, j]


@compiled
def _batch(
    p,
    g,
    table,
    rows,
    size,
    layers,
    heads,
    weights,
    factors,
    data,
    work,
    masked,
    drops,
    pulls,
    kept,
    before,
    total,
    each,
    sums,
    learn,
):
    """Send a batch forward, and with ``learn`` its losses' slopes back.

    ``each`` (metrics, n) gets every row's metrics, ``g`` the gradient.
    """
    n, tall = rows.size, size >= TALL
    _gather(table, rows, 0, layers[0, 0], size, data, tall)
    for l in range(layers.shape[0]):
        K, J, w, b, kind, units, source, mask, _ = layers[l]
        seen, first = data, 0
        if source >= 0:
            first = layers[source, 5]
            seen = masked if learn and layers[source, 7] >= 0 else work
        x = _view(seen, first, K, size, n, tall)
        y = _view(work, units, J, size, n, tall)
        _forward(x, p[w:b].reshape(K, J), p[b : b + J], y, kind, tall)
        if learn and mask >= 0:
            begin, at = mask * total + before * J, units * size
            drop = drops[at : at + n * J]
            _mask(kept[begin : begin + n * J], factors[l], n, J, tall, drop)
            for i in range(n * J):
                masked[at + i] = work[at + i] * drop[i]
    if learn:
        pulls[:] = 0
    for h in range(heads.shape[0]):
        last, column, loss, metric = heads[h]
        J, units = layers[last, 1], layers[last, 5]
        _gather(table, rows, column, J, size, data, tall)
        r, c = (1, n) if tall else (J, 1)
        here, goal = units * size, column * size
        _loss(
            work[here : here + J * n],
            data[goal : goal + J * n],
            r,
            c,
            n,
            J,
            loss,
            weights[h],
            pulls[here : here + J * n],
            each[metric:],
        )
    if not learn:
        return
    for back in range(layers.shape[0]):
        l = layers.shape[0] - 1 - back
        K, J, w, b, kind, units, source, mask, _ = layers[l]
        pull = _view(pulls, units, J, size, n, tall)
        flat = pull.reshape(pull.size)
        if mask >= 0:
            for i in range(flat.size):
                flat[i] *= drops[units * size + i]
        y = _view(work, units, J, size, n, tall)
        _slope(y.reshape(y.size), flat, kind)
        seen, first, down = data, 0, pulls[:0].reshape(0, 1)
        if source >= 0:
            first = layers[source, 5]
            seen = masked if layers[source, 7] >= 0 else work
            down = _view(pulls, first, K, size, n, tall)
        x = _view(seen, first, K, size, n, tall)
        _backward(
            x,
            p[w:b].reshape(K, J),
            pull,
            g[w:b].reshape(K, J),
            g[b : b + J],
            down,
            tall,
            sums,
        )


@compiled
def run(
    p,
    mean,
    square,
    step,
    table,
    orders,
    told,
    views,
    state,
    size,
    rate,
    layers,
    heads,
    weights,
    factors,
    l1,
    as_made,
    measured,
):
    """Train one replica for some epochs; return its number of Adam steps.

    Parameters
    ----------
    p, mean, square
        Parameters and Adam's moments (P,), float32, changed in place.
    step
        Steps of Adam before.
    table
        Shape (n, columns), float32: inputs, then every head's target.
    orders
        Shape (epochs, rows): the shuffled training rows.
    told
        Shape (epochs,): after which epochs all rows are measured.
    views
        Shape (views, n), float32: weights that turn row metrics into means.
    state
        Of the dropout's generator, see :func:`_keep`.
    size, rate
        Rows a batch; learning rate.
    layers, heads, weights, factors, l1
        See :class:`Plan`.
    as_made, measured
        Shapes (told, metrics) and (told, views, metrics), written: means
        over the batches as they were trained, and over rows.
    """
    count, metrics = orders.shape[1], as_made.shape[1]
    batches = (count + size - 1) // size
    total = batches * size
    units = layers[-1, 5] + layers[-1, 1]
    work = np.empty(units * size, np.float32)
    masked, drops, pulls = (
        np.empty_like(work),
        np.empty_like(work),
        np.empty_like(work),
    )
    data = np.empty(table.shape[1] * size, np.float32)
    each, sums = np.empty((metrics, size), np.float32), np.empty(units)
    dropped = 0
    for l in range(layers.shape[0]):
        dropped += layers[l, 1] if layers[l, 7] >= 0 else 0
    kept = np.empty(dropped * total, np.uint8)
    every, g, at = np.arange(table.shape[0]), np.empty_like(p), 0
    for epoch in range(orders.shape[0]):
        for l in range(layers.shape[0]):
            if layers[l, 7] >= 0:
                first = layers[l, 7] * total
                _keep(
                    state,
                    layers[l, 8],
                    kept[first : first + layers[l, 1] * total],
                )
        for low in range(0, count, size):
            rows = orders[epoch, low : low + size]
            _batch(
                p,
                g,
                table,
                rows,
                size,
                layers,
                heads,
                weights,
                factors,
                data,
                work,
                masked,
                drops,
                pulls,
                kept,
                low,
                total,
                each,
                sums,
                True,
            )
            step += 1
            _adam(p, g, mean, square, l1, step, rate)
            if told[epoch]:
                for m in range(metrics):
                    as_made[at, m] += each[m, : rows.size].mean() / batches
        if not told[epoch]:
            continue
        for low in range(0, every.size, size):
            rows = every[low : low + size]
            _batch(
                p,
                g,
                table,
                rows,
                size,
                layers,
                heads,
                weights,
                factors,
                data,
                work,
                masked,
                drops,
                pulls,
                kept,
                low,
                total,
                each,
                sums,
                False,
            )
            for v in range(views.shape[0]):
                for m in range(metrics):
                    for i in range(rows.size):
                        measured[at, v, m] += views[v, low + i] * each[m, i]
        at += 1
    return step
