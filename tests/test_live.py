"""The interactive map: its colours, what it tells, and its text."""

import json

import pandas as pd
import pytest

from nestedae_utils.book import live_map as live

POINTS = pd.DataFrame(
    {
        "latent 1": [0.0, 1.0, 2.0],
        "latent 2": [0.5, 0.25, 0.125],
        "ETL": ["c-TiO2", "SnO2", "c-TiO2"],
        "PCE (%)": [10.123, 15.0, 20.0],
    }
)
PALETTE = {"c-TiO2": "#0072b2", "SnO2": "#d55e00"}


@pytest.fixture
def drawn():
    colours = {"PCE": ("PCE (%)", None), "layer": ("ETL", PALETTE)}
    return live.latent_map(POINTS, colours)


def change(drawn, label):
    """Return what a button changes, as plain values."""
    (menu,) = drawn.layout.updatemenus
    (button,) = (one for one in menu.buttons if one.label == label)
    assert button.method == "restyle"
    return {
        key.removeprefix("marker."): value for key, (value,) in button.args[0].items()
    }


def test_a_number_is_coloured_by_its_range(drawn):
    look = change(drawn, "PCE")
    assert look["color"] == [10.123, 15.0, 20.0]
    assert (look["cmin"], look["cmax"]) == (10.123, 20.0)


def test_a_kind_has_the_colour_of_its_palette(drawn):
    look = change(drawn, "layer")
    assert look["colorbar.ticktext"] == list(PALETTE)
    shades = {}
    for place, kind in zip(look["color"], POINTS["ETL"], strict=True):
        share = (place - look["cmin"]) / (look["cmax"] - look["cmin"])
        (shades[kind],) = {
            shade
            for (start, shade), (stop, _) in zip(
                look["colorscale"][::2], look["colorscale"][1::2], strict=True
            )
            if start < share < stop
        }
    assert shades == PALETTE


def test_the_first_button_is_how_the_map_starts(drawn):
    marker = drawn.data[0].marker
    assert list(marker.color) == change(drawn, "PCE")["color"]
    assert marker.cmax == 20.0


def test_the_pointer_is_told_all_but_the_coordinates(drawn):
    (trace,) = drawn.data
    assert list(trace.x) == POINTS["latent 1"].tolist()
    assert [list(row) for row in trace.customdata] == [
        ["c-TiO2", 10.12],
        ["SnO2", 15.0],
        ["c-TiO2", 20.0],
    ]
    for place, name in enumerate(["ETL", "PCE (%)"]):
        assert f"{name}: %{{customdata[{place}]}}" in trace.hovertemplate


@pytest.mark.parametrize("source", ["paper", "twin"])
def test_the_twin_is_named(source):
    drawn = live.latent_map(POINTS, {"PCE": ("PCE (%)", None)}, source)
    texts = [one.text for one in drawn.layout.annotations]
    assert texts == (["TWIN"] if source == "twin" else [])


def test_a_page_gets_text_and_no_foreign_script(drawn):
    parts = live.bundle(drawn, 'Cells, "all" <of> them', "A & B")
    json.dumps(parts["application/vnd.plotly.v1+json"], default=list)
    page = parts["text/html"]
    assert 'aria-label="Cells, &quot;all&quot; &lt;of&gt; them"' in page
    assert "<figcaption>A &amp; B</figcaption>" in page
    assert live.DIVISION in page
    assert "<script src" not in page
