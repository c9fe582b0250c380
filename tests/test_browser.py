"""The built book in a browser, opened as files and without a network."""

import functools
import re
import shutil
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import url2pathname

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import pages
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
pytestmark = [pytest.mark.book, pytest.mark.slow]
EACH_PAGE = pytest.mark.parametrize("name", [*pages(), "genindex", "search"])

# What the theme's own script says on every page, without effect.
HARMLESS = {"Identifier 'THEBE_JS_URL' has already been declared"}

# What axe-core finds in markup that is not ours, by page and rule.
NOT_OURS = {
    ("references", "aria-required-children"): "docutils gives the list the "
    "role list and its entries the role doc-biblioentry",
}

# Formulas, images, links and places of a page, once all is drawn.
LOOK = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const all = (what) => [...document.querySelectorAll(what)];
  const wide = (it) => it.getBoundingClientRect().width > 0;
  return {
    formulas: all(".math").length,
    undrawn: all(".math")
      .filter((it) => !wide(it.querySelector("mjx-container") ?? it)
              || it.querySelector("mjx-merror")
              || !it.querySelector("mjx-math"))
      .map((it) => it.textContent),
    broken: all("img").filter((it) => !(it.complete && it.naturalWidth))
      .map((it) => it.src),
    figures: all("article figure, article .figure, article .cell_output img")
      .map((it) => it.closest("figure, .figure") ?? it)
      .map((it) => [
        it.querySelector("img, [role=img]")?.getAttribute("alt")
          ?? it.querySelector("[role=img]")?.getAttribute("aria-label") ?? "",
        it.querySelector("figcaption")?.innerText ?? "",
      ]),
    links: all("a[href]").map((it) => it.href),
    ids: all("[id]").map((it) => it.id),
  };
}"""

# What reaches over the right edge and lies in nothing that scrolls.
WIDE = """() => {
  const scrolls = "pre, .scrolling, .pst-scrollable-table-container, "
    + "mjx-container";
  return [...document.querySelectorAll("article *")]
    .filter((it) => it.getBoundingClientRect().right > innerWidth + 1)
    .filter((it) => it.getBoundingClientRect().width > 0)
    .filter((it) => !it.closest(scrolls))
    .map((it) => it.outerHTML.slice(0, 100));
}"""

STILL = "*, *::before { animation: none !important; transition: none; }"


@pytest.fixture(scope="module")
def chromium():
    """Return a running browser of this machine; nothing is downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine")
    # ends with the module: until then no other event loop can run
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=found)
        yield running
        running.close()


@pytest.fixture
def open_page(chromium, book):
    """Return a function that opens a page of the book."""
    contexts = []

    def opened(name, **settings):
        context = chromium.new_context(offline=True, **settings)
        context.set_default_timeout(5000)
        contexts.append(context)
        page = context.new_page()
        page.goto((book / "_build" / "html" / f"{name}.html").as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def look(chromium, book):
    """Return a function that opens a page once and tells what it saw."""

    @functools.cache
    def looked(name):
        context = chromium.new_context(offline=True)
        page = context.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: said.append(error.message))
        page.on(
            "console",
            lambda line: line.type == "error" and said.append(line.text),
        )
        page.goto((book / "_build" / "html" / f"{name}.html").as_uri())
        seen = page.evaluate(LOOK)
        context.close()
        return {**seen, "asked": asked, "said": said}

    return looked


def violations(page, *rules):
    """Return what axe-core finds serious or critical, by rule."""
    page.add_style_tag(content=STILL)
    only = {"type": "rule", "values": rules}
    found = Axe().run(page, options={"runOnly": only} if rules else {})
    return {
        one["id"]: [node["html"][:200] for node in one["nodes"]]
        for one in found.response["violations"]
        if one["impact"] in ("serious", "critical")
    }


def unfold(page):
    """Open all that is folded."""
    page.add_style_tag(content=STILL)
    page.evaluate(
        "document.querySelectorAll('details').forEach((it) => it.open = true)"
    )
    page.evaluate(
        "document.querySelectorAll('.toggle-hidden > .admonition-title')"
        ".forEach((it) => it.click())"
    )
    # what fades in has other colours on its way
    page.evaluate(
        "Promise.all(document.getAnimations().map((it) => it.finished))"
        ".then(() => null)"
    )


@EACH_PAGE
def test_page_loads_without_error_and_asks_no_other_host(look, name):
    seen = look(name)
    assert set(seen["said"]) <= HARMLESS
    hosts = {urlsplit(url).netloc for url in seen["asked"]}
    schemes = {urlsplit(url).scheme for url in seen["asked"]}
    assert hosts == {""}
    assert schemes <= {"file", "data", "blob"}


@EACH_PAGE
def test_every_formula_is_drawn(look, name):
    assert not look(name)["undrawn"]


def test_there_are_formulas(look):
    assert sum(look(name)["formulas"] for name in pages()) > 50


@EACH_PAGE
def test_no_link_and_no_image_is_broken(look, book, name):
    seen = look(name)
    assert not seen["broken"]
    folder = (book / "_build" / "html").resolve()
    for link in set(seen["links"]):
        address, place = urldefrag(link)
        parts = urlsplit(address)
        if parts.scheme != "file":
            continue
        path = folder.joinpath(url2pathname(parts.path)).resolve()
        assert path.is_file(), link
        if place and path.suffix == ".html":
            target = path.relative_to(folder).with_suffix("").as_posix()
            assert unquote(place) in look(target)["ids"], link


@EACH_PAGE
def test_every_figure_has_a_caption_and_an_alternative_text(look, name):
    for alternative, caption in look(name)["figures"]:
        assert len(alternative) > 40, caption
        assert len(caption) > 40, alternative


def test_search_leads_to_a_page(open_page):
    page = open_page("index")
    page.keyboard.press("Control+k")
    page.keyboard.type("latent")
    page.keyboard.press("Enter")
    found = page.locator("#search-results ul.search > li a")
    found.nth(4).wait_for()
    found.first.click()
    page.wait_for_url(re.compile(r"/(notebooks|reference)/\w+\.html"))
    assert "latent" in page.locator("article").inner_text().lower()


@EACH_PAGE
def test_what_is_folded_opens_on_click(open_page, name):
    page = open_page(name)
    page.add_style_tag(content=STILL)
    for box in page.locator(".admonition.dropdown").all():
        inside = box.locator(":scope > :not(.admonition-title)").first
        assert not inside.is_visible()
        box.locator(".admonition-title").first.click()
        assert inside.is_visible()
    for box in page.locator("article details").all():
        inside = box.locator(":scope > :not(summary)").first
        assert not inside.is_visible()
        box.locator("summary").click()
        assert inside.is_visible()


def test_there_are_solutions(open_page):
    page = open_page("notebooks/07_latent_maps")
    assert page.locator(".admonition.dropdown").count() >= 2


def test_the_map_tells_a_device_and_changes_its_colours(open_page):
    page = open_page("notebooks/07_latent_maps")
    drawing = page.locator("#live-map")
    point = drawing.locator(".scatterlayer .point").first
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    tooltip = drawing.locator(".hoverlayer .hovertext")
    tooltip.wait_for()
    told = tooltip.text_content()
    for word in ("composition", "ETL", "HTL", "measured PCE", "gap"):
        assert word in told
    colours = set()
    for name in ("ETL", "HTL", "PCE", "gap"):
        drawing.locator(".updatemenu-button", has_text=name).click()
        colours.add(
            page.evaluate(
                "JSON.stringify(document.getElementById('live-map')"
                "._fullData[0].marker.color)"
            )
        )
    assert len(colours) == 4


def test_without_scripts_the_map_can_still_be_seen(open_page):
    page = open_page("notebooks/07_latent_maps", java_script_enabled=False)
    figure = page.locator("#fig-07-map")
    assert figure.locator("img").is_visible()
    assert figure.locator("figcaption").is_visible()


def light(colour):
    """Return the relative luminance of a CSS colour, as WCAG defines it."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (
            int(number) / 255
            for number in colour[colour.index("(") + 1 : -1].split(",")[:3]
        )
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@EACH_PAGE
def test_dark_mode_is_legible(open_page, name):
    page = open_page(name, color_scheme="dark")
    unfold(page)
    text, ground = page.evaluate(
        "[getComputedStyle(document.querySelector('article, main')).color,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    assert light(ground) < 0.05
    assert (light(text) + 0.05) / (light(ground) + 0.05) >= 7
    assert not violations(page, "color-contrast")


@EACH_PAGE
def test_a_narrow_page_does_not_scroll_sideways(open_page, name):
    page = open_page(name, viewport={"width": 390, "height": 844})
    unfold(page)
    page.evaluate("window.MathJax?.startup?.promise")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert not page.evaluate(WIDE)


@EACH_PAGE
def test_axe_finds_no_serious_barrier(open_page, name):
    page = open_page(name)
    unfold(page)
    found = violations(page)
    for rule in list(found):
        if (name, rule) in NOT_OURS:
            del found[rule]
    assert not found
