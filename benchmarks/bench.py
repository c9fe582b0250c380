"""Measure the training: ``make bench``, or ``python benchmarks/bench.py``.

Microseconds of one replica's optimisation step, for AE1, AE2 and the two
synthetic scales, for several numbers of replicas, on the fast path and by
the definition, and beside them a plain PyTorch loop that trains one model
(nn.Module, randperm batches, Adam), all by turns in one run.  A figure is the
median of differences of two trainings over the steps between them; what
happens once an epoch (shuffling, dropout, measuring) is in it.  Nothing here
is a test: machines differ by a factor of four, so read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import nn

from nestedae_utils.data.files import NOTEBOOKS, WORKPLACE
from nestedae_utils.errors import replacing
from nestedae_utils.model import dense, networks, reference
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Head, Scale
from nestedae_utils.study import protocol

MODELS = {
    "AE1": (protocol.band_gap_scale(), 494, 10),
    "AE2": (protocol.device_scale(), 2018, 100),
    "synthetic, first": (protocol.synthetic_nested("inputs")[0], 100, 10),
    "synthetic, second": (protocol.synthetic_nested("inputs")[1], 100, 10),
}
REPLICAS = (1, 5, 10, 50, 200)
RUNS = {"dense": dense.train, "reference": reference.train}


def arrays(scale: Scale, rows: int) -> tuple[np.ndarray, dict]:
    """Return random inputs and targets of a scale."""
    random = np.random.default_rng(0)
    blocks = {}
    for block in scale.inputs:
        kinds = np.eye(block.width)[random.integers(0, block.width, rows)]
        normal = random.normal(size=(rows, block.width))
        blocks[block.name] = normal if block.scaling == "standard" else kinds
    targets = {
        head.name: np.hstack([blocks[b] for b in scale.blocks_of(head)])
        if scale.blocks_of(head)
        else np.abs(random.normal(2, 1, (rows, head.width)))
        for head in scale.heads
    }
    return np.hstack(list(blocks.values())), targets


def stacked(name: str, count: int, path: str) -> tuple[Callable, int]:
    """Return a training of so many replicas, and its steps in an epoch."""
    scale, rows, size = MODELS[name]
    inputs, targets = arrays(scale, rows)
    folds = protocol.row_folds(rows, 5)
    replicas = Replicas.cross(folds, -(-count // 5)).take(range(count))

    def run(epochs: int) -> None:
        job = reference.Job(
            scale, inputs, targets, replicas, epochs=epochs, batch_size=size,
            learning_rate=1e-3, place=torch.device("cpu"),
        )  # fmt: skip
        for _ in RUNS[path](job, range(count)):
            pass

    return run, -(-len(folds[0][0]) // size)


class Plain(nn.Module):
    """A scale as one writes it with torch's own layers."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        act = {"tanh": nn.Tanh, "relu": nn.ReLU, "linear": nn.Identity}

        def path(widths, kinds, dropout=0.0):
            layers = []
            for place, kind in enumerate(kinds):
                layers.append(nn.Linear(widths[place], widths[place + 1]))
                layers.append(act[kind]())
                if dropout and place < len(kinds) - 1:
                    layers.append(nn.Dropout(dropout))
            return nn.Sequential(*layers)

        kinds = [scale.activation] * len(scale.hidden)
        self.encoder = path(
            (scale.width, *scale.hidden, scale.latent),
            [*kinds, scale.latent_activation],
        )
        self.heads = nn.ModuleList(
            path(
                (scale.latent, *head.hidden, head.width),
                [head.activation] * len(head.hidden) + [head.output],
                head.dropout,
            )
            for head in scale.heads
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return all heads' outputs."""
        z = self.encoder(x)
        return [head(z) for head in self.heads]


def loss_of(head: Head) -> nn.Module:
    """Return torch's own loss of a head."""
    known = {"mae": nn.L1Loss, "cross_entropy": nn.CrossEntropyLoss}
    return known[head.loss]()


def plain(name: str) -> Callable[[int], None]:
    """Return a training of the first fold's model, one step after another."""
    scale, rows, size = MODELS[name]
    inputs, targets = arrays(scale, rows)
    seen = protocol.row_folds(rows, 5)[0][0]
    x = torch.tensor(inputs[seen], dtype=torch.float32)
    goals = [
        torch.tensor(targets[head.name][seen], dtype=torch.float32)
        for head in scale.heads
    ]

    def run(epochs: int) -> None:
        torch.manual_seed(0)
        model = Plain(scale)
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses = [loss_of(head) for head in scale.heads]
        weights = [p for p in model.encoder.parameters() if p.ndim == 2]
        with reference.one_thread():
            for _ in range(epochs):
                for rows_ in torch.randperm(len(x)).split(size):
                    loss = scale.l1 * sum(w.abs().sum() for w in weights)
                    for make, out, goal in zip(
                        losses, model(x[rows_]), goals, strict=True
                    ):
                        loss = loss + make(out, goal[rows_])
                    adam.zero_grad()
                    loss.backward()
                    adam.step()

    return run


def taken(run: Callable[[int], None], epochs: int) -> np.ndarray:
    """Return wall and CPU seconds of a training."""
    start = time.perf_counter(), time.process_time()
    run(epochs)
    return np.array([time.perf_counter(), time.process_time()]) - start


def steps(repeats: int, least: float) -> list[dict]:
    """Return the rows on steps; each training takes ``least`` s or more."""
    rows = []
    for name in MODELS:
        runs = {("plain loop", 1): plain(name)}
        each = stacked(name, 1, "dense")[1]
        for path in RUNS:
            for count in REPLICAS:
                runs[path, count] = stacked(name, count, path)[0]
        epochs, found = {}, {key: [] for key in runs}
        for key, run in runs.items():
            run(1)  # compiles
            epochs[key] = max(1, round(least / max(taken(run, 1)[0], 1e-4)))
        for _ in range(repeats):
            for key, run in runs.items():
                # measuring thins out with the epochs: the same on both sides
                more = taken(run, 3 * epochs[key]) - taken(run, epochs[key])
                found[key].append(more / (2 * epochs[key] * each * key[1]))
        wall, cpu = (
            {k: 1e6 * statistics.median(v[i] for v in found[k]) for k in runs}
            for i in (0, 1)
        )
        rows += [
            {
                "model": name,
                "path": path,
                "replicas": count,
                "us_per_replica_step": round(wall[path, count], 2),
                "cpu_us_per_replica_step": round(cpu[path, count], 2),
                "ratio_to_plain": round(wall["plain loop", 1] / wall[path, count], 2),
            }
            for path, count in runs
        ]
        for row in rows[-len(runs) :]:
            print(*row.values(), sep="\t", flush=True)
    return rows


def floor() -> dict:
    """Return what a step needs at least, and what the machine can do."""
    a = torch.randn(1500, 1500)
    with reference.one_thread():
        product = min(taken(lambda n: a @ a, 1)[0] for _ in range(5))
    big = np.ones(20_000_000, np.float32)
    copy = min(taken(lambda n: big.copy(), 1)[0] for _ in range(5))
    machine = {
        "flop_per_s_of_a_large_product": 2 * 1500**3 / product,
        "bytes_per_s_of_a_copy": 2 * big.nbytes / copy,
    }
    for name, (scale, _, size) in MODELS.items():
        weights = sum(r * c for r, c, _ in networks.shapes(scale).values())
        count = networks.parameter_count(scale)
        # forward, and back for weights and inputs; Adam reads and writes
        flop, moved = 6 * weights * size + 12 * count, 7 * 4 * count
        machine[name] = {
            "flop_per_step": flop,
            "bytes_per_step": moved,
            "us_at_the_machines_best": round(
                1e6 * flop / machine["flop_per_s_of_a_large_product"], 3
            ),
        }
    return machine


def chapters() -> list[dict]:
    """Run all chapters from empty caches; return seconds and steps."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "NESTEDAE_CACHE": folder,
            "NESTEDAE_RESULTS": folder,
        }
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
            start = time.perf_counter()
            subprocess.run(
                [*command, str(path), str(Path(folder, path.name))],
                env=environment,
                check=True,
                capture_output=True,
            )
            seconds = time.perf_counter() - start
            results = json.loads(Path(folder, f"{path.stem}.json").read_text())
            trainings = results["trainings"]
            count = sum(v for k, v in trainings.items() if "steps" in k)
            rows.append(
                {
                    "chapter": path.stem,
                    "seconds": round(seconds, 1),
                    "replica_steps": count,
                    "trained": count - trainings.get("found steps", 0),
                }
            )
            print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main() -> None:
    """Measure, and write ``results/benchmark.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.2)
    parser.add_argument("--no-chapters", action="store_true", help="steps only")
    given = parser.parse_args()
    found = {
        "machine": f"{platform.machine()}, {joblib.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "steps": steps(given.repeats, given.least),
        "floor": floor(),
        "chapters": [] if given.no_chapters else chapters(),
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak_memory_mb"] = round(memory / 1024)
    found["fast_path"] = dense.knows(MODELS["AE1"][0])
    path = WORKPLACE / "results" / "benchmark.json"
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(json.dumps(found, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
