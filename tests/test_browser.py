"""The built book in a browser, opened as files and without a network."""

import functools
import html
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import url2pathname

import pytest
import slides
from axe_playwright_python.sync_playwright import Axe
from conftest import pages
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
pytestmark = [pytest.mark.book, pytest.mark.slow]
EACH_PAGE = pytest.mark.parametrize("name", [*pages(), "genindex", "search"])
MAP = "notebooks/07_latent_maps"

# What the theme's own script says on every page, without effect.
HARMLESS = {"Identifier 'THEBE_JS_URL' has already been declared"}

# What axe-core finds in markup that is not ours, by page and rule.
NOT_OURS = {
    ("references", "aria-required-children"): "docutils gives the list the "
    "role list and its entries the role doc-biblioentry"
}

# What is not drawn of formulas and images, and the links, once all is there.
LOOK = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const all = (what) => [...document.querySelectorAll(what)];
  const wide = (it) => it.getBoundingClientRect().width > 0;
  return {
    undrawn: all(".math")
      .filter((it) => !wide(it.querySelector("mjx-container") ?? it)
              || it.querySelector("mjx-merror")
              || !it.querySelector("mjx-math"))
      .map((it) => it.textContent),
    broken: all("img").filter((it) => !(it.complete && it.naturalWidth))
      .map((it) => it.src),
    links: all("a[href]").map((it) => it.href),
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

COLOURS = """JSON.stringify(
  document.getElementById("live-map")._fullData[0].marker.color)"""
# axe takes minutes for long pages: the first blocks and signatures of a page keep
# their colours, the others, which have the same, become plain text; of what is built
# alike (elements, attributes, whatever stands around) three are looked at.
ALIKE = """() => {
  const plain = (what, kept) => [...document.querySelectorAll(what)].slice(kept)
    .forEach((it) => it.textContent = it.textContent);
  plain(".highlight pre", 5);
  plain("dt.sig", 5);
  const bones = (it) => {
    const copy = it.cloneNode(true);
    const texts = document.createTreeWalker(copy, NodeFilter.SHOW_TEXT);
    while (texts.nextNode())
      texts.currentNode.data = texts.currentNode.data.trim() && "x";
    for (const one of [copy, ...copy.querySelectorAll("*")])
      for (const name of ["id", "href", "src", "title"])
        if (one.getAttribute(name)) one.setAttribute(name, "x");
    return copy.outerHTML;
  };
  const around = (it) => it ? around(it.parentElement) + it.tagName + it.className : "";
  const count = new Map();
  for (const it of document.querySelectorAll("article :is(tr, li, dl, p, .cell)")) {
    const key = around(it.parentElement) + bones(it);
    count.set(key, (count.get(key) ?? 0) + 1);
    if (count.get(key) > 3) it.remove();
  }
}"""
STILL = "*, *::before { animation: none !important; transition: none; }"
# What fades in has other colours on its way; what the page itself breaks off (the
# search page's own motion) has ended as well.
UNFOLD = """async () => {
  const all = (what) => [...document.querySelectorAll(what)];
  all("details").forEach((it) => it.open = true);
  all(".toggle-hidden > .admonition-title").forEach((it) => it.click());
  await Promise.allSettled(document.getAnimations().map((it) => it.finished));
  await window.MathJax?.startup?.promise;
}"""


# What of the slide that is shown no picture has, what reaches over its edge or is too
# small for the last row of a lecture hall, and its notes.
SLIDE = """() => {
  const slide = Reveal.getCurrentSlide();
  const all = [...slide.querySelectorAll(":scope *:not(aside, aside *)")];
  const out = (box) => box.width && (box.left < 0 || box.top < 0
    || box.right > innerWidth || box.bottom > innerHeight);
  const said = (it) => [...it.childNodes].some(
    (one) => one.nodeType === 3 && one.data.trim());
  return {
    broken: all.filter((it) => it.tagName === "IMG" && !it.naturalWidth).length,
    wide: all.filter((it) => out(it.getBoundingClientRect()))
      .map((it) => it.outerHTML.slice(0, 100)),
    small: all.filter((it) => said(it)
        && parseFloat(getComputedStyle(it).fontSize) < 24)
      .map((it) => it.outerHTML.slice(0, 100)),
    words: slide.innerText,
    pictures: all.filter((it) => it.tagName === "IMG" && it.alt.length > 40).length,
    notes: slide.querySelector("aside.notes")?.textContent ?? "",
  };
}"""


@pytest.fixture(scope="module")
def chromium():
    """Return a running browser of this machine; nothing is downloaded."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine")
    # ends with the module: until then no other event loop can run
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path)
        yield running
        running.close()


@pytest.fixture
def open_page(chromium, book):
    """Return a function that opens a page of the book."""
    contexts = []

    def opened(name, listen=lambda page: None, unfold=False, **settings):
        context = chromium.new_context(offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        listen(page)
        page.goto((book / f"{name}.html").as_uri())
        if unfold:
            page.add_style_tag(content=STILL)
            page.evaluate(UNFOLD)
        return page

    yield opened
    for context in contexts:
        context.close()


def violations(page, *rules):
    """Return what axe-core finds serious or critical, by rule."""
    page.evaluate(ALIKE)
    only = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    return {
        one["id"]: [node["html"][:200] for node in one["nodes"]]
        for one in Axe().run(page, options=only).response["violations"]
        if one["impact"] in ("serious", "critical")
    }


@functools.cache
def ids(path):
    """Return the places of a page that a link can lead to."""
    text = Path(path).read_text(encoding="utf-8")
    return set(map(html.unescape, re.findall(r'\bid="([^"]*)"', text)))


def listening():
    """Return what a page asks for, what goes wrong, and what notes both."""
    asked, said = [], []

    def listen(page):
        page.on("request", lambda request: asked.append(urlsplit(request.url)))
        page.on("requestfailed", lambda request: said.append(request.url))
        page.on("pageerror", lambda error: said.append(error.message))
        page.on("console", lambda m: m.type == "error" and said.append(m.text))

    return asked, said, listen


@EACH_PAGE
def test_page_is_drawn_and_leads_only_to_what_is_there(open_page, book, name):
    asked, said, listen = listening()
    seen = open_page(name, listen).evaluate(LOOK)
    assert set(said) <= HARMLESS
    assert {url.netloc for url in asked} == {""}, "no other host"
    assert {url.scheme for url in asked} <= {"file", "data", "blob"}
    assert not seen["undrawn"], "formulas"
    assert not seen["broken"], "images"
    for link in set(seen["links"]):
        address, place = urldefrag(link)
        if urlsplit(address).scheme == "file":
            path = Path(url2pathname(urlsplit(address).path)).resolve()
            assert path.is_relative_to(book.resolve()), link
            assert path.is_file(), link
            if place and path.suffix == ".html":
                assert unquote(place) in ids(path), link


def test_search_leads_to_a_page(open_page):
    page = open_page("index")
    page.keyboard.press("Control+k")
    page.keyboard.type("latent")
    page.keyboard.press("Enter")
    results = page.locator("#search-results ul.search > li a")
    results.nth(4).wait_for()
    results.first.click()
    page.wait_for_url(re.compile(r"/(notebooks|reference)/\w+\.html"))
    assert "latent" in page.locator("article").inner_text().lower()


@EACH_PAGE
def test_what_is_folded_opens_on_click(open_page, name):
    page = open_page(name)
    page.add_style_tag(content=STILL)
    for kind, title in (
        (".admonition.dropdown", ".admonition-title"),
        ("article details", "summary"),
    ):
        boxes = page.locator(kind).all()
        assert len(boxes) >= 2 or name != MAP or title == "summary"
        for box in boxes:
            inside = box.locator(f":scope > :not({title})").first
            assert not inside.is_visible()
            box.locator(title).first.click()
            assert inside.is_visible()


def test_the_map_tells_a_device_and_changes_its_colours(open_page):
    page = open_page(MAP)
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
        colours.add(page.evaluate(COLOURS))
    assert len(colours) == 4


def test_without_scripts_the_map_can_still_be_seen(open_page):
    page = open_page(MAP, java_script_enabled=False)
    figure = page.locator("#fig-07-map")
    assert figure.locator("img").is_visible()
    assert figure.locator("figcaption").is_visible()


def test_the_filter_of_verdicts_needs_no_script(open_page):
    page = open_page("index", java_script_enabled=False)
    rows = page.locator(".claims tbody tr")
    shown = page.locator(".claims tbody tr:visible")
    every = rows.count()
    assert every == shown.count() > 0
    choices = page.locator("fieldset.filter input").all()
    counts = []
    for choice in choices[1:]:
        choice.check()
        kind = choice.get_attribute("id").removeprefix("show-")
        assert shown.count() == page.locator(f".claims .verdict.{kind}").count()
        counts.append(shown.count())
    assert sum(counts) == every
    choices[0].check()
    assert shown.count() == every


@EACH_PAGE
def test_page_fits_a_telephone_and_is_legible_by_day_and_by_night(open_page, name):
    size = {"width": 390, "height": 844}
    page = open_page(name, unfold=True, viewport=size, color_scheme="dark")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert not page.evaluate(WIDE)
    page.set_viewport_size({"width": 1280, "height": 720})
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground)[:3])) < 60, "it is dark"
    assert not violations(page, "color-contrast")
    page.emulate_media(color_scheme="light")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.evaluate(UNFOLD)
    barriers = violations(page)
    assert not {b: barriers[b] for b in barriers if (name, b) not in NOT_OURS}


def test_slides_need_no_network_and_can_be_read_from_the_last_row(
    open_page, tmp_path_factory
):
    """The class's slides, made of this book, each looked at as it is shown."""
    deck = slides.build(tmp_path_factory.mktemp("deck") / "slides")
    asked, said, listen = listening()
    size = {"width": 1280, "height": 720}
    page = open_page(str(deck.with_suffix("")), listen, viewport=size)
    page.wait_for_function("window.Reveal?.isReady()")
    page.evaluate("Reveal.configure({fragments: false})")
    count, pictures = page.evaluate("Reveal.getTotalSlides()"), 0
    assert count >= 12
    for number in range(count):
        page.evaluate(f"Reveal.slide({number})")
        seen = page.evaluate(SLIDE)
        assert not seen["broken"], seen["words"]
        assert not seen["wide"], seen["words"]
        assert not seen["small"], seen["words"]
        assert not re.search(r"[{}]|None|nan\b", seen["words"]), seen["words"]
        assert re.match(r"Minutes \d+ to \d+\.", seen["notes"]), seen["words"]
        assert not violations(page, "color-contrast", "image-alt"), seen["words"]
        pictures += seen["pictures"]
    assert pictures >= 5
    assert not said
    assert {(url.scheme, url.netloc) for url in asked} == {("file", "")}
