"""Measure the reference path on a CUDA card: ``python benchmarks/gpu.py FILE``.

For AE1 and AE2 and R replicas at once: microseconds of a replica-step on the
card (a recorded step), and by the compiled path on the processor beside it;
the card's memory; with the card's name and the date they go to FILE.  Whether
both agree, by the losses of the same replicas, goes to FILE_agreement.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from bench import MODELS, arrays

from nestedae_utils.model import dense, reference
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.study import protocol

REPLICAS = (1, 10, 100, 1000, 3000, 10000)
RUNS = {"cuda": reference.train, "cpu": dense.train}


def job(name: str, count: int, epochs: int, place: str) -> reference.Job:
    """Return a training of so many replicas."""
    scale, rows, size = MODELS[name]
    folds = protocol.row_folds(rows, 5)
    replicas = Replicas.cross(folds, -(-count // 5)).take(range(count))
    settings = {"epochs": epochs, "batch_size": size, "learning_rate": 1e-3}
    settings["place"] = torch.device(place)
    return reference.Job(scale, *arrays(scale, rows), replicas, **settings)


def seconds(name: str, count: int, epochs: int, place: str) -> float:
    """Return what a training takes."""
    one = job(name, count, epochs, place)
    start = time.perf_counter()
    for _ in RUNS[place](one, range(count)):
        pass
    return time.perf_counter() - start


def measured(name: str, count: int, place: str, machine: str) -> dict:
    """Return a row: the difference of two trainings over the steps between."""
    steps = job(name, 1, 1, place).batches[0]
    if place == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = seconds(name, count, 1, place)
    # about two seconds, and at least two epochs, between the two
    more = int(np.clip(2 / max(first / 3, 1e-3), 2, 200))
    away = seconds(name, count, 1 + more, place) - seconds(name, count, 1, place)
    each = away / (more * steps * count)
    memory = torch.cuda.max_memory_allocated() / 2**20 if place == "cuda" else None
    return {
        "model": name,
        "place": place,
        "replicas": count,
        "us_per_replica_step": round(1e6 * each, 4),
        "steps_per_s": round(1 / each),
        "memory_mb": memory and round(memory),
        "machine": machine,
        "date": time.strftime("%Y-%m-%d"),
    }


def agreement(name: str, count: int, epochs: int) -> dict:
    """Return a row: the card's errors less the processor's, and the spread."""
    last = {}
    for place, run in RUNS.items():
        one = job(name, count, epochs, place)
        found = dict(run(one, range(count)))
        gathered = one.gather([found[r] for r in range(count)])
        last[place] = gathered.history.values["validation_per_sample"]["loss"][:, -1]
    away = last["cuda"] - last["cpu"]
    values = {
        "loss": last["cpu"].mean(),
        "mean_difference": away.mean(),
        "standard_error": away.std(ddof=1) / count**0.5,
        "largest_difference": abs(away).max(),
        "spread_over_seeds": last["cpu"].reshape(5, -1).std(1, ddof=1).mean(),
    }
    settings = {"model": name, "replicas": count, "epochs": epochs}
    return settings | {key: f"{value:.3g}" for key, value in values.items()}


def write(path: Path, rows: list[dict]) -> None:
    """Write rows as CSV."""
    pd.DataFrame(rows).to_csv(path, index=False)


def main() -> None:
    """Measure, and write the files as far as they are known."""
    if len(sys.argv) != 2 or not torch.cuda.is_available():
        sys.exit("usage: python benchmarks/gpu.py FILE, on a machine with CUDA")
    path = Path(sys.argv[1])
    cores = f"{joblib.cpu_count()} cores beside it"
    machine = {"cuda": torch.cuda.get_device_name(), "cpu": cores}
    agreements = [agreement(name, 50, 40) for name in ("AE1", "AE2")]
    write(path.with_stem(f"{path.stem}_agreement"), agreements)
    rows: list[dict] = []
    for name, place in itertools.product(("AE1", "AE2"), RUNS):
        for count in REPLICAS if place == "cuda" else REPLICAS[:4]:
            try:
                rows.append(measured(name, count, place, machine[place]))
            except torch.cuda.OutOfMemoryError:
                print(name, count, "does not fit", flush=True)
                continue
            print(*rows[-1].values(), sep="\t", flush=True)
            write(path, rows)


if __name__ == "__main__":
    main()
