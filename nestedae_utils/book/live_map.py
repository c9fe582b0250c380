"""Figures to point at: interactive in the book and in JupyterLab."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd
from plotly import graph_objects, io

DIVISION = "plotly-graph-div"
"""The class by which plotly marks its drawings in a page."""


def bundle(
    figure: graph_objects.Figure,
    alt: str,
    caption: str,
    name: str = "live-map",
    height: int = 560,
) -> dict[str, object]:
    """Return a figure for ``display(..., raw=True)``, its height in pixels.

    JupyterLab draws from the JSON. The book takes the HTML, an element with the
    ``name`` as its id, and its pages load plotly's script once, from their own files.
    """
    drawing = io.to_html(
        figure,
        config={"displayModeBar": False, "responsive": True},
        include_plotlyjs=False,
        full_html=False,
        default_height=height,
        div_id=name,
    ).replace("Plotly.newPlot(", "window.Plotly && Plotly.newPlot(")
    return {
        "application/vnd.plotly.v1+json": figure.to_plotly_json(),
        "text/html": '<figure class="live">'
        f'<div role="img" aria-label="{escape(alt)}">{drawing}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>",
    }


def latent_map(
    points: pd.DataFrame,
    colours: Mapping[str, tuple[str, Mapping[str, str] | None]],
    source: str = "paper",
) -> graph_objects.Figure:
    """Draw points in a plane, with a button for each colouring.

    Parameters
    ----------
    points
        The first two columns are the coordinates; all others are shown
        where the pointer rests.
    colours
        For each button: the column to colour by, and the colour of each of
        its values, or None for a number.
    source
        Where the data are the twin's, the map says so.
    """
    x, y, *told = points.columns
    buttons: list[dict[str, Any]] = []
    for label, (name, palette) in colours.items():
        if palette is None:
            look = {
                "color": points[name],
                "colorscale": "Viridis",
                "cmin": points[name].min(),
                "cmax": points[name].max(),
                "colorbar.tickvals": None,
                "colorbar.ticktext": None,
            }
        else:
            kinds, count = list(palette), len(palette)
            steps = [
                [edge / count, palette[kind]]
                for place, kind in enumerate(kinds)
                for edge in (place, place + 1)
            ]
            look = {
                "color": points[name].map(kinds.index),
                "colorscale": steps,
                "cmin": -0.5,
                "cmax": count - 0.5,
                "colorbar.tickvals": list(range(count)),
                "colorbar.ticktext": kinds,
            }
        look = {
            key: value.tolist() if isinstance(value, pd.Series) else value
            for key, value in look.items()
        }
        change = {f"marker.{key}": [value] for key, value in look.items()}
        buttons.append({"label": label, "method": "restyle", "args": [change]})
    shown = "<br>".join(
        f"{name}: %{{customdata[{place}]}}" for place, name in enumerate(told)
    )
    figure = graph_objects.Figure(
        graph_objects.Scatter(
            x=points[x].tolist(),
            y=points[y].tolist(),
            customdata=points[told].round(2).to_numpy().tolist(),
            mode="markers",
            hovertemplate=shown + "<extra></extra>",
        ).update(marker={"size": 7, "showscale": True})
    )
    for key, (value,) in buttons[0]["args"][0].items():
        figure.data[0][key] = value
    figure.update_layout(
        template="simple_white",
        margin={"l": 50, "r": 10, "t": 50, "b": 45},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1.12,
            }
        ],
        xaxis_title=x,
        yaxis_title=y,
    )
    if source == "twin":
        look = {"showarrow": False, "opacity": 0.3, "font_size": 48}
        middle = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        figure.add_annotation(text="TWIN", **look, **middle)
    return figure
