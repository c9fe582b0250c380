"""The chapters in a real JupyterLab: nothing of their markup is left to see."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

import nbformat
import pytest
from conftest import ROOT
from nbformat.v4 import new_output
from test_browser import chromium  # noqa: F401

from nestedae_utils.book import readings

pytestmark = pytest.mark.slow
KEY, FORM = "gap_mae_val_as_made", ":.3f"
CHAPTERS = {"05_bandgap_scale": "Fig. 5.1", "13_three_scales": "[Thota et al., 2024]"}
# All cells are drawn in a window that is high enough.
HIGH = {"width": 1100, "height": 14000}
SEEN = """() => [...document.querySelectorAll(".jp-MarkdownCell .myst")].map((it) => {
  const copy = it.cloneNode(true);
  copy.querySelectorAll("code, .katex, svg").forEach((one) => one.remove());
  return copy.textContent;
}).join("\\n")"""


def executed(path):
    """Have a notebook tell other settings and glue a value, as if it had run."""
    notebook = nbformat.read(path, as_version=4)
    assert f"`{KEY}{FORM}`" in "".join(cell.source for cell in notebook.cells)
    last = next(one for one in notebook.cells if one.source == "chapter.finish()")
    value = {"application/papermill.record/text/plain": "0.16249"}
    told = {"text/markdown": "**Other settings than the book's:** `seeds` 1"}
    last.outputs = [
        new_output("display_data", told, metadata={readings.SETTINGS: True}),
        new_output("display_data", value, metadata={"scrapbook": {"name": KEY}}),
    ]
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return the address of a JupyterLab as `make lab` starts it, and its folder."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "reference", "_ext"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("references.bib", "start.ipynb"):
        shutil.copy(ROOT / name, folder)
    executed(folder / "notebooks" / "05_bandgap_scale.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (words,) = re.findall(
        r"jupyter-lab (.*?)start.ipynb", (ROOT / "Makefile").read_text(), re.S
    )
    words = words.replace("\\\n", "") + "--no-browser --allow-root --ServerApp.token="
    command = [sys.executable, "-m", "jupyterlab", *words.split(), f"--port={port}"]
    url = f"http://127.0.0.1:{port}/lab"
    with open(folder / "log.txt", "w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    while server.poll() is None:
        try:
            urllib.request.urlopen(url).close()
            break
        except OSError:
            time.sleep(0.2)
    assert server.poll() is None, (folder / "log.txt").read_text()
    yield url, folder
    server.terminate()
    server.wait()


@pytest.fixture
def opened(lab, chromium):  # noqa: F811
    """Return a function that opens a file and waits until it is drawn."""
    asked, context = set(), chromium.new_context(viewport=HIGH)
    context.set_default_timeout(120_000)

    def opened(path, words):
        page = context.new_page()
        page.on("request", lambda one: asked.add(urlsplit(one.url)[:2]))
        page.goto(f"{lab[0]}/tree/{path}?reset")
        page.locator(".myst", has_text=words).first.wait_for()
        return page

    yield opened
    context.close()
    others = [url for url in asked if url[0] not in ("data", "blob")]
    assert {host for _, host in others} == {urlsplit(lab[0]).netloc}


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_shows_no_markup(opened, name):
    page = opened(f"notebooks/{name}.ipynb", CHAPTERS[name])
    page.locator(".myst", has_text="Run it again").first.wait_for()
    page.wait_for_timeout(1000)
    text = page.evaluate(SEEN)
    assert not page.locator(".myst [title$='Not Found']").count()
    assert not re.search(
        r"\{[a-z:]+\}|\bfig-\d|\w_\w+:[+.]|\b[a-z]+\d{4}[a-z]*\b", text
    )
    assert "…" in text, "values that are not known"
    meanings = page.locator(".myst a.hover-link[title]").count()
    assert meanings > 20, "terms say what they mean"
    marked = page.locator(".nestedae-reading .myst")
    if not name.startswith("05"):
        assert not marked.count()
        return
    # once a cell has glued it, a value stands there as the book writes it
    assert page.locator(f".myst span[title={KEY}]").first.inner_text() == "0.162"
    label = marked.first.evaluate("(it) => getComputedStyle(it, '::before').content")
    assert label == f'"{readings.LABEL}"'
    assert not marked.filter(has_text="Objectives").count(), "reads nothing"


def test_the_first_page_leads_to_every_chapter(opened):
    page = opened("start.ipynb", "Start here")
    links = page.locator(".myst a[href*='.ipynb']")
    chapters = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for link, path in zip(links.all(), chapters, strict=True):
        assert f"/{path.name}" in link.get_attribute("href")
        title = nbformat.read(path, as_version=4).cells[0].source.split("\n")
        assert f"# {link.inner_text()}" in title
    links.nth(1).click()
    page.locator(".myst h1", has_text="The synthetic benchmark").wait_for()


def test_a_kernel_without_the_package_is_told_in_a_line():
    """Beside the notebooks, in a Python that finds no package of ours."""
    code = f"""
import sys, pathlib
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(f)]
sys.path[:] = ["", *(p for p in sys.path[1:]
                     if not (pathlib.Path(p) / "nestedae_utils").is_dir())]
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
shell.run_cell("from nestedae_utils.book.chapter import Chapter")
sys.path.insert(0, {str(ROOT)!r})
sys.path.insert(0, "")
shell.run_cell("import nestedae_utils.errors as e; print(e.__file__)")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT / "notebooks", capture_output=True, text=True, check=True
    )
    line, there = done.stdout.splitlines()
    assert line.startswith("No module 'nestedae_utils' in this kernel's Python, ")
    assert "make lab" in line
    assert there == str(ROOT / "nestedae_utils" / "errors.py")
