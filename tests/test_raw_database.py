"""The filter of the raw database: each step on made rows, the whole on real ones."""

import functools

import numpy as np
import pandas as pd
import pytest

from nestedae_utils.chapters import raw_database, raw_devices
from nestedae_utils.data import files, tables, twin

CELL, FILM = "Perovskite_composition_{}_ions{}", "Perovskite_dimension_"
MADE, LIGHT = "Perovskite_deposition_", "JV_light_"
A, B, C = (CELL.format(letter, "") for letter in "abc")
SUM = "{}_coefficients"
NAMES = list(raw_database.steps())
# by the step that alone drops such a row: what is written into it
DROPPED = {
    NAMES[0]: [
        *({f"{FILM}3D": text} for text in ("FALSE", "")),
        *({f"{FILM}list_of_layers": text} for text in ("2", "3 | 2", "")),
        *({name: "TRUE"} for name in ("Module", f"{FILM}2D", f"{FILM}0D")),
    ],
    NAMES[1]: [{"JV_average_over_n_number_of_cells": text} for text in ("10", "")],
    NAMES[2]: [{"JV_test_atmosphere": text} for text in ("Vacuum", "")],
    NAMES[3]: [{"JV_test_temperature": text} for text in ("45", "-25", "25; 45")],
    NAMES[4]: [{f"{LIGHT}intensity": text} for text in ("50", "")],
    NAMES[5]: [{f"{LIGHT}spectra": text} for text in ("Indoor light", "")],
    NAMES[6]: [{f"{LIGHT}masked_cell": text} for text in ("TRUE", "")],
    NAMES[7]: [{raw_database.PCE: text} for text in ("", "high")],
    NAMES[8]: [{A: text} for text in ("BA", "MA | FA", "", "Cs; FA; BA")],
    NAMES[9]: [
        {A: "Cs; FA", SUM.format(A): "0.1; 0.8"},
        {A: "Cs; FA; MA", SUM.format(A): "0.1; 0.2; x"},
        # a fourth cation is left out of the sum
        {A: "Cs; FA; MA; Rb", SUM.format(A): "0.1; 0.2; 0.3; 0.4"},
        # and no tolerance for what binary fractions make of decimal ones
        {A: "Cs; FA; MA", SUM.format(A): "0.3; 0.6; 0.1"},
    ],
    NAMES[10]: [{B: text} for text in ("Bi", "")]
    + [{B: "Ba; Sn", SUM.format(B): "0.5; 0.5"}],
    NAMES[11]: [{B: "Pb; Sn", SUM.format(B): "0.5; 0.4"}],
    NAMES[12]: [{C: "I; SCN", SUM.format(C): "2; 1"}, {C: "O"}],
    NAMES[13]: [{SUM.format(C): "1"}, {C: "Br; Cl; I", SUM.format(C): "1; 1; 1"}],
    NAMES[14]: [{f"{MADE}number_of_deposition_steps": text} for text in ("2", "0", "")],
    NAMES[15]: [{f"{MADE}procedure": text} for text in ("Doctor blading", "")],
    NAMES[16]: [
        {f"{MADE}quenching_induced_crystallisation": text} for text in ("FALSE", "")
    ],
}
KEPT = [
    *({"JV_test_temperature": text} for text in ("25", "25.0", "")),
    *({"JV_test_atmosphere": text} for text in ("N2", "Ambient", "Dry air")),
    *({f"{MADE}quenching_induced_crystallisation": text} for text in ("True", "1")),
    {A: "Cs; FA; MA", SUM.format(A): "0.05; 0.79; 0.16"},
    {A: "Cs; FA; MA; Rb", SUM.format(A): "0.25; 0.5; 0.25; 0.05"},
    {B: "Ba; Pb", SUM.format(B): "0.5; 0.5"},
    {C: "Br; I", SUM.format(C): "0.5; 2.5"},
]


devices = functools.cache(twin.devices)


def raw(count=1, **texts):
    """Return described rows that every step keeps but for these texts."""
    frame = raw_devices.as_raw(devices().head(count)).assign(**texts)
    return raw_database.described(frame)


@pytest.mark.parametrize("texts", KEPT, ids=str)
def test_a_row_that_is_as_it_should_be_passes_every_step(texts):
    row = raw(**texts)
    for name, step in raw_database.steps(least=1).items():
        assert step.keep(row).all(), name


@pytest.mark.parametrize("name", DROPPED)
def test_a_step_drops_what_its_name_says(name):
    rules = raw_database.steps(least=1)
    for texts in DROPPED[name]:
        row = raw(**texts)
        said = {of for of, rule in rules.items() if not rule.keep(row).all()}
        assert name in said, texts
        # other ions may have another sum
        assert said <= {name, NAMES[NAMES.index(name) + 1]}, texts
        assert {*texts} & {*rules[name].columns}, texts


def test_the_last_steps_look_at_the_rows_that_are_left():
    frame = pd.concat([raw(3), raw(2)], ignore_index=True)
    assert raw_database.unrepeated(frame).tolist() == [True] * 3 + [False] * 2
    for name, text in (("Substrate_stack_sequence", "other"), (raw_database.PCE, "9")):
        frame.loc[4, name] = text
        assert raw_database.unrepeated(frame).tolist() == [True] * 3 + [False, True]
        frame.loc[4] = frame.loc[1]
    etl, htl = raw_database.CONTACTS.values()
    frame[etl], frame[htl] = [*"aabbb"], [*"xyxxy"]
    rules = {name: raw_database.steps(2)[name] for name in NAMES[-2:]}
    rules["three of an ETL"] = raw_database.frequent(etl, 3)
    left, table = raw_database.filtered(frame, rules)
    assert table["dropped"].tolist() == [0, 0, 2]
    # y is rare only once the rows of a have gone
    left, _ = raw_database.filtered(left, {"HTL": rules[NAMES[-1]]})
    assert left[htl].tolist() == ["x", "x"]


def test_the_table_of_steps_counts():
    frame = pd.concat([raw(4), raw(4, Module="TRUE"), raw(2, Module="")])
    frame = frame.reset_index(drop=True)
    frame.loc[:4, f"{LIGHT}masked_cell"] = ""
    chosen = {name: raw_database.steps(1)[name] for name in (NAMES[0], NAMES[6])}
    left, table = raw_database.filtered(frame, chosen)
    assert len(left) == 0
    columns = ["dropped", "left", "alone", "of these empty"]
    assert table[columns].to_numpy().tolist() == [[6, 4, 6, 0], [4, 0, 5, 5]]


def test_fractions_are_those_that_were_written():
    found = raw_devices.fractions(raw(300))
    assert np.allclose(found, devices().head(300)[found.columns], atol=1e-6)
    # coefficients on X of 1 are fractions already; cations there are none
    halved = raw(2, **{C: "Br; I", SUM.format(C): "0.5; 0.5"})
    assert raw_devices.fractions(halved)["Br"].tolist() == [0.5, 0.5]
    for texts in ({C: "Cs; FA"}, {A: "MA | FA"}, {B: "Ag; Pb"}, {SUM.format(A): "2"}):
        assert raw_devices.fractions(raw(1, **texts)).isna().any(axis=None), texts


def test_agreement_tells_a_column_that_differs():
    one = raw(40)
    other = one.sample(frac=1, random_state=0).astype(str)
    assert (raw_devices.agreement(one, other)["equal"] == 40).all()
    other.loc[3, "Tolerance Factor"] = "0.5"
    found = raw_devices.agreement(one, other).set_index("column")["equal"]
    assert found[found < 40].to_dict() == {"Tolerance Factor": 39}


def test_the_release_becomes_the_published_table():
    if not files.present()[raw_database.RAW]:
        pytest.skip(
            f"needs {raw_database.RAW} (85 MB): run chapter 20 with -p raw true, or "
            f"put it in the folder that {files.MIRROR_VARIABLE} names"
        )
    release = raw_database.read(files.fetch(raw_database.RAW))
    left, table = raw_database.filtered(release, raw_database.steps())
    assert table["left"].tolist() == raw_database.funnel()["rows"][1:].tolist()
    path = files.fetch(tables.DEVICES[0])
    stated = pd.read_csv(path, dtype=str, keep_default_na=False)
    found = raw_devices.agreement(left, stated)
    assert found[found["equal"] < found["of"]].empty
