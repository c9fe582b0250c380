"""A notebook that was taken along: far from the repository, after pip."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

NAME = "05_bandgap_scale"
SETTINGS = "-p epochs 2 -p seeds 1 -p folds 2 -p sweep_epochs 2 -p data_source twin"


@pytest.mark.slow
def test_a_notebook_runs_alone(tmp_path):
    """With what pip installs of us; what we need is installed already."""

    def run(words, **more):
        environment = os.environ | {"NESTEDAE_RESULTS": "", **more}
        command = [sys.executable, "-m", *words.split()]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)

    # from a copy, where the build leaves its files
    for name in ("nestedae_utils", "data", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    run("pip install --quiet --no-deps --no-build-isolation --target site ./source")
    for name in ("data", "notebooks"):
        inside = tmp_path / "site" / "nestedae_utils" / "shipped" / name
        for path in (tmp_path / "source" / name).glob("*.*"):
            assert (inside / path.name).is_file()

    shutil.copy(ROOT / "notebooks" / f"{NAME}.ipynb", tmp_path)
    words = f"papermill --no-progress-bar {NAME}.ipynb out.ipynb {SETTINGS}"
    run(words, PYTHONPATH=str(tmp_path / "site"))
    results = json.loads((tmp_path / "results" / f"{NAME}.json").read_text())
    assert results["records"]
