"""The notebooks' parameters: small, wrong and unknown ones.

nbval executes the small copies that `prepare` writes; see `make test`.
"""

import os
import signal
import time

import papermill
import pytest
from conftest import ROOT, told
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel
from papermill.exceptions import PapermillExecutionError
from prepare import NOTEBOOKS, SMALL, solutions

from nestedae_utils.book import parameters
from nestedae_utils.data import tables
from nestedae_utils.errors import DataError, ParameterError

WRONG = [
    ("01_autoencoders", {"epoch": 10}, "'epochs'"),
    ("02_synthetic_data", {"noise": -1.0}, "noise: -1.0 given"),
    ("03_fig2_single_vs_nested", {"settings": "input"}, "settings: 'input'"),
    ("04_perovskite_data", {"data_source": "twins"}, "Did you mean 'twin'?"),
    ("05_bandgap_scale", {"folds": 500}, "folds: 500 given"),
    ("05_bandgap_scale", {"latent_sizes": "2,two"}, "latent_sizes: '2,two'"),
    ("06_device_scale", {"learning_rate": -1e-3}, "learning_rate: -0.001"),
    ("08_audit", {"side_seed": 2}, "'side_seeds'"),
    ("10_your_data", {"gap_latents": 3}, "'gap_latent'"),
    ("11_completion", {"tolerance": 0.0}, "tolerance: 0.0 given"),
    ("12_design", {"density": -1.0}, "density: -1.0 given"),
    ("13_three_scales", {"sizes": "10, 4"}, "sizes: 4 given"),
    ("14_interpretation", {"seeds": 1}, "from 2 to 200"),
    ("14_interpretation", {"backgrounds": 9}, "'background'"),
    ("15_element_codes", {"latent": 0}, "latent: 0 given"),
    ("15_element_codes", {"codebook": 1}, "codebook: 1 given"),
    ("15_element_codes", {"discrepancy": -1.0}, "discrepancy: -1.0 given"),
    ("16_target_learning", {"folds": 6}, "from 1 to 5"),
    ("16_target_learning", {"thresholds": -1.0}, "'threshold'"),
    ("17_navigation", {"measurements": 4}, "measurements: 4 given"),
    ("17_navigation", {"noise": 0.0}, "noise: 0.0 given"),
    ("18_closed_loop", {"device_budget": 0}, "device_budget: 0 given"),
    ("18_closed_loop", {"units": 1.0}, "'unit'"),
    ("19_when_nesting_helps", {"relevances": "0,101"}, "relevances: 101 given"),
    ("20_raw_database", {"least": 0}, "least: 0 given"),
]
EACH = pytest.mark.parametrize("name", SMALL)


def test_every_notebook_has_a_small_copy():
    assert set(SMALL) == set(parameters.chapters())


@EACH
def test_small_parameters_are_allowed_and_not_the_defaults(name):
    notebook = parameters.find(name)
    small = parameters.effective(notebook, SMALL[name])
    assert small == small | SMALL[name] != parameters.effective(notebook, {})


@pytest.mark.parametrize(("name", "given", "message"), WRONG)
def test_wrong_parameters_are_refused_in_one_line(name, given, message):
    path = parameters.find(name)
    assert message in told(parameters.effective, path, given, error=ParameterError)


def test_a_kernel_refuses_them_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTEDAE_RESULTS", str(tmp_path / "results"))
    name = "02_synthetic_data.ipynb"
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(
            NOTEBOOKS / name,
            tmp_path / name,
            {"noise": -1.0},
            progress_bar=False,
            cwd=tmp_path,
        )
    assert caught.value.ename == "ParameterError"
    assert "noise: -1.0 given" in caught.value.evalue
    assert not (tmp_path / "results").exists(), "nothing half-written"


@pytest.mark.parametrize("source", ["auto", "paper"])
def test_a_mirror_without_the_file_is_no_twin(tmp_path, monkeypatch, source):
    monkeypatch.setenv("NESTEDAE_DATA_MIRROR", str(tmp_path))
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=tmp_path.name):
        tables.load(source)


@EACH
def test_commands_in_the_prose_are_allowed(name):
    _, commands = solutions(name)
    assert commands, "how to run it again"
    for _, path, out, *words in commands:
        assert out.endswith(".ipynb")
        assert (ROOT / path).is_file()
        notebook = parameters.read(ROOT / path)
        assert words[::3] == ["-p"] * len(words[::3])
        given = dict(zip(words[1::3], words[2::3], strict=True))
        parameters.parse(notebook, given)


def test_nbval_notices_a_dead_kernel_at_once():
    kernel = RunningKernel(CURRENT_ENV_KERNEL_NAME)
    message = kernel.execute_cell_input("import time; time.sleep(600)")
    os.kill(kernel.km.provisioner.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="the kernel died"):
        kernel.await_reply(message, timeout=600)
    assert time.monotonic() - start < 60
