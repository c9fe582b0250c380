"""Run chapters under other settings of the arithmetic, and compare.

``python benchmarks/arithmetic.py [CHAPTER ...] [--setting NAME] [--against DIR]``

``plain`` computes without the vector units that a machine may have, in torch
and in the compiled kernels; ``reference`` trains on the reference path alone,
many times slower. Each has a cache of its own, for both would find trainings
of the other. A chapter that a setting has finished is not run again: remove
its results to do so. Listed are the quantities that leave their tolerance, and
the verdicts that change, against ``data/reference`` or another run's results;
the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestedae_utils.book import claims, records
from nestedae_utils.data import files
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
    if not (cache / "data").exists():
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
    with (place / f"{notebook.stem}.log").open("w") as log:
        subprocess.run(command, env=environment, stderr=log, check=True)
    return results


def compare(
    ran: Mapping[str, Mapping[str, Any]], against: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say, a line each, which quantities moved and which verdicts turned."""
    lines = [
        f"{name}: {line}"
        for name, content in ran.items()
        for line in records.differences(content, against[name])
    ]
    turned = claims.turned({**against, **ran}, against)
    return lines + [f"verdict of {line}" for line in turned]


def main(words: Sequence[str] | None = None) -> int:
    """Run and compare what the command asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as 05; all, if none")
    parser.add_argument("--setting", choices=SETTINGS, action="append")
    parser.add_argument("--against", type=Path, default=records.REFERENCE)
    given = parser.parse_args(words)
    notebooks = [
        path
        for path in sorted(files.NOTEBOOKS.glob("*.ipynb"))
        if not given.chapters or path.name.startswith(tuple(given.chapters))
    ]
    against, found = records.results_of(given.against), 0
    for setting in given.setting or SETTINGS:
        ran = {}
        for notebook in notebooks:
            print(f"{setting}: {notebook.stem}", flush=True)
            ran[notebook.stem] = records.read_results(run(notebook, setting, FOLDER))
        lines = compare(ran, against)
        found += len(lines)
        print(*lines, f"{setting}: {len(lines)} moved", sep="\n", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
