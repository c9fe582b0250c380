"""What every chapter does at its start and at its end.

At the start it checks its parameters: papermill by itself runs a mistyped
name with the defaults.  At the end it shows its records and writes them.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from myst_nb import glue

from nestedae_utils import errors as checks
from nestedae_utils.book import figures, records
from nestedae_utils.book.parameters import RULES
from nestedae_utils.data.files import WORKPLACE
from nestedae_utils.data.tables import Tables
from nestedae_utils.errors import ParameterError
from nestedae_utils.model.cache import LIBRARIES
from nestedae_utils.model.training import resolve_device

# what papermill can put into a notebook; IPython's own In is a list too
INJECTED = (int, float, str, bool, list, type(None))
NOTICE = (
    "**TWIN.** The paper's perovskite tables could not be had, or were not "
    "asked for. Everything on this page was computed on generated tables of "
    "the same shape and says nothing about the paper."
)


def results_folder() -> Path:
    """Return where results go: ``NESTEDAE_RESULTS``, or ``results/``."""
    return Path(os.environ.get("NESTEDAE_RESULTS") or WORKPLACE / "results")


@dataclass
class Chapter:
    """One run of a chapter.

    Parameters
    ----------
    name
        The notebook's name without its ending.
    namespace
        The notebook's ``globals()``.  Its annotated names are the
        parameters; any other scalar that stands there when the chapter
        starts is one that the notebook does not know.
    protocol
        The settings with which the book is compared with the paper: the
        paper's where it states them.  With others nothing is compared.

    Raises
    ------
    ParameterError
        If a parameter is unknown, has the wrong type, or is out of range.
    """

    name: str
    namespace: dict[str, Any]
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._start = time.perf_counter()
        self.parameters = self._parameters()
        self.source = "none"
        self.checksums: dict[str, str] = {}
        self.records: list[records.Record] = []
        figures.use_style()
        # joblib replaces a worker whose memory has grown, and says so on the
        # page's stderr; the next worker does its work.
        warnings.filterwarnings(
            "ignore", message="A worker stopped while some jobs"
        )

    def _parameters(self) -> dict[str, Any]:
        declared = self.namespace.get("__annotations__", {})
        if "chapter" not in self.namespace:
            for name, value in self.namespace.items():
                known = name in declared or name.startswith("_")
                known = known or name == "In"
                if not known and isinstance(value, INJECTED):
                    raise ParameterError(
                        f"{name}: unknown parameter of chapter {self.name}, "
                        f"one of {', '.join(declared)} is allowed."
                        + checks.nearest(name, declared)
                    )
        checked = {
            name: RULES[name].check(name, self.namespace[name])
            for name in declared
        }
        if "device" in checked:
            resolve_device(checked["device"])
        return checked

    @property
    def as_in_paper(self) -> bool:
        """Tell whether all settings of the protocol are the paper's."""
        return all(
            self.parameters.get(name) == value
            for name, value in self.protocol.items()
        )

    def use(self, tables: Tables, notice: str = NOTICE) -> Tables:
        """Note which tables the chapter uses; show a notice of the twin."""
        self.source = tables.source
        self.note(tables.checksums)
        if tables.source == "twin":
            display(Markdown(notice))
        return tables

    def note(self, checksums: Mapping[str, str]) -> None:
        """Note which data files the chapter used, by their sha256."""
        self.checksums.update(checksums)

    def show(self, figure: Figure, keep: str = "") -> None:
        """Stamp a figure where its data are the twin's, and show it.

        With ``keep``, a name, it is also written to the results' folder, as
        SVG, for the landing page.
        """
        figures.stamp(figure, self.source)
        if keep:
            path = results_folder() / f"{keep}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        plt.show()

    def table(self, frame: pd.DataFrame) -> HTML:
        """Return a table for the page, marked where its data are the twin's.

        Wide tables scroll within the page.
        """
        twin = self.source == "twin"
        mark = "<p><strong>TWIN</strong></p>" if twin else ""
        return HTML(mark + figures.scrolling(frame))

    def record(
        self,
        quantity: str,
        value: float,
        spread: float | None = None,
        replicas: int = 1,
    ) -> None:
        """Add a record to the chapter's results.

        In a live session a cell can run again: its last value stands.
        """
        shell = get_ipython()
        one = records.record(
            quantity,
            value,
            spread,
            replicas,
            source=self.source,
            protocol=self.as_in_paper,
            cell=None if shell is None else shell.execution_count,
        )
        others = [r for r in self.records if r.quantity != quantity]
        self.records = [*others, one]

    def finish(self) -> HTML:
        """Write ``results/<name>.json``; return the records as a table.

        In the book the chapter's text can name each value by its quantity,
        as in ``{glue:text}`gap_mae_val_as_made:.3f```.
        """
        if get_ipython() is not None:
            for one in self.records:
                glue(one.quantity, one.value, display=False)
        versions = {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        }
        seconds = round(time.perf_counter() - self._start, 1)
        date = datetime.date.today().isoformat()
        records.write_json(
            results_folder() / f"{self.name}.json",
            {
                "chapter": self.name,
                "data_source": self.source,
                "parameters": self.parameters,
                "as_in_paper": self.as_in_paper,
                "seconds": seconds,
                "date": date,
                "versions": versions,
                "checksums": self.checksums,
                "records": records.as_dicts(self.records),
            },
        )
        which = "the book’s" if self.as_in_paper else "others than the book’s"
        ran = ", ".join(
            [
                f"Data: {self.source}",
                *([f"settings: {which}"] if self.protocol else []),
                date,
                f"{seconds} s",
                *(f"{name} {number}" for name, number in versions.items()),
            ]
        )
        shown = self.table(records.table(self.records))
        return HTML(f"{shown.data}<p>{ran}.</p>")
