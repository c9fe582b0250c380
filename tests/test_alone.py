"""A notebook that was taken along: far from the repository, after pip."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

NAME = "05_bandgap_scale"
SETTINGS = "epochs 2 seeds 1 folds 2 sweep_epochs 2 data_source twin".split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install the project as the README says; return the packages' folder.

    From a copy of its sources, where the build leaves its files.  What the
    project needs is installed already.
    """
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in ("nestedae_utils", "data", "notebooks"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = "-m pip install --quiet --no-deps --no-build-isolation --target"
    command = [sys.executable, *pip.split(), folder / "site", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "site"


@pytest.mark.slow
def test_a_notebook_runs_alone(site, tmp_path):
    shutil.copy(ROOT / "notebooks" / f"{NAME}.ipynb", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("NESTEDAE_RESULTS", None)
    papermill = f"-m papermill --no-progress-bar {NAME}.ipynb out.ipynb"
    command = [sys.executable, *papermill.split()]
    for name, value in zip(SETTINGS[::2], SETTINGS[1::2], strict=True):
        command += ["-p", name, value]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "results" / f"{NAME}.json").read_text())
    assert results["records"]


def test_what_is_installed_brings_its_data(site):
    for name in ("data", "notebooks"):
        ours = [
            p for p in (ROOT / name).rglob("*.*") if ".ipynb_" not in str(p)
        ]
        assert ours
        for path in ours:
            inside = site / "nestedae_utils" / "shipped"
            assert (inside / path.relative_to(ROOT)).is_file()
