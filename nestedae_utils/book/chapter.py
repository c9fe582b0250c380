"""What every chapter does at its start and at its end.

At the start it checks its parameters: papermill by itself runs a mistyped
name with the defaults.  At the end it shows its records and writes them.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import time
import warnings
from collections import Counter
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

from nestedae_utils.book import claims, figures, parameters, progress, records
from nestedae_utils.data.files import NOTEBOOKS, WORKPLACE
from nestedae_utils.data.tables import Tables
from nestedae_utils.errors import ParameterError
from nestedae_utils.model import training
from nestedae_utils.model.cache import LIBRARIES

NOTICE = (
    "**TWIN.** The paper's perovskite tables could not be had, or were not "
    "asked for. Everything on this page was computed on generated tables of "
    "the same shape and says nothing about the paper."
)
# what papermill can put into a notebook; IPython's own In is a list too
_INJECTED = (int, float, str, bool, list, type(None))


def results_folder() -> Path:
    """Return where results go: ``NESTEDAE_RESULTS``, or ``results/``."""
    return Path(os.environ.get("NESTEDAE_RESULTS") or WORKPLACE / "results")


@dataclass
class Chapter:
    """One run of a chapter; a parameter that is not allowed stops it.

    Parameters
    ----------
    name
        The notebook's name without its ending.  The parameters cell of that
        notebook in ``notebooks`` declares what is allowed, and the defaults.
    namespace
        The notebook's ``globals()``.  A scalar that stands there when the
        chapter starts is a parameter, or one that the notebook lacks.
    always_compared
        Whether what it states of the paper depends on no parameter; else
        nothing is compared unless all have their defaults.
    """

    name: str
    namespace: dict[str, Any]
    always_compared: bool = False
    notebooks: Path = NOTEBOOKS
    source: str = "none"
    checksums: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start, self._before = time.perf_counter(), _tally()
        notebook = parameters.find(self.name, self.notebooks)
        known, again = notebook.parameters, "chapter" in self.namespace
        given = {
            name: value
            for name, value in self.namespace.items()
            if name in known
            # where the cell runs again, names of later cells are there
            or not (again or name.startswith("_") or name == "In")
            and isinstance(value, _INJECTED)
        }
        self.parameters = parameters.effective(notebook, given)
        if "device" in known:
            training.resolve_device(self.parameters["device"])
        self.as_in_paper = self.always_compared or all(
            self.parameters[name] == one.default
            for name, one in known.items()
            # where it runs, and what it says of its own data
            if name not in ("device", "data_source")
        )
        training.watch = progress.bar
        figures.use_style()
        # joblib replaces a worker whose memory has grown, and says so on the
        # page's stderr; the next worker does its work.
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
        """Add a record; where a cell runs again, its last value stands.

        ``spread`` is a standard deviation, ``replicas`` the trainings, folds
        or rows behind the value.  `claims.verdict` says what is compared.
        """
        if not math.isfinite(value):  # a training diverged
            raise ParameterError(
                f"value of {quantity}: {value} given, a finite number is allowed."
            )
        value, spread = float(value), math.nan if spread is None else spread
        known = {} if self.source == "twin" else claims.by_quantity()
        claim, shell = known.get(quantity), get_ipython()
        judged = claims.verdict(claim, [value], self.source, self.as_in_paper)
        one = {
            "quantity": quantity,
            "value": value,
            "spread": float(spread) if math.isfinite(spread) else None,
            "unit": claims.quantities()[quantity].unit,
            "replicas": int(replicas),
            "paper": claim and claim.paper,
            "where": claim.where if claim else "",
            "tolerance": claim and claim.tolerance,
            "verdict": judged,
            "cell": shell and shell.execution_count,
        }
        others = [r for r in self.records if r["quantity"] != quantity]
        self.records = [*others, one]

    def finish(self) -> HTML:
        """Write ``results/<name>.json``; return the records as a table.

        In the book the chapter's text can name each value by its quantity,
        as in ``{glue:text}`gap_mae_val_as_made:.3f```.
        """
        if get_ipython() is not None:
            for one in self.records:
                glue(one["quantity"], one["value"], display=False)
        versions = {n: importlib.metadata.version(n) for n in LIBRARIES}
        content: dict[str, Any] = {
            "chapter": self.name,
            "data_source": self.source,
            "parameters": self.parameters,
            "as_in_paper": self.as_in_paper,
            "seconds": round(time.perf_counter() - self._start, 1),
            "trainings": _tally() - self._before,
            "date": datetime.date.today().isoformat(),
            "versions": {"python": platform.python_version(), **versions},
            "checksums": self.checksums,
            "records": self.records,
        }
        records.write_json(results_folder() / f"{self.name}.json", content)
        versions = content["versions"].items()
        same = "the book’s" if self.as_in_paper else "others than the book’s"
        ran = [
            f"Data: {self.source}",
            *([] if self.always_compared else [f"settings: {same}"]),
            *(content["date"], f"{content['seconds']} s"),
            *(f"{name} {number}" for name, number in versions),
        ]
        table = self.table(records.table(self.records)).data
        told = f"{', '.join(ran)}. {_told(content['trainings'])}".strip()
        return HTML(f"{table}<p>{told}</p>")


def _tally() -> Counter[str]:
    return Counter(getattr(training, "tally", {}))


def _told(trainings: Counter[str]) -> str:
    """Say what was trained, or nothing: "Trained 60 replicas, ..."."""
    parts = [
        f"{trainings[f'{path} replicas']} replicas, "
        f"{trainings[f'{path} steps'] / 1e6:.2g} million replica-steps, on "
        f"the {words} path"
        for path, words in (("dense", "fast"), ("reference", "reference"))
        if trainings[f"{path} replicas"]
    ]
    told = [f"trained {' and '.join(parts)}"] if parts else []
    if trainings["found replicas"]:
        told.append(f"{trainings['found replicas']} found in the cache")
    return f"{'; '.join(told)}.".capitalize() if told else ""
