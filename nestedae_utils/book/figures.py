"""Figures in one style: colours by entity, and what two chapters share."""

import itertools
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from nestedae_utils.book import claims
from nestedae_utils.data.perovskites import ETL, HTL

STYLE = Path(__file__).with_name("style.mplstyle")
_HEX = sns.color_palette("colorblind").as_hex()
COLOURS = {
    "single": _HEX[1],
    "nested": _HEX[0],
    "train": _HEX[7],
    "validation": _HEX[0],
}
"""Colours of the models and of the two kinds of rows, throughout the book."""
ETL_COLOURS = dict(zip(ETL, _HEX, strict=False))
HTL_COLOURS = dict(zip(HTL, [_HEX[i] for i in (0, 1, 2, 4)], strict=True))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Use the book's style, and no other; with vector figures in notebooks."""
    plt.rcdefaults()
    plt.style.use(STYLE)
    known = re.search("inline|ipympl|nbagg", plt.get_backend())
    if hasattr(get_ipython(), "kernel") and not known:
        get_ipython().run_line_magic("matplotlib", "inline")
    # elsewhere set_matplotlib_formats would start an IPython of its own
    if get_ipython() is not None:
        set_matplotlib_formats("svg")


def stamp(figure: Figure, source: str) -> Figure:
    """Write TWIN across a figure whose data were generated."""
    if source == "twin":
        place = {"ha": "center", "va": "center", "rotation": 25, "zorder": 10}
        figure.text(0.5, 0.5, "TWIN", place, fontsize=48, color="0.35", alpha=0.3)
    return figure


def scrolling(frame: pd.DataFrame, escape: bool = True) -> str:
    """Return a table as HTML that scrolls within its page if it is wide.

    A column named "meaning" is prose and may break its lines.
    """
    html = frame.to_html(index=False, border=0, escape=escape)
    kind = "scrolling"
    if "meaning" in frame:
        kind += f" meaning-{frame.columns.get_loc('meaning') + 1}"
    return f'<div class="{kind}" tabindex="0">{html}</div>'


def claims_table(assessed: pd.DataFrame, kept: pd.DataFrame, folder: str = "") -> str:
    """Return judged claims as HTML, each value linked to its cell.

    ``assessed`` are rows of `claims.assess`; the same rows of the
    reference, ``kept``, stand beside what the twin gave.  The chapters' pages
    are in ``folder``, which ends in a slash.
    """
    rows = []
    pairs = zip(assessed.to_dict("records"), kept.to_dict("records"), strict=True)
    for one, ours in pairs:
        verdict = one["verdict"]
        limit = one["tolerance"] if one["paper"] else None
        kind = f"verdict {verdict.lower().replace(' ', '-')}"
        mark = f"{claims.MARKS[verdict]}&nbsp;{verdict}"
        row = {
            "claim": f"{escape(one['words'])} <em>{escape(one['reason'])}</em>",
            "verdict": f'<span class="{kind}">{mark}</span>',
            "paper": escape(one["paper"]),
            "tolerance": "" if limit is None else f"{limit:g}",
        }
        for field, column, at in claims.WAYS:
            row[column] = one[column]
            if one[at]:
                chapter, cell = one[at]
                page = f"{folder}{chapter}.html" + (f"#cell-{cell}" if cell else "")
                title = escape(claims.quantities()[one[field]].meaning)
                row[column] = f'<a href="{page}" title="{title}">{one[column]}</a>'
        row["place"] = escape(one["place"])
        if verdict == claims.TWIN:
            for _, column, _ in claims.WAYS:
                row[f"reference, {column}"] = ours[column]
        rows.append(row)
    table = pd.DataFrame(rows).fillna("")
    return f'<div class="claims">{scrolling(table, escape=False)}</div>'


def parity(
    ax: Axes, observed: np.ndarray, predicted: Mapping[str, np.ndarray], label: str
) -> Axes:
    """Draw predictions against observations, with the line of equality.

    Both have shape (n,); ``predicted`` may have "train" and "validation".
    """
    for name, marker, size in (("train", "o", 2.0), ("validation", "x", 3.0)):
        if name in predicted:
            look: dict[str, Any] = {"color": COLOURS[name], "alpha": 0.6, "label": name}
            ax.plot(observed, predicted[name], marker, ms=size, mew=0.6, **look)
    ends = [float(np.min(observed)), float(np.max(observed))]
    ax.plot(ends, ends, color="0.2", linewidth=0.8)
    ax.set(xlabel=f"observed {label}", ylabel=f"predicted {label}")
    ax.legend(markerscale=2)
    return ax


def learning_curves(
    ax: Axes, epochs: np.ndarray, curves: Mapping[str, np.ndarray], label: str
) -> Axes:
    """Draw histories: the mean over replicas and their range.

    ``epochs`` (k,) are those that were measured; ``curves`` has values (R, k)
    by the words of the legend.
    """
    lines = itertools.cycle(("-", "--", ":", "-."))
    for line, (name, values) in zip(lines, curves.items(), strict=False):
        colour = COLOURS["train" if name.startswith("train") else "validation"]
        ax.plot(epochs, values.mean(0), line, color=colour, linewidth=1, label=name)
        low, high = values.min(0), values.max(0)
        ax.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
    ax.set(xlabel="epoch", ylabel=label)
    ax.legend()
    return ax
