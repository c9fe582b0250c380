"""Small compiled pieces of the fast path: products, slopes, losses, Adam.

Arrays are float32.  A layer's inputs and outputs lie unit by unit, (units,
rows), where a batch is ``tall``, and row by row where it is not, whichever
makes the longer inner loop.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from nestedae_utils.model import cache

# numba reads it once; beside the package, where it would write, is read-only
# where the package was installed for all, and it fails on a disk that is full. It
# sees a change of one file only.
_SOURCES = [Path(__file__).with_name(f"{name}.py") for name in ("dense", "kernels")]
_CODE = cache.folder() / "numba"
_PLACE = next(path for path in _CODE.parents if path.exists())
if not os.access(_PLACE, os.W_OK) or shutil.disk_usage(_PLACE).free < 2**26:
    _CODE = Path(tempfile.gettempdir()) / "nestedae-numba"
os.environ.setdefault("NUMBA_CACHE_DIR", str(_CODE / cache.digest(_SOURCES)))
try:
    from numba import njit
except ImportError:  # no wheel for this platform
    njit = None

ACTIVATIONS = ("linear", "tanh", "relu", "sigmoid", "elu")
LOSSES = ("mae", "mse", "huber", "cross_entropy")
LINEAR, TANH, RELU, SIGMOID, ELU = range(5)
MAE, MSE, HUBER, CROSS_ENTROPY = range(4)
F = np.float32
U = np.uint64
TALL = 32
"""Rows of a batch from which outputs lie unit by unit."""


def compiled(function):
    """Compile a function for one thread that holds no lock."""
    if njit is None:
        return function
    return njit(nogil=True, fastmath=True, error_model="numpy", cache=True)(function)


@compiled
def units_of(buffer, first, units, size, n):
    """Return the part of a work space that holds some units of n rows."""
    flat = buffer[first * size : first * size + units * n]
    return flat.reshape(units, n) if size >= TALL else flat.reshape(n, units)


@compiled
def gather(table, rows, first, into, tall):
    """Copy some columns of some rows into a work space."""
    for i in range(rows.size):
        for k in range(into.shape[0] if tall else into.shape[1]):
            value = table[rows[i], first + k]
            if tall:
                into[k, i] = value
            else:
                into[i, k] = value


@compiled
def drop(y, kept, factor, drops, seen, tall):
    """Write a layer's dropout factors, and what they leave of its output."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            bit = kept[j * y.shape[0] + i if tall else i * y.shape[1] + j]
            drops[i, j] = factor * bit
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            seen[i, j] = y[i, j] * drops[i, j]


@compiled
def product(a, b, c):
    """Add a b to c; a (n, m) of any layout, b (m, w) and c (n, w) by rows."""
    m = a.shape[1] // 4 * 4
    for i in range(a.shape[0]):
        for k in range(0, m, 4):
            s, t, u, v = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            for j in range(b.shape[1]):
                low = s * b[k, j] + t * b[k + 1, j]
                c[i, j] += low + u * b[k + 2, j] + v * b[k + 3, j]
        for k in range(m, a.shape[1]):
            s = a[i, k]
            for j in range(b.shape[1]):
                c[i, j] += s * b[k, j]


@compiled
def dots(a, b, c):
    """Add a b' to c; a (n, m), b (w, m) and c (n, w) by rows."""
    w = b.shape[0] // 4 * 4
    for i in range(a.shape[0]):
        for j in range(0, w, 4):
            s = t = u = v = F(0)
            for k in range(a.shape[1]):
                s += a[i, k] * b[j, k]
                t += a[i, k] * b[j + 1, k]
                u += a[i, k] * b[j + 2, k]
                v += a[i, k] * b[j + 3, k]
            c[i, j] += s
            c[i, j + 1] += t
            c[i, j + 2] += u
            c[i, j + 3] += v
        for j in range(w, b.shape[0]):
            s = F(0)
            for k in range(a.shape[1]):
                s += a[i, k] * b[j, k]
            c[i, j] += s


@compiled
def activate(y, kind):
    """Put an activation in place of what comes in, (units times rows,)."""
    for i in range(y.size):
        if kind == TANH:
            y[i] = tanh(y[i])
        elif kind == RELU:
            y[i] = F(0.5) * (y[i] + abs(y[i]))  # without a branch
        elif kind == SIGMOID:
            y[i] = F(0.5) + F(0.5) * tanh(F(0.5) * y[i])
        elif kind == ELU:
            y[i] = y[i] if y[i] > 0 else exp(y[i]) - F(1)


@compiled
def forward(x, w, b, y, kind, tall):
    """Write a layer's output y."""
    if tall:
        for j in range(y.shape[0]):
            y[j] = b[j]
        product(w.T, x, y)
    else:
        for i in range(y.shape[0]):
            y[i] = b
        if w.shape[1] == 1:
            dots(x, w.reshape(1, w.size), y)
        else:
            product(x, w, y)
    activate(y.reshape(y.size), kind)


@compiled
def slope(y, pull, kind):
    """Take the pull back through an activation, by its own output."""
    for i in range(y.size):
        if kind == TANH:
            pull[i] *= F(1) - y[i] * y[i]
        elif kind == RELU:
            pull[i] = pull[i] if y[i] > 0 else F(0)
        elif kind == SIGMOID:
            pull[i] *= y[i] * (F(1) - y[i])
        elif kind == ELU:
            pull[i] *= F(1) + min(y[i], F(0))


@compiled
def backward(x, w, pull, into_w, into_b, down, tall, sums):
    """Write a layer's gradients; add the pull on its input to ``down``.

    Biases are summed in float64: the slopes of absolute errors cancel to
    nothing, and Adam would make a step of what rounding leaves.
    """
    into_w[:] = 0
    sums[: into_b.size] = 0
    for i in range(pull.shape[0]):
        for j in range(pull.shape[1]):
            sums[i if tall else j] += pull[i, j]
    for j in range(into_b.size):
        into_b[j] = sums[j]
    if tall:
        dots(x, pull, into_w)
        if down.size:
            product(w, pull, down)
    elif w.shape[1] == 1:
        product(pull.T, x, into_w.reshape(1, w.size))
        if down.size:
            product(pull, w.reshape(1, w.size), down)
    else:
        product(x.T, pull, into_w)
        if down.size:
            dots(pull, w, down)


@compiled
def tanh(x):
    """Return tanh to 4e-7 by a quotient of polynomials in x squared.

    Fitted to the least relative error up to 9, where float32 is one; unlike
    the library's, it runs eight abreast.
    """
    x = min(max(x, F(-9)), F(9))
    q = x * x
    above = (F(1.3356516e-8) * q + F(2.0610465e-5)) * q + F(3.4956740e-3)
    above = (above * q + F(0.13381099)) * q + F(1)
    below = (F(7.7773303e-7) * q + F(3.2857739e-4)) * q + F(2.5877311e-2)
    below = (below * q + F(0.46714414)) * q + F(1)
    return min(max(x * above / below, F(-1)), F(1))


@compiled
def exp(x):
    """Return exp of x <= 0 to 2e-7: a power of two times a polynomial."""
    x = max(x, F(-87))
    whole = np.floor(x * F(1.44269504) + F(0.5))
    x = x - whole * F(0.693359375) + whole * F(2.12194440e-4)
    s = (F(1 / 720) * x + F(1 / 120)) * x + F(1 / 24)
    s = (((s * x + F(1 / 6)) * x + F(0.5)) * x + F(1)) * x + F(1)
    return s * np.int32((np.int32(whole) + 127) << 23).view(np.float32)


@compiled
def loss(y, t, kind, weight, pull, each, tall):
    """Write the slopes of a batch's mean loss, and every row's metrics.

    Output y, target t and pull lie as all outputs do; ``each`` (metrics, n)
    gets the loss and, of categories, the two accuracies.
    """
    width, n = (y.shape[0], y.shape[1]) if tall else (y.shape[1], y.shape[0])
    each[: 3 if kind == CROSS_ENTROPY else 1] = 0
    high, norm, picked = each[0], each[min(1, len(each) - 1)], each[-1]
    if kind == CROSS_ENTROPY:
        picked = each[2]
        for i in range(n):
            high[i] = y[0, i] if tall else y[i, 0]
        for j in range(width):
            for i in range(n):
                at = (j, i) if tall else (i, j)
                high[i] = max(high[i], y[at])
                picked[i] += y[at] * t[at]
        for j in range(width):
            for i in range(n):
                at = (j, i) if tall else (i, j)
                pull[at] = exp(y[at] - high[i])
                norm[i] += pull[at]
    share = F(weight / n / (1 if kind == CROSS_ENTROPY else width))
    part = F(1 / width)
    for j in range(width):
        for i in range(n):
            at = (j, i) if tall else (i, j)
            e = y[at] - t[at]
            if kind == CROSS_ENTROPY:
                pull[at] = share * (pull[at] / norm[i] - t[at])
            elif kind == MAE:
                each[0, i] += part * abs(e)
                pull[at] = share * (F(e > 0) - F(e < 0))
            elif kind == MSE:
                each[0, i] += part * e * e
                pull[at] = share * (e + e)
            else:
                a = min(abs(e), F(1))
                each[0, i] += part * a * (abs(e) - F(0.5) * a)
                pull[at] = share * min(max(e, F(-1)), F(1))
    if kind == CROSS_ENTROPY:
        for i in range(n):
            right = 0
            for j in range(width):
                at = (j, i) if tall else (i, j)
                right += (y[at] > 0) == (t[at] > F(0.5))
            hit = F(picked[i] >= high[i])
            high[i] += np.log(norm[i]) - picked[i]
            norm[i], picked[i] = F(right / width), hit


@compiled
def adam(p, g, mean, square, l1, step, rate):
    """Take one step of Adam (arXiv:1412.6980), L1's slope included."""
    size, scale = F(rate / (1 - 0.9**step)), F(1 / (1 - 0.999**step))
    for i in range(p.size):
        s = g[i] + l1[i] * (F(p[i] > 0) - F(p[i] < 0))
        # not one minus the factor, which float32 rounds by 5e-5
        mean[i] = F(0.9) * mean[i] + F(0.1) * s
        square[i] = F(0.999) * square[i] + F(0.001) * s * s
        p[i] -= size * mean[i] / (np.sqrt(square[i] * scale) + F(1e-8))


@compiled
def keep(state, threshold, kept, words):
    """Draw which units stay, as numpy's SFC64 gives 16 random bits each.

    ``state`` (4,) holds the generator's words; a layer begins with a new draw,
    written to ``words`` so that many are compared at once.
    """
    a, b, c, count = state
    for i in range((kept.size + 3) // 4):
        words[i] = a + b + count
        count += U(1)
        a, b = b ^ (b >> U(11)), c + (c << U(3))
        c = (c << U(24) | c >> U(40)) + words[i]
    state[0], state[1], state[2], state[3] = a, b, c, count
    bits = words.view(np.uint16)
    for i in range(kept.size):
        kept[i] = bits[i] >= np.int32(threshold)
