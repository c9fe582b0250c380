"""Formulas, ions, the two tables, and every fault a table may have."""

import contextlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.data import files as datasets
from nestedae_utils.data import perovskites, tables, twin
from nestedae_utils.data.perovskites import (
    A_IONS,
    B_IONS,
    ETL,
    FEATURES,
    HTL,
    IONS,
    SITES,
    X_IONS,
    parse_formula,
    site_fractions,
)
from nestedae_utils.errors import DataError, ParameterError


@st.composite
def compositions(draw):
    """Draw coefficients in hundredths, one to three ions on each site."""
    row = {}
    for site, members in SITES.items():
        kinds = draw(
            st.lists(st.sampled_from(members), min_size=1, max_size=3)
        )
        whole = 300 if site == "X" else 100
        for ion in set(kinds[1:]) - {kinds[0]}:
            row[ion] = draw(st.integers(1, whole // 3))
            whole -= row[ion]
        row[kinds[0]] = whole
    return {ion: n / 100 for ion, n in row.items()}


def fault(call, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestFormula:
    """A formula becomes fractions."""

    @pytest.mark.parametrize(
        ("formula", "expected"),
        [
            ("MAPbI3", {"MA": 1, "Pb": 1, "I": 3}),
            ("MAGeCl_3", {"MA": 1, "Ge": 1, "Cl": 3}),
            (
                "FASnI_0.375_Cl_2.625",
                {"FA": 1, "Sn": 1, "I": 0.375, "Cl": 2.625},
            ),
            (
                "Cs0.05FA0.788MA0.162PbBr0.51I2.49",
                {
                    "Cs": 0.05,
                    "FA": 0.788,
                    "MA": 0.162,
                    "Pb": 1,
                    "Br": 0.51,
                    "I": 2.49,
                },
            ),
            (
                "Cs0.05(MA0.17FA0.83)0.95PbI3",
                {"Cs": 0.05, "MA": 0.1615, "FA": 0.7885, "Pb": 1, "I": 3},
            ),
            ("K(CaBr)2", {"K": 1, "Ca": 2, "Br": 2}),
            ("(MA(Pb2)3)2", {"MA": 2, "Pb": 12}),
            ("MAMA", {"MA": 2}),
        ],
    )
    def test_parsed(self, formula, expected):
        assert parse_formula(formula) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("formula", "match"),
        [
            ("MAPbIn3", "unknown ion 'In'"),
            ("CsPbbI3", "unknown ion 'Pbb'.*Did you mean 'Pb'"),
            ("XMAPbI3", "unknown ion 'X'"),
            ("MAPb-I3", "'-I3' cannot be read at position 5"),
            ("3MAPbI", "'3MAPbI' cannot be read at position 1"),
            ("MA PbI3", "cannot be read at position 3"),
            ("MA)PbI3", "cannot be read at position 3"),
            ("Cs(MAPbI3", "it ends too soon at position 10"),
            ("", "it ends too soon at position 1"),
        ],
    )
    def test_refused(self, formula, match):
        with pytest.raises(DataError, match=match):
            parse_formula(formula)

    def test_not_a_text(self):
        assert "nan given" in fault(parse_formula, float("nan"))

    @given(st.text(alphabet="MAPbICs()0123._ xé", max_size=15))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_read_or_refused(self, text):
        with contextlib.suppress(DataError):
            assert set(parse_formula(text)) <= set(IONS)

    @given(compositions())
    @settings(max_examples=100, deadline=None)
    def test_round_trip(self, composition):
        formula = "".join(f"{ion}{n:g}" for ion, n in composition.items())
        fractions = site_fractions(formula)
        assert list(fractions.index) == list(IONS)
        for members in SITES.values():
            assert fractions[list(members)].sum() == pytest.approx(1)
        for ion, coefficient in composition.items():
            whole = 3 if ion in X_IONS else 1
            assert fractions[ion] * whole == pytest.approx(coefficient)

    @pytest.mark.parametrize(
        ("formula", "match"),
        [
            ("MA0.9PbI3", r"the A site \(K, Rb, Cs, MA, FA\) sums to 0.9, 1"),
            ("MAPb0.5Sn0.4I3", "the B site .* sums to 0.9, 1"),
            ("MAPbI2", "the X site .* sums to 2, 3"),
            ("PbI3", "the A site .* sums to 0"),
        ],
    )
    def test_site_does_not_add_up(self, formula, match):
        with pytest.raises(DataError, match=match):
            site_fractions(formula)

    def test_tolerance(self):
        assert site_fractions("MA1.005PbI3")["MA"] == 1.005
        with pytest.raises(DataError):
            site_fractions("MA1.005PbI3", tolerance=0.004)
        with pytest.raises(ParameterError, match="tolerance"):
            site_fractions("MAPbI3", tolerance=-1)


class TestIons:
    """The ions' properties and their mixtures."""

    def test_table(self):
        table = perovskites.ions()
        assert list(table.index) == list(IONS)
        assert table.loc["Pb", "radius"] == 1.19
        assert table["site"].tolist() == ["A"] * 5 + ["B"] * 6 + ["X"] * 3
        assert list(table.columns[1:]) == list(perovskites.PROPERTIES)

    def test_table_without_an_ion(self, tmp_path, monkeypatch):
        text = (datasets.DATA / "ions.csv").read_text()
        (tmp_path / "ions.csv").write_text(text.replace("Pb,", "Pd,"))
        monkeypatch.setattr(perovskites, "DATA", tmp_path)
        assert "Pd" in fault(perovskites.ions)

    def test_pure_mixture_is_the_ion(self):
        mixed = perovskites.mix(site_fractions("CsPbBr3").to_frame().T)
        table = perovskites.ions()
        expected = [
            table.loc[ion, name]
            for ion in ("Cs", "Pb", "Br")
            for name in perovskites.PROPERTIES
        ]
        assert list(mixed.columns) == list(FEATURES)
        np.testing.assert_allclose(mixed.iloc[0], expected)

    @given(compositions(), compositions(), st.floats(0, 1))
    @settings(max_examples=30, deadline=None)
    def test_mixing_is_linear_and_bounded(self, one, other, weight):
        rows = pd.DataFrame([one, other], columns=list(IONS)).fillna(0.0)
        rows[list(X_IONS)] /= 3
        rows.loc[2] = weight * rows.loc[0] + (1 - weight) * rows.loc[1]
        mixed = perovskites.mix(rows).to_numpy()
        np.testing.assert_allclose(
            mixed[2], weight * mixed[0] + (1 - weight) * mixed[1], atol=1e-9
        )
        table = perovskites.ions()
        for column, feature in zip(mixed.T, FEATURES, strict=True):
            site, name = feature.split("_")
            values = table.loc[list(SITES[site]), name]
            assert (column >= values.min() - 1e-9).all()
            assert (column <= values.max() + 1e-9).all()

    def test_fractions_are_normalised(self):
        row = site_fractions("CsPbBr1.5I1.5").to_frame().T
        pd.testing.assert_frame_equal(
            perovskites.mix(row), perovskites.mix(1.004 * row)
        )

    def test_empty_site(self):
        row = site_fractions("CsPbI3").to_frame().T.assign(Pb=0.0)
        message = fault(perovskites.mix, row)
        assert "the B site is empty in row 0" in message
        assert "'Pb' is missing" in fault(
            perovskites.mix, row.drop(columns="Pb")
        )


class TestPaperTables:
    """What was measured on the public files."""

    def test_sizes(self, paper_tables):
        assert paper_tables.band_gaps.shape == (494, 31)
        assert paper_tables.devices.shape == (2018, 41)

    def test_band_gaps(self, paper_tables):
        frame = paper_tables.band_gaps
        assert frame["gap"].min() == 0.37
        assert frame["gap"].max() == 5.37
        assert not frame.duplicated(list(IONS)).any()
        mixed = {
            site: (frame[list(ions)] > 0).sum(axis=1) > 1
            for site, ions in SITES.items()
        }
        counts = [int(rows.sum()) for rows in mixed.values()]
        assert counts == [126, 151, 127]
        assert int((sum(mixed.values()) == 0).sum()) == 90
        assert sum(mixed.values()).max() == 1

    def test_rounded_halide_fractions(self, paper_tables):
        sums = paper_tables.band_gaps[list(X_IONS)].sum(axis=1).round(6)
        assert sums.value_counts().to_dict() == {1: 421, 1.002: 38, 1.004: 35}

    def test_devices(self, paper_tables):
        frame = paper_tables.devices
        assert frame["etl"].value_counts(sort=False)[list(ETL)].tolist() == [
            707,
            387,
            226,
            191,
            189,
            161,
            157,
        ]
        assert frame["htl"].value_counts(sort=False)[list(HTL)].tolist() == [
            1397,
            325,
            176,
            120,
        ]
        assert frame["reported_gap"].isna().sum() == 589
        assert (frame["composition"] == "MAPbI3").sum() == 984
        fractions = frame[list(IONS)].round(9)
        assert len(fractions.drop_duplicates()) == 235
        inputs = frame.assign(**fractions)[[*IONS, "etl", "htl"]]
        assert len(inputs.drop_duplicates()) == 343
        unused = ["Cl", "K", "Ca", "Sr", "Ba"]
        assert not frame[unused].to_numpy().any()
        assert frame["pce"].max() == 23
        assert frame["voc"].isna().sum() == 53
        assert (frame["fill_factor"] > 0.9).sum() == 4

    def test_in_sample_bound(self, paper_tables):
        frame = paper_tables.devices
        inputs = frame.assign(**frame[list(IONS)].round(9))
        groups = inputs.groupby([*IONS, "etl", "htl"])["pce"]
        residual = frame["pce"] - groups.transform("mean")
        r2 = (
            1
            - (residual**2).sum()
            / ((frame["pce"] - frame["pce"].mean()) ** 2).sum()
        )
        assert r2 == pytest.approx(0.536, abs=5e-4)

    def test_features_are_the_mixture(self, paper_tables):
        band_gaps, devices = paper_tables.band_gaps, paper_tables.devices
        deviation = perovskites.ion_mixture_deviation(band_gaps)
        assert list(deviation.index) == list(FEATURES)
        assert deviation.max() < perovskites.BAND_GAP_ROUNDING
        deviation = perovskites.ion_mixture_deviation(devices)
        assert deviation.max() < perovskites.DEVICE_ROUNDING

    def test_mixture_used_normalised_fractions(self, paper_tables):
        # With the fractions as stated, the X features miss by up to 0.0067.
        frame = paper_tables.band_gaps
        radii = perovskites.ions().loc[list(X_IONS), "radius"]
        as_stated = frame[list(X_IONS)] @ radii
        miss = (as_stated / frame["X_radius"] - 1).abs().max()
        assert miss > perovskites.BAND_GAP_ROUNDING

    @pytest.mark.parametrize(
        ("table", "column"),
        [("band_gaps", "formula"), ("devices", "composition")],
    )
    def test_formula_agrees_with_the_fractions(
        self, paper_tables, table, column
    ):
        frame = getattr(paper_tables, table).drop_duplicates(column)
        read = np.array([site_fractions(text) for text in frame[column]])
        stated = frame[list(IONS)].to_numpy()
        assert np.abs(read - stated).max() < 0.0021

    def test_factors(self, paper_tables):
        frame = paper_tables.devices
        np.testing.assert_allclose(
            perovskites.tolerance_factor(frame), frame["tolerance_factor"]
        )
        np.testing.assert_allclose(
            perovskites.octahedral_factor(frame), frame["octahedral_factor"]
        )

    def test_arrays(self, paper_tables):
        gap = perovskites.band_gap_arrays(paper_tables.band_gaps)
        assert {k: v.shape for k, v in gap.items()} == {
            "ions": (494, 15),
            "fractions": (494, 14),
            "gap": (494, 1),
        }


def test_device_arrays():
    frame = twin.devices()
    arrays = perovskites.device_arrays(frame)
    assert {k: v.shape for k, v in arrays.items()} == {
        "ions": (2018, 15),
        "fractions": (2018, 14),
        "etl": (2018, 7),
        "htl": (2018, 4),
        "pce": (2018, 1),
    }
    assert all(v.dtype == np.float64 for v in arrays.values())
    for name, kinds in (("etl", ETL), ("htl", HTL)):
        assert (arrays[name].sum(axis=1) == 1).all()
        back = np.array(kinds)[arrays[name].argmax(axis=1)]
        assert (back == frame[name]).all()


def in_the_columns_of_the_files(table: str) -> pd.DataFrame:
    """Return rows of the twin as the published file would hold them."""
    if table == "band_gaps":
        return twin.band_gaps().rename(columns=perovskites._BAND_GAP_COLUMNS)
    frame = twin.devices().head(200)
    raw = frame.rename(columns=perovskites._DEVICE_COLUMNS)
    raw = raw.drop(columns=list(IONS))
    for site, slots in perovskites._DEVICE_SLOTS.items():
        held = [
            [(ion, f) for ion in SITES[site] for f in [row[ion]] if f > 0]
            for row in frame.to_dict("records")
        ]
        whole = 3 if site == "X" else 1
        for k, slot in enumerate(slots):
            pairs = [h[k] if k < len(h) else ("na", 0) for h in held]
            blank = "" if k == 0 else " "
            raw[slot] = [
                ion if ion == "na" else blank + ion for ion, _ in pairs
            ]
            raw[f"{slot}_coeff"] = [whole * f for _, f in pairs]
    return raw


READERS = {
    "band_gaps": perovskites.read_band_gaps,
    "devices": perovskites.read_devices,
}


@pytest.fixture(params=list(READERS))
def table(request, tmp_path):
    """Return the name, a faultless raw frame, and a path for its file."""
    raw = in_the_columns_of_the_files(request.param)
    return request.param, raw, tmp_path / f"{request.param}.csv"


def read_changed(table, column=None, row=None, value=None, **written) -> str:
    name, raw, path = table
    if column is not None:
        raw[column] = raw[column].astype(object)
        raw.loc[row, column] = value
    raw.to_csv(path, index=False, **written)
    message = fault(READERS[name], path)
    assert str(path) in message
    return message


class TestReaders:
    """Faults that either table may have."""

    def test_faultless_table_comes_back(self, table):
        name, raw, path = table
        raw.to_csv(path, index=False)
        expected = getattr(twin, name)().head(len(raw))
        pd.testing.assert_frame_equal(READERS[name](path), expected)

    def test_absent_file(self, table):
        assert "no such file" in fault(READERS[table[0]], table[2])

    def test_folder(self, table, tmp_path):
        assert "cannot be read" in fault(READERS[table[0]], tmp_path)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "the file is empty"),
            (b"\x89PNG\r\n\x1a\n\xff\xfe", "not a CSV table"),
            (b"a,b\n1,2\n1,2,3\n", "not a CSV table"),
            (b"a,b\n1,2,3\n1,2,3\n", "more fields than the header"),
            (b"<html></html>\n<p>\n", "is missing"),
        ],
    )
    def test_other_content(self, table, content, expected):
        name, _, path = table
        path.write_bytes(content)
        assert expected in fault(READERS[name], path)

    def test_no_rows(self, table):
        name, raw, path = table
        raw.head(0).to_csv(path, index=False)
        assert "has no rows" in fault(READERS[name], path)

    def test_truncated_file(self, table):
        name, raw, path = table
        raw.to_csv(path, index=False)
        text = path.read_text()
        end = text.rindex("\n", 0, -1)
        path.write_text(text[: end + 40])
        message = fault(READERS[name], path)
        assert f"line {len(raw) + 1}: nothing found" in message

    @pytest.mark.parametrize("feature", ["A_EA", "X_EA"])
    def test_missing_column(self, table, feature):
        name, raw, path = table
        columns = (
            perovskites._BAND_GAP_COLUMNS
            if name == "band_gaps"
            else perovskites._DEVICE_COLUMNS
        )
        raw.drop(columns=columns[feature]).to_csv(path, index=False)
        message = fault(READERS[name], path)
        assert f"column {columns[feature]!r} is missing" in message

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            ("high", "'high' found"),
            ("", "nothing found"),
            ("NaN", "nothing found"),
            ("inf", "inf found"),
            (-1000, "-1000.0 found"),
        ],
    )
    @pytest.mark.parametrize("row", [0, 7])
    def test_faulty_number(self, table, value, found, row):
        message = read_changed(table, "A_EA", row, value)
        assert f"column 'A_EA', line {row + 2}: {found}" in message
        assert "a number from -300 to 500 kJ/mol is allowed." in message

    def test_first_of_several_faults(self, table):
        table[1].loc[[3, 5], "B_IE"] = 0
        message = read_changed(table)
        assert "'B_IE', line 5: 0.0 found" in message
        assert "(1 further faults)" in message


class TestBandGapReader:
    """Faults of the band-gap table."""

    @pytest.fixture
    def table(self, tmp_path):
        raw = in_the_columns_of_the_files("band_gaps")
        return "band_gaps", raw, tmp_path / "gaps.csv"

    def test_fractions_do_not_add_up(self, table):
        table[1].loc[4, ["Cl", "Br", "I"]] = [0.5, 0.4, 0.0]
        message = read_changed(table)
        assert "X site (Cl, Br, I), line 6" in message
        assert "sum to 0.9, 1 within 0.005 is allowed" in message

    def test_fraction_out_of_range(self, table):
        message = read_changed(table, "Pb", 2, 1.5)
        assert (
            "column 'Pb', line 4: 1.5 found, a number from 0 to 1" in message
        )

    def test_gap_in_milli_electronvolt(self, table):
        table[1]["Gap"] *= 1000
        message = read_changed(table)
        assert "column 'Gap', line 2" in message
        assert "0 to 10 eV is allowed (493 further faults)" in message

    def test_formula_missing(self, table):
        message = read_changed(table, "Formula", 0, None)
        assert "column 'Formula', line 2: nothing found" in message

    def test_all_formulas_missing(self, table):
        table[1]["Formula"] = None
        assert "column 'Formula', line 2" in read_changed(table)

    def test_ion_column_renamed(self, table):
        name, raw, path = table
        renamed = raw.rename(columns={"Pb": "PB"})
        message = read_changed((name, renamed, path))
        assert "column 'Pb' is missing" in message


class TestDeviceReader:
    """Faults of the device table."""

    @pytest.fixture
    def table(self, tmp_path):
        raw = in_the_columns_of_the_files("devices")
        return "devices", raw, tmp_path / "devices.csv"

    @pytest.mark.parametrize(
        ("column", "value", "expected"),
        [
            ("ETL_stack_sequence", "TiO2", "one of 'TiO2-c | TiO2-mp'"),
            ("HTL_stack_sequence", "PTA", "one of 'Spiro-MeOTAD'"),
            ("HTL_stack_sequence", None, "nothing found"),
            ("a_1", "GA", "one of K, Rb, Cs, MA, FA or 'na' is allowed"),
            ("b_2", "", "nothing found"),
            ("c_1", "F", "one of Cl, Br, I or 'na' is allowed"),
            ("a_1_coeff", "half", "a number from 0 to 1 is allowed"),
            ("a_1_coeff", "inf", "inf found"),
            ("c_1_coeff", 3.2, "a number from 0 to 3 is allowed"),
            ("c_1_coeff", "", "nothing found"),
            ("a_4_coeff", 0.1, "0.1 found, 0 beside 'na' is allowed"),
            ("JV_reverse_scan_PCE", 91.0, "0 to 33.7 % is allowed"),
            ("JV_reverse_scan_PCE", None, "nothing found"),
            ("JV_reverse_scan_FF", 74.0, "0 to 1.5 is allowed"),
            ("Perovskite_band_gap", "1.6 eV", "'1.6 eV' found"),
        ],
    )
    def test_faulty_entry(self, table, column, value, expected):
        message = read_changed(table, column, 3, value)
        assert f"column {column!r}, line 5: " in message
        assert expected in message

    @pytest.mark.parametrize("column", ["a_3", "b_1_coeff"])
    def test_missing_slot(self, table, column):
        name, raw, path = table
        message = read_changed((name, raw.drop(columns=column), path))
        assert f"column {column!r} is missing" in message

    def test_fractions_do_not_add_up(self, table):
        table[1].loc[9, "b_1_coeff"] = 0.5
        table[1].loc[9, ["b_2", "b_2_coeff"]] = ["na", 0]
        message = read_changed(table)
        assert "B site (Ca, Sr, Ba, Ge, Sn, Pb), line 11" in message
        assert "sum to 0.5" in message

    def test_nothing_reported(self, table):
        name, raw, path = table
        columns = ["Perovskite_band_gap", "JV_reverse_scan_Voc"]
        raw[[*columns, "Perovskite_band_gap_estimation_basis"]] = np.nan
        raw.to_csv(path, index=False)
        frame = READERS[name](path)
        assert (
            frame[["reported_gap", "voc", "gap_basis"]].isna().all(axis=None)
        )

    def test_ion_in_two_slots_is_added_up(self, table):
        name, raw, path = table
        raw.loc[0, ["b_1", "b_1_coeff"]] = ["Pb", 0.4]
        raw.loc[0, ["b_2", "b_2_coeff"]] = [" Pb", 0.6]
        raw.to_csv(path, index=False)
        assert READERS[name](path).loc[0, "Pb"] == 1


def test_vocabulary():
    assert (*A_IONS, *B_IONS, *X_IONS) == IONS
    assert len(FEATURES) == 15
    assert FEATURES[0] == "A_radius"
    assert FEATURES[-1] == "X_EN"
    assert tables.SOURCES == ("auto", "paper", "twin")


# --- Spread over a site ----------------------------------------------------


def test_spread_by_hand():
    fractions = pd.DataFrame(0.0, index=[7, 8], columns=list(IONS))
    fractions.loc[:, ["MA", "Pb", "I"]] = 1.0
    fractions.loc[8, ["I", "Br"]] = [0.75, 0.25]
    found = perovskites.spread(fractions)
    assert list(found.index) == [7, 8]
    assert list(found.columns) == list(perovskites.FEATURES)
    assert (found.loc[7] == 0).all()
    radius = perovskites.ions()["radius"]
    expected = np.sqrt(0.75 * 0.25) * abs(radius["I"] - radius["Br"])
    assert found.loc[8, "X_radius"] == pytest.approx(expected)
    assert (found.loc[8].filter(regex="^[AB]_") == 0).all()
    # rounded fractions are normalised as in the mixture
    np.testing.assert_allclose(
        perovskites.spread(1.004 * fractions), found, atol=1e-12
    )
    with pytest.raises(DataError, match="the B site is empty in row 0"):
        perovskites.spread(fractions.assign(Pb=0.0))


@given(st.lists(compositions(), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_unmixing_undoes_the_mixture(drawn):
    fractions = pd.DataFrame(drawn, columns=list(IONS)).fillna(0.0)
    fractions[list(X_IONS)] /= 3
    found = perovskites.unmix(perovskites.mix(fractions))
    np.testing.assert_allclose(found, fractions, atol=1e-6)
    for (_, row), coefficients in zip(
        fractions.iterrows(), drawn, strict=True
    ):
        assert parse_formula(perovskites.formula(row)) == pytest.approx(
            coefficients
        )


def test_unmixing_ends_on_the_simplex_whatever_it_gets():
    random = np.random.default_rng(0)
    features = perovskites.mix(
        pd.DataFrame(np.ones((20, 14)), columns=list(IONS))
    )
    features *= random.uniform(0.2, 3, features.shape)
    features.index = features.index + 5
    found = perovskites.unmix(features.assign(gap=1.0))
    assert list(found.index) == list(features.index)
    assert (found.to_numpy() >= 0).all()
    for members in SITES.values():
        np.testing.assert_allclose(found[list(members)].sum(axis=1), 1)
    # nothing on the simplex is nearer
    values = perovskites.ions()
    for site, members in SITES.items():
        own = values.loc[list(members), list(perovskites.PROPERTIES)]
        unit = own.std(ddof=0).to_numpy()
        columns = [f"{site}_{name}" for name in perovskites.PROPERTIES]
        wanted = features[columns].to_numpy()

        def miss(shares, own=own, wanted=wanted, unit=unit):
            off = (shares @ own.to_numpy(float) - wanted) / unit
            return (off**2).sum(1)

        best = miss(found[list(members)].to_numpy())
        for _ in range(50):
            shares = random.dirichlet(np.ones(len(members)), len(found))
            assert (best <= miss(shares) + 1e-3).all()


def test_unmixing_errors():
    features = perovskites.mix(
        pd.DataFrame(np.ones((2, 14)), columns=list(IONS))
    )
    with pytest.raises(DataError, match="column 'A_EN' is missing"):
        perovskites.unmix(features.drop(columns="A_EN"))
    features.loc[1, "B_IE"] = np.nan
    with pytest.raises(DataError, match="row 1 is not finite"):
        perovskites.unmix(features)
    assert perovskites.unmix(features.iloc[:0]).shape == (0, 14)
