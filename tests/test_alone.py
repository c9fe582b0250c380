"""A notebook that was taken along: far from the repository, after pip."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["-p", "epochs", "2", "-p", "seeds", "1"]
TWIN = [*SMALL, "-p", "folds", "2", "-p", "data_source", "twin"]


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
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet"),
            *("--no-deps", "--no-build-isolation"),
            *("--target", folder / "site", source),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "site"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("01_autoencoders", SMALL),
        ("05_bandgap_scale", [*TWIN, "-p", "sweep_epochs", "2"]),
    ],
)
def test_a_notebook_runs_alone(site, tmp_path, name, settings):
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("NESTEDAE_RESULTS", None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", f"{name}.ipynb", "out.ipynb"),
            *("--no-progress-bar", *settings),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert found["records"]


def test_what_is_installed_brings_its_data(site):
    inside = site / "nestedae_utils" / "shipped"
    for name in ("data", "notebooks"):
        ours = {
            path.relative_to(ROOT)
            for path in (ROOT / name).rglob("*.*")
            if not any(part.startswith(".") for part in path.parts)
        }
        assert ours
        assert not {p for p in ours if not (inside / p).is_file()}
