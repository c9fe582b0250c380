"""The tables at three fidelities: the files, faults in them, the twin."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.data import perovskites, tables, twin
from nestedae_utils.data.perovskites import IONS, PHASES, SITES
from nestedae_utils.errors import DataError, DataUnavailable

FILE_COLUMNS = {
    "formula": "Formula",
    "gap": "Gap",
    "efficiency": "SLME",
    "decomposition": "Decomp",
    **{phase: phase.capitalize() for phase in PHASES},
}


def as_published(frame):
    """Return a table in the columns of the files, 1000 where missing."""
    kept = frame[[*FILE_COLUMNS, *IONS]].fillna(perovskites.MISSING)
    return kept.rename(columns=FILE_COLUMNS)


@pytest.fixture
def raw():
    return as_published(twin.fidelities()["experiment"])


def fault(raw, tmp_path, message):
    path = tmp_path / "table.csv"
    raw.to_csv(path, index=False)
    with pytest.raises(DataError) as caught:
        perovskites.read_fidelity(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert message in str(caught.value), str(caught.value)


@pytest.mark.parametrize("name", ["PBE", "HSE", "experiment"])
def test_a_faultless_table_comes_back(name, tmp_path):
    expected = twin.fidelities()[name]
    as_published(expected).to_csv(tmp_path / "t.csv", index=False)
    read = perovskites.read_fidelity(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(
        read, expected, check_exact=False, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Gap", 1000, "'Gap', line 5: 1000.0 found"),
        ("Gap", "wide", "'Gap', line 5: 'wide' found"),
        ("SLME", 999, "'SLME', line 5: 999.0 found"),
        ("Pb", 0.5, "line 5: the fractions sum to"),
        ("Pb", -0.5, "'Pb', line 5: -0.5 found"),
        ("Cubic", 1.5, "'Cubic', line 5: 1.5 found"),
        ("Hex", 0.001, "Cubic, Tetra, Ortho, Hex, line 5"),
        ("Formula", "CsGeCl3", "'Formula', line 5: 'CsGeCl3' found, but"),
        ("Formula", None, "'Formula', line 5: nothing found"),
    ],
)
def test_faults_name_column_line_and_value(
    raw, tmp_path, column, value, message
):
    for other, own in (("Tetra", 0.3), ("Ortho", 0.3), ("Hex", 0.4)):
        raw.loc[3, other] = own
    raw.loc[3, "Cubic"] = 0.0
    ions = list(IONS)
    raw.loc[3, ions] = 0.0
    raw.loc[3, ["MA", "Pb", "I"]] = 1.0
    raw.loc[3, "Formula"] = "MAPbI3"
    raw[column] = raw[column].astype(object)
    raw.loc[3, column] = value
    fault(raw, tmp_path, message)


def test_a_missing_column_is_named(raw, tmp_path):
    fault(raw.drop(columns="Tetra"), tmp_path, "column 'Tetra' is missing")


def test_a_formula_that_cannot_be_read_does_not_count(raw, tmp_path):
    raw.loc[3, "Formula"] = "Cs0.2FA0.8Pb(I0.6Br0.4)3-DAP"
    raw.to_csv(tmp_path / "t.csv", index=False)
    read = perovskites.read_fidelity(tmp_path / "t.csv")
    assert read["formula"][3].endswith("-DAP")


@given(away=st.floats(-0.0105, 0.0105))
@settings(deadline=None, max_examples=20)
def test_rounded_fractions_are_divided_by_their_sum(tmp_path_factory, away):
    raw = as_published(twin.fidelities()["PBE"])
    raw.loc[0, list(IONS)] = 0.0
    raw.loc[0, ["MA", "Pb", "Br"]] = 1.0
    raw.loc[0, ["Formula", "FA"]] = ["MAPbBr3", 0.0]
    raw.loc[0, "MA"] = 0.98
    raw.loc[0, "Cs"] = 0.02 - abs(away)
    path = tmp_path_factory.mktemp("fidelity") / "t.csv"
    raw.to_csv(path, index=False)
    read = perovskites.read_fidelity(path)
    for members in SITES.values():
        assert np.allclose(read[list(members)].sum(axis=1), 1)
    assert np.allclose(read[list(PHASES)].sum(axis=1), 1)


def test_arrays_have_their_shapes():
    made = perovskites.fidelity_arrays(twin.fidelities()["experiment"])
    assert {name: part.shape for name, part in made.items()} == {
        "ions": (97, 15),
        "fractions": (97, 14),
        "phases": (97, 4),
        "gap": (97, 1),
        "efficiency": (97, 1),
    }
    assert np.isnan(made["efficiency"]).sum() == 10
    assert np.isfinite(made["gap"]).all()


def test_without_one_file_all_tables_are_the_twins(monkeypatch):
    def fetch(key):
        if key == tables.FIDELITY_KEYS["experiment"]:
            raise DataUnavailable(f"{key}: no network")

    monkeypatch.setattr(tables, "fetch", fetch)
    loaded = tables.load_fidelities("auto")
    assert loaded.source == "twin"
    assert set(loaded.gaps) == set(tables.FIDELITY_KEYS)
    assert len(loaded.checksums) == 4
    assert all(name.startswith("twin/") for name in loaded.checksums)
    pd.testing.assert_frame_equal(loaded.devices, twin.devices())


def test_the_public_files(public):
    loaded = tables.load_fidelities("paper")
    assert loaded.source == "paper"
    shapes = {name: frame.shape for name, frame in loaded.gaps.items()}
    assert shapes == {
        "PBE": (570, 37),
        "HSE": (347, 37),
        "experiment": (97, 37),
    }
    measured = loaded.gaps["experiment"]
    assert measured["decomposition"].isna().all()
    assert measured["efficiency"].isna().sum() == 10
    assert measured["efficiency"].max() < 0.3, "1000 is never a value"
    for frame in loaded.gaps.values():
        for members in (*SITES.values(), PHASES):
            assert np.allclose(frame[list(members)].sum(axis=1), 1)
    devices = loaded.devices
    assert len(devices) == 2018
