"""Write measured times where they are told: ``python benchmarks/times.py``.

With a machine's name and two files, of ``make bench`` with nothing beside it
and beside two busy processes, their chapters' seconds and replica-steps go to
``data/times.csv``; without, what stands there is kept.  Then the table of the
README and each chapter's "Run time" are written from it: the least and the
most seconds of any machine.
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


def measured(machine: str, alone: str, busy: str) -> pd.DataFrame:
    """Return a machine's rows of ``data/times.csv``."""
    low, high = (json.loads(Path(path).read_text()) for path in (alone, busy))
    rows = pd.DataFrame(low["chapters"]).set_index("chapter")
    most = pd.DataFrame(high["chapters"]).set_index("chapter")["seconds"]
    return pd.DataFrame(
        {
            "machine": machine,
            "chapter": rows.index,
            "seconds_low": rows["seconds"].round().astype(int).to_numpy(),
            "seconds_high": most.loc[rows.index].round().astype(int).to_numpy(),
            "replica_steps": rows["trained"].to_numpy(),
            "date": low["date"],
        }
    )


def main() -> None:
    """Update the table, the README and the chapters."""
    path = DATA / "times.csv"
    times = pd.read_csv(path)
    if sys.argv[1:]:
        new = measured(*sys.argv[1:])
        others = times[times["machine"] != sys.argv[1]]
        times = pd.concat([others, new], ignore_index=True)
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
