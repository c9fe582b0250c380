"""The chapters' exercises: read from the notebooks, and written for students.

``make exercises`` writes a notebook for each chapter: its code, its exercises
without their solutions, a cell for each answer, and one that tells right from
wrong in a line. What is right stands in the metadata of the exercises' cell,
below ``companion``, ``check`` and the exercise's number:

- ``answer``: the name that the student assigns, as the exercise says;
- ``right``: an expression, true of a right answer, whatever the parameters;
- ``wrong``: a likely mistake, which `tests/prepare.py` holds against it;
- ``hint``: what is said where it is not true.
"""

import inspect
import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
FOLDER = ROOT / "_build" / "exercises"

SECTION = re.compile(r"(?ms)^## Exercises\n(.*?)(?=^## |\Z)")
EXERCISE = re.compile(r"(?ms)^\*\*(\d+)\.\*\*\s+(.*?)(?=^\*\*\d+\.\*\*|\Z)")
SOLUTION = re.compile(r"```\{admonition\} Solution\n(.*?)```", re.S)
INDENTED = re.compile(r"(?m)(?:^(?: {4}.*)?\n)+")
HEADING = re.compile(r"(?m)^#+ .*$")
ROLE = re.compile(r"\{([\w:]+)\}`([^`<]*?)(?:\s*<([^`>]*)>)?`")

FIRST = """\
# the results of a run here, which stay apart from the book's
import os
os.environ.setdefault("NESTEDAE_RESULTS", "results")"""
ABOVE = """\
# Exercises of chapter {number}

From the chapter [{title}]({page}), whose code stands below, folded: run all of it
first. With trainings in the cache that takes seconds, without them as long as the
chapter. Each exercise that asks for code names what to assign, and has a cell that
checks it."""


@dataclass(frozen=True)
class Exercise:
    """An exercise: its text, the code of its solution, and its check, if any."""

    number: str
    statement: str
    code: tuple[str, ...]
    check: dict[str, str] | None


def indented(text: str) -> list[str]:
    """Return the blocks of code in a text, those indented by four."""
    blocks = map(textwrap.dedent, INDENTED.findall(text + "\n"))
    return [block.strip() for block in blocks if block.strip()]


def read(name: str) -> tuple[list[nbformat.NotebookNode], list[Exercise]]:
    """Return the cells of a chapter before its exercises, and these."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    (place,) = [
        place
        for place, cell in enumerate(cells)
        if cell.cell_type == "markdown" and SECTION.search(cell.source)
    ]
    checks = cells[place].metadata.get("companion", {}).get("check", {})
    exercises = []
    for number, text in EXERCISE.findall(SECTION.search(cells[place].source)[1]):
        code = [b for part in SOLUTION.findall(text) for b in indented(part)]
        code = [block for block in code if not block.startswith("papermill ")]
        statement = SOLUTION.sub("", text).strip()
        exercises.append(Exercise(number, statement, tuple(code), checks.get(number)))
    return cells[:place], exercises


def check_answer(right, hint):
    """Say in one line whether an answer is right, or what is wrong with it."""
    try:
        return "right" if bool(right()) else f"wrong: {hint}"
    except NameError as error:
        return f"wrong: {error.name} is not assigned."
    except Exception as error:
        return f"wrong: {hint} ({type(error).__name__})"


def checking(check: dict[str, str], template: str = "print({})") -> str:
    """Return the code of a cell that checks an answer."""
    right = textwrap.indent(check["right"], "    ")
    call = f"check_answer(lambda: (\n{right}\n), {check['hint']!r})"
    return template.format(call)


def plain(text: str, page: str) -> str:
    """Write out the book's roles, which a notebook alone does not know."""

    def written(role: re.Match) -> str:
        kind, words, target = role.groups()
        if kind in ("eq", "numref"):
            anchor = f"equation-{words}" if kind == "eq" else words
            what = "formula" if kind == "eq" else "figure"
            return f"[the {what} of the chapter]({page}#{anchor})"
        return {"sub": f"<sub>{words}</sub>"}.get(kind, words)

    return ROLE.sub(written, text)


def student(name: str) -> nbformat.NotebookNode:
    """Return the notebook of a chapter's exercises, without solutions."""
    before, exercises = read(name)
    page = f"../html/notebooks/{name}.html"
    title = HEADING.search(before[0].source)[0].lstrip("# ")
    head = ABOVE.format(number=int(name[:2]), title=title, page=page)
    cells = [new_markdown_cell(head), new_code_cell(FIRST)]
    for cell in before:
        if cell.cell_type == "code":
            # what is changed stays in sight
            folded = "parameters" not in cell.metadata.get("tags", [])
            tags = {} if folded else {"tags": ["parameters"]}
            hidden = {"jupyter": {"source_hidden": True}} if folded else {}
            cells.append(new_code_cell(cell.source, metadata=tags | hidden))
        elif cell is not before[0] and (heads := HEADING.findall(cell.source)):
            cells.append(new_markdown_cell("\n\n".join(heads)))
    cells.append(new_markdown_cell("## Exercises"))
    cells.append(new_code_cell(inspect.getsource(check_answer).strip()))
    for one in exercises:
        text = f"**{one.number}.** {plain(one.statement, page)}"
        cells.append(new_markdown_cell(text))
        if one.check is None:
            cells.append(new_markdown_cell("*Your answer:*"))
        else:
            told = f"# Is the answer to exercise {one.number} right?\n"
            cells += [new_code_cell(""), new_code_cell(told + checking(one.check))]
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for place, cell in enumerate(cells):
        cell["id"] = f"{name[:2]}-{place}"  # the same each time
    return new_notebook(cells=cells, metadata={"kernelspec": spec})


def main() -> None:
    """Write the notebooks for students; say where they are."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        nbformat.write(student(path.stem), FOLDER / path.name)
    print(FOLDER)


if __name__ == "__main__":
    main()
