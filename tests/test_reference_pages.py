"""The pages of the part "Reference": complete, well-formed, linked."""

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from nestedae_utils.book import records

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "reference"


def text(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def glossary():
    """Return (terms, definition) of every entry."""
    body = re.search(r"```\{glossary\}\n(.*?)```", text("glossary"), re.S)[1]
    entries, terms, lines = [], [], []
    for line in [*body.splitlines(), ""]:
        if not line or line.startswith(":"):
            if terms:
                entries.append((terms, " ".join(lines)))
            terms, lines = [], []
        elif line.startswith("  "):
            lines.append(line.strip())
        else:
            assert not lines, f"{line!r} stands below a definition"
            terms.append(line)
    return entries


def test_all_pages_are_in_the_table_of_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    (part,) = [p for p in contents["parts"] if p["caption"] == "Reference"]
    named = [chapter["file"] for chapter in part["chapters"]]
    pages = [f"reference/{path.stem}" for path in PAGES.glob("*.md")]
    assert len(pages) >= 8
    assert set(pages) <= set(named)
    assert named.index("references") > max(map(named.index, pages))


def test_glossary_defines_each_term_once():
    entries = glossary()
    assert len(entries) >= 45
    terms = [term.casefold() for names, _ in entries for term in names]
    assert len(terms) == len(set(terms))
    for names, definition in entries:
        assert len(definition) > 15, names
        assert definition.endswith("."), names
    first = [names[0].casefold() for names, _ in entries]
    assert first == sorted(first)


def test_terms_that_pages_link_are_defined():
    terms = {term.casefold() for names, _ in glossary() for term in names}
    pages = [text(path.stem) for path in PAGES.glob("*.md")]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        pages += [c.source for c in cells if c.cell_type == "markdown"]
    for page in pages:
        for link in re.findall(r"\{term\}`([^`]+)`", page):
            target = re.search(r"<(.+)>$", link)
            term = " ".join((target[1] if target else link).split())
            assert term.casefold() in terms, link


def test_notation_tables_are_well_formed():
    rows = [line for line in text("notation").splitlines() if line[:1] == "|"]
    symbols = []
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        if cells[0] == "symbol" or set(cells[0]) == {"-"}:
            continue
        symbol, meaning, _, chapter = cells
        assert symbol, row
        assert meaning, row
        assert row.count("$") % 2 == 0, row
        found = re.fullmatch(
            r"\{doc\}`(\d+) <\.\./(notebooks/0?\1_\w+)>`", chapter
        )
        assert found, row
        assert (ROOT / f"{found[2]}.ipynb").exists(), row
        symbols.append((symbol, meaning))
    assert len(symbols) >= 40
    assert len(symbols) == len(set(symbols))


def test_every_data_file_has_a_sheet():
    page = text("datasheets")
    registry = json.loads((ROOT / "data" / "registry.json").read_text())
    for entry in registry:
        assert entry["key"] in page, entry["key"]
    assert "## The twin" in page


def commands():
    """Return (notebook, parameters) of every papermill command."""
    page = text("teachers")
    for line in re.findall(r"^ +papermill (.+)$", page, re.M):
        name, _, *rest = line.split()
        assert rest[::3] == ["-p"] * (len(rest) // 3), line
        yield name, dict(zip(rest[1::3], rest[2::3], strict=True))


@pytest.mark.parametrize(("name", "given"), list(commands()))
def test_commands_for_teachers_name_known_parameters(name, given):
    known = papermill.inspect_notebook(str(ROOT / name))
    assert given
    assert set(given) <= set(known)


def test_numbers_for_teachers_are_of_the_reference():
    kept = {
        record["quantity"]
        for content in records.results_of(records.REFERENCE).values()
        for record in content["records"]
    }
    glued = re.findall(r"\{glue:text\}`(\w+):", text("teachers"))
    assert glued
    assert set(glued) <= kept


def test_citation_is_read_and_not_typed():
    page = text("cite")
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["version"] not in page
    assert cff["preferred-citation"]["doi"] not in page
