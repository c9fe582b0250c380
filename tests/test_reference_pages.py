"""The pages of the part "Reference": complete, well-formed, linked."""

import json
import re

import pandas as pd
import pytest
import slides
import yaml
from conftest import ROOT

from nestedae_utils.book import parameters, records
from nestedae_utils.book.chapter import GLUED

PAGES = ROOT / "reference"


def text(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def test_all_pages_are_in_the_table_of_contents():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    (part,) = [p for p in contents["parts"] if p["caption"] == "Reference"]
    named = [chapter["file"] for chapter in part["chapters"]]
    pages = [f"reference/{path.stem}" for path in PAGES.glob("*.md")]
    assert len(pages) >= 8
    assert set(pages) <= set(named)
    assert named.index("references") > max(map(named.index, pages))


def test_the_glossary_defines_each_term_once_and_in_order():
    body = re.search(r"```\{glossary\}\n(.*?)```", text("glossary"), re.S)[1]
    # an entry: terms, a line each, and below them the indented definition
    entries = re.findall(r"((?:^\S.*\n)+)((?:^  .*\n)+)", body, re.M)
    terms = [head.casefold().splitlines() for head, _ in entries]
    first = [names[0] for names in terms]
    assert len(first) >= 45
    assert first == sorted(first)
    every = [name for names in terms for name in names]
    assert len(every) == len(set(every))
    for head, definition in entries:
        assert len(definition.strip()) > 15, head
        assert definition.endswith(".\n"), head


def test_notation_tables_are_well_formed():
    symbols = []
    tables, _, _ = text("notation").partition("(intervals)=")
    for row in tables.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row[:1] != "|" or cells[0] == "symbol" or set(cells[0]) == {"-"}:
            continue
        symbol, meaning, _, chapter = cells
        assert symbol, row
        assert meaning, row
        assert row.count("$") % 2 == 0, row
        link = r"\{doc\}`(\d+) <\.\./(notebooks/0?\1_\w+)>`"
        path = re.fullmatch(link, chapter)[2]
        assert (ROOT / f"{path}.ipynb").exists(), row
        symbols.append((symbol, meaning))
    assert len(symbols) >= 40
    assert len(symbols) == len(set(symbols))


def test_every_data_file_has_a_sheet():
    page = text("datasheets")
    for entry in json.loads((ROOT / "data" / "registry.json").read_text()):
        # files of a kind, pseudopotentials and candidates, have one sheet a folder
        key = entry["key"]
        alike = key.endswith((".upf", ".cif"))
        assert (key.split("/")[0] if alike else key) in page, key
    assert "## The twin" in page


def test_commands_for_teachers_are_allowed():
    commands = re.findall(r"^ +papermill (.+)$", text("teachers"), re.M)
    assert commands
    for line in commands:
        path, _, *words = line.split()
        assert words[::3] == ["-p"] * (len(words) // 3), line
        given = dict(zip(words[1::3], words[2::3], strict=True))
        assert given, line
        parameters.parse(parameters.read(ROOT / path), given)


@pytest.mark.parametrize("page", ["teachers", "misconceptions"])
def test_numbers_for_teachers_are_of_the_reference(page):
    kept = {
        record["quantity"] + ending
        for content in records.results_of(records.REFERENCE).values()
        for record in content["records"]
        for ending, key in GLUED.items()
        if record[key] is not None
    }
    made = re.findall(r'glue\(f?"(\w+?)[_"{]', text(page))
    glued = re.findall(r"\{glue:text\}`(\w+):", text(page))
    assert glued
    assert not {n for n in glued if n not in kept and not n.startswith(tuple(made))}


def test_each_misconception_has_a_question_and_an_answer_with_its_place():
    _, *parts = re.split(r'(?m)^### "[^"]+[.]"$', text("misconceptions"))
    assert len(parts) >= 12
    for part in parts:
        question = re.search(r"\*\*Question\.\*\*(.*?)```", part, re.S)[1]
        (answer,) = re.findall(r"```\{admonition\} Answer\n(.*?)```", part, re.S)
        assert question.strip().endswith("?"), part
        assert re.search(r"\{(doc|ref|numref)\}`", answer), part


def test_the_minutes_of_the_slides_are_those_of_the_class():
    """They follow one another, add up to 90, and keep to the lesson plan's steps."""
    deck = (ROOT / "teaching" / "class.md").read_text(encoding="utf-8")
    times = re.findall(r"(?m)^Minutes (\d+) to (\d+)\.$", deck)
    begin, end = zip(*((int(a), int(b)) for a, b in times), strict=True)
    assert begin == (0, *end[:-1])
    assert sum(b - a for a, b in zip(begin, end, strict=True)) == end[-1] == 90
    notes = re.findall(r"```\{revealjs-notes\}\n(.*?)```", deck, re.S)
    assert len(notes) == len(times) == len(re.findall(r"(?m)^##? ", deck))
    plan = text("teachers").split("## A class of 90 minutes")[1].split("\n## ")[0]
    steps = re.findall(r"(?m)^\| (\d+)–(\d+) \|", plan)
    assert {(int(a), int(b)) for a, b in steps} <= {(a, b) for a in begin for b in end}
    assert int(steps[-1][1]) == 90


def test_without_a_book_there_are_no_slides(tmp_path):
    with pytest.raises(SystemExit, match=r"^No book in _build: run make book first.$"):
        slides.build(tmp_path / "slides", tmp_path)


def test_citation_is_read_and_not_typed():
    page = text("cite")
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["version"] not in page
    assert cff["preferred-citation"]["doi"] not in page


def test_run_times_are_those_measured_wherever_they_stand():
    """On the first cells, hence in `nestedae list`, and in the README."""
    times = pd.read_csv(ROOT / "data" / "times.csv")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = times["machine"] == times["machine"][0]
    assert list(times["chapter"][first]) == parameters.chapters()
    assert set(times["chapter"]) == set(parameters.chapters())
    assert (times["seconds_low"] <= times["seconds_high"]).all()
    assert (times["replica_steps"] >= 0).all()
    pd.to_datetime(times["date"], format="%Y-%m-%d")
    for chapter, one in times.groupby("chapter"):
        span = f"{one['seconds_low'].min()} to {one['seconds_high'].max()}"
        start = f"Run time: {span} seconds on two cores"
        assert parameters.find(chapter).run_time.startswith(start), chapter
        (row,) = re.findall(rf"^\| `{chapter}` \|.*$", readme, re.M)
        assert row.endswith(f"| {span} | {one['replica_steps'].max() / 1e6:.2f} |")


def test_the_page_on_cost_has_every_chapter_before():
    before = pd.read_csv(ROOT / "data" / "steps_before.csv")
    assert list(before["chapter"]) == parameters.chapters()
    assert before["commit"].str.fullmatch("[0-9a-f]{7}").all()
