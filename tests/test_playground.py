"""The playground: its numbers, its controls, and what it says without scripts."""

import json
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from test_browser import chromium, open_page  # noqa: F401

from nestedae_utils.chapters import playground, playground_page
from nestedae_utils.data import perovskites, tables
from nestedae_utils.model import training

IONS, LAYERS = playground.IONS, perovskites.LAYERS
NUMBERS = """() => Object.fromEntries([...document.querySelectorAll("data[data-at]")]
  .map((it) => [it.dataset.at, Number(it.value)]))"""
TO = "(hash) => { location.hash = hash; dispatchEvent(new Event('hashchange')); }"
SHARES = """() => [...document.querySelectorAll("#play [type=range]")]
  .map((it) => [it.dataset.at, it.nextElementSibling.textContent])"""


@pytest.fixture(scope="module")
def small():
    """Return tables and models of two folds, trained for two epochs on the twin."""
    both = tables.load("twin")
    found = playground.models(both, folds=2, epochs=2)
    return SimpleNamespace(tables=both, models=found)


@pytest.fixture(scope="module")
def page(small, chromium, tmp_path_factory):  # noqa: F811
    """Return the small models' page in a browser, opened as a file."""
    folder = tmp_path_factory.mktemp("page")
    content = playground.export(small.tables, small.models)
    body = playground_page.page(content, playground.as_text(content))
    script = (ROOT / "_static" / "playground.js").as_uri()
    path = folder / "page.html"
    path.write_text(f'<meta charset="utf-8"><script src="{script}"></script>{body}')
    opened = chromium.new_page()
    opened.goto(path.as_uri())
    return opened


def at_random(count=50):
    """Return devices: mixtures of any number of ions, any contacts."""
    random = np.random.default_rng(7)
    shares = [
        random.dirichlet(np.full(len(members), 0.3), count).round(3)
        for members in perovskites.SITES.values()
    ]
    shares = [one / one.sum(1, keepdims=True) for one in shares]
    frame = pd.DataFrame(np.hstack(shares), columns=IONS)
    return frame.assign(**{k: random.choice(v, count) for k, v in LAYERS.items()})


def agree(page, both, found):
    """Hold the page's numbers for random devices against the models'."""
    devices = at_random()
    told = playground.predicted(devices, found)
    known = playground.rows(playground.known_devices(both, found))
    apart = playground.distances(playground.rows(devices), known).min(1)
    alloys = both.band_gaps[IONS].to_numpy()
    alloy = playground.distances(devices[IONS].to_numpy(), alloys).min(1)
    for row, device in enumerate(devices.to_dict("records")):
        page.evaluate(TO, urlencode({k: v for k, v in device.items() if v}))
        expected = {"made": told["gap_as_made"][row], "apart": apart[row]}
        expected |= dict(zip("xy", told["place"][row], strict=True))
        expected["alloy"] = alloy[row]
        for name in ("gap", "pce"):
            of = told[name][:, row]
            expected |= {name: of.mean(), f"{name}-low": of.min()}
            expected[f"{name}-high"] = of.max()
        assert page.evaluate(NUMBERS) == pytest.approx(expected, abs=1e-4)


def test_the_page_computes_what_the_models_say(small, page):
    agree(page, small.tables, small.models)
    assert page.locator("text=TWIN").count() == 2, "beside the numbers, on the map"


def test_each_site_stays_whole_and_the_others_keep_their_ratio(page):
    def shares(*names):
        listed = dict(page.evaluate(SHARES))
        return [int(listed[name].split()[0]) for name in names]

    page.evaluate(TO, "MA=60&FA=30&Cs=10&Pb=1&I=1")
    page.locator("#play-MA").fill("20")
    assert shares("MA", "FA", "Cs", "Rb", "K") == [20, 60, 20, 0, 0]
    page.locator("#play-MA").fill("100")
    page.locator("#play-MA").press("ArrowLeft")
    assert sum(shares(*perovskites.SITES["A"])) == 100
    assert shares("MA") == [99]
    assert shares("Pb", "I") == [100, 100], "other sites stay"


def test_the_address_keeps_a_device_and_nonsense_changes_nothing(page):
    page.evaluate(TO, "MA=1&Pb=1&I=1&etl=SnO2-c&htl=PTAA")
    page.locator("#play-Br").fill("30")
    kept = page.evaluate("location.hash")
    assert "Br=0.3" in kept
    before = page.evaluate(NUMBERS)
    page.evaluate(TO, "MA=-1&Br=none&etl=steel&__proto__=2")
    assert page.evaluate(NUMBERS) == before
    page.evaluate(TO, "FA=1")
    page.evaluate(TO, kept)
    assert page.evaluate(NUMBERS) == before


def test_where_nothing_is_known_the_page_says_so(small, page):
    known = playground.known_devices(small.tables, small.models)
    one = known.iloc[0]
    page.evaluate(TO, urlencode(one[IONS + list(LAYERS)].to_dict()))
    said = page.locator("[data-at=ground]")
    assert "This very device was measured." in said.inner_text()
    first = page.locator("[data-at=nearest] tr").first
    assert first.locator("td").all_inner_texts()[2:] == [
        "nothing", f"{one['pce']:.1f} %", str(one["count"])
    ]  # fmt: skip
    never = next(ion for ion in IONS if not small.tables.devices[ion].any())
    page.locator(f"#play-{never}").fill("3")
    assert f"No measured device holds {never}." in said.inner_text()
    assert said.inner_text().startswith("Unknown ground")


def test_near_is_what_most_have():
    rows = np.zeros((5, 2))
    rows[:, 0] = [0.0, 0.1, 0.2, 0.3, 0.9]
    rows[:, 1] = 1 - rows[:, 0]
    limit = playground.near(rows)
    nearest = np.sort([0.1, 0.1, 0.1, 0.1, 0.6])
    assert limit == pytest.approx(np.quantile(nearest, playground.SHARE), abs=1e-5)


# --- in the book ------------------------------------------------------------------


@pytest.mark.book
@pytest.mark.slow
def test_the_books_page_computes_what_the_books_models_say(open_page):  # noqa: F811
    """By the keys that the chapters trained: nothing is trained for this page."""
    page = open_page("playground")
    assert page.get_by_text("Trained for this page alone: 0 models").is_visible()
    content = json.loads(page.locator("#play-data").inner_text())
    both = tables.load()
    assert content["twin"] == (both.source == "twin")
    before = len(training.trained)
    found = playground.models(both)
    assert len(training.trained) == before, "found in the cache"
    agree(page, both, found)
    # an address opened anew, on unknown ground
    page.evaluate(TO, "K=1&Ba=1&I=1")
    before = page.evaluate(NUMBERS)
    page.reload()
    assert page.locator("#play figure").is_visible()
    assert page.evaluate(NUMBERS) == before


@pytest.mark.book
def test_keys_change_a_device_and_it_is_said(open_page):  # noqa: F811
    page = open_page("playground")
    said, before = page.locator("[role=status]"), page.evaluate(NUMBERS)
    slider = page.locator("#play-start")
    slider.focus()
    page.keyboard.press("Tab")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate(NUMBERS) != before
    look = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(look) == "solid", "one sees where one is"
    page.wait_for_function("document.querySelector('[role=status]').textContent")
    assert said.get_attribute("aria-live") == "polite"
    assert page.locator("[data-at=ground]").inner_text() in said.inner_text()


@pytest.mark.book
def test_without_scripts_ten_examples_stand_there(open_page):  # noqa: F811
    page = open_page("playground", java_script_enabled=False)
    assert page.locator(".without-scripts tbody tr:visible").count() == 10
    assert not page.locator("#play").is_visible()
    page = open_page("playground")
    assert not page.locator(".without-scripts").is_visible()
