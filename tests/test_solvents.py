"""The two tables of the example of one's own data, and their twin."""

import pandas as pd
import pytest

from nestedae_utils.chapters import solvents
from nestedae_utils.data import files as datasets
from nestedae_utils.data import tables
from nestedae_utils.errors import DataError, DataUnavailable, ParameterError
from nestedae_utils.own import fit as own_data
from nestedae_utils.own.declaration import read_declaration

DECLARED = read_declaration(solvents.DECLARATION)


def named_columns():
    """Return the columns that the declaration asks of each table."""
    for scale in DECLARED.scales:
        yield (
            scale.name,
            {c for raw in DECLARED.blocks(scale.name).values()
             for c in raw.columns}
            | {t.column for t in scale.predict.values()}
            | set(scale.group),
        )  # fmt: skip


def of(found):
    return {"gap": found.gaps, "binding": found.binding}


@pytest.mark.parametrize("source", ["paper", "twin"])
def test_tables_have_what_is_declared(source, request):
    if source == "paper":
        request.getfixturevalue("public")
    found = solvents.load(source)
    assert found.source == source
    for name, columns in named_columns():
        frame = of(found)[name]
        assert columns <= set(frame.columns)
        assert not frame[list(columns)].isna().any().any()
    assert len(found.gaps) == 358
    assert len(found.binding) == 240
    group = found.binding.groupby(DECLARED.scales[1].group)
    assert len(group) == 30
    assert (group["SOLVENT"].nunique() == 8).all()
    assert found.binding["Formula"].nunique() == 30
    assert len(found.checksums) == 2


def test_the_authors_latents_are_not_named(public):
    columns = set().union(*(part for _, part in named_columns()))
    latents = {f"l{place}" for place in range(11)}
    assert latents <= set(solvents.load("paper").binding.columns)
    assert not latents & columns


def test_twin_is_always_the_same_and_no_published_row(public):
    first, second = solvents.load("twin"), solvents.load("twin")
    pd.testing.assert_frame_equal(first.binding, second.binding)
    assert first.checksums == second.checksums
    published = solvents.load("paper").binding
    both = first.binding.merge(published, on=["SOLVENT", "Target", "Cation"])
    assert len(both) < 3, "an energy may be the same by chance"


def test_which_tables_are_taken(public, monkeypatch):
    assert solvents.load("auto").source == "paper"
    with pytest.raises(ParameterError, match="Did you mean 'twin'"):
        solvents.load("twins")

    def unavailable(_):
        raise DataUnavailable("no network")

    for module in (solvents, tables):
        monkeypatch.setattr(module, "fetch", unavailable)
    assert solvents.load("auto").source == "twin"
    with pytest.raises(DataUnavailable):
        solvents.load("paper")

    def faulty(_):
        raise DataError("truncated")

    for module in (solvents, tables):
        monkeypatch.setattr(module, "fetch", faulty)
    with pytest.raises(DataError, match="truncated"):
        solvents.load("auto")


@pytest.mark.parametrize("source", ["paper", "twin"])
def test_written_tables_can_be_fitted(source, request, tmp_path):
    if source == "paper":
        request.getfixturevalue("public")
    path = solvents.load(source).write(tmp_path / "new")
    assert path.read_bytes() == solvents.DECLARATION.read_bytes()
    declared = read_declaration(path)
    kinds = {}
    for scale in declared.scales:
        task = own_data._task(declared, scale.name, kinds, "declared")
        assert len(task.splits) == 5
    assert len(kinds["binding.solvent"]) == 8
    if source == "paper":
        copy = (tmp_path / "new" / "binding.csv").read_bytes()
        public = datasets.fetch(solvents.BINDING_KEY)
        assert copy == public.read_bytes()
