"""Fitting a declaration to tables of one's own, and what can go wrong."""

import itertools
import json
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from conftest import process, told

from nestedae_utils.data.tables import read_text
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import files
from nestedae_utils.own import fit as own
from nestedae_utils.own.columns import Columns
from nestedae_utils.own.declaration import Raw, parse, read_declaration
from nestedae_utils.study.baselines import CLASSIFIERS

TEXT = """\
version: 1
scales:
  - name: gap
    table: gaps.csv
    inputs:
      ions: [radius, mass]
    latent: 2
    predict:
      gap: Gap
  - name: binding
    table: binding.csv
    inputs:
      composition: {latents_of: gap, rename: {mass: weight}}
    categories:
      solvent: Solvent
    latent: 3
    predict:
      energy: {column: E, hidden: [4], output: relu}
      polar: {column: Polar, kind: category}
    group: [radius, weight]
training: {epochs: 4, batch_size: 8, learning_rate: 0.01, seeds: 2}
validation: {folds: 3}
"""
SOLVENTS = ("water", "oil", "DMSO")


def write_tables(folder):
    """Write two tables of a known law, and the declaration."""
    random = np.random.default_rng(0)
    radius, mass = random.uniform(1, 3, (24, 2)).round(3).T
    gaps = pd.DataFrame({"radius": radius, "mass": mass, "note": "as, computed"})
    gaps["Gap"] = (radius + mass**2).round(3)
    binding = pd.DataFrame({"radius": radius[:8], "weight": mass[:8]})
    solvents = pd.DataFrame({"Solvent": SOLVENTS, "E": [1, 6, 11]})
    binding = binding.merge(solvents, how="cross")
    binding["E"] = (binding["E"] + binding["radius"] * binding["weight"]).round(3)
    binding["Polar"] = np.where(binding["Solvent"] == "oil", "no", "yes")
    gaps.to_csv(folder / "gaps.csv", index=False, encoding="utf-8-sig")
    binding.to_csv(folder / "binding.csv", index=False)
    (folder / "mine.yml").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with tables, a declaration and a fitted model."""
    with pytest.MonkeyPatch.context() as patch:
        folder = write_tables(tmp_path_factory.mktemp("own"))
        patch.setenv("NESTEDAE_CACHE", str(folder / "cache"))
        yield folder, own.fit(read_declaration(folder / "mine.yml"))


@pytest.fixture
def folder(tmp_path, own_cache):
    """Return a fresh folder with tables and a declaration."""
    return write_tables(tmp_path)


def test_report_is_complete_and_per_sample(kept):
    _, fitted = kept
    assert tuple(fitted.report.columns) == own.REPORT
    keys = ["target", "model", "metric"]
    report = fitted.report.set_index(keys).sort_index()
    assert np.isfinite(report[["value", "spread"]].to_numpy(float)).all()
    assert set(report["n"]) == {24}
    numbers, both = {"MAE", "RMSE", "R2"}, {own.SINGLE, own.NESTED}
    for target, models, metrics, by in (
        ("gap", {own.SINGLE, *own.REGRESSORS}, numbers, "row"),
        ("energy", {*both, *own.REGRESSORS}, numbers, "group"),
        ("polar", {*both, *CLASSIFIERS}, {"accuracy"}, "group"),
    ):
        pairs = set(itertools.product(models, metrics))
        assert set(report.loc[target].index) == pairs
        assert set(report.loc[target]["by"]) == {by}
    for (target, model), rows in fitted.held_out.groupby(["target", "model"]):
        assert sorted(rows["row"]) == list(range(1, 25))
        lines = report.loc[target, model]
        if target == "polar":
            right = rows["observed"] == rows["predicted"]
            assert lines.loc["accuracy", "value"] == right.mean()
            assert set(rows["predicted"]) <= {"yes", "no"}
        else:
            miss = (rows["observed"] - rows["predicted"]).abs().astype(float)
            expected = [miss.mean(), miss.groupby(rows["fold"]).mean().std()]
            values = lines.loc["MAE", ["value", "spread"]].tolist()
            assert values == pytest.approx(expected)


def test_nothing_but_the_unit_depends_on_the_unit(kept, folder):
    """Of any model: inputs in m, targets in joule, one with an output of limits."""
    units = {"radius": 1e-10, "mass": 1.66e-27, "weight": 1.66e-27, "Gap": 1.602e-19}
    for name in ("gaps.csv", "binding.csv"):
        table = pd.read_csv(folder / name, encoding="utf-8-sig")
        for column in {*units, "E"} & set(table):
            table[column] *= units.get(column, 7e17)
        table.to_csv(folder / name, index=False)
    found = own.fit(read_declaration(folder / "mine.yml")).report
    expected = kept[1].report
    target, metric = expected["target"], expected["metric"]
    unit = target.map({"gap": 1.602e-19, "energy": 7e17}).where(
        metric.isin(["MAE", "RMSE"]), 1.0
    )
    for what in ("value", "spread"):
        near = found[what].to_numpy(float) / unit
        np.testing.assert_allclose(near, expected[what].astype(float), 1e-3, 1e-4)


def test_words_numbers_and_groups_of_a_column():
    def columns(**values):
        return Columns(pd.DataFrame(values), DataError)

    table = columns(x=["True", "false", " TRUE", "\u22122.5"])
    assert table.numbers("x").tolist() == [1, 0, 1, -2.5]
    # whatever a program made of whole numbers is the same kind
    assert columns(x=["62.0", "225", "62"]).kinds("x") == ["225", "62"]
    kinds, raw = ["0.10", "225", "62", "DMSO"], Raw(["x"], True)
    hot = columns(x=["225.0", "62", "0.1", "2.25e2", "DMSO"]).array(raw, kinds)
    assert hot.argmax(1).tolist() == [1, 2, 0, 1, 3]
    # not so versions, codes with zeros, and what may be two
    for words, word in ((["1.1", "1.10"], "1.100"), (["7", "x"], "007")):
        with pytest.raises(DataError):
            columns(x=[word]).array(raw, words)
    # 1 and 1.0 are one value, in two columns that are named alike or not
    table = columns(x=["1", "1.0", "2", "1e0"], y=list("abaa"))
    assert table.groups(["x", "y"]).tolist() == [0, 1, 2, 0]
    thin = columns(x=[str(n * 1e-9) for n in (1, 2, 3)] + ["1.0e-9"])
    assert thin.groups(["x"]).tolist() == [0, 1, 2, 0]
    long = columns(
        x=["12345678901234567891", "12345678901234567892", "0.3", str(0.1 + 0.2)]
    )
    assert len(set(long.groups(["x"]))) == 3


def folds_of(fitted):
    """Return the fold of each row of the upper table."""
    rows = fitted.held_out.query("model == @own.NESTED and target == 'energy'")
    return rows.sort_values("row")["fold"].to_numpy()


def test_groups_are_never_divided(kept, folder):
    table = pd.read_csv(folder / "binding.csv").groupby(["radius", "weight"])
    folds = folds_of(kept[1])
    assert all(len(set(folds[rows])) == 1 for rows in table.indices.values())
    assert len(set(folds)) == 3
    declared = read_declaration(folder / "mine.yml")
    by_row = own.fit(declared, by="row", compare=False)
    assert set(by_row.report["by"]) == {"row"}
    assert set(by_row.report["model"]) == {own.NESTED, own.SINGLE}
    folds = folds_of(by_row)
    assert any(len(set(folds[rows])) > 1 for rows in table.indices.values())
    alone = parse(TEXT[: TEXT.index("  - name: binding")], folder / "mine.yml")
    assert "group: none given in any scale" in told(own.fit, alone, by="group")


def test_scalers_have_seen_training_rows_only(kept):
    folder, fitted = kept
    table = pd.read_csv(folder / "binding.csv")
    chain, seeds = fitted.chain, 2
    assert len(chain.fitted["binding"].replicas) == 3 * seeds
    # the latents' scaler: of each replica's own training rows
    arrays = {"gap.ions": table[["radius", "weight"]].to_numpy()}
    latents = chain.encode(arrays, "gap")
    mean = chain.fitted["binding"].scalers["binding.composition"].mean
    for replica in range(3 * seeds):
        seen = folds_of(fitted) != replica // seeds + 1
        expected = latents[replica][seen].mean(0)
        np.testing.assert_allclose(mean[replica, 0], expected, 1e-5, 1e-6)
    # the scale below: of all rows of its own table
    gaps = pd.read_csv(folder / "gaps.csv")
    mean = chain.fitted["gap"].scalers["gap.ions"].mean
    np.testing.assert_allclose(mean[0, 0], gaps[["radius", "mass"]].mean())


def test_held_out_targets_do_not_reach_the_prediction(folder):
    """Change the held-out values of a fold: its predictions stay."""
    declared = read_declaration(folder / "mine.yml")
    before = own.fit(declared, compare=False).held_out
    rows = before[(before["target"] == "energy") & (before["fold"] == 1)]
    table = pd.read_csv(folder / "binding.csv")
    table.loc[rows["row"].unique() - 1, "E"] += 100
    table.to_csv(folder / "binding.csv", index=False)
    after = own.fit(declared, compare=False).held_out
    both = rows.merge(after, on=["target", "model", "row"])
    assert len(both) == len(rows)
    assert (both["observed_y"] == both["observed_x"] + 100).all()
    before, after = both["predicted_x"], both["predicted_y"]
    np.testing.assert_allclose(before.astype(float), after.astype(float))


@pytest.mark.slow
def test_three_rows_are_fitted_without_a_word_of_a_library(folder):
    scale = ["name: one", "table: three.csv", "inputs: {ions: [radius, mass]}"]
    scale += ["latent: 2", "predict: {gap: Gap}"]
    training = "{epochs: 2, batch_size: 8, learning_rate: 0.01, seeds: 1}"
    text = "version: 1\nscales:\n  - " + "\n    ".join(scale)
    text += f"\ntraining: {training}\nvalidation: {{folds: 2}}\n"
    (folder / "three.yml").write_text(text)
    pd.read_csv(folder / "gaps.csv").head(3).to_csv(folder / "three.csv")
    # workers of other libraries tell what they have to tell on stderr too
    fit = process(folder, "fit three.yml -o out", cwd=folder)
    out, err = fit.communicate()
    assert fit.returncode == 0, err
    assert "R2" in out
    assert all(line.startswith(("nestedae: ", "cell ")) for line in err.splitlines())


def test_the_single_autoencoder_sees_the_same_columns(kept):
    _, fitted = kept
    alone = own.network_of(fitted.declaration, "binding", fitted.kinds, True)
    names = [block.name for block in alone.inputs]
    assert names == ["gap.ions", "binding.solvent"]
    nested = fitted.chain.scales["binding"]
    assert nested.inputs[0].latents_of == "gap"
    energy, polar = nested.predicted
    assert (energy.scaling, polar.loss) == ("size", "cross_entropy"), "relu has a limit"


def test_three_scales_and_no_reconstruction(folder):
    third = """\
  - name: top
    table: binding.csv
    inputs:
      lower: {latents_of: binding}
    latent: 2
    reconstruction: 0
    predict: {length: Length}
"""
    table = read_text(folder / "binding.csv")
    table["Length"] = np.arange(len(table)) % 7
    own.write_table(table, folder / "binding.csv")
    text = TEXT.replace("training:", third + "training:")
    fitted = own.fit(parse(text, folder / "three.yml"), compare=False)
    assert list(fitted.chain.fitted) == ["gap", "binding", "top"]
    path, *_ = fitted.write(folder / "out")
    assert np.isfinite(own.predict(own.load(path), table)["length_predicted"]).all()


def change(**columns):
    """Return a change of a table: new values of its first row."""

    def apply(frame):
        for name, value in columns.items():
            frame[name] = frame[name].astype(object)
            frame.loc[0, name] = value
        return frame

    return apply


def named(**names):
    return lambda frame: frame.rename(columns=names)


def long(frame):
    frame = pd.concat([frame] * 20, ignore_index=True)
    return frame.assign(Solvent=frame.index.map("s{}".format))


TABLES = {
    "a word": ("gaps", change(mass="heavy"), 6, "row 1 below the header: 'h"),
    "missing": ("gaps", change(mass=None), 6, "nothing found, a finite"),
    "infinite": ("gaps", change(mass="inf"), 6, "'inf' found"),
    "huge": ("gaps", change(mass="1e300"), 6, "at most 1e+150"),
    "one field": ("gaps", lambda f: f[["note"]], 6, "Its header is one field, 'note'"),
    "target": ("gaps", change(Gap=""), 9, "column 'Gap': row 1 below"),
    "column": ("gaps", named(mass="Mass"), 6, "Did you mean 'Mass'?"),
    "lower column": ("binding", named(radius="r"), 20, "no such column"),
    "category column": ("binding", named(Solvent="S"), 15, "'Solvent': no su"),
    "twice": ("gaps", named(note="mass"), 6, "stands twice in the table"),
    "no rows": ("gaps", lambda f: f.head(0), 4, "but no rows"),
    "one value": ("gaps", lambda f: f.assign(Gap=1.5), 9, "one and the same"),
    "one word": ("binding", lambda f: f.assign(Solvent="oil"), 15, "1 differ"),
    "many words": ("binding", long, 15, "480 different words found, 2 to 200"),
    "few rows": ("gaps", lambda f: f.head(2), 22, "3 given for 2 rows"),
    "few groups": ("binding", lambda f: f.head(6), 22, "3 given for 2 groups"),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_faulty_table_is_told(fault, folder, monkeypatch):
    """In one line with file, line and key, before anything is trained."""
    monkeypatch.setattr(own.cache, "together", None)
    name, apply, line, words = TABLES[fault]
    path = folder / f"{name}.csv"
    frame = pd.read_csv(path, encoding="utf-8-sig")
    apply(frame).to_csv(path, index=False)
    message = told(own.fit, read_declaration(folder / "mine.yml"))
    assert message.startswith(f"{folder / 'mine.yml'}, line {line}, ")
    assert words in message


@pytest.mark.parametrize("column", ["weight", "radius"])
def test_a_column_below_is_told_where_it_is_asked_for(folder, column):
    text = TEXT.replace("    group: [radius, weight]\n", "")
    table = read_text(folder / "binding.csv").drop(columns=column)
    own.write_table(table, folder / "binding.csv")
    message = told(own.fit, parse(text, folder / "mine.yml"))
    assert "line 13, scales, item 2, inputs, composition" in message


def test_a_table_may_stand_anywhere_and_is_only_read(folder):
    text = TEXT.replace("gaps.csv", str(folder / "gaps.csv"))
    text = text.replace("binding.csv", "../binding.csv")
    inner = folder / "inner" / "mine.yml"
    inner.parent.mkdir()
    fitted = own.fit(parse(text, inner), compare=False)
    assert fitted.held_out["row"].max() == 24
    for table in ("https://example.org/a.csv", "/dev/zero", "a\0b", "~/a"):
        text = TEXT.replace("gaps.csv", json.dumps(table))
        with pytest.raises(DataError, match="line 4, .*(no such|path)"):
            own.fit(parse(text, folder / "mine.yml"))


def test_a_training_that_fails_is_told(folder, monkeypatch):
    error = ParameterError("learning_rate: 0.01 given, but the loss; lower.")
    monkeypatch.setattr(own.cache, "together", Mock(side_effect=error))
    message = told(own.fit, read_declaration(folder / "mine.yml"))
    assert "line 21, training: learning_rate: 0.01 given" in message


def test_prediction_keeps_rows_and_adds_spread(kept):
    folder, fitted = kept
    new = read_text(folder / "binding.csv").drop(columns=["E", "Polar"])
    new = new.iloc[[5, 2, 11]].set_axis(["x", "y", "x"])
    found = own.predict(fitted, new)
    assert found.index.tolist() == ["x", "y", "x"]
    pd.testing.assert_frame_equal(found[new.columns], new)
    words = "energy_predicted energy_spread polar_predicted polar_probability"
    assert found.columns[len(new.columns) :].tolist() == words.split()
    assert set(found["polar_predicted"]) <= {"yes", "no"}
    assert found["polar_probability"].between(0.5, 1).all()
    ions = new[["radius", "weight"]].to_numpy(float)
    solvents = 1.0 * (new["Solvent"].to_numpy()[:, None] == sorted(SOLVENTS))
    table = {"gap.ions": ions, "binding.solvent": solvents}
    energies = fitted.chain.predict(table)["binding.energy"][..., 0]
    np.testing.assert_allclose(found["energy_predicted"], energies.mean(0))
    np.testing.assert_allclose(found["energy_spread"], energies.std(0))
    assert (found["energy_spread"] > 0).all()
    # numbers serve as well as their texts, and so does a lower scale
    typed = own.predict(fitted, new.astype({"radius": float, "weight": float}))
    pd.testing.assert_series_equal(typed["energy_predicted"], found["energy_predicted"])
    gaps = read_text(folder / "gaps.csv")
    assert np.isfinite(own.predict(fitted, gaps, scale="gap")["gap_predicted"]).all()
    with pytest.raises(ParameterError, match="Did you mean 'gap'"):
        own.predict(fitted, gaps, scale="gaps")


NEW = {
    "mean 'radios'?": named(radius="radios"),
    "from the training (DMSO, oil, water)": change(Solvent="ether"),
    "row 1 below the header: 'wide' found": change(radius="wide"),
    "nothing found": change(radius=np.nan),
    "no rows": lambda frame: frame.head(0),
    "stands in the table already": lambda f: f.assign(energy_spread=1),
}


@pytest.mark.parametrize("words", NEW)
def test_prediction_of_a_faulty_table(kept, words):
    folder, fitted = kept
    new = NEW[words](pd.read_csv(folder / "binding.csv"))
    message = told(own.predict, fitted, new, source="new.csv")
    assert message.startswith("new.csv")
    assert words in message


def test_a_folder_of_results_and_the_round_trip(kept, tmp_path):
    folder, fitted = kept
    out = tmp_path / "new" / "out"
    names = ["mine.nestedae", "mine_report.csv", "mine_held_out.csv"]
    for _ in range(2):
        paths = fitted.write(out)
        assert paths == [out / name for name in names]
        assert set(out.iterdir()) == set(paths)
    np.testing.assert_allclose(pd.read_csv(paths[1])["value"], fitted.report["value"])
    assert len(pd.read_csv(paths[2])) == len(fitted.held_out)
    again = own.load(paths[0])
    assert (again.declaration.title, again.kinds) == ("mine", fitted.kinds)
    pd.testing.assert_frame_equal(again.report, fitted.report)
    new = read_text(folder / "binding.csv")
    pd.testing.assert_frame_equal(own.predict(again, new), own.predict(fitted, new))


@pytest.mark.parametrize("fails", ["os.replace", "pandas.DataFrame.to_csv"])
def test_nothing_half_written_stays(kept, tmp_path, monkeypatch, fails):
    _, fitted = kept
    out = tmp_path / "out"
    fitted.write(out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(fails, full)
    with pytest.raises((OSError, DataError), match="No space left"):
        fitted.write(out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


MODELS = {
    "nothing of it": (lambda extra: extra.clear(), "not a fitted declaration"),
    "changed": (lambda e: e["declaration"]["scales"][0].update(l1=3), "saved"),
    "unknown key": (lambda e: e["declaration"].update(run="ls"), "unknown ke"),
    "a way out": (lambda e: e["declaration"].update(name="../x"), "a name is"),
    "no kinds": (lambda e: e["kinds"].clear(), "saved with"),
    "other kinds": (lambda e: e["kinds"].update({"binding.polar": 7}), "not a"),
    "fewer kinds": (lambda e: e["kinds"]["binding.solvent"].pop(), "saved"),
    "no report": (lambda extra: extra.pop("report"), "'report'"),
}


@pytest.mark.parametrize("fault", MODELS)
def test_a_faulty_model_is_told(fault, kept, tmp_path):
    _, fitted = kept
    alter, words = MODELS[fault]
    path, *_ = fitted.write(tmp_path)
    extra = files.load_extra(path)
    alter(extra)
    files.save(fitted.chain, path, extra)
    message = told(own.load, path)
    assert message.startswith(str(path))
    assert words in message


def test_not_a_model_at_all(kept, tmp_path):
    folder, fitted = kept
    path, *_ = fitted.write(tmp_path)
    path.write_bytes(path.read_bytes()[:900])
    assert "no such file" in told(own.load, tmp_path / "model")
    for other in (path, folder / "gaps.csv", folder / "mine.yml", tmp_path):
        assert "not a saved model, or cut short" in told(own.load, other)
