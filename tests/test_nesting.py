"""When nesting helps: worlds, their models, the rule, `nestedae advise`."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nestedae_utils import cli
from nestedae_utils.book import records
from nestedae_utils.chapters import (
    nesting_cells,
    nesting_cost,
    nesting_figures,
    nesting_map,
    nesting_rule,
)
from nestedae_utils.chapters.nesting_worlds import ASKED, Dials, at_random, world
from nestedae_utils.data import solvents
from nestedae_utils.errors import DataError
from nestedae_utils.own import advise
from nestedae_utils.own.declaration import read_declaration
from nestedae_utils.study import protocol, statistics

SMALL = Dials(fine=60, coarse=20)
CHAPTER = "19_when_nesting_helps.json"


def changed(**dials):
    return world(replace(SMALL, **dials), seed=3)


def test_a_dial_turns_what_it_names_and_nothing_else():
    usual = changed()
    sizes = {"fine": 60, "middle": 35, "coarse": 20, "asked": ASKED}
    assert {name: len(table["y"]) for name, table in usual.items()} == sizes
    for name, dials in {
        "fine": {"relevance": 0.0, "shift": 2.0, "coarse_noise": 1.0},
        "coarse": {"fine_noise": 1.0, "fine": 90},
    }.items():
        for key, value in changed(**dials)[name].items():
            np.testing.assert_array_equal(value, usual[name][key])
    longer = changed(coarse=30)["coarse"]["inputs"][:20]
    np.testing.assert_array_equal(longer, usual["coarse"]["inputs"])


def test_relevance_shift_and_duplicates_are_what_they_say():
    many = Dials(coarse=4000, fine=50, coarse_noise=0.0)
    for relevance in (0.0, 0.5, 1.0):
        y = world(replace(many, relevance=relevance), 0)["coarse"]["y"]
        assert y.std() == pytest.approx(1, abs=0.1)
    away = world(replace(many, shift=2.0), 0)["coarse"]["inputs"].mean(0)
    assert np.linalg.norm(away) == pytest.approx(2, abs=0.1)
    half = changed(duplicates=0.5)["coarse"]
    assert len(np.unique(half["inputs"], axis=0)) == 10
    assert len(np.unique(half["y"])) == 20, "noise of their own"


def test_nesting_helps_where_it_must_and_harms_where_it_must():
    """Thirty rows of the very fine property; then of another one."""
    known = Dials(coarse=30, likeness=1.0)
    alike = [world(known, seed) for seed in range(4)]
    unlike = replace(known, coarse=200, relevance=0.0)
    other = [world(unlike, seed) for seed in range(4)]
    helps, harms = (
        nesting_map.outcome(some, steps=300, controls=False) for some in (alike, other)
    )
    assert (helps.minus_single() < -0.1).all()
    assert (harms.minus_single() > 0).all()
    assert harms.minus_single().mean() > 0.1
    assert (helps.fine_r2 > 0.5).all()


def test_all_controls_are_trained_and_differ():
    found = nesting_map.outcome([changed(), changed(shift=1.0)], 1, 3, 20, tuning=3)
    assert set(found.errors) == {"single", "nested", *nesting_map.CONTROLS}
    values = np.stack(list(found.errors.values()))
    assert values.shape == (8, 2)
    assert len(np.unique(values)) == values.size
    assert found.latents.shape == (2, 1, 20, 3)


def test_a_world_does_not_depend_on_those_beside_it():
    both = [changed(), changed(relevance=0.0)]
    alone = nesting_map.outcome(both[1:], 1, 3, 20, controls=False)
    beside = nesting_map.outcome(both, 1, 3, 20, controls=False)
    assert alone.errors["nested"][0] == pytest.approx(beside.errors["nested"][1])


# --- the rule --------------------------------------------------------------


def features(count, width):
    return np.random.default_rng(0).normal(size=(count, width))


def test_rule_finds_a_law_its_spread_and_intervals_that_hold_it():
    weights, seen = np.array([0.1, 1, 2, -3]), features(2000, 3)
    noise = 0.5 * np.random.default_rng(1).normal(size=2000)
    gains = weights[0] + seen @ weights[1:] + noise
    found, spread, low, high = nesting_rule.least_squares(seen, gains)
    np.testing.assert_allclose(found, weights, atol=0.05)
    assert spread == pytest.approx(0.5, abs=0.03)
    rule = advise.Rule(found, spread, low, high)
    gain, chance = rule.forecast(seen)
    assert ((gain < 0) == (chance > 0.5)).all()
    ends = nesting_rule.ends(seen[:200], gains[:200])
    assert len(ends) == 5
    for value, (least, most) in zip([*weights, 0.5], ends, strict=True):
        assert least < value < most


def test_spread_is_of_rows_left_out():
    """With nearly as many weights as rows, what is left in is no evidence."""
    seen, gains = features(8, 5), np.random.default_rng(2).normal(size=8)
    weights, spread, *_ = nesting_rule.least_squares(seen, gains)
    left_in = gains - weights[0] - seen @ weights[1:]
    left_out = []
    for n in range(8):
        w = nesting_rule.least_squares(np.delete(seen, n, 0), np.delete(gains, n))[0]
        left_out.append(gains[n] - w[0] - seen[n] @ w[1:])
    assert spread == pytest.approx(np.sqrt(np.mean(np.square(left_out))))
    assert spread > 2 * np.sqrt(np.mean(left_in**2))


def test_evidence_knows_noise_skill_and_shift():
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(size=(60, 2)), 2, axis=0)
    y = x[:, 0] + 0.1 * random.normal(size=120)
    folds = protocol.group_folds(protocol.same(x), 4)
    blind, nothing = random.normal(size=(1, 120, 2)), np.zeros((120, 0))
    one = advise.measure(x, blind, y, folds, nothing)
    assert one["rows"] == 120
    assert one["inputs"] > 0.8 > 0.2 > one["latents"]
    assert one["advantage"] == one["latents"] - one["inputs"]
    assert one["noise"] == pytest.approx(0.1 / y.std(), rel=0.25)
    assert advise.shift([x], [x + x.std(0)]) == pytest.approx(1)


def test_worlds_at_random_have_all_dials_drawn():
    drawn = [vars(at_random(30, seed)) for seed in range(40)]
    assert {one["coarse"] for one in drawn} == {30}
    for dial in ("shift", "duplicates"):
        zero = sum(one[dial] == 0 for one in drawn)
        assert 8 < zero < 32, dial
    for dial in ("relevance", "fine_noise", "coarse_noise", "likeness"):
        assert len({one[dial] for one in drawn}) == 40, dial


# --- the command -----------------------------------------------------------


@pytest.fixture
def rule(tmp_path, monkeypatch):
    """Put a rule where the book's is: the difference of the two skills."""
    value = {"nesting_rule_constant": 0.0, "nesting_rule_advantage": -1.0}
    value |= {"nesting_rule_advantage_least": -9.0, "nesting_rule_advantage_most": 9.0}
    value["nesting_rule_spread"] = 0.1
    empty = dict.fromkeys(records.OURS)
    content = dict.fromkeys(records._KEYS) | {
        "records": [{**empty, "quantity": q, "value": v} for q, v in value.items()]
    }
    monkeypatch.setattr(records, "REFERENCE", tmp_path)
    (tmp_path / CHAPTER).write_text(json.dumps(content))
    return advise.Rule.known()


@pytest.fixture
def declared(tmp_path):
    path = solvents.load("twin").write(tmp_path)
    text = path.read_text(encoding="utf-8").replace("epochs: 300", "epochs: 3")
    path.write_text(text.replace("folds: 5", "folds: 2"), encoding="utf-8")
    return path


def test_advise_says_what_the_rule_says(rule, declared, capsys):
    found = advise.advise(read_declaration(declared))
    (line,) = found.to_dict("records")
    assert (line["scale"], line["target"]) == ("binding", "energy")
    assert (line["rows"], line["fine_rows"]) == (240, 358)
    assert line["gain"] == pytest.approx(line["inputs"] - line["latents"])
    assert line["beyond the rule"] == ""
    narrow = advise.Rule(rule.weights, 1e-9, rule.low, rule.low)
    beyond = narrow.line(line)
    assert beyond["beyond the rule"] == "advantage"
    assert beyond["nesting is"] == "open", "however sure"
    assert cli.main(["advise", str(declared)]) == 0
    out = capsys.readouterr().out
    for words in (line["nesting is"], "fine_r2", "chance"):
        assert words in out


def test_advise_refuses_what_is_not_nested(rule, declared, capsys):
    text = declared.read_text(encoding="utf-8")
    alone = text[: text.index("  - name: binding")] + text[text.index("training:") :]
    declared.write_text(alone, encoding="utf-8")
    assert cli.main(["advise", str(declared)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no scale takes latents" in line


def test_without_the_book_there_is_no_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "REFERENCE", tmp_path)
    with pytest.raises(DataError, match="make reference"):
        advise.Rule.known()


# --- real tables, figures and cost ---------------------------------------


def test_cells_of_crystals_have_their_sites_in_order(tmp_path):
    """The same crystal, its elements listed in another order."""
    names = ["pretty_formula", "a", "b", "c", "volume", "n_atoms"]
    names += ["formation_energy_per_atom", "e_above_hull"]
    target = pd.DataFrame([["SrTiO3", 4, 4, 8, 128, 10, -3.0, 0.1]] * 2, columns=names)
    symbols = pd.DataFrame([["Sr", "Ti", "O"], ["O", "Sr", "Ti"]])
    sites = np.zeros((2, 25), int)
    for row, roles in enumerate([(0, 1, 2), (2, 0, 1)]):
        sites[row, [5 * place + role for place, role in enumerate(roles)]] = 1
    path = tmp_path / "dataset.zip"

    def write():
        parts = {"target": target, "atoms_abx3": symbols}
        parts["site_occupancy"] = pd.DataFrame(sites)
        with zipfile.ZipFile(path, "w") as archive:
            for name, frame in parts.items():
                archive.writestr(f"dataset/{name}.csv", frame.to_csv(index=False))

    write()
    frame = nesting_cells.read(path)
    pd.testing.assert_series_equal(frame.loc[0], frame.loc[1], check_names=False)
    assert frame.loc[0, ["A_period", "B_period", "X_period"]].tolist() == [5, 4, 2]
    assert frame.loc[0, "volume"] == 12.8
    sites[0, 0] = 0
    write()
    with pytest.raises(DataError, match="each once"):
        nesting_cells.read(path)


def test_a_sign_is_certain_where_the_interval_leaves_out_zero():
    one = statistics.Paired(-0.1, -0.2, -0.05, 3, 3)
    assert nesting_figures.certain(one) == -1
    assert nesting_figures.certain(one._replace(low=0.1, high=0.2)) == 1
    assert nesting_figures.certain(one._replace(high=0.01)) == 0
    page = nesting_figures.sliders(
        "x", [[one, one]], ("a <b>", [1, 2]), ("c", [3]), "caption"
    )
    told = "−0.10 (95 %: −0.20 to −0.05), nesting helps"
    # at first, and twice in the table; the script has it escaped
    assert page.count(told) == 3
    assert json.dumps(told) in page
    assert page.count('type="range"') == 2
    assert "a &lt;b&gt;" in page


def test_exponent_of_a_power_law():
    values = np.array([1, 10, 100, 1000])
    slope, low, high = nesting_cost.exponent(values, 3 * values**0.7)
    assert (slope, low, high) == pytest.approx((0.7, 0.7, 0.7))
    noisy = nesting_cost.exponent(values, 3 * values**0.7 * [1, 1.2, 0.9, 1.1])
    assert noisy[1] < 0.7 < noisy[2]


def test_costs_count_the_steps():
    (one,) = nesting_cost.costs("rows", [320], 10, 1)
    assert one["steps"] == 10
    assert one["seconds"] > 0
    table, added = nesting_cost.memory(2000)
    assert table == pytest.approx(2000 * 31 * 4 / 1e6)
    assert added >= 0
