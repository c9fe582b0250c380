"""Figures in one style: colours by entity, and what two chapters share."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

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
_COLOURS = sns.color_palette("colorblind").as_hex()

COLOURS = {
    "single": _COLOURS[1],
    "nested": _COLOURS[0],
    "train": _COLOURS[7],
    "validation": _COLOURS[0],
}
"""Colours of the models and of the two kinds of rows, throughout the book."""

ETL_COLOURS = dict(zip(ETL, _COLOURS, strict=False))
HTL_COLOURS = dict(zip(HTL, [_COLOURS[i] for i in (0, 1, 2, 4)], strict=True))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Use the book's style from here on, with vector figures in notebooks."""
    plt.style.use(STYLE)
    # elsewhere set_matplotlib_formats would start an IPython of its own
    if get_ipython() is not None:
        set_matplotlib_formats("svg")


def stamp(figure: Figure, source: str) -> Figure:
    """Write TWIN across a figure whose data were generated."""
    if source == "twin":
        figure.text(
            0.5,
            0.5,
            "TWIN",
            fontsize=48,
            color="0.35",
            alpha=0.3,
            ha="center",
            va="center",
            rotation=25,
            zorder=10,
        )
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


def claims_table(
    assessed: pd.DataFrame, kept: pd.DataFrame, folder: str = ""
) -> str:
    """Return judged claims as HTML, each value linked to its cell.

    Parameters
    ----------
    assessed
        Rows of :func:`nestedae_utils.book.claims.assess` for a build's results.
    kept
        The same rows for the reference, shown beside what the twin gave.
    folder
        Path from the page to the chapters' pages, ending in a slash.
    """
    rows = []
    for here, ours in zip(
        assessed.to_dict("records"), kept.to_dict("records"), strict=True
    ):
        claim = claims.claims()[here["claim"]]
        verdict = here["verdict"]
        kind = verdict.lower().replace(" ", "-")
        row = {
            "claim": f"{escape(claim.words)} <em>{escape(claim.reason)}</em>",
            "verdict": f'<span class="verdict {kind}">'
            f"{claims.MARKS[verdict]}&nbsp;{verdict}</span>",
            "paper": escape(here["paper"]),
        }
        for column, place, name in (
            ("as made", "made at", claim.as_made),
            ("as it should be", "should at", claim.as_should),
        ):
            row[column] = _linked(here[column], here[place], name, folder)
        row["place"] = claim.where
        if verdict == claims.TWIN:
            for column in ("as made", "as it should be"):
                row[f"reference, {column}"] = ours[column]
        rows.append(row)
    table = pd.DataFrame(rows).fillna("")
    if table["place"].nunique() == 1:
        table = table.drop(columns="place")
    return f'<div class="claims">{scrolling(table, escape=False)}</div>'


def _linked(
    text: str, place: tuple[str, int | None] | None, name: str, folder: str
) -> str:
    """Return a value as a link to the cell that computed it."""
    if not place:
        return text
    chapter, cell = place
    address = f"{folder}{chapter}.html" + (f"#cell-{cell}" if cell else "")
    meaning = escape(claims.quantities()[name].meaning)
    return f'<a href="{address}" title="{meaning}">{text}</a>'


def parity(
    ax: Axes,
    observed: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    label: str,
) -> Axes:
    """Draw predictions against observations, with the line of equality.

    Parameters
    ----------
    ax
        Where to draw.
    observed
        Shape (n,).
    predicted
        For each kind of rows, ``"train"`` and ``"validation"``, its
        predictions, shape (n,).
    label
        Quantity and unit.
    """
    ends = [float(np.min(observed)), float(np.max(observed))]
    for name, size in (("train", 2.0), ("validation", 3.0)):
        if name in predicted:
            ax.plot(
                observed,
                predicted[name],
                linestyle="",
                marker="o" if name == "train" else "x",
                markersize=size,
                markeredgewidth=0.6,
                color=COLOURS[name],
                alpha=0.6,
                label=name,
            )
    ax.plot(ends, ends, color="0.2", linewidth=0.8)
    ax.set_xlabel(f"observed {label}")
    ax.set_ylabel(f"predicted {label}")
    ax.legend(markerscale=2)
    return ax


def learning_curves(
    ax: Axes,
    epochs: np.ndarray,
    curves: Mapping[str, np.ndarray],
    label: str,
) -> Axes:
    """Draw histories (R, k) after some epochs (k,): mean and range over R."""
    for index, (name, values) in enumerate(curves.items()):
        colour = COLOURS["train" if name.startswith("train") else "validation"]
        ax.plot(
            epochs,
            values.mean(0),
            color=colour,
            linestyle=("-", "--", ":", "-.")[index % 4],
            linewidth=1,
            label=name,
        )
        ax.fill_between(
            epochs,
            values.min(0),
            values.max(0),
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel(label)
    ax.legend()
    return ax
