"""The built book, and the numbers of a full run."""

import ast
import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import BOOK, ROOT, build, pages

from nestedae_utils.book import claims, records
from nestedae_utils.data import tables
from nestedae_utils.errors import DataError

# The bands; per sample and as made, on the paper's data.
BANDS = {
    "gap_mae_train_as_made": (0.150, 0.162),
    "gap_mae_val_as_made": (0.150, 0.186),
    "gap_mae_val_per_sample": (0.150, 0.185),
    "pce_mae_train_as_made": (2.50, 2.63),
    "pce_mae_val_as_made": (2.30, 2.48),
    "pce_mae_val_per_sample": (2.53, 2.70),
    "single_pce_mae_val_per_sample": (3.1, 3.3),
}


@pytest.fixture(scope="module")
def results(book):
    return records.results_of(book / "results")


@pytest.fixture(scope="module")
def values(results):
    """Return a full run's values, or skip where the data were the twin's."""
    if any(content["data_source"] == "twin" for content in results.values()):
        pytest.skip("the paper's perovskite tables cannot be had here")
    return {
        record["quantity"]: record["value"]
        for content in results.values()
        for record in content["records"]
    }


@pytest.mark.book
@pytest.mark.slow
def test_every_page_is_there_and_shows_no_error(book):
    for name in pages():
        page = book / "_build" / "html" / f"{name}.html"
        text = page.read_text(encoding="utf-8")
        assert "Traceback" not in text, name
        assert "<h1>" in text, name


@pytest.mark.book
def test_no_page_loads_anything_from_elsewhere(book):
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]* src=\"(https?:[^\"]+)\""
        r"|<link[^>]* rel=\"stylesheet\"[^>]* href=\"(https?:[^\"]+)\""
    )
    for name in pages():
        page = book / "_build" / "html" / f"{name}.html"
        assert not loads.findall(page.read_text(encoding="utf-8")), name


@pytest.mark.book
def test_every_figure_has_a_caption_and_an_alternative_text(book):
    count = 0
    for name in pages():
        page = (book / "_build" / "html" / f"{name}.html").read_text(
            encoding="utf-8"
        )
        for image in re.findall(r"<img[^>]*\.svg[^>]*>", page):
            alt = re.search(r'alt="([^"]*)"', image)
            assert alt, (name, image)
            assert len(alt[1]) > 40, (name, image)
            count += 1
        drawn = re.findall(r"<img[^>]*\.svg[^>]*>", page)
        assert page.count("<figcaption>") >= len(drawn), name
    assert count >= 20


@pytest.mark.book
def test_no_page_has_a_progress_bar(book):
    for name in pages():
        page = (book / "_build" / "html" / f"{name}.html").read_text(
            encoding="utf-8"
        )
        assert "it/s" not in page, name


@pytest.mark.book
def test_landing_page_shows_this_builds_values(book, results):
    page = html.unescape(
        (book / "_build" / "html" / "index.html").read_text(encoding="utf-8")
    )
    assert set(results) == {
        Path(name).name for name in pages() if name.startswith("notebooks")
    }
    for content in results.values():
        for record in content["records"]:
            shown = records.plus_minus(record["value"], record["spread"])
            assert f">{shown}</" in page, record["quantity"]


@pytest.mark.book
def test_landing_page_judges_every_claim(book, results):
    page = html.unescape(
        (book / "_build" / "html" / "index.html").read_text(encoding="utf-8")
    )
    assessed = claims.assess(results)
    assert claims.NOT_RUN not in set(assessed["verdict"])
    shown = re.findall(r'class="verdict [^"]*">.\s([^<]*)<', page)
    assert sorted(shown) == sorted(assessed["verdict"])
    for words in assessed["words"]:
        assert f">{words} <em>" in page


@pytest.mark.book
def test_values_lead_to_the_cells_that_computed_them(book, results):
    folder = book / "_build" / "html"
    page = (folder / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(notebooks/\w+\.html)#(cell-\d+)"', page)
    assert links
    for name, cell in links:
        chapter = (folder / name).read_text(encoding="utf-8")
        assert chapter.count(f'id="{cell}"') == 1, f"{name}#{cell}"
    assessed = claims.assess(results)
    places = [*assessed["made at"].dropna(), *assessed["should at"].dropna()]
    assert sorted(links) == sorted(
        (f"notebooks/{chapter}.html", f"cell-{cell}")
        for chapter, cell in places
    )
    audit = (folder / "notebooks" / "08_audit.html").read_text(
        encoding="utf-8"
    )
    beside = re.findall(r'href="(\w+\.html)#(cell-\d+)"', audit)
    # those that later chapters test are on the landing page alone
    assert sorted(beside) == sorted(
        (name.removeprefix("notebooks/"), cell)
        for name, cell in links
        if name <= "notebooks/08_audit.html"
    )


@pytest.mark.book
def test_the_page_of_the_package_shows_every_public_name(book):
    page = (book / "_build" / "html" / "reference" / "api.html").read_text(
        encoding="utf-8"
    )
    for path in (ROOT / "nestedae_utils").glob("[!_]*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            known = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if known and not node.name.startswith("_"):
                address = f"nestedae_utils.{path.stem}.{node.name}"
                assert f'id="{address}"' in page, address


@pytest.mark.book
def test_a_full_run_agrees_with_the_reference(results, values):
    reference = records.results_of(records.REFERENCE)
    assert set(reference) == set(results)
    for name, content in results.items():
        assert not records.differences(content, reference[name]), name
        assert content["checksums"] == reference[name]["checksums"], name


@pytest.mark.book
@pytest.mark.parametrize("quantity", BANDS)
def test_values_lie_in_their_bands(values, quantity):
    low, high = BANDS[quantity]
    assert low <= values[quantity] <= high


@pytest.mark.book
def test_numbers_of_the_paper_are_reproduced_as_made(values):
    stated = [
        one
        for one in claims.claims().values()
        if one.where in ("Fig. 2", "Table 1")
    ]
    assert len(stated) == 9 + 14
    for claim in stated:
        value = values[claim.as_made]
        assert abs(value - claim.paper) <= claim.tolerance + 1e-9, claim.claim


@pytest.mark.book
@pytest.mark.slow
def test_without_data_the_book_says_twin(tmp_path):
    """A small book, offline: the landing page and one chapter."""
    source = tmp_path / "source"
    (source / "notebooks").mkdir(parents=True)
    chapter = "notebooks/04_perovskite_data"
    for name in (
        *("_config.yml", "index.md", "references.md", "references.bib"),
        f"{chapter}.ipynb",
    ):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "_ext", source / "_ext")
    # Links to the pages that this small book leaves out.
    for path in (source / "index.md", source / f"{chapter}.ipynb"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"\{doc\}`([^`<]+)\s<[^`]+>`", r"\1", text)
        text = re.sub(r"\[([^]]+)\]\(0[^)]+\)", r"\1", text)
        text = re.sub(r"\{term\}`([^`<]+?)(?: <[^`]+>)?`", r"\1", text)
        path.write_text(text, encoding="utf-8")
    (source / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nparts:\n- chapters:\n"
        f"  - file: {chapter}\n  - file: references\n"
    )
    closed = "http://127.0.0.1:9"
    done = build(
        source,
        tmp_path,
        NESTEDAE_DATA_MIRROR="",
        NESTEDAE_CACHE=str(tmp_path / "cache"),
        HTTPS_PROXY=closed,
        HTTP_PROXY=closed,
        ALL_PROXY=closed,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages_of = tmp_path / "_build" / "html"
    text = (pages_of / f"{chapter}.html").read_text(encoding="utf-8")
    body = text[text.index("<h1>") :]
    assert "TWIN" in re.sub(r"<[^>]+>", "", body)[:600], "the first lines"
    drawings = list((tmp_path / "_build").rglob("*.svg"))
    assert drawings
    board = (pages_of / "index.html").read_text(encoding="utf-8")
    assert "TWIN" in board
    assert "reference" in board
    kept = records.results_of(records.REFERENCE)["04_perovskite_data"]
    for record in kept["records"]:
        shown = records.plus_minus(record["value"], record["spread"])
        assert f"<td>{shown}</td>" in html.unescape(board)


@pytest.mark.book
@pytest.mark.slow
@pytest.mark.parametrize("url", ["", "https://github.com/someone/a-fork"])
def test_one_setting_offers_to_launch_a_notebook(tmp_path, url):
    """A book of one chapter that is not executed."""
    source, name = tmp_path / "source", "02_synthetic_data"
    source.mkdir()
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert config["repository"]["url"] == "", "set by whoever publishes"
    config["repository"]["url"] = url
    config["execute"]["execute_notebooks"] = "off"
    (source / "_config.yml").write_text(yaml.safe_dump(config))
    (source / "_toc.yml").write_text(f"format: jb-book\nroot: {name}\n")
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", source)
    shutil.copytree(ROOT / "_ext", source / "_ext")
    # not by build: the chapter's links lead to pages that are left out
    done = subprocess.run(
        [BOOK, "build", source, "--path-output", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "_build" / "html" / f"{name}.html").read_text("utf-8")
    launched = re.findall(
        r'href="(https://(?:mybinder|colab)[^"]*)"', html.unescape(page)
    )
    assert launched == (
        [
            "https://mybinder.org/v2/gh/someone/a-fork/main"
            f"?urlpath=lab/tree/{name}.ipynb",
            "https://colab.research.google.com/github/someone/a-fork/blob/"
            f"main/{name}.ipynb",
        ]
        if url
        else []
    )


def test_a_named_mirror_without_the_file_is_no_twin(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTEDAE_DATA_MIRROR", str(tmp_path))
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError):
        tables.load("auto")
