"""What every chapter does at its start and at its end.

At the start it checks its parameters: papermill by itself runs a mistyped
name with the defaults.  At the end it shows its records and writes them.
"""

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

from nestedae_utils.book import figures, parameters, progress, readings, records
from nestedae_utils.book.claims import quantities
from nestedae_utils.data import files
from nestedae_utils.data.tables import Tables
from nestedae_utils.errors import ParameterError
from nestedae_utils.model import training
from nestedae_utils.model.cache import LIBRARIES

NOTICE = (
    "**TWIN.** The paper's perovskite tables could not be had, or were not "
    "asked for. Everything on this page was computed on generated tables of "
    "the same shape and says nothing about the paper."
)

GLUED = {"": "value", "_low": "low", "_high": "high"}


def results_folder() -> Path:
    """Return where results go: ``NESTEDAE_RESULTS``, or ``results/``."""
    path = os.environ.get("NESTEDAE_RESULTS") or files.WORKPLACE / "results"
    return Path(path).expanduser()


@dataclass
class Chapter:
    """One run of a chapter; a parameter that is not allowed stops it.

    ``name`` is the notebook's without its ending: in ``notebooks`` its cell
    declares the parameters.  ``namespace`` are the notebook's ``globals()``:
    a scalar in it is a parameter, or one that the notebook lacks.  Nothing is
    compared with the paper unless all parameters have their defaults, or what
    is stated depends on none and is ``always_compared``.
    """

    name: str
    namespace: dict[str, Any]
    always_compared: bool = False
    notebooks: Path = files.NOTEBOOKS
    source: str = "none"
    checksums: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start, self._tally = time.perf_counter(), training.tally.copy()
        self._trained = len(training.trained)
        notebook = parameters.find(self.name, self.notebooks)
        # what a start-up file of IPython defines stood there before the notebook
        before = getattr(get_ipython(), "user_ns_hidden", {})
        given = parameters.injected(
            notebook,
            {n: v for n, v in self.namespace.items() if v is not before.get(n, self)},
        )
        self.parameters = parameters.effective(notebook, given)
        training.resolve_device(self.parameters.get("device", "cpu"))
        changed = readings.changed(notebook, self.parameters)
        self.as_in_paper = self.always_compared or not changed
        if changed:
            readings.tell(notebook, changed)
        files.watch = training.watch = progress.bar
        figures.use_style()
        # joblib replaces a worker whose memory has grown: no news for a page
        warnings.filterwarnings("ignore", "A worker stopped while some jobs")

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
        """Show a figure, stamped where its data are the twin's.

        With a name to ``keep`` it by, it is an SVG among the results too.
        """
        figures.stamp(figure, self.source)
        if keep:
            results_folder().mkdir(parents=True, exist_ok=True)
            figure.savefig(results_folder() / f"{keep}.svg")
        plt.show()

    def table(self, frame: pd.DataFrame) -> HTML:
        """Return a table for the page, marked on the twin's data."""
        mark = "<p><strong>TWIN</strong></p>" if self.source == "twin" else ""
        return HTML(mark + figures.scrolling(frame))

    def record(
        self,
        quantity: str,
        value: float,
        spread: float | None = None,
        replicas: int = 1,
        ends: tuple[float, float] | None = None,
    ) -> None:
        """Add a record; where a cell runs again, its last value stands.

        ``spread`` is a standard deviation, ``replicas`` the trainings, folds
        or rows behind the value, ``ends`` those of its 95 % interval, as
        :mod:`nestedae_utils.study.statistics` has them; NaN if unknown, none if
        the quantity is exact. `claims.verdict` says what is compared.
        """
        if (ends is None) != quantities()[quantity].exact:
            needed = "an inexact" if ends is None else "an exact"
            raise ParameterError(
                f"ends of {quantity}: {ends} given for {needed} quantity; those of "
                "a 95 % interval are allowed, and none where `repeat` in "
                "data/quantities.csv is 0: exact."
            )
        shell = get_ipython()
        one = records.record(
            *(quantity, value, spread, replicas, self.source, self.as_in_paper),
            # it counts on before it runs a cell
            cell=shell.execution_count - 1 if shell else None,
            ends=ends,
        )
        others = [r for r in self.records if r["quantity"] != quantity]
        self.records = [*others, one]

    def finish(self) -> HTML:
        """Write ``results/<name>.json``; return the records as a table.

        In the book the chapter's text can name each value by its quantity,
        as in ``{glue:text}`gap_mae_val_as_made:.3f```, and the ends of its
        interval by ``_low`` and ``_high`` behind it.
        """
        if get_ipython() is not None:
            for one in self.records:
                for ending, key in GLUED.items():
                    if one[key] is not None:
                        glue(one["quantity"] + ending, one[key], display=False)
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        content = {
            "chapter": self.name,
            "data_source": self.source,
            "parameters": self.parameters,
            "as_in_paper": self.as_in_paper,
            "seconds": round(time.perf_counter() - self._start, 1),
            "trainings": training.tally - self._tally,
            "trained": [key[:16] for key in training.trained[self._trained :]],
            "date": datetime.date.today().isoformat(),
            "versions": {"python": platform.python_version(), **versions},
            "checksums": self.checksums,
            "records": self.records,
        }
        records.write_json(results_folder() / f"{self.name}.json", content)
        table = self.table(records.table(self.records)).data
        return HTML(f"{table}<p>{records.told(content, self.always_compared)}</p>")
