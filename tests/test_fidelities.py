"""The tables at three fidelities: the files, faults in them, the twin."""

import numpy as np
import pandas as pd
import pytest
from conftest import told

from nestedae_utils.data import fidelities, tables
from nestedae_utils.data.perovskites import IONS, SITES
from nestedae_utils.errors import DataUnavailable

SHARES = [list(members) for members in (*SITES.values(), fidelities.PHASES)]
TITLES = {n: c.title for n, c in fidelities.SCHEMA.columns.items() if c.title}
ROWS = {"PBE": 180, "HSE": 120, "experiment": 97}


def published(name: str) -> pd.DataFrame:
    """Return a table in the columns of the files, 1000 where missing."""
    frame = fidelities.generate(name)[list(TITLES)].fillna(1000.0)
    return frame.rename(columns=TITLES).astype(object)


@pytest.mark.parametrize("name", fidelities.KEYS)
def test_a_faultless_table_comes_back_in_its_shape(name, tmp_path):
    frame = fidelities.generate(name)
    fidelities.SCHEMA.validate(frame)
    assert frame.shape == (ROWS[name], 37)
    measured = name == "experiment"
    assert frame["efficiency"].isna().sum() == 10 * measured
    assert frame["decomposition"].isna().all() == measured
    published(name).to_csv(tmp_path / "t.csv", index=False)
    read = fidelities.read(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(read, frame, check_exact=False, atol=1e-3)
    arrays = fidelities.arrays(read)
    widths = [15, 14, 4, 1, 1]
    assert [v.shape for v in arrays.values()] == [(len(frame), w) for w in widths]
    pd.testing.assert_frame_equal(frame, fidelities.generate(name))
    assert not frame.equals(fidelities.generate(name, 1))


def test_the_twins_tables_share_materials():
    pbe, hse, measured = map(fidelities.generate, fidelities.KEYS)
    keys = ["formula", *fidelities.PHASES]
    pd.testing.assert_frame_equal(hse[keys], pbe[keys].head(120))
    assert (hse["gap"] != pbe["gap"].head(120)).mean() > 0.9
    assert measured["formula"].isin(pbe["formula"]).sum() == 20


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Gap", 1000, "'1000' found"),
        ("Gap", "wide", "'wide' found"),
        ("SLME", 999, "'999' found"),
        ("Pb", 0.5, "a sum of 1 within 0.011"),
        ("Pb", -0.5, "'-0.5' found"),
        ("Hex", 0.001, "a sum of 1 within 0.011"),
        ("Formula", "CsGeCl3", "'CsGeCl3' found, but the row's fractions"),
        ("Formula", None, "nothing found"),
    ],
)
def test_faults_name_column_line_and_value(tmp_path, column, value, message):
    raw, path = published("experiment"), tmp_path / "t.csv"
    raw.loc[3, [*IONS, "Cubic", "Tetra", "Ortho", "Hex"]] = 0.0
    raw.loc[3, ["MA", "Pb", "I", "Formula"]] = [1.0, 1.0, 1.0, "MAPbI3"]
    raw.loc[3, ["Tetra", "Ortho", "Hex"]] = [0.3, 0.3, 0.4]
    raw.loc[3, column] = value
    raw.to_csv(path, index=False)
    line = told(fidelities.read, path)
    for text in (str(path), repr(column), "line 5: ", message):
        assert text in line


def test_rounded_fractions_and_a_formula_that_cannot_be_read(tmp_path):
    raw = published("PBE")
    raw.loc[0, list(IONS)] = 0.0
    raw.loc[0, ["MA", "FA", "Pb", "Br"]] = [0.98, 0.01, 1.0, 1.0]
    raw.loc[0, "Formula"] = "MAPbBr3-DAP"
    raw.to_csv(tmp_path / "t.csv", index=False)
    read = fidelities.read(tmp_path / "t.csv")
    assert read["formula"][0] == "MAPbBr3-DAP"
    assert read["MA"][0] == pytest.approx(0.98 / 0.99)
    for members in SHARES:
        np.testing.assert_allclose(read[members].sum(axis=1), 1)


def test_without_one_file_all_tables_are_the_twins(monkeypatch):
    def fetch(key):
        if key == fidelities.KEYS["experiment"]:
            raise DataUnavailable(f"{key}: no network")
        return key

    monkeypatch.setattr(tables, "fetch", fetch)
    loaded = fidelities.load("auto")
    assert loaded.source == "twin"
    assert set(loaded.gaps) == set(fidelities.KEYS)
    assert set(loaded.checksums) == {
        f"twin/{name}" for name in (*fidelities.KEYS, "devices")
    }


def test_the_public_files(public):
    loaded = fidelities.load("paper")
    rows = {name: len(frame) for name, frame in loaded.gaps.items()}
    assert rows == {"PBE": 570, "HSE": 347, "experiment": 97}
    assert len(loaded.devices) == 2018
    measured = loaded.gaps["experiment"]
    assert measured["decomposition"].isna().all()
    assert measured["efficiency"].isna().sum() == 10
    assert measured["efficiency"].max() < 0.3, "1000 is never a value"
    for frame in loaded.gaps.values():
        assert frame.shape[1] == 37
        for members in SHARES:
            np.testing.assert_allclose(frame[members].sum(axis=1), 1)
