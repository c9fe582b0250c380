"""A notebook that was taken along: far from the repository, after pip."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from test_browser import STILL, UNFOLD, WIDE, listening, violations
from test_browser import chromium as chromium

NAME = "05_bandgap_scale"
SETTINGS = "-p epochs 2 -p seeds 1 -p folds 2 -p sweep_epochs 2 -p data_source twin"
SEEN = """async () => {
  const all = (what) => [...document.querySelectorAll(what)];
  while (!window.MathJax?.startup?.promise)
    await new Promise((go) => setTimeout(go, 50));
  await window.MathJax.startup.promise;
  return {
    undrawn: all(".math").filter((it) => !it.querySelector("mjx-container svg path"))
      .map((it) => it.textContent),
    broken: all("img").filter((it) => !it.naturalWidth).map((it) => it.src),
    links: all("a").map((it) => it.getAttribute("href")),
    lost: all("a[href^='#']").map((it) => decodeURIComponent(it.hash.slice(1)))
      .filter((it) => it && !document.getElementById(it)),
    captions: all(".caption-number").map((it) => it.textContent.trim()),
    prose: all("article p").map((it) => it.textContent).join("\\n"),
    marked: all("article p:has(.reading)").length,
    folded: all("article details:not([open])").length,
  };
}"""
pytestmark = pytest.mark.slow


def run(folder, words, **more):
    environment = os.environ | {"NESTEDAE_RESULTS": "", **more}
    command = [sys.executable, "-m", *words.split()]
    subprocess.run(command, cwd=folder, env=environment, check=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a folder where a notebook ran with what pip installs of us.

    What we need is installed already.
    """
    folder = tmp_path_factory.mktemp("alone")
    # from a copy, where the build leaves its files
    for name in ("nestedae_utils", "data", "notebooks", "_static", "_ext"):
        shutil.copytree(ROOT / name, folder / "source" / name)
    for name in ("pyproject.toml", "LICENSE", "_config.yml", "references.bib"):
        shutil.copy(ROOT / name, folder / "source")
    words = "pip install --quiet --no-deps --no-build-isolation --target site ./source"
    run(folder, words)
    shutil.copy(ROOT / "notebooks" / f"{NAME}.ipynb", folder)
    words = f"papermill --no-progress-bar {NAME}.ipynb out/{NAME}.ipynb {SETTINGS}"
    (folder / "out").mkdir()
    run(folder, words, PYTHONPATH=str(folder / "site"))
    return folder


def test_a_notebook_runs_alone(alone):
    for name in ("data", "notebooks"):
        inside = alone / "site" / "nestedae_utils" / "shipped" / name
        for path in (alone / "source" / name).glob("*.*"):
            assert (inside / path.name).is_file()
    results = json.loads((alone / "results" / f"{NAME}.json").read_text())
    assert results["records"]


def test_its_page_reads_as_the_books(alone, chromium):  # noqa: F811
    words = f"nestedae_utils.rerun.page out/{NAME}.ipynb"
    run(alone, words, PYTHONPATH=str(alone / "site"))
    path = alone / "out" / f"{NAME}.html"
    assert [one.name for one in path.parent.iterdir()] == [f"{NAME}.ipynb", path.name]
    assert path.stat().st_size < 4e6
    asked, said, listen = listening()
    size = {"width": 390, "height": 844}
    context = chromium.new_context(offline=True, viewport=size)
    listen(page := context.new_page())
    page.goto(path.as_uri())
    seen = page.evaluate(SEEN)
    schemes = [url.scheme for url in asked]
    assert schemes.count("file") == 1, "the page itself"
    assert set(schemes) <= {"file", "data", "blob"}
    assert not said
    assert not seen["undrawn"], "formulas"
    assert not seen["broken"], "images"
    assert all(re.match("#|https?://", link) for link in seen["links"])
    assert not seen["lost"], "places within the page"
    numbers = [f"Fig. 5.{n}" for n in range(1, len(seen["captions"]) + 1)]
    assert seen["captions"] == numbers
    assert len(numbers) >= 3
    assert not re.search(r"\{[a-z:]+\}|\bfig-05", seen["prose"])
    for words in ("A run, not", "epochs 2 (the book: ", "TWIN.", "Mannodi"):
        assert words in seen["prose"][:3000], words
    assert seen["marked"] >= 5
    assert seen["folded"] >= 1
    page.add_style_tag(content=STILL)
    page.evaluate(UNFOLD)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert not page.evaluate(WIDE)
    assert not violations(page)
    context.close()
