"""Measure the training: ``python tests/benchmark_training.py --help``.

The time of an optimisation step of AE1 (494 rows, 15 ion properties, batches
of 10) for 1, 5 and 50 replicas on the replica axis, and for one replica
written with ``torch.nn`` and ``torch.optim.Adam``, measured in the same run.
It is the difference of two trainings that differ in their number of epochs,
over the steps between them: the median of several such differences.  What
happens once an epoch (shuffling, dropout masks, the histories) is in it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import papermill
import torch
from torch import nn

from nestedae_utils.errors import ParameterError, wholes
from nestedae_utils.model import cache
from nestedae_utils.model.scales import resolve_device
from nestedae_utils.model.training import train
from nestedae_utils.study import protocol

ROWS, PROPERTIES, BATCH, FOLDS = 494, 15, 10, 5
RATE, L1 = 0.001, 0.01
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return scaled ion properties and gaps of the table's size."""
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, PROPERTIES))
    noise = 0.1 * random.normal(size=(ROWS, 1))
    return x, np.abs(2 + np.tanh(x[:, :1]) + noise)


def stacked(replicas: int, device: str) -> Callable[[int], None]:
    """Return a training of so many replicas, five folds where there are."""
    x, gap = data()
    seeds = -(-replicas // FOLDS)
    splits, numbers = protocol.row_folds(ROWS, FOLDS, seeds)
    # the first seeds of all folds, whatever their number
    order = np.arange(FOLDS * seeds).reshape(FOLDS, seeds).T.ravel()[:replicas]

    def run(epochs: int) -> None:
        train(
            protocol.band_gap_scale(l1=L1),
            x,
            {"gap": gap, "ions": x},
            [splits[replica] for replica in order],
            [numbers[replica] for replica in order],
            epochs=epochs,
            batch_size=BATCH,
            learning_rate=RATE,
            device=device,
        )

    return run


def plain(device: str) -> Callable[[int], None]:
    """Return a training of AE1's first fold, as one writes it in torch."""
    place = resolve_device(device)
    x, gap = (torch.tensor(part, dtype=torch.float32) for part in data())
    splits, _ = protocol.row_folds(ROWS, FOLDS, 1)
    rows = torch.tensor(splits[0][0])
    x, gap = x[rows].to(place), gap[rows].to(place)

    def run(epochs: int) -> None:
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(PROPERTIES, 12), nn.Tanh())
        head = nn.Sequential(
            nn.Linear(12, 100),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(100, 1),
            nn.ReLU(),
        )
        decoder = nn.Linear(12, PROPERTIES)
        model = nn.ModuleList([encoder, head, decoder]).to(place)
        adam = torch.optim.Adam(model.parameters(), lr=RATE)
        mae = nn.L1Loss()
        for _ in range(epochs):
            for batch in torch.randperm(len(x), device=place).split(BATCH):
                z = encoder(x[batch])
                loss = mae(head(z), gap[batch]) + mae(decoder(z), x[batch])
                loss = loss + L1 * encoder[0].weight.abs().sum()
                adam.zero_grad()
                loss.backward()
                adam.step()
        loss.item()  # waits for a GPU

    threads = torch.get_num_threads()

    def on_one_thread(epochs: int) -> None:
        torch.set_num_threads(1)
        try:
            run(epochs)
        finally:
            torch.set_num_threads(threads)

    return on_one_thread


def seconds(run: Callable[[int], None], epochs: int) -> float:
    """Return how long a training takes."""
    start = time.perf_counter()
    run(epochs)
    return time.perf_counter() - start


def compare(
    runs: dict[str, Callable[[int], None]], epochs: int, repeats: int
) -> dict[str, float]:
    """Return each training's milliseconds per step, taken by turns."""
    first = protocol.row_folds(ROWS, FOLDS, 1)[0][0][0]
    steps = epochs * -(-len(first) // BATCH)
    for run in runs.values():
        run(1)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            short = seconds(run, epochs)
            long = seconds(run, 2 * epochs)
            found[name].append(1000 * (long - short) / steps)
    return {name: statistics.median(times) for name, times in found.items()}


def report_steps(
    replicas: tuple[int, ...], epochs: int, repeats: int, device: str
) -> None:
    """Print the time of a step, and how it compares with plain torch."""
    runs = {"torch.nn, 1 replica": plain(device)}
    for count in replicas:
        name = f"{count} replica" + "s" * (count > 1)
        runs[name] = stacked(count, device)
    times = compare(runs, epochs, repeats)
    whole = next(iter(times.values()))
    print(f"AE1 on {resolve_device(device)}, torch {torch.__version__}")
    print(f"{'':<22}{'ms/step':>9}{'ms/step/replica':>17}{'torch.nn = 1':>14}")
    for name, count in zip(times, (1, *replicas), strict=True):
        step = times[name]
        print(
            f"{name:<22}{step:>9.3f}{step / count:>17.4f}{step / whole:>14.2f}"
        )


def report_protocol() -> None:
    """Run all chapters with their defaults from an empty cache; tell times.

    The public files are taken as always, only the trainings' cache is new.
    """
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        files = cache.folder() / "data"
        if files.is_dir():
            shutil.copytree(files, Path(folder) / "data")
        os.environ["NESTEDAE_CACHE"] = folder
        os.environ["NESTEDAE_RESULTS"] = folder
        print(f"{'chapter, kernel start included':<34}{'seconds':>9}")
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            start = time.perf_counter()
            out = Path(folder) / path.name
            papermill.execute_notebook(path, out, progress_bar=False)
            taken = time.perf_counter() - start
            total += taken
            print(f"{path.stem:<34}{taken:>9.1f}")
    print(f"{'the whole protocol':<34}{total:>9.1f}")


def main() -> None:
    """Read the command line and report."""
    parser = argparse.ArgumentParser(
        description="Milliseconds per optimisation step of AE1."
    )
    parser.add_argument(
        "--replicas",
        default="1, 5, 50",
        help="numbers of replicas (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        default=20,
        type=int,
        help="epochs between the two trainings (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats",
        default=5,
        type=int,
        help="differences of which the median is told (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)",
    )
    parser.add_argument(
        "--protocol",
        action="store_true",
        help="also run all chapters from an empty cache and time them",
    )
    given = parser.parse_args()
    if given.epochs < 1 or given.repeats < 1:
        parser.error("--epochs and --repeats: at least 1 is allowed")
    try:
        replicas = wholes("--replicas", given.replicas, 1)
        resolve_device(given.device)
    except ParameterError as error:
        parser.error(str(error))
    report_steps(replicas, given.epochs, given.repeats, given.device)
    if given.protocol:
        report_protocol()


if __name__ == "__main__":
    main()
