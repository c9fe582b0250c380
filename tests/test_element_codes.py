"""Element codes: the reader of pseudopotentials, tables, measures, the chain."""

import zipfile
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import told

from nestedae_utils.chapters import code_tests, element_codes, ion_codes
from nestedae_utils.chapters import pseudopotentials as pseudo
from nestedae_utils.data.perovskites import IONS
from nestedae_utils.errors import DataError
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.study import baselines

NAMES = list(pseudo.elements().index)


def upf(frame, element="Fe", size=None, charge=None):
    """Return a table as the text of a UPF file."""
    charge = (
        np.trapezoid(frame["charge"], frame["radius"]) if charge is None else charge
    )
    blocks = "".join(
        f'<PP_{tag} type="real">\n'
        + "\n".join(map(repr, frame[name].tolist()))
        + f"\n</PP_{tag}>\n"
        for tag, name in (
            ("R", "radius"),
            ("LOCAL", "potential"),
            ("RHOATOM", "charge"),
        )
    )
    head = (
        f'element="{element}" z_valence="  {charge}" mesh_size="  {size or len(frame)}"'
    )
    return f'<UPF version="2.0.1">\n<PP_HEADER {head}/>\n{blocks}</UPF>\n'


@pytest.fixture
def iron(tmp_path):
    frame, path = pseudo.generate("Fe"), tmp_path / "Fe.upf"
    path.write_text(upf(frame))
    return frame, path


def test_a_file_comes_back_as_it_is(iron):
    frame, path = iron
    pd.testing.assert_frame_equal(pseudo.read(path, "Fe"), frame)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text, frame: text[: len(text) // 2], "truncated"),
        (lambda text, frame: text.replace("</UPF>", ""), "truncated"),
        (lambda text, frame: text.replace("UPF", "XML"), "not a UPF file"),
        (lambda text, frame: upf(frame, "Co"), "of the element 'Co', 'Fe' is expected"),
        (lambda text, frame: upf(frame, size=12), "its mesh has"),
        (lambda text, frame: upf(frame[:500]), "its mesh has"),
        (lambda text, frame: upf(frame[1:]), "its mesh has"),
        (lambda text, frame: upf(frame[::-1]), "its mesh has"),
        (lambda text, frame: upf(frame, charge=3), "does not add up to its valence 3"),
        (lambda text, frame: upf(frame, charge="x"), "a number cannot be read"),
        (
            lambda text, frame: upf(frame.replace(frame.iloc[9, 2], np.nan)),
            "not finite",
        ),
    ],
)
def test_a_fault_is_one_line(iron, change, words):
    frame, path = iron
    path.write_text(change(path.read_text(), frame))
    line = told(pseudo.read, path, "Fe")
    assert str(path) in line
    assert words in line


def test_what_has_no_code_is_told():
    for name in ("At", "U", "iron"):
        with pytest.raises(DataError, match=f"element '{name}': no code, .* allowed"):
            pseudo.known([name])
    with pytest.raises(DataError, match="no such file|cannot be read"):
        pseudo.read("nowhere.upf", "Fe")


def test_all_published_files(public):
    """85 of them; the charge adds up, the tail is that of the valence."""
    frames = {n: pseudo.read(public(pseudo.key(n)), n) for n in NAMES}
    assert len(frames) == 85
    for frame in frames.values():
        charge = np.trapezoid(frame["charge"], frame["radius"])
        r, local = frame[["radius", "potential"]].iloc[-1]
        assert local * r == pytest.approx(-2 * charge, rel=2e-3)
    assert pseudo.curves(frames).shape == (85, 2, 512)


def test_the_bank_begins_with_the_elements_and_its_copies_are_near():
    frames = {name: pseudo.generate(name) for name in NAMES[:5]}
    bank = pseudo.bank(frames, 3)
    assert bank.shape == (20, 1024)
    assert np.abs(bank).max() < 1.2
    for copy in bank[5:].reshape(3, 5, -1):
        away = np.abs(copy - bank[:5])
        assert 0 < away.mean() < 0.05
    own = pseudo.bank(frames, 1, "own")[:5].reshape(5, 2, -1)
    np.testing.assert_allclose(np.abs(own).max(-1), 1)


def test_properties_are_whole_and_the_lanthanides_told_apart():
    values = pseudo.properties(NAMES)
    assert values.shape == (85, 17)
    assert np.isfinite(values).all()
    group = pseudo.elements()["group"]
    assert group["La"] == 3 < group["Ce"] < group["Lu"] < 4


# --- measures ----------------------------------------------------------------


def test_no_rotation_changes_what_a_code_knows():
    random = np.random.default_rng(0)
    codes, values = random.normal(size=(3, 40, 2)), random.normal(size=40)
    values[3] = np.nan
    turned = element_codes.rotated(codes)
    for measure in (element_codes.step_along, lambda c: element_codes.r2(c, values)):
        np.testing.assert_allclose(measure(turned), measure(codes))
    assert not np.allclose(
        element_codes.correlations(turned, values),
        element_codes.correlations(codes, values),
    )
    exact = codes[0] @ [1.0, 2.0] + 3
    assert element_codes.r2(codes, exact)[0] == pytest.approx(1)
    assert element_codes.r2(codes, exact)[1] < 0.3


def test_neighbours_and_steps():
    line = np.stack([np.arange(10.0), np.zeros(10)], 1)[None]
    assert element_codes.step_along(line) == pytest.approx([3 / 11])
    pairs = np.repeat(np.arange(5), 2)
    near = line + np.where(np.arange(10) % 2, -0.4, 0)[None, :, None] * [1, 0]
    assert element_codes.same_group(near, pairs) == pytest.approx([1])
    dealt = element_codes.by_chance(
        lambda some: element_codes.same_group(some, pairs), near[0], 200
    )
    assert dealt.shape == (200,)
    assert 0.05 < dealt.mean() < 0.2


def test_a_dead_number_correlates_with_nothing():
    codes = np.random.default_rng(0).normal(size=(1, 20, 2)) * [1, 0]
    r = element_codes.correlations(codes, codes[0, :, 0])
    np.testing.assert_allclose(r, [[1, 0]], atol=1e-12)


# --- tables ------------------------------------------------------------------


def workbook(path, rows):
    """Write an Excel workbook as the published one is."""
    words = sorted({row[0] for row in rows})
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    lines = "".join(
        f'<row><c t="s"><v>{words.index(name)}</v></c><c><v>{gap}</v></c>'
        f"<c><v>{gap}</v></c></row>"
        for name, gap in rows
    )
    shared = "".join(f"<si><t>{word}</t></si>" for word in words)
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")
        sheet = f"<worksheet {space}><sheetData>{lines}</sheetData></worksheet>"
        book.writestr("xl/worksheets/sheet1.xml", sheet)


def test_a_workbook_of_pairs(tmp_path):
    rows = [("System", "Gap"), ("Cs4Ag2Bi2I12", 1.1), ("Cs4Pb4I12", 1.5)]
    workbook(tmp_path / "a.xlsx", rows)
    frame = code_tests.read_pairs(tmp_path / "a.xlsx")
    assert frame.shape == (49 * 48 // 2 * 3, 4)
    (listed,) = frame[frame["gap"].notna()].itertuples(index=False, name=None)
    assert listed == ("Ag", "Bi", "I", 1.1)
    workbook(tmp_path / "b.xlsx", [*rows, ("Cs4Bi2Ag2I12", 1.0)])
    assert "no pair of the 49" in told(code_tests.read_pairs, tmp_path / "b.xlsx")
    (tmp_path / "c.xlsx").write_text("no book")
    with pytest.raises(DataError, match="not the workbook .*take the published"):
        code_tests.read_pairs(tmp_path / "c.xlsx")


def test_the_twins_tables_are_those_of_a_law():
    table = pseudo.elements()
    oxides, pairs = code_tests.generate_oxides(table), code_tests.generate_pairs(table)
    assert not oxides.duplicated(["A", "B"]).any()
    assert 0.02 < pairs["gap"].notna().mean() < 0.3
    pd.testing.assert_frame_equal(oxides, code_tests.generate_oxides(table))


def test_splits_hold_out_whole_groups_and_tuning_sees_none_of_them():
    groups = np.repeat(np.arange(20), 5)
    for seen, held in code_tests.splits(100, 4, groups):
        assert not set(groups[seen]) & set(groups[held])
    x = np.random.default_rng(0).normal(size=(100, 3))
    some, y = code_tests.splits(100, 2), x[:, 0]
    tuned = partial(baselines.held_out, code_tests.MODELS["tuned"], x)
    told = tuned(y, some)
    altered = y.copy()
    altered[some[0][1]] = 99.0  # of what the first split holds out
    np.testing.assert_array_equal(told[0], tuned(altered, some)[0])
    assert code_tests.absolute(told, y, some).max() < 0.4


# --- the chain ---------------------------------------------------------------


def test_a_pseudo_atom_of_one_atom_in_the_middle_is_that_atom(monkeypatch):
    monkeypatch.setitem(ion_codes.MOLECULES, "MA", {"C": [0.0]})
    frames = {"C": pseudo.generate("C")}
    found = ion_codes.pseudo_atom(frames, "MA", pseudo.GRID)
    np.testing.assert_allclose(found[1], pseudo.curves(frames)[0][1], rtol=1e-6)
    away = np.abs(found[0] - pseudo.curves(frames)[0][0])
    assert away.max() < 0.02
    # moved out, its charge stays, as far as the grid reaches
    monkeypatch.setitem(ion_codes.MOLECULES, "MA", {"C": [0.5]})
    moved = ion_codes.pseudo_atom(frames, "MA", pseudo.GRID)
    charge = [np.trapezoid(own[0], pseudo.GRID) for own in (found, moved)]
    assert charge[1] == pytest.approx(charge[0], rel=0.03)
    assert np.abs(moved - found).max() > 0.1


def test_organic_ions_lie_beyond_caesium():
    placed = dict.fromkeys(IONS, (4, 1)) | {"Cs": (6, 1)}
    for ion in ion_codes.MOLECULES:
        del placed[ion]
    found = dict(zip(IONS, ion_codes.by_period(placed).tolist(), strict=True))
    assert found["FA"][0] > found["MA"][0] > 6
    assert found["MA"][1] == 1


def test_the_chain_runs_from_curves_to_devices_and_hides_what_is_held_out():
    random = np.random.default_rng(0)
    curves = random.normal(size=(14, 6))
    scale = element_codes.declare("mmd", 0.01, 2, 6, 4)
    every = np.arange(14)
    chain = element_codes.fit(
        scale, {"curves": curves}, Replicas.cross([(every, every)], 1),
        epochs=2, batch_size=7, learning_rate=0.01,
    )  # fmt: skip
    tables = []
    for rows, target in ((60, "gap"), (90, "pce")):
        parts = [random.dirichlet(np.ones(n), rows) for n in (5, 6, 3)]
        table = {"fractions": np.hstack(parts), target: random.random((rows, 1))}
        table["fractions"][:, 2] *= random.random(rows) > 0.7  # Cs in a few
        for site, own in ion_codes.mixed(table["fractions"], curves).items():
            table[f"curves {site}"] = own
        tables.append(table)
    tables[1] |= {"etl": np.eye(7)[random.integers(0, 7, 90)]}
    tables[1] |= {"htl": np.eye(4)[random.integers(0, 4, 90)]}
    elements = chain.fitted["element"]
    site = ion_codes.on_sites(elements)
    same = chain.encode({"curves": tables[0]["curves A"]})
    np.testing.assert_allclose(site.encode(tables[0], "element A"), same)
    ways = ion_codes.folds(*(t["fractions"] for t in tables), 3)
    (cs,) = ways["elements"]
    assert all((tables[k]["fractions"][cs[k][0], 2] == 0).all() for k in (0, 1))
    found = ion_codes.chained(
        "codes", tables, ways["rows"], elements, 0,
        epochs=(2, 2), batch_size=16, learning_rate=0.01,
    )  # fmt: skip
    assert {key: own.shape for key, own in found.items()} == {"gap": (3,), "pce": (3,)}
    assert all(np.isfinite(own).all() for own in found.values())
