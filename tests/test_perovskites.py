"""Formulas, ions, mixtures, arrays, and what the public tables hold."""

import contextlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.data import perovskites, twin
from nestedae_utils.data.perovskites import (
    FEATURES,
    IONS,
    LAYERS,
    PROPERTIES,
    SITES,
    parse_formula,
    site_fractions,
)
from nestedae_utils.errors import DataError

RANDOM = np.random.default_rng(0)
MIXED = pd.concat(
    [twin.alloys(RANDOM).tail(60), twin.absorbers(RANDOM, 60)], ignore_index=True
)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("MAPbI3", {"MA": 1, "Pb": 1, "I": 3}),
        ("FASnI_0.375_Cl_2.625", {"FA": 1, "Sn": 1, "I": 0.375, "Cl": 2.625}),
        ("Cs0.1(MA0.2Rb0.8)0.5I", {"Cs": 0.1, "MA": 0.1, "Rb": 0.4, "I": 1}),
        ("(MA(Pb2)3)2", {"MA": 2, "Pb": 12}),
        ("MAMA", {"MA": 2}),
    ],
)
def test_parsed(formula, expected):
    assert parse_formula(formula) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("formula", "match"),
    [
        ("MAPbIn3", "unknown ion 'In'"),
        ("CsPbbI3", "unknown ion 'Pbb'.*Did you mean 'Pb'"),
        ("MAPb-I3", "'-I3' cannot be read at position 5"),
        ("MA PbI3", "cannot be read at position 3"),
        ("MA)PbI3", "cannot be read at position 3"),
        ("Cs(MAPbI3", "it ends too soon at position 10"),
        ("", "it ends too soon at position 1"),
        ("MA0.9PbI3", r"the A site \(K, Rb, Cs, MA, FA\) sums to 0.9, 1"),
        ("MAPbI2", "the X site .* sums to 2, 3"),
        ("PbI3", "the A site .* sums to 0"),
        ("MA1.006PbI3", "sums to 1.006"),
    ],
)
def test_refused(formula, match):
    with pytest.raises(DataError, match=match):
        site_fractions(formula)
    assert site_fractions("MA1.005PbI3")["MA"] == 1.005


@given(st.text(alphabet="MAPbICs()0123._ xé", max_size=15))
@settings(max_examples=200)
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(DataError):
        assert set(parse_formula(text)) <= set(IONS)


def test_formula_and_mixture_there_and_back():
    for _, row in MIXED.iterrows():
        named = site_fractions(perovskites.formula(row, 3))
        np.testing.assert_allclose(named, row, atol=1e-3)
    again = perovskites.unmix(perovskites.mix(MIXED))
    np.testing.assert_allclose(again, MIXED, atol=1e-6)


def test_ions_and_their_pure_mixture():
    table = perovskites.ions()
    assert list(table.columns) == ["site", *PROPERTIES]
    assert table["site"].tolist() == ["A"] * 5 + ["B"] * 6 + ["X"] * 3
    assert table.loc["Pb", "radius"] == 1.19
    assert not table.isna().any(axis=None)
    mixed = perovskites.mix(site_fractions("CsPbBr3").to_frame().T)
    assert list(mixed.columns) == list(FEATURES)
    expected = table.loc[["Cs", "Pb", "Br"], list(PROPERTIES)].to_numpy()
    np.testing.assert_allclose(mixed.iloc[0], expected.ravel())


def test_mixing_is_linear_and_bounded():
    other = MIXED.sample(frac=1, random_state=0, ignore_index=True)
    weight = RANDOM.random((len(MIXED), 1))
    mixed = perovskites.mix(weight * MIXED + (1 - weight) * other)
    ends = perovskites.mix(MIXED), perovskites.mix(1.004 * other)
    expected = weight * ends[0] + (1 - weight) * ends[1]
    np.testing.assert_allclose(mixed, expected)
    table = perovskites.ions()
    for feature in FEATURES:
        values = table.loc[list(SITES[feature[0]]), feature[2:]]
        assert mixed[feature].between(values.min(), values.max()).all()


def test_spread_by_hand():
    pure, half = map(site_fractions, ("MAPbI3", "MAPbI2.25Br0.75"))
    fractions = pd.DataFrame([pure, half]).set_axis([7, 8])
    spread = perovskites.spread(fractions)
    assert list(spread.index) == [7, 8]
    assert list(spread.columns) == list(FEATURES)
    assert (spread.loc[7] == 0).all()
    radius = perovskites.ions()["radius"]
    expected = np.sqrt(0.75 * 0.25) * abs(radius["I"] - radius["Br"])
    assert spread.loc[8, "X_radius"] == pytest.approx(expected)
    assert (spread.loc[8].filter(regex="^[AB]_") == 0).all()


def test_unmixing_ends_on_the_simplex_whatever_it_gets():
    features = perovskites.mix(MIXED).set_axis(range(5, 125))
    features *= RANDOM.uniform(0.2, 3, features.shape)
    shares = perovskites.unmix(features.assign(gap=1.0))
    assert list(shares.index) == list(features.index)
    assert (shares.to_numpy() >= 0).all()
    assert perovskites.unmix(features.head(0)).shape == (0, 14)
    values = perovskites.ions().loc[list(SITES["X"]), list(PROPERTIES)]
    wanted = features[perovskites.SITE_FEATURES["X"]].to_numpy()
    best = shares[list(SITES["X"])].to_numpy()
    np.testing.assert_allclose(best.sum(axis=1), 1)
    others = RANDOM.dirichlet(np.ones(3), (50, len(best)))
    miss, other = (
        (((x @ values.to_numpy() - wanted) / values.std(ddof=0).to_numpy()) ** 2).sum(
            -1
        )
        for x in (best, others)
    )
    assert (miss <= other + 1e-3).all(), "nothing on the simplex is nearer"


def test_arrays():
    frame, gaps = twin.devices(), twin.band_gaps()
    arrays = perovskites.device_arrays(frame)
    widths = {"ions": 15, "fractions": 14, "etl": 7, "htl": 4, "pce": 1}
    assert {k: v.shape[1] for k, v in arrays.items()} == widths
    assert all(v.dtype == np.float64 for v in arrays.values())
    for name, kinds in LAYERS.items():
        assert (arrays[name].sum(axis=1) == 1).all()
        assert (np.array(kinds)[arrays[name].argmax(axis=1)] == frame[name]).all()
    arrays = list(perovskites.band_gap_arrays(gaps).values())
    assert (np.hstack(arrays) == gaps[[*FEATURES, *IONS, "gap"]]).all(axis=None)


def test_published_tables(paper_tables):
    gaps, devices = paper_tables.band_gaps, paper_tables.devices
    assert (gaps.shape, devices.shape) == ((494, 31), (2018, 41))
    assert not gaps.duplicated(list(IONS)).any()
    mixed = [(gaps[list(on)] > 0).sum(axis=1) > 1 for on in SITES.values()]
    assert [int(rows.sum()) for rows in mixed] == [126, 151, 127]
    assert sum(mixed).max() == 1
    assert devices["etl"].value_counts().index.tolist() == list(LAYERS["etl"])
    assert devices["htl"].value_counts().index.tolist() == list(LAYERS["htl"])
    assert len(devices[list(IONS)].round(9).drop_duplicates()) == 235
    assert devices["reported_gap"].isna().sum() == 589
    for name in ("tolerance_factor", "octahedral_factor"):
        stated = getattr(perovskites, name)(devices)
        np.testing.assert_allclose(stated, devices[name])


@pytest.mark.parametrize(
    ("table", "column", "rounding"),
    [("band_gaps", "formula", 0.005), ("devices", "composition", 5e-7)],
)
def test_formulas_fractions_and_features_agree(paper_tables, table, column, rounding):
    frame = getattr(paper_tables, table)
    miss = (perovskites.mix(frame) / frame[list(FEATURES)] - 1).abs()
    assert miss.max(axis=None) < rounding
    frame = frame.drop_duplicates(column)
    named = np.array([site_fractions(text) for text in frame[column]])
    assert np.abs(named - frame[list(IONS)].to_numpy()).max() < 0.0021
