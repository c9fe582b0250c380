"""The playground's controls, numbers and map as HTML, which a script fills.

What the script writes to or reads from has the attribute ``data-at``.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from nestedae_utils.book.figures import ETL_COLOURS, HTL_COLOURS

MOST = {"pce": 25, "gap": 5}
"""Where the scales of the numbers end, in % and eV."""
NEAREST = 5
COLOURS = {"etl": ETL_COLOURS, "htl": HTL_COLOURS}
_YOU = '<circle r="6"></circle><path d="M-13 0H-4M4 0H13M0-13V-4M0 4V13"></path>'
_MAP = """<figure><svg viewBox="-114 -106 220 222" role="img" aria-label="Map of the
latents: known devices are points, yours is a cross, joined with those nearest to it">
<rect x="-104" y="-104" width="208" height="208"></rect>{twin}<g>{points}</g>
<g class="lines" data-at="lines">{lines}</g>
<polyline class="trail" data-at="trail"></polyline>
<g class="you" data-at="you">{you}</g>
<text y="114" text-anchor="middle">first latent</text>
<text transform="translate(-108 0) rotate(-90)" text-anchor="middle">second
latent</text>
</svg><fieldset class="colours"><legend>Colour by</legend>{choices}</fieldset>{legends}
<figcaption>The map of Fig. 5. You are at {x}, {y}; the thin line is where you came
from. Click on a point to go there.</figcaption></figure>"""
_CARD = """<div class="card"><p>{title}</p><p class="big">{mean} {unit}</p>
<div class="strip" data-at="{name}-strip" data-most="{most}" data-error="{error:.4f}"
aria-hidden="true"><b></b>{ticks}</div>
<p>{low} to {high} by fold<br>unseen: off by {error:.{digits}f}{more}</p></div>"""


def _number(name: str) -> str:
    return f'<data data-at="{name}" value=""></data>'


def _select(name: str, label: str, options: Mapping[Any, str]) -> str:
    listed = "".join(
        f'<option value="{escape(str(value))}">{escape(words)}</option>'
        for value, words in options.items()
    )
    return (
        f'<p><label for="play-{name}">{label}</label> '
        f'<select id="play-{name}" data-at="{name}">{listed}</select></p>'
    )


def _controls(content: Mapping[str, Any]) -> str:
    """Return what is chosen: an example, fractions by slider, both layers."""
    names, layers = content["devices"]["composition"], content["layers"]
    sites = "".join(
        f"<fieldset><legend>{site} site</legend>"
        + "".join(
            f'<div class="ion"><label for="play-{ion}">{ion}</label>'
            f'<input id="play-{ion}" type="range" min="0" max="100" data-at="{ion}">'
            f'<output for="play-{ion}"></output></div>'
            for ion in ions
        )
        + "</fieldset>"
        for site, ions in content["sites"].items()
    )
    start = {"": "a mixture of your own"}
    start |= {row: names[row] for row in content["examples"]}
    below = (
        _select(n, n.upper(), {k: k for k in kinds}) for n, kinds in layers.items()
    )
    hint = "<p>The others of a site share what one ion leaves, as they stood.</p>"
    return _select("start", "Start from", start) + sites + "".join(below) + hint


def _card(content: Mapping[str, Any], name: str, title: str, **words: Any) -> str:
    """Return where the script writes a prediction and its spread."""
    values = {end: _number(f"{name}-{end}") for end in ("low", "high")}
    return _CARD.format(
        name=name, title=title, mean=_number(name), most=MOST[name], **values, **words,
        error=content["errors"][name],
        ticks="<i></i>" * len(content["nets"][name]["replicas"]),
    )  # fmt: skip


def _drawn(content: Mapping[str, Any]) -> str:
    """Return the map, and the choice of its colours, by style alone."""
    devices, most = content["devices"], max(content["devices"]["pce"])

    def shade(pce: float) -> str:
        return to_hex(colormaps["viridis"](pce / most))

    keys = {"pce": {f"{step} %": shade(step) for step in range(0, int(most), 5)}}
    keys |= {
        layer: {n: to_hex(c) for n, c in of.items()} for layer, of in COLOURS.items()
    }
    points, choices, legends = "", "", ""
    for row, (x, y) in enumerate(zip(devices["x"], devices["y"], strict=True)):
        etl, htl, pce = (devices[name][row] for name in ("etl", "htl", "pce"))
        told = f"{devices['composition'][row]}, {etl}, {htl}, {pce:.1f} %"
        points += (
            f'<circle cx="{100 * x:.2f}" cy="{-100 * y:.2f}" r="3" data-row="{row}" '
            f'style="--pce:{shade(pce)};--etl:{keys["etl"][etl]};'
            f'--htl:{keys["htl"][htl]}"><title>{escape(told)}</title></circle>'
        )
    for key, of in keys.items():
        name = "measured PCE" if key == "pce" else key.upper()
        choices += (
            f'<label><input type="radio" name="play-colour" value="{key}"'
            f"{' checked' * (key == 'pce')}> {name}</label>"
        )
        lines = "".join(
            f'<li><i style="background:{colour}"></i>{escape(kind)}</li>'
            for kind, colour in of.items()
        )
        legends += f'<ul class="legend" data-colour="{key}">{lines}</ul>'
    twin = '<text class="twin" text-anchor="middle">TWIN</text>' * content["twin"]
    return _MAP.format(
        twin=twin, points=points, choices=choices, legends=legends, you=_YOU,
        lines="<path></path>" * NEAREST, x=_number("x"), y=_number("y"),
    )  # fmt: skip


def page(content: Mapping[str, Any], text: str) -> str:
    """Return all of it, hidden until the script runs, and the export's text."""
    heads = ("nearest known", "ETL", "HTL", "differs in", "measured PCE", "devices")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    line = '<tr><th scope="row"><button type="button"></button></th>'
    line += "<td></td>" * (len(heads) - 1) + "</tr>"
    made = f"<br>the paper's scaler: {_number('made')} eV"
    pce = _card(content, "pce", "Efficiency (PCE)", unit="%", digits=1, more="")
    gap = _card(content, "gap", "Band gap (PBE)", unit="eV", digits=2, more=made)
    return f"""<div id="play" class="playground" role="group" aria-label="Playground"
hidden><p class="formula" data-at="formula"></p>
<div class="cards">{"<p><strong>TWIN</strong></p>" * content["twin"]}{pce}{gap}</div>
<p class="ground" data-at="ground"></p>
<p class="hear" role="status" aria-live="polite" data-at="status"></p>
<div class="choice">{_controls(content)}</div>{_drawn(content)}
<div class="scrolling" tabindex="0"><table class="dataframe">
<thead><tr>{head}</tr></thead><tbody data-at="nearest">{line * NEAREST}</tbody></table>
</div><p hidden>{_number("apart")}{_number("alloy")}</p></div>
<script type="application/json" id="play-data">{text}</script>"""
