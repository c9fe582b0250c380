"""The style of the figures, and that importing the package does nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_records import record, results

from nestedae_utils.book import claims, figures
from nestedae_utils.data.perovskites import ETL, HTL

PACKAGE = Path(figures.__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__"
)
# Runs in a process of its own: this one has imported everything already.
PROBE = """
import importlib, json, sys
network = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        network.append([event, repr(arguments)])
sys.addaudithook(watch)
import matplotlib
before = dict(matplotlib.rcParams)
def changed():
    after = dict(matplotlib.rcParams)
    return [key for key in after if repr(after[key]) != repr(before[key])]
for name in sys.argv[2:]:
    importlib.import_module(name)
imported = changed()
from IPython import get_ipython
from nestedae_utils.book import figures
figures.use_style()
with open(sys.argv[1], "w") as file:
    json.dump([network, imported, changed(), repr(get_ipython())], file)
"""


def test_importing_the_package_does_nothing(tmp_path):
    assert len(MODULES) > 20
    seen, settings = tmp_path / "seen.json", tmp_path / "ipython"
    done = subprocess.run(
        [sys.executable, "-c", PROBE, seen, *MODULES],
        cwd=PACKAGE.parent,
        env=os.environ | {"MPLBACKEND": "agg", "IPYTHONDIR": str(settings)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    network, imported, styled, shell = json.loads(seen.read_text())
    assert (network, imported) == ([], [])
    # the style is set when asked for, and starts no shell
    style = mpl.rc_params_from_file(figures.STYLE, use_default_template=False)
    assert "axes.grid" in styled
    assert set(styled) <= style.keys()
    assert shell == "None"
    assert not settings.exists()


@pytest.mark.parametrize(
    ("colours", "kinds"), [(figures.ETL_COLOURS, ETL), (figures.HTL_COLOURS, HTL)]
)
def test_every_kind_has_a_colour_of_its_own(colours, kinds):
    assert tuple(colours) == kinds
    rgb = np.array([to_rgb(colour) for colour in colours.values()])
    apart = np.abs(rgb[:, None] - rgb[None]).sum(2)
    assert apart[~np.eye(len(kinds), dtype=bool)].min() > 0.2
    # colour is never the only mark
    assert len(set(figures.MARKERS)) >= len(kinds)


def test_a_users_own_settings_do_not_reach_a_figure(monkeypatch):
    figures.use_style()
    expected = dict(plt.rcParams)
    monkeypatch.setitem(plt.rcParams, "lines.linewidth", 9)
    figures.use_style()
    assert dict(plt.rcParams) == expected


def test_only_the_twin_is_stamped():
    assert figures.stamp(Figure(), "paper").texts == []
    (text,) = figures.stamp(Figure(), "twin").texts
    assert (text.get_text(), text.get_position()) == ("TWIN", (0.5, 0.5))
    assert text.get_fontsize() >= 40


def test_a_value_leads_to_the_cell_that_computed_it():
    name = claims.claims()["gap_rows"].as_made
    kept = claims.assess({"04": results(record(name, 495))})

    def shown(source):
        one = record(name, 494, source=source) | {"cell": 7}
        ran = results(one, source=source, chapter="04")
        found = claims.assess({"04": ran} if source else {})
        return figures.claims_table(found, kept, "notebooks/")

    nothing, paper, twin = shown(""), shown("paper"), shown("twin")
    assert "<a" not in nothing
    assert "…&nbsp;not run" in nothing
    meaning = claims.quantities()[name].meaning
    link = f'<a href="notebooks/04.html#cell-7" title="{meaning}">494</a>'
    mark = '<span class="verdict not-reproduced">✗&nbsp;not rep'
    assert all(words in paper for words in (link, mark, "499 rows"))
    assert "reference, " not in paper
    assert "499 rows" not in twin
    reference = "<th>reference, as made</th>", "<td>495</td>"
    assert all(words in twin for words in reference)


@pytest.mark.parametrize("kinds", [("train", "validation"), ("validation",)])
def test_parity_draws_what_it_is_given(kinds):
    random = np.random.default_rng(0)
    observed = random.uniform(1, 5, 30)
    predicted = {kind: observed + random.normal(size=30) for kind in kinds}
    ax = figures.parity(Figure().subplots(), observed, predicted, "gap (eV)")
    *points, line = ax.get_lines()
    for drawn, kind in zip(points, kinds, strict=True):
        np.testing.assert_array_equal(drawn.get_xdata(), observed)
        np.testing.assert_array_equal(drawn.get_ydata(), predicted[kind])
        assert drawn.get_linestyle() == "None"
        assert drawn.get_color() == figures.COLOURS[kind]
    assert len({one.get_marker() for one in points}) == len(kinds)
    ends = [observed.min(), observed.max()]
    assert list(line.get_xdata()) == list(line.get_ydata()) == ends
    assert ax.get_ylabel() == "predicted gap (eV)"
    assert ax.get_legend_handles_labels()[1] == list(kinds)


def test_learning_curves_draw_mean_and_range_where_measured():
    random = np.random.default_rng(1)
    epochs = np.array([1, 2, 5, 20, 100])
    names = {"train, as made": 4, "train, per sample": 4, "validation, per sample": 1}
    curves = {name: random.uniform(size=(rows, 5)) for name, rows in names.items()}
    ax = Figure().subplots()
    assert figures.learning_curves(ax, epochs, curves, "error (eV)") is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "error (eV)")
    assert ax.get_legend_handles_labels()[1] == list(curves)
    drawn = zip(ax.get_lines(), ax.collections, curves.values(), strict=True)
    for line, band, values in drawn:
        np.testing.assert_array_equal(line.get_xdata(), epochs)
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
        corners = band.get_paths()[0].vertices
        for epoch, column in zip(epochs, values.T, strict=True):
            at = corners[corners[:, 0] == epoch, 1]
            ends = pytest.approx((column.min(), column.max()))
            assert (at.min(), at.max()) == ends
    first, second, third = ax.get_lines()
    assert first.get_color() == second.get_color() != third.get_color()
    assert first.get_linestyle() != second.get_linestyle()
