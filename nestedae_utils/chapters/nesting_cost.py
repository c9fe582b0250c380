"""What training costs as a thing grows: CPU time, memory, exponents."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import psutil
import torch
from scipy import stats

from nestedae_utils.model import dense
from nestedae_utils.model.reference import Job
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale

WIDTH, BATCH, RATE = 15, 32, 1e-3


def job(rows: int, replicas: int, latent: int, epochs: int) -> Job:
    """Return a training of one scale on so many generated rows."""
    heads = (Head("y", 1, hidden=(25,)), Head("inputs", WIDTH))
    scale = Scale("cost", (Block("inputs", WIDTH),), latent, heads)
    random = np.random.default_rng(0)
    inputs = random.standard_normal((rows, WIDTH), dtype=np.float32)
    targets = {"y": inputs[:, :1], "inputs": inputs}
    every = np.arange(rows)
    labels = {"seed": np.arange(replicas)}
    split = ((every, every[:1]),) * replicas
    return Job(
        scale, inputs, targets, Replicas(split, labels), epochs=epochs,
        batch_size=BATCH, learning_rate=RATE, place=torch.device("cpu"),
    )  # fmt: skip


def seconds(run: Callable[[], None], repeats: int) -> float:
    """Return the least of several CPU times, of all threads together.

    By the clock, others that wait for the same cores would be timed, too.
    """
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def train(one: Job) -> None:
    """Train all replicas of a job on the fast path, without the cache."""
    for _ in dense.train(one, range(len(one.replicas))):
        pass


def train_all(jobs: Sequence[Job]) -> None:
    """Train one job after another."""
    for one in jobs:
        train(one)


def costs(
    what: str, values: Sequence[int], steps: int, repeats: int
) -> list[dict[str, float]]:
    """Return CPU seconds and replica-steps as one of four things grows.

    ``what``: ``"replicas"``, ``"rows"`` (one pass over them), ``"latents"``, or
    ``"scales"``, one after another; the others are 4, 320, 6 and 1.
    """
    found = []
    for value in values:
        sizes: dict[str, int] = {
            "rows": 320,
            "replicas": 4,
            "latent": 6,
            "epochs": steps // 10,
        }
        if what == "rows":
            sizes |= {"rows": value, "replicas": 1, "epochs": 1}
        elif what != "scales":
            sizes["latent" if what == "latents" else what] = value
        jobs = [job(**sizes)] * (value if what == "scales" else 1)
        taken = seconds(partial(train_all, jobs), repeats)
        count = sum(sum(one.batches) * one.epochs for one in jobs)
        found.append({"value": value, "seconds": taken, "steps": count})
    return found


def memory(rows: int) -> tuple[float, float]:
    """Return the MB of a table of so many rows, and those that training adds.

    The second is the highest of what the process holds, asked every few
    milliseconds, minus what it held with the table alone.
    """
    one = job(rows, 1, 6, 1)
    gc.collect()
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def look() -> None:
        nonlocal peak
        while not done.wait(0.003):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    train(one)
    peak = max(peak, process.memory_info().rss)
    done.set()
    watcher.join()
    return one.table.nbytes / 1e6, (peak - before) / 1e6


def exponent(values: Sequence[float], taken: Sequence[float]) -> tuple[float, ...]:
    """Return the slope of log CPU time on log value, and its 95 % interval."""
    fit = stats.linregress(np.log(values), np.log(taken))
    reach = stats.t.ppf(0.975, len(values) - 2) * fit.stderr
    return fit.slope, fit.slope - reach, fit.slope + reach
