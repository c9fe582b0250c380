"""The two tables of the example of one's own data, and their twin."""

import pandas as pd
import pytest
import yaml

from nestedae_utils.data import solvents, tables
from nestedae_utils.errors import DataUnavailable

GAP, BINDING = yaml.safe_load(solvents.DECLARATION.read_text())["scales"]
COLUMNS = {
    "gaps": [*GAP["inputs"]["ions"], GAP["predict"]["gap"]["column"]],
    "binding": [
        *GAP["inputs"]["ions"],
        *BINDING["categories"].values(),
        BINDING["predict"]["energy"]["column"],
        *BINDING["group"],
    ],
}


@pytest.mark.parametrize("source", ["paper", "twin"])
def test_tables_have_what_is_declared(source, public, tmp_path):
    loaded = solvents.load(source)
    assert loaded.source == source
    for name, columns in COLUMNS.items():
        assert not getattr(loaded, name)[columns].isna().any(axis=None)
    assert (len(loaded.gaps), len(loaded.binding)) == (358, 240)
    group = loaded.binding.groupby(BINDING["group"])
    assert len(group) == loaded.binding["Formula"].nunique() == 30
    assert (group["SOLVENT"].nunique() == 8).all()
    assert len(loaded.checksums) == 2
    again = solvents.load(source)
    pd.testing.assert_frame_equal(loaded.binding, again.binding)
    assert loaded.checksums == again.checksums

    path = loaded.write(tmp_path / "new")
    assert path.read_bytes() == solvents.DECLARATION.read_bytes()
    for name, key in solvents.KEYS.items():
        written = path.with_name(f"{name}.csv")
        assert len(tables.read_text(written)) == len(getattr(loaded, name))
        if source == "paper":
            assert written.read_bytes() == public(key).read_bytes()


def test_no_published_row_and_no_latent_of_the_authors(public, monkeypatch):
    published = solvents.load("auto").binding
    latents = {f"l{number}" for number in range(11)}
    assert latents <= set(published.columns)
    assert not latents & {*COLUMNS["gaps"], *COLUMNS["binding"]}
    keys = ["SOLVENT", "Target", "Cation"]
    both = solvents.load("twin").binding.merge(published, on=keys)
    assert len(both) < 3, "an energy may be the same by chance"

    def unavailable(_):
        raise DataUnavailable("no network")

    monkeypatch.setattr(tables, "fetch", unavailable)
    assert solvents.load("auto").source == "twin"
    with pytest.raises(DataUnavailable):
        solvents.load("paper")
