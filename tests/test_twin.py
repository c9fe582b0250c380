"""The generated tables, and the choice between them and the paper's."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.data import files as datasets
from nestedae_utils.data import perovskites, tables, twin
from nestedae_utils.data.perovskites import IONS, SITES, site_fractions
from nestedae_utils.errors import (
    DataError,
    DataUnavailable,
    ParameterError,
)

MAPBI3 = site_fractions("MAPbI3").to_frame().T


@given(st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_band_gaps_have_the_published_shape(seed):
    frame = twin.band_gaps(seed)
    perovskites.BAND_GAPS.validate(frame)
    assert frame.shape == (494, 31)
    assert not frame.duplicated(list(IONS)).any()
    mixed = pd.DataFrame(
        {
            site: (frame[list(ions)] > 0).sum(axis=1) > 1
            for site, ions in SITES.items()
        }
    )
    assert mixed.sum().to_dict() == {"A": 126, "B": 151, "X": 127}
    assert (~mixed.any(axis=1)).sum() == 90
    noise = frame["gap"] - twin.law_gap(frame)
    assert noise.std() == pytest.approx(twin.GAP_NOISE, rel=0.2)


@given(st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_devices_have_the_published_shape(seed):
    frame = twin.devices(seed)
    perovskites.DEVICES.validate(frame)
    assert frame.shape == (2018, 41)
    assert frame["etl"].value_counts().to_dict() == twin.ETL_ROWS
    assert frame["htl"].value_counts().to_dict() == twin.HTL_ROWS
    assert frame["reported_gap"].isna().sum() == 589
    assert (frame["composition"] == "MAPbI3").sum() == 984
    assert frame["composition"].nunique() == 235
    assert len(frame[list(IONS)].drop_duplicates()) == 235
    assert frame["pce"].between(0, 23).all()
    assert frame["pce"].mean() == pytest.approx(14.4, abs=1)
    assert frame["pce"].skew() < -0.2
    several = sum(
        (frame[list(ions)] > 0).sum(axis=1) > 1 for ions in SITES.values()
    )
    assert (several > 1).sum() > 300


@pytest.mark.parametrize("make", [twin.band_gaps, twin.devices])
def test_deterministic(make):
    pd.testing.assert_frame_equal(make(3), make(3))
    assert not make(3).equals(make(4))
    with pytest.raises(ParameterError, match="seed: -1 given"):
        make(-1)


@pytest.mark.parametrize(
    ("make", "column"),
    [(twin.band_gaps, "formula"), (twin.devices, "composition")],
)
def test_formula_agrees_with_the_fractions(make, column):
    frame = make().drop_duplicates(column).head(120)
    for _, row in frame.iterrows():
        fractions = site_fractions(row[column])
        assert (fractions - row[list(IONS)]).abs().max() < 1e-6


@pytest.mark.parametrize("make", [twin.band_gaps, twin.devices])
def test_features_are_the_mixture(make):
    assert perovskites.ion_mixture_deviation(make()).max() < 1e-3


def test_contacts_are_confounded():
    frame = twin.devices()
    counts = pd.crosstab(frame["etl"], frame["htl"])
    inverted = ["PCBM-60", "C60 | BCP", "PCBM-60 | BCP"]
    assert not counts.loc[inverted, "Spiro-MeOTAD"].any()
    assert not counts.drop(index=inverted)["PEDOT:PSS"].any()
    assert (counts["PTAA"] > 0).all()


def test_efficiency_is_the_product_of_its_parts():
    frame = twin.devices()
    product = frame["voc"] * frame["jsc"] * frame["fill_factor"]
    assert (product - frame["pce"]).abs().max() < 0.1


def test_law_by_hand():
    assert twin.law_gap(MAPBI3).iloc[0] == pytest.approx(1.1 + 0.2 + 0.3)
    mixed = site_fractions("MAPb0.5Sn0.5I3").to_frame().T
    assert twin.law_gap(mixed).iloc[0] == pytest.approx(
        1.1 + 0.2 + 0.0 - 0.6 * 0.25 * 0.6
    )


def test_not_the_papers_rows(paper_tables):
    """The twin's values are its own, also for a shared composition."""
    keys = list(IONS)
    ours, theirs = twin.band_gaps(), paper_tables.band_gaps
    both = ours.round(6).merge(theirs.round(6), on=keys)
    assert len(both) >= 90
    assert (both["gap_x"] - both["gap_y"]).abs().mean() > 0.2


class TestTables:
    """The source of the tables."""

    @pytest.fixture
    def unavailable(self, monkeypatch):
        def refuse(key):
            raise DataUnavailable(f"{key}: no network")

        monkeypatch.setattr(tables, "fetch", refuse)

    def test_unknown_source(self):
        with pytest.raises(ParameterError, match="Did you mean 'paper'"):
            tables.load("papers")

    def test_auto_without_files_is_the_twin(self, unavailable):
        assert tables.resolve_source("auto") == "twin"
        loaded = tables.load()
        assert loaded.source == "twin"
        pd.testing.assert_frame_equal(loaded.devices, twin.devices())
        assert set(loaded.checksums) == {"twin/band_gaps", "twin/devices"}
        assert tables.load().checksums == loaded.checksums

    def test_paper_without_files_is_an_error(self, unavailable):
        assert tables.resolve_source("paper") == "paper"
        with pytest.raises(DataUnavailable, match="no network"):
            tables.load("paper")

    def test_one_file_is_not_enough(self, monkeypatch):
        def fetch(key):
            if key == tables.DEVICES_KEY:
                raise DataUnavailable(key)

        monkeypatch.setattr(tables, "fetch", fetch)
        assert tables.resolve_source("auto") == "twin"

    def test_faulty_file_is_not_covered_up(self, tmp_path, monkeypatch):
        path = tmp_path / "data" / tables.BAND_GAPS_KEY
        path.parent.mkdir(parents=True)
        path.write_text("Formula,Gap\n")
        monkeypatch.setenv(datasets.CACHE_VARIABLE, str(tmp_path))
        with pytest.raises(DataError, match="truncated") as caught:
            tables.load("auto")
        assert not isinstance(caught.value, DataUnavailable)

    def test_mistaken_mirror_is_not_covered_up(self, tmp_path, monkeypatch):
        monkeypatch.setenv(datasets.CACHE_VARIABLE, str(tmp_path))
        monkeypatch.setenv(datasets.MIRROR_VARIABLE, str(tmp_path / "none"))
        with pytest.raises(DataError, match="does not exist"):
            tables.resolve_source("auto")

    def test_paper(self, paper_tables):
        assert tables.resolve_source("auto") == "paper"
        assert paper_tables.source == "paper"
        entries = datasets.registry()
        assert paper_tables.checksums == {
            key: entries[key].sha256
            for key in (tables.BAND_GAPS_KEY, tables.DEVICES_KEY)
        }


def test_fidelities_have_their_shapes_and_missing_values():
    made = twin.fidelities(3)
    assert {n: f.shape for n, f in made.items()} == {
        "PBE": (180, 37),
        "HSE": (120, 37),
        "experiment": (97, 37),
    }
    for name, frame in made.items():
        total = frame[list(perovskites.PHASES)].sum(axis=1)
        assert (total - 1).abs().max() <= perovskites.FIDELITY_TOLERANCE
        scarce = name == "experiment"
        assert frame["efficiency"].isna().sum() == 10 * scarce
        assert frame["decomposition"].isna().all() == scarce
    again = twin.fidelities(3)
    other = twin.fidelities(4)
    assert all(again[name].equals(made[name]) for name in made)
    assert not other["experiment"].equals(made["experiment"])
    known = made["PBE"]["formula"]
    assert made["HSE"]["formula"].isin(known).all()
    assert made["experiment"]["formula"].isin(known).sum() == 20
