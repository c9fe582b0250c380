"""Fixtures shared by the tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nestedae_utils import datasets, tables
from nestedae_utils.checks import DataUnavailable

ROOT = Path(__file__).parents[1]
BOOK = Path(sys.executable).with_name("jupyter-book")


def pages(folder: Path = ROOT) -> list[str]:
    """Return the names of all pages in the table of contents."""
    contents = yaml.safe_load((folder / "_toc.yml").read_text())
    files = [
        chapter["file"]
        for part in contents["parts"]
        for chapter in part["chapters"]
    ]
    return [contents["root"], *files]


def build(
    source: Path, output: Path, **environment: str
) -> subprocess.CompletedProcess:
    """Build the book from clean; return the process."""
    return subprocess.run(
        [
            *(BOOK, "build", source, "--path-output", output),
            *("-n", "-W", "--keep-going"),
        ],
        env={
            **os.environ,
            "NESTEDAE_RESULTS": str(output / "results"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the book with all defaults, once; return its output folder."""
    output = tmp_path_factory.mktemp("book")
    done = build(ROOT, output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.fixture(scope="session")
def public() -> Callable[[str], Path]:
    """Return `datasets.fetch`, or skip where the files cannot be had."""
    try:
        for key in datasets.registry():
            datasets.fetch(key)
    except DataUnavailable as error:
        pytest.skip(f"needs the public files: {error}")
    return datasets.fetch


@pytest.fixture(scope="session")
def paper_tables(public: Callable[[str], Path]) -> tables.Tables:
    """Return both perovskite tables of the paper, read once."""
    return tables.load("paper")
