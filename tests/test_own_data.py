"""Fitting a declaration to tables of one's own, and what can go wrong."""

import io
import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model.chain import NestedAutoencoder
from nestedae_utils.own import fit as own_data
from nestedae_utils.own.declaration import parse, read_declaration

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


def write_tables(folder, seed=0):
    """Write two tables of a known law, and the declaration."""
    random = np.random.default_rng(seed)
    gaps = pd.DataFrame(random.uniform(1, 3, (24, 2)).round(3))
    gaps.columns = ["radius", "mass"]
    gaps["Gap"] = (gaps["radius"] + gaps["mass"] ** 2).round(3)
    gaps["note"] = "as, computed"
    rows = []
    for place in range(8):
        radius, mass = gaps.loc[place, ["radius", "mass"]]
        for strength, solvent in enumerate(SOLVENTS):
            rows.append(
                {
                    "id": f"m{place}-{solvent}",
                    "radius": radius,
                    "weight": mass,
                    "Solvent": solvent,
                    "E": round(5 * strength + radius * mass + 1, 3),
                    "Polar": "no" if solvent == "oil" else "yes",
                }
            )
    gaps.to_csv(folder / "gaps.csv", index=False, encoding="utf-8-sig")
    pd.DataFrame(rows).to_csv(folder / "binding.csv", index=False)
    (folder / "mine.yml").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with tables, a declaration and a fitted model."""
    with pytest.MonkeyPatch.context() as patch:
        folder = write_tables(tmp_path_factory.mktemp("own"))
        patch.setenv("NESTEDAE_CACHE", str(folder / "cache"))
        fitted = own_data.fit(read_declaration(folder / "mine.yml"))
        yield folder, fitted


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a fresh folder with tables and a declaration."""
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    return write_tables(tmp_path)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what is fitted --------------------------------------------------------


def test_report_is_complete_and_per_sample(kept):
    _, fitted = kept
    report = fitted.report
    assert tuple(report.columns) == own_data.REPORT
    regressors = {own_data.SINGLE, *own_data.REGRESSORS}
    classifiers = {own_data.SINGLE, own_data.NESTED, *own_data.CLASSIFIERS}
    for target, models, metrics, rows, by in (
        ("gap", regressors, {"MAE", "RMSE", "R2"}, 24, "row"),
        (
            "energy",
            regressors | {own_data.NESTED},
            {"MAE", "RMSE", "R2"},
            24,
            "group",
        ),
        ("polar", classifiers, {"accuracy"}, 24, "group"),
    ):
        part = report[report["target"] == target]
        assert set(part["model"]) == models
        assert set(part["metric"]) == metrics
        assert len(part) == len(models) * len(metrics)
        assert set(part["n"]) == {rows}
        assert set(part["by"]) == {by}
        assert np.isfinite(part[["value", "spread"]].to_numpy(float)).all()
    for (_, target, model), part in fitted.held_out.groupby(
        ["scale", "target", "model"]
    ):
        assert sorted(part["row"]) == list(range(1, 25))
        line = report[
            (report["target"] == target) & (report["model"] == model)
        ].set_index("metric")
        if target == "polar":
            right = part["observed"] == part["predicted"]
            assert line.loc["accuracy", "value"] == right.mean()
            assert set(part["predicted"]) <= {"yes", "no"}
        else:
            miss = (part["observed"] - part["predicted"]).abs()
            assert line.loc["MAE", "value"] == pytest.approx(miss.mean())
            each = miss.astype(float).groupby(part["fold"]).mean()
            assert line.loc["MAE", "spread"] == pytest.approx(each.std())


def test_groups_are_never_divided(kept):
    folder, fitted = kept
    table = pd.read_csv(folder / "binding.csv")
    part = fitted.held_out[fitted.held_out["model"] == own_data.NESTED]
    fold = part[part["target"] == "energy"].set_index("row")["fold"]
    table["fold"] = fold.loc[range(1, len(table) + 1)].to_numpy()
    groups = table.groupby(["radius", "weight"])["fold"]
    assert (groups.nunique() == 1).all()
    assert table["fold"].nunique() == 3


def test_folds_by_row_divide_groups(folder):
    found = own_data.fit(
        read_declaration(folder / "mine.yml"), by="row", compare=False
    )
    assert set(found.report["by"]) == {"row"}
    assert set(found.report["model"]) == {own_data.NESTED, own_data.SINGLE}
    assert set(found.report[found.report["scale"] == "gap"]["model"]) == {
        own_data.SINGLE
    }
    with pytest.raises(ParameterError, match="by: 'rows' given"):
        own_data.fit(found.declaration, by="rows")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1", "1.0", "2", "0.333333333333", "1e0"]),
            st.sampled_from(["a", "b", "1"]),
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=50, deadline=None)
def test_groups_compare_numbers_as_numbers(rows):
    frame = pd.DataFrame(rows, columns=["x", "y"])
    found = own_data._groups(frame, ["x", "y"], lambda *_: DataError())
    for first, (x, y) in enumerate(rows):
        for second, (other, word) in enumerate(rows):
            words = {row[1] for row in rows}
            alike = float(y) == float(word) if words == {"1"} else y == word
            assert (found[first] == found[second]) == (
                float(x) == float(other) and alike
            )


def test_scalers_have_seen_training_rows_only(kept):
    folder, fitted = kept
    table = pd.read_csv(folder / "binding.csv")
    part = fitted.held_out[fitted.held_out["model"] == own_data.NESTED]
    fold = part[part["target"] == "energy"].set_index("row")["fold"]
    chain, seeds = fitted.chain, 2
    assert chain.fitted["binding"].replicas == 3 * seeds
    # the latents' scaler: of each replica's own training rows
    arrays = {"gap.ions": table[["radius", "weight"]].to_numpy()}
    latents = chain.encode(arrays, "gap")
    scaler = chain.fitted["binding"].scalers["binding.composition"]
    for replica in range(3 * seeds):
        seen = (fold.to_numpy() != replica // seeds + 1).nonzero()[0]
        np.testing.assert_allclose(
            scaler.mean[replica, 0],
            latents[replica][seen].mean(0),
            rtol=1e-5,
            atol=1e-6,
        )
    # the scale below: of all rows of its own table
    gaps = pd.read_csv(folder / "gaps.csv")
    mean = chain.fitted["gap"].scalers["gap.ions"].mean
    np.testing.assert_allclose(mean[0, 0], gaps[["radius", "mass"]].mean())


def test_held_out_targets_do_not_reach_the_prediction(folder):
    """Change the held-out values of a fold: its predictions stay."""
    declared = read_declaration(folder / "mine.yml")
    before = own_data.fit(declared).held_out
    rows = before[(before["target"] == "energy") & (before["fold"] == 1)]
    table = pd.read_csv(folder / "binding.csv")
    table.loc[rows["row"].unique() - 1, "E"] += 100
    table.to_csv(folder / "binding.csv", index=False)
    after = own_data.fit(declared).held_out
    keys = ["target", "model", "row"]
    both = rows.merge(after, on=keys)
    assert len(both) == len(rows)
    assert (both["observed_y"] == both["observed_x"] + 100).all()
    np.testing.assert_array_equal(
        both["predicted_x"].astype(float), both["predicted_y"].astype(float)
    )


def test_the_single_autoencoder_sees_the_same_columns(kept):
    _, fitted = kept
    alone = own_data._network(
        fitted.declaration, "binding", fitted.kinds, alone=True
    )
    assert [block.name for block in alone.inputs] == [
        "gap.ions",
        "binding.solvent",
    ]
    nested = own_data._network(fitted.declaration, "binding", fitted.kinds)
    assert nested.inputs[0].latents_of == "gap"
    heads = {head.name: head for head in nested.heads}
    assert heads["binding.energy"].scaling == "none", "relu has a limit"
    assert heads["binding.polar"].loss == "cross_entropy"


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
    table = pd.read_csv(folder / "binding.csv")
    table["Length"] = np.arange(len(table)) % 7
    table.to_csv(folder / "binding.csv", index=False)
    text = TEXT.replace("training:", third + "training:")
    fitted = own_data.fit(parse(text, folder / "three.yml"), compare=False)
    assert list(fitted.chain.fitted) == ["gap", "binding", "top"]
    path = fitted.save(folder / "three.nestedae")
    new = own_data.read_table(folder / "binding.csv")
    found = own_data.predict(own_data.load(path), new)
    assert np.isfinite(found["length_predicted"]).all()


# --- tables that are not what the declaration says -------------------------


def change(**columns):
    """Return a change of a table: new values of its first row."""

    def apply(frame):
        for name, value in columns.items():
            frame[name] = frame[name].astype(object)
            frame.loc[0, name] = value
        return frame

    return apply


TABLES = {
    "a word": ("gaps", change(mass="heavy"), 6, "row 1 below the header: 'h"),
    "missing": ("gaps", change(mass=None), 6, "nothing found, a finite"),
    "NaN": ("gaps", change(mass="NaN"), 6, "'NaN' found"),
    "infinite": ("gaps", change(mass="inf"), 6, "'inf' found"),
    "huge": ("gaps", change(mass="1e300"), 6, "at most 1e+15"),
    "comma": ("gaps", change(mass="1,5"), 6, "'1,5' found"),
    "target": ("gaps", change(Gap=""), 9, "column 'Gap': row 1 below"),
    "no category": ("binding", change(Solvent=" "), 15, "nothing found"),
    "no group": ("binding", change(weight=""), 20, "nothing found"),
    "column": (
        "gaps",
        lambda frame: frame.rename(columns={"mass": "Mass"}),
        6,
        "column 'mass': no such column in the table. Did you mean 'Mass'?",
    ),
    "renamed column": (
        "binding",
        lambda frame: frame.drop(columns="weight"),
        20,
        "column 'weight': no such column",
    ),
    "lower column": (
        "binding",
        lambda frame: frame.drop(columns="radius"),
        20,
        "column 'radius': no such column",
    ),
    "category column": (
        "binding",
        lambda frame: frame.rename(columns={"Solvent": "solvent"}),
        15,
        "Did you mean 'solvent'?",
    ),
    "twice": (
        "gaps",
        lambda frame: frame.rename(columns={"note": "mass"}),
        6,
        "stands twice in the table",
    ),
    "no rows": ("gaps", lambda frame: frame.head(0), 4, "but no rows"),
    "one value": (
        "gaps",
        lambda frame: frame.assign(Gap=1.5),
        9,
        "one and the same value",
    ),
    "one word": (
        "binding",
        lambda frame: frame.assign(Solvent="water"),
        15,
        "1 different words found, 2 to 200",
    ),
    "too many words": (
        "binding",
        lambda frame: pd.concat([frame] * 20, ignore_index=True).assign(
            Solvent=lambda long: long.index.map("s{}".format)
        ),
        15,
        "480 different words found",
    ),
    "few rows": ("gaps", lambda f: f.head(2), 22, "3 given for the 2 rows"),
    "few groups": (
        "binding",
        lambda frame: frame.head(6),
        22,
        "3 given for the 2 groups of scale 'binding'",
    ),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_faulty_table_is_told(fault, folder, monkeypatch):
    """In one line with file, line and key, before anything is trained."""
    monkeypatch.setattr(own_data.selection, "fit", None)
    name, apply, line, words = TABLES[fault]
    path = folder / f"{name}.csv"
    frame = pd.read_csv(path, encoding="utf-8-sig")
    apply(frame).to_csv(path, index=False)
    with pytest.raises(DataError) as caught:
        own_data.fit(read_declaration(folder / "mine.yml"))
    message = one_line(caught)
    assert message.startswith(f"{folder / 'mine.yml'}, line {line}, ")
    assert words in message


def test_a_column_below_is_told_where_it_is_asked_for(folder):
    text = TEXT.replace("    group: [radius, weight]\n", "")
    path = folder / "binding.csv"
    frame = pd.read_csv(path)
    for column, line in (("weight", 13), ("radius", 13)):
        frame.drop(columns=column).to_csv(path, index=False)
        with pytest.raises(DataError) as caught:
            own_data.fit(parse(text, folder / "mine.yml"))
        assert f"line {line}, scales, item 2, inputs" in one_line(caught)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"a,b\n1,2\n1,2,3\n", "not a CSV table"),
        (b"a,b\n\xff\xfe,1\n", "not a CSV table"),
        (b'a,b\n"1,2\n', "not a CSV table"),
    ],
)
def test_what_is_no_table(folder, content, words):
    path = folder / "gaps.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        own_data.fit(read_declaration(folder / "mine.yml"))
    message = one_line(caught)
    assert words in message
    assert "line 4, scales, item 1, table" in message


def test_a_table_is_read_as_it_stands(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,x\n007,NA\n"a,b",1e3\nc\n', encoding="utf-8-sig")
    found = own_data.read_table(path)
    assert found.columns.tolist() == ["id", "x"]
    assert found.to_numpy().tolist() == [
        ["007", "NA"],
        ["a,b", "1e3"],
        ["c", ""],
    ]


def test_a_table_may_stand_anywhere(folder):
    """Upwards or by its full path; it is only read."""
    declared = TEXT.replace("gaps.csv", str(folder / "gaps.csv"))
    declared = declared.replace("binding.csv", "../binding.csv")
    found = parse(declared, folder / "inner" / "mine.yml")
    (folder / "inner").mkdir()
    kinds = {}
    for scale in found.scales:
        task = own_data._task(found, scale.name, kinds, "declared")
        assert task.rows == 24


def test_no_address_and_no_device_is_read(tmp_path):
    for table in ("https://example.org/a.csv", "/dev/zero", "a\0b", "~/a"):
        text = TEXT.replace("gaps.csv", json.dumps(table))
        with pytest.raises(DataError, match="no such file|printable"):
            own_data.fit(parse(text, tmp_path / "mine.yml"))


def test_a_training_that_fails_is_told(folder, monkeypatch):
    def fail(*_):
        raise ParameterError("learning_rate: 0.01 given, but the loss; lower.")

    monkeypatch.setattr(own_data.cache, "together", fail)
    with pytest.raises(DataError) as caught:
        own_data.fit(read_declaration(folder / "mine.yml"))
    words = "line 21, training: learning_rate: 0.01 given"
    assert words in one_line(caught)


# --- prediction ------------------------------------------------------------


def test_prediction_keeps_rows_and_adds_spread(kept):
    folder, fitted = kept
    new = own_data.read_table(folder / "binding.csv").drop(
        columns=["E", "Polar"]
    )
    new = new.iloc[[5, 2, 11]].set_axis(["x", "y", "x"])
    found = own_data.predict(fitted, new)
    assert found.index.tolist() == ["x", "y", "x"]
    pd.testing.assert_frame_equal(found[new.columns], new)
    assert found.columns[len(new.columns) :].tolist() == [
        "energy_predicted",
        "energy_spread",
        "polar_predicted",
        "polar_probability",
    ]
    assert (found["energy_spread"] > 0).all()
    assert set(found["polar_predicted"]) <= {"yes", "no"}
    assert found["polar_probability"].between(0.5, 1).all()
    table = {
        "gap.ions": new[["radius", "weight"]].to_numpy(float),
        "binding.solvent": (
            new["Solvent"].to_numpy()[:, None] == ["DMSO", "oil", "water"]
        ).astype(float),
    }
    made = fitted.chain.predict(table)["binding.energy"][..., 0]
    np.testing.assert_allclose(found["energy_predicted"], made.mean(0))
    np.testing.assert_allclose(found["energy_spread"], made.std(0))
    # numbers serve as well as their texts, and so does a lower scale
    typed = new.astype({"radius": float, "weight": float})
    pd.testing.assert_series_equal(
        own_data.predict(fitted, typed)["energy_predicted"],
        found["energy_predicted"],
    )
    gaps = own_data.read_table(folder / "gaps.csv")
    lower = own_data.predict(fitted, gaps, scale="gap")
    assert np.isfinite(lower["gap_predicted"]).all()
    with pytest.raises(ParameterError, match="Did you mean 'gap'"):
        own_data.predict(fitted, gaps, scale="gaps")


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (lambda f: f.drop(columns="weight"), "column 'weight': no such"),
        (lambda f: f.rename(columns={"radius": "radios"}), "mean 'radios'?"),
        (lambda f: f.assign(Solvent="ether"), "'ether' found, a word known"),
        (lambda f: f.assign(Solvent="Water"), "(DMSO, oil, water)"),
        (change(radius="wide"), "row 1 below the header: 'wide' found"),
        (change(radius=np.nan), "nothing found"),
        (lambda f: f.head(0), "no rows"),
        (lambda f: f.assign(energy_spread=1), "stands in the table already"),
        (lambda f: pd.concat([f, f], axis=1), "stands twice"),
    ],
)
def test_prediction_of_a_faulty_table(kept, apply, words):
    folder, fitted = kept
    new = apply(pd.read_csv(folder / "binding.csv"))
    with pytest.raises(DataError) as caught:
        own_data.predict(fitted, new, source="new.csv")
    message = one_line(caught)
    assert message.startswith("new.csv")
    assert words in message


# --- files -----------------------------------------------------------------


def test_model_makes_the_round_trip(kept, tmp_path):
    folder, fitted = kept
    path = fitted.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    again = own_data.load(path)
    assert again.declaration.title == "mine"
    assert again.kinds == fitted.kinds
    pd.testing.assert_frame_equal(again.report, fitted.report)
    new = own_data.read_table(folder / "binding.csv")
    pd.testing.assert_frame_equal(
        own_data.predict(again, new), own_data.predict(fitted, new)
    )
    # it can be saved again, and is the same
    second = own_data.load(again.save(tmp_path / "second"))
    assert second.declaration.plain() == again.declaration.plain()


def test_a_folder_of_results(kept, tmp_path):
    _, fitted = kept
    out = tmp_path / "new" / "out"
    for _ in range(2):
        paths = fitted.write(out)
        assert sorted(out.iterdir()) == sorted(paths)
    names = ["mine.nestedae", "mine_report.csv", "mine_held_out.csv"]
    assert [path.name for path in paths] == names
    report = pd.read_csv(paths[1])
    np.testing.assert_allclose(report["value"], fitted.report["value"])
    assert len(pd.read_csv(paths[2])) == len(fitted.held_out)


def test_nothing_half_written_stays(kept, tmp_path, monkeypatch):
    _, fitted = kept
    fitted.write(tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for place in ("os.replace", "pandas.DataFrame.to_csv", "torch.save"):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            with pytest.raises(DataError) as caught:
                fitted.write(tmp_path / "out")
            assert "cannot be written" in one_line(caught)
        after = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
        assert after == before
    file = tmp_path / "file"
    file.write_text("")
    for path in (file / "out", file):
        with pytest.raises(DataError, match="cannot be written"):
            fitted.write(path)
    with pytest.raises(DataError, match="cannot be written"):
        fitted.save(tmp_path / "nowhere" / "model")
    with pytest.raises(DataError, match="cannot be written"):
        own_data.write_table(fitted.report, tmp_path / "nowhere" / "a.csv")


def rewritten(path, old, change):
    """Copy a model with one of its two parts changed."""
    with zipfile.ZipFile(old) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def in_json(**changes):
    def apply(parts):
        content = json.loads(parts["declaration.json"])
        for key, value in changes.items():
            if value is None:
                del content[key]
            elif callable(value):
                value(content[key])
            else:
                content[key] = value
        parts["declaration.json"] = json.dumps(content).encode()

    return apply


def in_chain(name, make):
    def apply(parts):
        payload = torch.load(io.BytesIO(parts["chain.pt"]), weights_only=True)
        payload["tensors"][name] = make(payload["tensors"][name])
        buffer = io.BytesIO()
        torch.save(payload, buffer)
        parts["chain.pt"] = buffer.getvalue()

    return apply


class Evil:
    """Creates a file where it is unpickled."""

    def __reduce__(self):
        return (open, ("pwned", "w"))


def evil_chain(parts):
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    parts["chain.pt"] = buffer.getvalue()


MODELS = {
    "another version": (in_json(format=2), "format 2 found, format 1"),
    "no version": (in_json(format=None), "format None found"),
    "no declaration": (in_json(declaration=None), "a mapping is allowed"),
    "changed scale": (
        in_json(declaration=lambda d: d["scales"][0].update(latent=3)),
        "not a fitted model",
    ),
    "unknown key": (
        in_json(declaration=lambda d: d.update(command="ls")),
        "unknown key",
    ),
    "name that leaves": (
        in_json(declaration=lambda d: d.update(name="../../x")),
        "a name is allowed",
    ),
    "no kinds": (in_json(kinds={}), "its categories do not fit"),
    "other kinds": (
        in_json(kinds=lambda k: k.update({"binding.solvent": [1, 2]})),
        "its categories do not fit",
    ),
    "fewer kinds": (
        in_json(kinds=lambda k: k["binding.solvent"].pop()),
        "not a fitted model",
    ),
    "no report": (in_json(report=None), "its report cannot be read"),
    "no JSON": (
        lambda parts: parts.update({"declaration.json": b"{"}),
        "JSONDecodeError",
    ),
    "deep JSON": (
        lambda parts: parts.update({"declaration.json": b"[" * 100_000}),
        "not a fitted model",
    ),
    "JSON list": (
        lambda parts: parts.update({"declaration.json": b"[]"}),
        "format None found",
    ),
    "no chain": (lambda parts: parts.pop("chain.pt"), "other parts"),
    "further parts": (lambda p: p.update({"../x": b""}), "other parts"),
    "chain cut short": (
        lambda p: p.update({"chain.pt": p["chain.pt"][:900]}),
        "not a fitted model",
    ),
    "pickled code": (evil_chain, "not a fitted model"),
    "NaN": (
        in_chain("binding|parameters", lambda t: t * np.nan),
        "'binding' is incomplete",
    ),
    "whole numbers": (
        in_chain("binding|parameters", lambda t: t.int()),
        "'binding' is incomplete",
    ),
    "another scaler": (
        in_chain("gap|scaler||gap.ions|mean", lambda t: t[..., :1]),
        "'gap' is incomplete",
    ),
    "fewer parameters": (
        in_chain("gap|parameters", lambda t: t[:, 1:]),
        "not a fitted model",
    ),
}


@pytest.mark.parametrize("fault", MODELS)
def test_a_faulty_model_is_told(fault, kept, tmp_path, monkeypatch):
    _, fitted = kept
    monkeypatch.chdir(tmp_path)
    change, words = MODELS[fault]
    good = fitted.save(tmp_path / "good")
    path = rewritten(tmp_path / "bad", good, change)
    with pytest.raises(DataError) as caught:
        own_data.load(path)
    message = one_line(caught)
    assert message.startswith(str(path))
    assert words in message
    assert {p.name for p in tmp_path.iterdir()} == {"good", "bad"}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_model_cut_short(kept, tmp_path, share):
    _, fitted = kept
    path = fitted.save(tmp_path / "model")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="not a fitted model, or cut short"):
        own_data.load(path)


def test_an_altered_model(kept, tmp_path):
    _, fitted = kept
    path = fitted.save(tmp_path / "model")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a fitted model"):
        own_data.load(path)


def test_not_a_model_at_all(kept, tmp_path):
    folder, fitted = kept
    with pytest.raises(DataError, match="no such file"):
        own_data.load(tmp_path / "model")
    for path in (folder / "gaps.csv", folder / "mine.yml"):
        with pytest.raises(DataError, match="not a fitted model"):
            own_data.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        own_data.load(tmp_path)
    chain = NestedAutoencoder(list(fitted.chain.scales.values()))
    chain.save(tmp_path / "chain")
    with pytest.raises(DataError, match="other parts than a model has"):
        own_data.load(tmp_path / "chain")
    # packed parts could grow when they are read
    good = fitted.save(tmp_path / "good")
    with (
        zipfile.ZipFile(good) as old,
        zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DataError, match="other parts than a model has"):
        own_data.load(tmp_path / "zip")


def test_a_fit_again_gives_the_same(kept, tmp_path, monkeypatch):
    folder, fitted = kept
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    for name in ("gaps.csv", "binding.csv", "mine.yml"):
        shutil.copy(folder / name, tmp_path)
    again = own_data.fit(read_declaration(tmp_path / "mine.yml"))
    pd.testing.assert_frame_equal(again.report, fitted.report)
