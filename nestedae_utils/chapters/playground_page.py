"""The playground's controls, numbers and map as HTML; a script fills them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from nestedae_utils.book.figures import ETL_COLOURS, HTL_COLOURS

LAYERS = {"etl": "ETL", "htl": "HTL"}
MOST = {"pce": 25, "gap": 5}
"""Where the scales of the numbers end, in % and eV."""


def _number(name: str) -> str:
    return f'<data data-at="{name}" value=""></data>'


def _options(names: Iterable[str], values: Iterable[Any] | None = None) -> str:
    pairs = zip(values or names, names, strict=True)
    return "".join(f'<option value="{escape(str(v))}">{escape(n)}' for v, n in pairs)


def controls(content: Mapping[str, Any]) -> str:
    """Return what is chosen: an example, fractions by slider, both layers."""
    devices = content["devices"]
    named = [devices["composition"][row] for row in content["examples"]]
    parts = [
        '<p class="start"><label for="play-start">Start from</label> '
        '<select id="play-start" data-at="start"><option value="">a mixture of your own'
        f"{_options(named, content['examples'])}</select></p>"
    ]
    for site, ions in content["sites"].items():
        rows = [
            f'<div class="ion"><label for="play-{ion}">{ion}</label>'
            f'<input id="play-{ion}" type="range" min="0" max="100" data-at="{ion}">'
            f'<output for="play-{ion}"></output></div>'
            for ion in ions
        ]
        parts.append(f"<fieldset><legend>{site} site</legend>{''.join(rows)}</fieldset>")
    parts += [
        f'<p class="layer"><label for="play-{key}">{name}</label> '
        f'<select id="play-{key}" data-at="{key}">{_options(content["layers"][key])}'
        "</select></p>"
        for key, name in LAYERS.items()
    ]
    return f'<div class="choice">{"".join(parts)}</div>'


def numbers(content: Mapping[str, Any]) -> str:
    """Return where the script writes what the models predict."""

    def card(name: str, title: str, unit: str, more: str = "") -> str:
        ticks = f'<i data-most="{MOST[name]}"></i>' * len(content["nets"][name]["replicas"])
        ticks = ticks.replace(' data-most="%g"' % MOST[name], "")
        return (
            f'<div class="card"><p>{title}</p><p class="big">{_number(name)} {unit}</p>'
            f'<div class="strip" data-at="{name}-strip" data-most="{MOST[name]}" '
            f'aria-hidden="true">{ticks}</div><p>{_number(f"{name}-low")} to '
            f'{_number(f"{name}-high")} by fold</p>{more}</div>'
        )

    made = f'<p>as the paper scales it: {_number("made")} eV</p>'
    return (
        '<p class="formula" data-at="formula"></p><div class="cards">'
        + card("pce", "Efficiency (PCE)", "%")
        + card("gap", "Band gap (PBE)", "eV", made)
        + '</div><p class="ground" data-at="ground"></p>'
        '<p class="hear" role="status" aria-live="polite" data-at="status"></p>'
    )


def drawing(content: Mapping[str, Any]) -> str:
    """Return the map as SVG, and the choice of its colours, by style alone."""
    devices, most = content["devices"], max(content["devices"]["pce"])
    viridis = colormaps["viridis"]
    legends = {
        "pce": {f"{step} %": to_hex(viridis(step / most)) for step in range(0, int(most), 5)},
        "etl": {name: to_hex(colour) for name, colour in ETL_COLOURS.items()},
        "htl": {name: to_hex(colour) for name, colour in HTL_COLOURS.items()},
    }
    points, choices, lists = [], [], []
    for row, (x, y) in enumerate(zip(devices["x"], devices["y"], strict=True)):
        own = {key: devices[key][row] for key in legends}
        fill = {key: legends[key].get(own[key]) for key in LAYERS}
        fill["pce"] = to_hex(viridis(own["pce"] / most))
        style = ";".join(f"--{key}:{fill[key]}" for key in legends)
        told = f"{devices['composition'][row]}, {own['etl']}, {own['htl']}, {own['pce']:.1f} %"
        points.append(
            f'<circle cx="{100 * x:.2f}" cy="{-100 * y:.2f}" r="3" style="{style}" '
            f'data-row="{row}"><title>{escape(told)}</title></circle>'
        )
    for key, legend in legends.items():
        name = LAYERS.get(key, "measured PCE")
        checked = " checked" * (key == "pce")
        choices.append(
            f'<label><input type="radio" name="play-colour" value="{key}"{checked}> {name}</label>'
        )
        lines = "".join(
            f'<li><i style="background:{colour}"></i>{escape(kind)}</li>'
            for kind, colour in legend.items()
        )
        lists.append(f'<ul class="legend" data-colour="{key}">{lines}</ul>')
    twin = '<text class="twin" text-anchor="middle">TWIN</text>' if content["twin"] else ""
    return (
        '<figure><svg viewBox="-114 -106 220 222" role="img" aria-label="Map of the latents: '
        'known devices as points, yours as a cross, joined with the five nearest">'
        f'<rect x="-104" y="-104" width="208" height="208"></rect>{twin}'
        f'<g class="points">{"".join(points)}</g>'
        f'<g class="lines" data-at="lines">{"<path></path>" * 5}</g>'
        '<polyline class="trail" data-at="trail"></polyline>'
        '<g class="you" data-at="you"><circle r="6"></circle><path d="M-13 0H-4M4 0H13M0-13V-4M0 4V13">'
        '</path></g><text x="0" y="114" text-anchor="middle">first latent</text>'
        '<text transform="translate(-108 0) rotate(-90)" text-anchor="middle">second latent</text>'
        f'</svg><fieldset class="colours"><legend>Colour by</legend>{"".join(choices)}</fieldset>'
        f'{"".join(lists)}<figcaption>You are at {_number("x")}, {_number("y")}. '
        "Take any point by a click.</figcaption></figure>"
    )


def known() -> str:
    """Return the table of the nearest known devices, without its words."""
    heads = ("nearest known", "ETL", "HTL", "differs in", "measured PCE", "devices")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    line = '<tr><th scope="row"><button type="button"></button></th>' + "<td></td>" * 5 + "</tr>"
    return (
        f'<div class="scrolling" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f'<tbody data-at="nearest">{line * 5}</tbody></table></div>'
        f'<p class="hear" aria-hidden="true">{_number("apart")} {_number("alloy")}</p>'
    )


def page(content: Mapping[str, Any], text: str) -> str:
    """Return all of it, hidden until the script runs, with the export's text."""
    twin = '<p class="twin"><strong>TWIN</strong></p>' if content["twin"] else ""
    return (
        f'<div id="play" class="playground" role="group" aria-label="Playground" hidden>'
        f'{twin}{controls(content)}<div class="outcome">{numbers(content)}'
        f'{drawing(content)}</div>{known()}</div>'
        f'<script type="application/json" id="play-data">{text}</script>'
    )
