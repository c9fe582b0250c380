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


@pytest.mark.slow
def test_a_notebook_runs_alone(tmp_path):
    """With what pip installs of us; what we need is installed already."""

    def run(module, *words, **environment):
        command = [sys.executable, "-m", *module.split(), *words]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "NESTEDAE_RESULTS": "", **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]

    # from a copy, where the build leaves its files
    for name in ("nestedae_utils", "data", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    run(
        "pip install --quiet --no-deps --no-build-isolation --target",
        *("site", "./source"),
    )
    for name in ("data", "notebooks"):
        inside = tmp_path / "site" / "nestedae_utils" / "shipped" / name
        for path in (tmp_path / "source" / name).glob("*.*"):
            assert (inside / path.name).is_file()

    shutil.copy(ROOT / "notebooks" / f"{NAME}.ipynb", tmp_path)
    given = zip(SETTINGS[::2], SETTINGS[1::2], strict=True)
    run(
        f"papermill --no-progress-bar {NAME}.ipynb out.ipynb",
        *(word for pair in given for word in ("-p", *pair)),
        PYTHONPATH=str(tmp_path / "site"),
    )
    results = json.loads((tmp_path / "results" / f"{NAME}.json").read_text())
    assert results["records"]
