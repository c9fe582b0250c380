"""The notebooks with other, wrong and unknown parameters, by papermill.

nbval runs every notebook with its defaults; see addopts in pyproject.toml.
"""

import json
import re
import shlex
import textwrap
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell
from papermill.exceptions import PapermillExecutionError

from nestedae_utils.book.parameters import RULES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"

SMALL = {"epochs": 3, "seeds": 2}
DEVICES = {**SMALL, "folds": 2, "gap_epochs": 2, "data_source": "twin"}
CHANGED = {
    "01_autoencoders": {"seeds": 2, "epochs": 5, "noise": 0.3},
    "02_synthetic_data": {"rows": 60, "noise": 1.5, "inputs": "random"},
    "03_fig2_single_vs_nested": {
        **SMALL,
        "seed": 4,
        "settings": "text",
        "latent": 3,
        "noise": 0.5,
        "batch_size": 7,
    },
    "04_perovskite_data": {"data_source": "twin"},
    "05_bandgap_scale": {
        **SMALL,
        "folds": 3,
        "latent": 4,
        "latent_sizes": "2,5",
        "sweep_epochs": 2,
        "learning_rate": 0.01,
        "data_source": "twin",
    },
    "06_device_scale": {
        **DEVICES,
        "latent": 5,
        "single_latent": 3,
        "latent_sizes": "2,5",
        "sweep_epochs": 2,
    },
    "07_latent_maps": {**DEVICES, "gap_latent": 6, "l1": 0.0},
    "09_better": {
        "members": 2,
        "folds": 3,
        "inner_folds": 2,
        "gap_epochs": 2,
        "epochs": 2,
        "data_source": "twin",
    },
    "10_your_data": {
        **SMALL,
        "folds": 3,
        "batch_size": 30,
        "learning_rate": 0.01,
        "gap_latent": 3,
        "latent": 4,
        "data_source": "twin",
    },
    "11_completion": {
        **DEVICES,
        "starts": 6,
        "search_steps": 5,
        "tolerance": 2.0,
    },
    "12_design": {
        **DEVICES,
        "starts": 5,
        "search_steps": 4,
        "gap_low": 0.5,
        "gap_high": 3.0,
    },
    "14_interpretation": {
        **SMALL,
        "side_seeds": 3,
        "folds": 3,
        "small": 0.02,
        "background": 4,
        "repeats": 2,
        "data_source": "twin",
    },
    "13_three_scales": {
        "seeds": 2,
        "folds": 2,
        "sizes": "6, 12",
        "draws": 1,
        "shuffles": 2,
        "latent": 3,
        "gap_epochs": 2,
        "epochs": 3,
        "device_epochs": 1,
        "data_source": "twin",
    },
    "08_audit": {
        **SMALL,
        "side_seeds": 1,
        "folds": 3,
        "synthetic_seeds": 2,
        "synthetic_epochs": 3,
        "data_source": "twin",
    },
}
# What these state of the paper does not depend on their parameters.
NO_PROTOCOL = {
    "01_autoencoders",
    "02_synthetic_data",
    "04_perovskite_data",
    "09_better",
    "10_your_data",
}
WRONG = [
    ("01_autoencoders", {"epoch": 10}, "'epochs'"),
    ("02_synthetic_data", {"noise": -1.0}, "noise: -1.0 given"),
    ("03_fig2_single_vs_nested", {"settings": "input"}, "settings: 'input'"),
    ("03_fig2_single_vs_nested", {"seeds": 0}, "seeds: 0 given"),
    ("04_perovskite_data", {"data_source": "twins"}, "Did you mean 'twin'?"),
    ("05_bandgap_scale", {"folds": 500}, "folds: 500 given"),
    ("05_bandgap_scale", {"latent_sizes": "2,two"}, "latent_sizes: '2,two'"),
    ("05_bandgap_scale", {"epochs": "ten"}, "epochs: 'ten' given"),
    ("06_device_scale", {"learning_rate": -1e-3}, "learning_rate: -0.001"),
    ("06_device_scale", {"latents": 18}, "'latent'"),
    ("07_latent_maps", {"device": "gpu"}, "device: 'gpu' given"),
    ("08_audit", {"side_seeds": 0}, "side_seeds: 0 given"),
    ("08_audit", {"side_seed": 2}, "'side_seeds'"),
    ("10_your_data", {"gap_latents": 3}, "'gap_latent'"),
    ("10_your_data", {"folds": 1}, "folds: 1 given"),
    ("11_completion", {"tolerance": 0.0}, "tolerance: 0.0 given"),
    ("11_completion", {"start": 3}, "'starts'"),
    ("12_design", {"gap_low": 3.0}, "gap_low: 3.0 given"),
    ("12_design", {"density": -1.0}, "density: -1.0 given"),
    ("14_interpretation", {"side_seeds": 1}, "side_seeds: 1 given"),
    ("14_interpretation", {"backgrounds": 9}, "'background'"),
    ("13_three_scales", {"sizes": "10, 4"}, "sizes: 4 given"),
    ("13_three_scales", {"draws": 0}, "draws: 0 given"),
    ("13_three_scales", {"shuffle": 5}, "'shuffles'"),
    ("13_three_scales", {"folds": 1}, "folds: 1 given"),
]


SOLUTION = re.compile(r"```\{admonition\} Solution\n(.*?)```", re.S)
INDENTED = re.compile(r"(?m)(?:^(?: {4}.*)?\n)+")


def indented(text):
    """Return the indented blocks of a text."""
    blocks = INDENTED.findall(text + "\n")
    return [
        textwrap.dedent(block).strip() for block in blocks if block.strip()
    ]


def solutions(path):
    """Return the code of a notebook's solutions, and its commands."""
    prose = "\n\n".join(
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    )
    commands = [
        shlex.split(line)
        for block in indented(prose)
        if block.startswith("papermill ")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    code = [
        block
        for solution in SOLUTION.findall(prose)
        for block in indented(solution)
        if not block.startswith("papermill ")
    ]
    return code, commands


def run(name, parameters, folder, solved=False):
    """Execute a notebook with parameters; return its path and results.

    With ``solved``, the code of its exercises' solutions runs at its end.
    """
    source, out = NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.ipynb"
    if solved:
        notebook = nbformat.read(source, as_version=4)
        notebook.cells += map(new_code_cell, solutions(source)[0])
        source = folder / "solved.ipynb"
        nbformat.write(notebook, source)
    papermill.execute_notebook(
        source,
        out,
        parameters,
        progress_bar=False,
        cwd=folder,
    )
    results = folder / "results" / f"{name}.json"
    return out, json.loads(results.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTEDAE_RESULTS", str(tmp_path / "results"))
    return tmp_path


def test_every_notebook_is_run_with_other_parameters():
    assert set(CHANGED) == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_other_parameters(name, folder):
    out, results = run(name, CHANGED[name], folder, solved=True)
    assert results["chapter"] == name
    for key, value in CHANGED[name].items():
        assert results["parameters"][key] == value
    assert results["records"]
    assert results["as_in_paper"] == (name in NO_PROTOCOL)
    compared = {"reproduced", "not reproduced"}
    verdicts = {record["verdict"] for record in results["records"]}
    if name not in NO_PROTOCOL:
        assert not verdicts & compared, "other settings are never compared"
    if CHANGED[name].get("data_source") == "twin":
        assert results["data_source"] == "twin"
        assert verdicts == {"TWIN"}
        assert {record["paper"] for record in results["records"]} == {None}
        text = out.read_text(encoding="utf-8")
        assert "**TWIN.**" in text, "the notice at the top"
        assert "<strong>TWIN</strong>" in text, "the mark on the tables"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters", "message"), WRONG)
def test_wrong_parameters_stop_before_anything_runs(
    name, parameters, message, folder
):
    with pytest.raises(PapermillExecutionError) as caught:
        run(name, parameters, folder)
    assert caught.value.ename == "ParameterError"
    assert message in caught.value.evalue
    assert "\n" not in caught.value.evalue.strip()
    assert not (folder / "results").exists(), "nothing half-written"


@pytest.mark.slow
def test_the_paper_is_not_silently_replaced(folder, monkeypatch):
    monkeypatch.setenv("NESTEDAE_DATA_MIRROR", str(folder / "nowhere"))
    monkeypatch.setenv("NESTEDAE_CACHE", str(folder / "cache"))
    with pytest.raises(PapermillExecutionError) as caught:
        run("04_perovskite_data", {"data_source": "paper"}, folder)
    assert caught.value.ename == "DataError"
    assert "nowhere" in caught.value.evalue


@pytest.mark.parametrize("name", CHANGED)
def test_commands_in_the_prose_are_allowed(name):
    _, commands = solutions(NOTEBOOKS / f"{name}.ipynb")
    assert commands, "how to run it again"
    for _, path, out, *settings in commands:
        assert (ROOT / path).is_file()
        assert out.endswith(".ipynb")
        known = papermill.inspect_notebook(ROOT / path)
        for option, key, value in batched(settings):
            assert option == "-p"
            assert key in known
            RULES[key].check(key, yaml.safe_load(value))


def batched(words):
    """Return an option's three words at a time."""
    assert len(words) % 3 == 0
    return zip(words[::3], words[1::3], words[2::3], strict=True)


def test_solutions_have_code():
    solved = {
        path.stem: solutions(path)[0] for path in NOTEBOOKS.glob("*.ipynb")
    }
    assert sum(map(len, solved.values())) >= 6


@pytest.mark.parametrize("name", CHANGED)
def test_papermill_explains_every_parameter(name):
    found = papermill.inspect_notebook(NOTEBOOKS / f"{name}.ipynb")
    assert found
    for parameter in found.values():
        assert parameter["inferred_type_name"] in {
            "int",
            "float",
            "str",
            "bool",
        }
        assert len(parameter["help"]) > 10
