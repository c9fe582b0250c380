"""The exercises for students: their notebooks, and what tells right from wrong.

The small copies of `make test` solve each, and hold likely mistakes against it.
"""

import ast
import re

import nbformat
import papermill
import pytest
from prepare import SMALL, exercises

EACH = pytest.mark.parametrize("name", SMALL)


@EACH
def test_what_asks_for_code_has_a_check_and_names_its_answer(name):
    _, every = exercises.read(name)
    assert [one.number for one in every] == [str(k + 1) for k in range(len(every))]
    assert any(one.check for one in every)
    for one in every:
        assert bool(one.code) == bool(one.check), one.number
        if one.check:
            assert set(one.check) == {"answer", "right", "wrong", "hint"}
            assert f"`{one.check['answer']}" in one.statement, one.number
            ast.parse(f"({one.check['right']})", mode="eval")
            assert "\n" not in one.check["hint"]


@EACH
def test_a_students_notebook_has_all_but_the_solutions(name):
    notebook = exercises.student(name)
    nbformat.validate(notebook)
    before, every = exercises.read(name)
    cells = notebook.cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for cell in before:
        assert cell.cell_type != "code" or cell.source in code
    for one in every:
        assert f"**{one.number}.** " in prose
        assert not {*one.code} & {*code}, "a solution"
    assert "{admonition}" not in prose
    assert not re.search(r"\{[\w:]+\}`", prose), "a role that a notebook lacks"
    names = [one.check["answer"] for one in every if one.check]
    assert code.count("") == len(names), "an empty cell for each answer"
    stored = {
        node.id
        for cell in code
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert not stored & {*names, "check_answer"}


@pytest.mark.parametrize(
    ("right", "told"),
    [
        (lambda: 1 + 1 == 2, "right"),
        (lambda: 1 + 1 == 3, "wrong: count"),
        (lambda: nowhere == 3, "wrong: nowhere is not assigned."),  # noqa: F821
        (lambda: len(3) == 3, "wrong: count (TypeError)"),
    ],
)
def test_an_answer_is_told_in_one_line(right, told):
    assert exercises.check_answer(right, "count") == told


@pytest.mark.slow
def test_an_empty_answer_is_told_as_wrong_where_students_work(tmp_path, monkeypatch):
    """The notebook as it is handed out, run from its first cell to its last."""
    monkeypatch.setattr(exercises, "FOLDER", tmp_path / "exercises")
    monkeypatch.delenv("NESTEDAE_RESULTS", raising=False)
    exercises.main()
    assert len(list(exercises.FOLDER.glob("*.ipynb"))) == len(SMALL)
    path = exercises.FOLDER / "02_synthetic_data.ipynb"
    papermill.execute_notebook(path, path, progress_bar=False, cwd=path.parent)
    _, every = exercises.read(path.stem)
    cells = nbformat.read(path, as_version=4).cells
    told = [
        output.text
        for cell in cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.text.startswith("wrong")
    ]
    assert told == [f"wrong: {one.check['answer']} is not assigned.\n" for one in every]
    results = exercises.FOLDER / "results" / "02_synthetic_data.json"
    assert results.is_file(), "beside the notebook, not among the book's"
