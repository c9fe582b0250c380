"""Write measured times where they are told: ``python benchmarks/times.py``.

With a machine's name and what ``make bench`` wrote there twice, once with nothing
beside it and once on a busy machine, the seconds of chapters that run one after the
other from an empty cache go to ``data/times.csv``, with what they train; without,
what stands there is kept.  Then the table of the README and each chapter's "Run time"
are written from it: the least and the most seconds of any machine.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd

from nestedae_utils.data.files import DATA, NOTEBOOKS

README = DATA.with_name("README.md")
SPAN = re.compile(r"(?<=Run time: )(about )?\d+ to \d+ seconds on two( slow)? cores")


def measured(machine: str, *paths: str) -> pd.DataFrame:
    """Return a machine's rows of ``data/times.csv``."""
    alone, busy = (json.loads(Path(path).read_text()) for path in paths)
    rows = []
    for one, again in zip(alone["chapters"], busy["chapters"], strict=True):
        ends = sorted(round(run["seconds"]) for run in (one, again))
        rows.append([machine, one["chapter"], *ends, one["trained"], alone["date"]])
    names = "machine chapter seconds_low seconds_high replica_steps date"
    return pd.DataFrame(rows, columns=names.split())


def main() -> None:
    """Update the table, the README and the chapters."""
    path = DATA / "times.csv"
    times = pd.read_csv(path)
    if sys.argv[1:]:
        new = measured(*sys.argv[1:])
        others = times[times["machine"] != sys.argv[1]]
        times = pd.concat([new, others], ignore_index=True)
        times.to_csv(path, index=False)
    by_chapter = times.groupby("chapter").agg(
        {"seconds_low": "min", "seconds_high": "max", "replica_steps": "max"}
    )
    readme = README.read_text(encoding="utf-8")
    for one in by_chapter.itertuples():
        span = f"{one.seconds_low} to {one.seconds_high}"
        readme = re.sub(
            rf"(?m)^(\| `{one.Index}` \|.*?\|).*$",
            rf"\1 {span} | {one.replica_steps / 1e6:.2f} |",
            readme,
        )
        notebook = NOTEBOOKS / f"{one.Index}.ipynb"
        text = notebook.read_text(encoding="utf-8")
        words = f"{span} seconds on two cores"
        notebook.write_text(SPAN.sub(words, text), encoding="utf-8")
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
