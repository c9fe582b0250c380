"""Run chapters under other settings of the arithmetic, and compare.

``python benchmarks/arithmetic.py [CHAPTER ...] [--setting NAME]
[--results NAME=DIR] [--against DIR]``

``plain`` computes without the vector units that a machine may have, in torch
and in the compiled kernels; ``reference`` trains on the reference path alone,
many times slower. Each has a cache of its own, for both would find trainings
of the other. A chapter that a setting has finished is not run again: remove
its results to do so; ``--results NAME=DIR`` takes those of another machine, or
of a card. Listed are the quantities that leave their tolerance, and the
verdicts that change, against ``data/reference`` or another run's results; the
exit status is 1 if any quantity does. The claims whose verdicts change go to
``data/turned.csv``: they are undecided from then on.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestedae_utils.book import claims, records
from nestedae_utils.data import files
from nestedae_utils.errors import replacing
from nestedae_utils.model import training

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "plain": {
        "ATEN_CPU_CAPABILITY": "default",
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    },
    "reference": {training.PATH_VARIABLE: "reference"},
}
"""The variables of the environment by the setting's name."""
FOLDER = files.WORKPLACE / "_build" / "arithmetic"


def run(notebook: Path, setting: str, folder: Path) -> Path:
    """Execute a chapter under a setting; return its results."""
    place, cache = folder / setting, folder / setting / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    # where data lie elsewhere, the link leads nowhere, and stands all the same
    if not (cache / "data").is_symlink():
        (cache / "data").symlink_to(files.folder().absolute())
    results = place / f"{notebook.stem}.json"
    if results.exists():
        return results
    places = {"NESTEDAE_RESULTS": str(place), files.CACHE_VARIABLE: str(cache)}
    environment = {**os.environ, **SETTINGS[setting], **places}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += [str(notebook), str(place / notebook.name)]
    if "data_source: str" in notebook.read_text(encoding="utf-8"):
        command += ["-p", "data_source", "paper"]
    log = place / f"{notebook.stem}.log"
    with log.open("w") as file:
        if subprocess.run(command, env=environment, stderr=file).returncode:
            sys.exit(f"{notebook.stem} failed under {setting}; its words: {log}")
    return results


def compare(
    ran: Mapping[str, Mapping[str, Any]], against: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], dict[str, str]]:
    """Say which quantities moved, and of which claims the verdict turned."""
    moved = [
        f"{name}: {line}"
        for name, content in ran.items()
        for line in records.differences(content, against[name])
    ]
    return moved, claims.turned({**against, **ran}, against, frozenset())


def keep(turned: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Write the claims that turned, by setting, in place of those settings'."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    rows = [row for row in rows if row[1] not in turned]
    rows += [[c, name, words] for name, of in turned.items() for c, words in of.items()]
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *sorted(rows)])


def main(words: Sequence[str] | None = None) -> int:
    """Run and compare what the command asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as 05; all, if none")
    parser.add_argument("--setting", choices=SETTINGS, action="append")
    parser.add_argument("--results", metavar="NAME=DIR", action="append", default=[])
    parser.add_argument("--against", type=Path, default=records.REFERENCE)
    given = parser.parse_args(words)
    settings = given.setting or ([] if given.results else SETTINGS)
    chosen = tuple(given.chapters) or ("",)
    every = sorted(files.NOTEBOOKS.glob("*.ipynb"))
    notebooks = [path for path in every if path.name.startswith(chosen)]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for setting in settings:
        found[setting] = {}
        for notebook in notebooks:
            print(f"{setting}: {notebook.stem}", flush=True)
            path = run(notebook, setting, FOLDER)
            found[setting][notebook.stem] = records.read_results(path)
    for setting, folder in (one.split("=", 1) for one in given.results):
        results = records.results_of(Path(folder))
        found[setting] = {n: r for n, r in results.items() if n.startswith(chosen)}
    against, turned, count = records.results_of(given.against), {}, 0
    for setting, ran in found.items():
        moved, turned[setting] = compare(ran, against)
        count += len(moved)
        lines = [f"verdict of {c}: {words}" for c, words in turned[setting].items()]
        print(*moved, *lines, f"{setting}: {len(moved)} moved", sep="\n", flush=True)
    keep(turned, claims.DATA / "turned.csv")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
