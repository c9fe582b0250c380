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

import os
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from nestedae_utils.errors import ParameterError, nearest
from nestedae_utils.model import cache, dense, reference
from nestedae_utils.model.fitted import Fitted
from nestedae_utils.model.layers import CODES, LOSSES, NETS, Arrays
from nestedae_utils.model.reference import Job
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Scale

PATH_VARIABLE = "NESTEDAE_PATH"
"""Names a variable; where that is "reference", nothing takes the fast path."""
tally: Counter[str] = Counter()
"""Replicas and replica-steps of this process: ``dense``, ``reference`` (what
ran) and ``found`` (in the cache), each with `` replicas`` and `` steps``."""
trained: list[str] = []
"""The keys of what this process has trained, in order."""
Watch = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
watch: Watch = lambda name, count: nullcontext(lambda: None)  # noqa: E731
"""Gives what is called when one more of a scale's replicas is trained."""


def train(
    scale: Scale,
    inputs: np.ndarray,
    targets: Arrays,
    replicas: Replicas,
    *,
    device: str = "cpu",
    **settings: Any,
) -> Fitted:
    """Train the replicas of a scale with Adam (arXiv:1412.6980).

    ``inputs`` and a target for every head are scaled, (n, width), or
    (R, n, width) where the replicas differ; ``replicas`` have rows and seeds,
    and with a label ``latent`` their latents.  The settings are ``epochs``,
    ``batch_size`` and ``learning_rate``.  The fitted scale has no scalers yet.

    ParameterError if there is no such device (see :func:`resolve_device`), or
    the loss stops being finite.
    """
    place = resolve_device(device)
    fast = place.type == "cpu" and os.environ.get(PATH_VARIABLE) != "reference"
    path = "dense" if fast and dense.knows(scale) else "reference"
    job = Job(scale, inputs, targets, replicas, place=place, **settings)
    # a chapter's code, net or loss lies in a module of its own
    parts: list[Any] = [CODES[scale.code].apply, NETS[scale.net].apply]
    for head in scale.heads:
        parts += [NETS[head.net].apply, LOSSES[head.loss]]
    modules = sorted({__name__, *(part.__module__ for part in parts)})
    keys = job.keys(path, "".join(map(cache.source_digest, modules)))
    results = {k: kept for k in dict.fromkeys(keys) if (kept := cache.load(k))}
    # equal replicas, draws of all rows say, are trained once
    missing = list({k: r for r, k in enumerate(keys) if k not in results}.values())
    for replica in range(len(replicas)):
        name = path if replica in missing else "found"
        tally[f"{name} replicas"] += 1
        tally[f"{name} steps"] += job.epochs * job.batches[replica]
    run = dense.train if path == "dense" else reference.train
    with watch(scale.name, len(missing)) as done:
        for replica, result in run(job, missing):
            results[keys[replica]] = result
            cache.store(keys[replica], result)
            trained.append(keys[replica])
            done()
    return job.gather([results[key] for key in keys])


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
