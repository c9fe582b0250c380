"""Maps of a difference: drawn for any eye and printer, and with two sliders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from scipy import stats

from nestedae_utils.study.statistics import Paired, paired

MAP = "PuOr"
"""Orange below, violet above, white at 0; the sign is written in each cell,
since the two ends are alike in grey."""


def cells(first: np.ndarray, second: np.ndarray) -> list[list[Paired]]:
    """Compare two models' errors (rows, columns, worlds) in each cell."""
    return [
        [paired(*both) for both in zip(*lines, strict=True)]
        for lines in zip(first, second, strict=True)
    ]


def certain(one: Paired) -> int:
    """Return the sign of a difference whose interval leaves out 0, or 0."""
    return int(one.low > 0) - int(one.high < 0)


def signs(away: np.ndarray) -> np.ndarray:
    """Return the sign of each column's mean where it is certain, of (worlds, k)."""
    reach = stats.t.ppf(0.975, len(away) - 1) * away.std(0, ddof=1)
    mean = away.mean(0)
    return np.sign(mean) * (np.abs(mean) > reach / np.sqrt(len(away)))


def draw(
    ax: Axes,
    grid: Sequence[Sequence[Paired]],
    across: Sequence[float],
    up: Sequence[float],
    limit: float,
) -> ScalarMappable:
    """Draw a map; hatched where the interval has 0 in it, filled elsewhere.

    ``grid`` is by ``up``, then ``across``; colours end at plus and minus the
    ``limit``.  Each cell has its difference and half the interval's width.
    """
    colours = ScalarMappable(Normalize(-limit, limit), MAP)
    ax.grid(False)
    for y, line in enumerate(grid):
        for x, one in enumerate(line):
            sure = certain(one)
            fill = tuple(colours.to_rgba(np.array([one.difference]))[0])
            place = (x - 0.5, y - 0.5), 1, 1
            cell = Rectangle(*place, facecolor=fill if sure else "white")
            cell.set(edgecolor="0.75", hatch="" if sure else "////")
            ax.add_patch(cell)
            dark = sure and abs(one.difference) > 0.6 * limit
            text = f"{one.difference:+.2f}\n±{(one.high - one.low) / 2:.2f}"
            box = (
                None if sure else {"facecolor": "white", "edgecolor": "none", "pad": 1}
            )
            weight = "bold" if sure else "normal"
            ax.text(
                x, y, text.replace("-", "−"), ha="center", va="center", fontsize=6,
                color="white" if dark else "black", weight=weight, bbox=box,
            )  # fmt: skip
    ax.set(xlim=(-0.5, len(across) - 0.5), ylim=(-0.5, len(up) - 0.5))
    ax.set_xticks(range(len(across)), [f"{v:g}" for v in across])
    ax.set_yticks(range(len(up)), [f"{v:g}" for v in up])
    return colours


_PAGE = """<figure class="live"><div id="{name}" style="max-width:32em">
{inputs}<p role="status" aria-live="polite">{first}</p></div>
<details><summary>All cells as a table</summary>
<div class="scrolling" tabindex="0">{table}</div></details>
<p>{caption}</p><script>
(() => {{
  const box = document.getElementById("{name}"), data = {data};
  const [across, up] = box.querySelectorAll("input");
  const set = (input, value) => {{
    input.nextElementSibling.textContent = value;
    input.setAttribute("aria-valuetext", value);
  }};
  const tell = () => {{
    set(across, data.across[across.value]);
    set(up, data.up[up.value]);
    box.querySelector("p").textContent = data.cells[up.value][across.value];
  }};
  across.oninput = up.oninput = tell;
  tell();
}})();
</script></figure>"""


def told(one: Paired) -> str:
    """Return a cell in words."""
    words = ("nesting helps", "not told apart", "nesting harms")[certain(one) + 1]
    low, high = (f"{end:+.2f}".replace("-", "−") for end in one[1:3])
    middle = f"{one.difference:+.2f}".replace("-", "−")
    return f"{middle} (95 %: {low} to {high}), {words}"


def sliders(
    name: str,
    grid: Sequence[Sequence[Paired]],
    across: tuple[str, Sequence[float]],
    up: tuple[str, Sequence[float]],
    caption: str,
) -> str:
    """Return HTML with a slider for each axis of a map that was computed.

    All of it stands in the page: nothing is fetched, and without scripts the
    table has every cell.
    """
    inputs = "".join(
        f'<label>{escape(label)}: <input type="range" min="0" step="1" value="0" '
        f'max="{len(values) - 1}"> <output>{values[0]:g}</output></label><br>'
        for label, values in (across, up)
    )
    cells = [[told(one) for one in line] for line in grid]
    names = ([f"{value:g}" for value in axis[1]] for axis in (across, up))
    columns, rows = (pd.Index(own, name=axis[0]) for own, axis in
                     zip(names, (across, up), strict=True))  # fmt: skip
    table = pd.DataFrame(cells, index=rows, columns=columns).to_html()
    data = {"across": list(columns), "up": list(rows), "cells": cells}
    parts = {"name": escape(name), "inputs": inputs, "caption": escape(caption)}
    text = json.dumps(data).replace("</", "<\\/")
    return _PAGE.format(data=text, table=table, first=cells[0][0], **parts)


def heat(
    ax: Axes, mean: np.ndarray, spread: np.ndarray, across: Sequence, up: Sequence
) -> ScalarMappable:
    """Draw errors (up, across) in shades, each with its spread beside it."""
    image = ax.imshow(mean, cmap="viridis_r", origin="lower", aspect="auto")
    ax.grid(False)
    middle = (mean.min() + mean.max()) / 2
    for (y, x), value in np.ndenumerate(mean):
        colour = "white" if value > middle else "black"
        ax.text(
            x, y, f"{value:.3g}\n±{spread[y, x]:.2g}", ha="center", va="center",
            fontsize=6, color=colour,
        )  # fmt: skip
    ax.set_xticks(range(len(across)), [f"{v:g}" for v in across])
    ax.set_yticks(range(len(up)), [f"{v:g}" for v in up])
    return image
