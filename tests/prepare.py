"""Write small copies of the chapters, for nbval to execute in `make test`.

A copy has small parameters, put in by papermill, the code of its exercises'
solutions, a watch over its computed sentences, and at its end a look at the
results that it wrote.
"""

import inspect
import shlex
import shutil
import sys
from pathlib import Path

import nbformat
import papermill
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "teaching"))
import exercises  # noqa: E402
from exercises import NOTEBOOKS, check_answer  # noqa: E402

TESTS = str(Path(__file__).parent)
FOLDER = ROOT / "_build" / "small"

TWO = {"epochs": 3, "seeds": 2}
TWIN = {**TWO, "folds": 3, "data_source": "twin"}
CHAINS = {**TWIN, "folds": 2, "gap_epochs": 2}
SMALL = {
    "01_autoencoders": {"seeds": 2, "epochs": 5, "noise": 0.3},
    "02_synthetic_data": {"rows": 60, "noise": 1.5, "inputs": "random"},
    "03_fig2_single_vs_nested": TWO
    | {"seed": 4, "settings": "text", "latent": 3, "noise": 0.5}
    | {"batch_size": 7},
    "04_perovskite_data": {"data_source": "twin"},
    "05_bandgap_scale": TWIN
    | {"latent": 4, "latent_sizes": "2,5", "sweep_epochs": 2}
    | {"learning_rate": 0.01},
    "06_device_scale": CHAINS
    | {"latent": 5, "single_latent": 3}
    | {"latent_sizes": "2,5", "sweep_epochs": 2},
    "07_latent_maps": CHAINS | {"gap_latent": 6, "l1": 0.0},
    "08_audit": TWIN | {"side_seeds": 1, "synthetic_seeds": 2, "synthetic_epochs": 3},
    "09_better": {"members": 2, "device_members": 2, "folds": 3, "inner_folds": 2}
    | {"gap_epochs": 2, "epochs": 2, "data_source": "twin"},
    "10_your_data": TWIN
    | {"batch_size": 30, "learning_rate": 0.01, "gap_latent": 3, "latent": 4},
    "11_completion": CHAINS | {"starts": 6, "search_steps": 5, "tolerance": 2.0},
    "12_design": CHAINS
    | {"starts": 5, "search_steps": 4, "gap_low": 0.5, "gap_high": 3.0},
    "13_three_scales": CHAINS
    | {"sizes": "6, 12", "draws": 1, "shuffles": 2, "latent": 3, "widths": "2"}
    | {"device_epochs": 1},
    "14_interpretation": TWIN
    | {"side_seeds": 3, "small": 0.02, "background": 4, "repeats": 2},
    "15_element_codes": CHAINS
    | {"sets": 2, "copies": 2, "codebook": 9, "device_epochs": 1},
    "16_target_learning": {"folds": 2, "epochs": 2, "image_epochs": 1, "latent": 8}
    | {"hidden": 16, "pairs": 8, "threshold": -1.4, "trees": 5, "data_source": "twin"},
    "17_navigation": {"seeds": 2, "measurements": 6, "pixels": 9, "truths": 1}
    | {"toys": 2, "toy_steps": 4, "noise": 0.2, "level": 0.4},
    "18_closed_loop": {"seeds": 2, "first": 4, "device_budget": 6, "epochs": 2}
    | {"solvent_budget": 6, "least": 4, "unit": 0.01, "lab_budget": 6}
    | {"data_source": "twin"},
    "19_when_nesting_helps": {"worlds": 2, "members": 1, "steps": 20, "latent": 3}
    | {"coarse_rows": "10, 20", "fine_rows": "40", "relevances": "0,50,100"}
    | {"noises": "10", "shifts": "1", "ruled": 3, "tested": 2, "sizes": "2,4"}
    | {"penalties": "0,10", "folds": 3, "seeds": 1, "epochs": 2, "case_epochs": 2}
    | {"largest": 4000, "hull_rows": 60, "data_source": "twin"},
    "20_raw_database": CHAINS | {"least": 50},
}
# Other settings, where the computed sentences must be true as well: the paper's
# tables with few epochs, and more seeds (`make readings`).
SETTINGS = {
    "small": {},
    "data": {"data_source": "auto"},
    "seeds": {"seeds": 3, "side_seeds": 2, "epochs": 12, "gap_epochs": 8},
}
# What these state does not depend on their parameters: no look at that.
SAME = {"01_autoencoders", "02_synthetic_data", "04_perovskite_data"}
SAME |= {"09_better", "10_your_data"}


def solutions(name):
    """Return the code of a chapter's solutions, and all its commands."""
    code = [block for one in exercises.read(name)[1] for block in one.code]
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    prose = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    commands = [
        shlex.split(line)
        for block in exercises.indented(prose)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("papermill ")
    ]
    return code, commands


def refuse(name, right, *wrong):
    """Hold values that are not right against a check; in the notebook's kernel."""
    given = globals().pop(name)
    assert check_answer(right, "") == f"wrong: {name} is not assigned."
    for value in (None, 0, -1.5, float("nan"), "no", [], *wrong):
        globals()[name] = value
        assert check_answer(right, "").startswith("wrong: "), value
    globals()[name] = given


def solved(name):
    """Return cells: each exercise solved, its answer and wrong ones checked."""
    cells = [inspect.getsource(f) for f in (check_answer, refuse)]
    for one in exercises.read(name)[1]:
        if one.check is None:
            cells += one.code
            continue
        answer, right, wrong = (one.check[k] for k in ("answer", "right", "wrong"))
        cells += [f"assert {answer!r} not in globals()", *one.code]
        cells.append(exercises.checking(one.check, "assert {} == 'right'"))
        cells.append(f"refuse({answer!r}, lambda: (\n{right}\n), {wrong})")
    return cells


def judge(name, given, compared):
    """Look at what a small run wrote; runs in the notebook's kernel."""
    import json
    import os
    from pathlib import Path

    path = Path(os.environ["NESTEDAE_RESULTS"]) / f"{name}.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["chapter"] == name
    assert results["parameters"] == {**results["parameters"], **given}
    assert results["records"]
    verdicts = {record["verdict"] for record in results["records"]}
    if not compared:
        assert not results["as_in_paper"]
        assert not verdicts & {"reproduced", "not reproduced"}
    if given.get("data_source") == "twin":
        assert results["data_source"] == "twin"
        assert verdicts == {"TWIN"}
        assert {record["paper"] for record in results["records"]} == {None}


def copy(name, folder=FOLDER, setting="small"):
    """Write the small copy of a chapter; return its path."""
    path, given = folder / f"{name}.ipynb", SMALL[name]
    given = given | {k: v for k, v in SETTINGS[setting].items() if k in given}
    source = NOTEBOOKS / path.name
    papermill.execute_notebook(source, path, given, prepare_only=True)
    notebook = nbformat.read(path, as_version=4)
    results = folder / "results" / name
    first = f"import os\nos.environ['NESTEDAE_RESULTS'] = {str(results)!r}"
    watched = f"import sys\nsys.path.append({TESTS!r})\nimport readings\n"
    watched += "readings.watch()"
    call = f"judge({name!r}, {given!r}, {name in SAME})"
    last = f"{inspect.getsource(judge)}\n\n{call}"
    code = [*solved(name), last]
    notebook.cells[:0] = [new_code_cell(first), new_code_cell(watched)]
    notebook.cells += map(new_code_cell, code)
    nbformat.write(notebook, path)
    return path


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for each in SMALL:
        copy(each, setting=sys.argv[1] if len(sys.argv) > 1 else "small")
