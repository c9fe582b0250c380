"""The style of the figures, and that importing the package does nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.style import library

from nestedae_utils.book import figures
from nestedae_utils.data.perovskites import ETL, HTL

PACKAGE = Path(figures.__file__).parent
MODULES = sorted(
    "nestedae_utils" if path.stem == "__init__" else f"nestedae_utils.{name}"
    for path in PACKAGE.glob("*.py")
    for name in [path.stem]
)

# Runs in a process of its own: this one has imported everything already.
PROBE = """
import importlib, json, sys
from pathlib import Path
network = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        network.append([event, repr(arguments)])
sys.addaudithook(watch)
import matplotlib
before = dict(matplotlib.rcParams)
for name in sys.argv[2:]:
    importlib.import_module(name)
imported = dict(matplotlib.rcParams)
from IPython import get_ipython
from nestedae_utils.book import figures
figures.use_style()
styled = dict(matplotlib.rcParams)
def changed(after):
    return {key: repr(after[key]) for key in after if after[key] != before[key]}
Path(sys.argv[1]).write_text(json.dumps({
    "network": network,
    "imported": changed(imported),
    "styled": changed(styled),
    "shell": repr(get_ipython()),
}))
"""  # noqa: E501


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """Import every module afresh; return what that did."""
    folder = tmp_path_factory.mktemp("probe")
    settings = folder / "ipython"
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder / "seen.json"), *MODULES],
        cwd=PACKAGE.parent,
        env=os.environ | {"MPLBACKEND": "agg", "IPYTHONDIR": str(settings)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads((folder / "seen.json").read_text())
    return seen | {
        "printed": done.stdout + done.stderr,
        "settings written": settings.exists(),
    }


def test_importing_the_package_does_nothing(probe):
    assert len(MODULES) > 10
    assert probe["imported"] == {}
    assert probe["network"] == []
    assert probe["printed"] == ""


def test_the_style_is_set_when_asked_for(probe):
    style = mpl.rc_params_from_file(figures.STYLE, use_default_template=False)
    assert len(style) > 5
    assert probe["styled"].keys() <= style.keys()
    assert probe["styled"]["axes.grid"] == "True"


def test_outside_a_notebook_the_style_starts_no_shell(probe):
    assert probe["shell"] == "None"
    assert not probe["settings written"]


def test_use_style():
    style = mpl.rc_params_from_file(figures.STYLE, use_default_template=False)
    with mpl.rc_context():
        mpl.rcdefaults()
        figures.use_style()
        for key, value in style.items():
            assert mpl.rcParams[key] == value, key
    assert figures.STYLE.suffix == ".mplstyle"
    assert figures.STYLE.stem not in library


# --- colours ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("colours", "kinds"),
    [(figures.ETL_COLOURS, ETL), (figures.HTL_COLOURS, HTL)],
    ids=["ETL", "HTL"],
)
def test_every_kind_has_a_colour_of_its_own(colours, kinds):
    assert tuple(colours) == kinds
    rgb = np.array([to_rgb(colour) for colour in colours.values()])
    apart = np.abs(rgb[:, None] - rgb[None]).sum(2)
    assert apart[~np.eye(len(kinds), dtype=bool)].min() > 0.2
    # colour is never the only mark
    assert len(set(figures.MARKERS)) == len(figures.MARKERS) >= len(kinds)


def test_what_stands_side_by_side_differs_in_colour():
    colours = figures.COLOURS
    assert colours.keys() == {"single", "nested", "train", "validation"}
    assert colours["single"] != colours["nested"]
    assert colours["train"] != colours["validation"]


# --- the stamp -------------------------------------------------------------


def test_only_the_twin_is_stamped():
    for source in ("paper", "none"):
        figure = Figure()
        assert figures.stamp(figure, source) is figure
        assert figure.texts == []
    figure = figures.stamp(Figure(), "twin")
    (text,) = figure.texts
    assert text.get_text() == "TWIN"
    assert text.get_position() == (0.5, 0.5)
    assert text.get_fontsize() >= 40


# --- what two chapters share -----------------------------------------------


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(
    "kinds", [("train", "validation"), ("validation",), ("train",)]
)
def test_parity_draws_what_it_is_given(kinds):
    random = np.random.default_rng(0)
    observed = random.uniform(1, 5, 30)
    predicted = {kind: observed + random.normal(size=30) for kind in kinds}
    ax = Figure().subplots()
    assert figures.parity(ax, observed, predicted, "gap (eV)") is ax
    *points, line = ax.get_lines()
    assert [one.get_label() for one in points] == list(kinds)
    for drawn, kind in zip(points, kinds, strict=True):
        np.testing.assert_array_equal(drawn.get_xdata(), observed)
        np.testing.assert_array_equal(drawn.get_ydata(), predicted[kind])
        assert drawn.get_linestyle() == "None"
        assert drawn.get_color() == figures.COLOURS[kind]
    assert len({one.get_marker() for one in points}) == len(kinds)
    ends = [observed.min(), observed.max()]
    assert list(line.get_xdata()) == list(line.get_ydata()) == ends
    assert ax.get_xlabel() == "observed gap (eV)"
    assert ax.get_ylabel() == "predicted gap (eV)"
    assert labels(ax) == list(kinds)


def test_learning_curves_draw_mean_and_range():
    random = np.random.default_rng(1)
    curves = {
        "train, as made": random.uniform(size=(5, 8)),
        "train, per sample": random.uniform(size=(5, 8)),
        "validation, per sample": random.uniform(size=(1, 6)),
    }
    ax = Figure().subplots()
    assert figures.learning_curves(ax, curves, "error (eV)") is ax
    assert ax.get_xlabel() == "epoch"
    assert ax.get_ylabel() == "error (eV)"
    assert labels(ax) == list(curves)
    for line, band, values in zip(
        ax.get_lines(), ax.collections, curves.values(), strict=True
    ):
        epochs = np.arange(1, values.shape[1] + 1)
        np.testing.assert_array_equal(line.get_xdata(), epochs)
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
        corners = band.get_paths()[0].vertices
        for epoch in epochs:
            at = corners[corners[:, 0] == epoch, 1]
            assert at.min() == pytest.approx(values[:, epoch - 1].min())
            assert at.max() == pytest.approx(values[:, epoch - 1].max())
    first, second, third = ax.get_lines()
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert third.get_color() == figures.COLOURS["validation"]
