"""Fixtures shared by the tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nestedae_utils import datasets, tables
from nestedae_utils.checks import DataUnavailable


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
