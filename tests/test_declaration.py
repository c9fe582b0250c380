"""The YAML file that declares scales: what it says, and every fault in it."""

import json
from pathlib import Path

import conftest
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import DataError
from nestedae_utils.own.declaration import Raw, from_plain, parse, read_declaration

EXAMPLE = Path(__file__).parents[1] / "data" / "solvent_binding.yml"
GOOD = """\
version: 1
scales:
  - name: gap
    table: gaps.csv
    inputs:
      ions: [radius, mass]
    categories: {metal: B}
    latent: 2
    predict:
      gap: Gap
  - name: binding
    table: sub/binding.csv
    inputs:
      composition: {latents_of: gap, rename: {mass: weight}}
      own: [density]
    latent: 3
    predict:
      energy: {column: E, hidden: [4], loss: huber, dropout: 0.1}
      polar: {column: P, kind: category}
    group: [formula]
training: {epochs: 3, learning_rate: 1e-2}
"""
PREDICT = "    predict:\n      gap: Gap\n"
TAG = "!!python/object/apply:os.system ['touch pwned']"
# by its name: what is replaced, by what, the line, words of the message
FAULTS = {
    "not YAML": ("latent: 2", "latent: [2", 9, "not YAML"),
    "a control character": ("latent: 2", "latent: \a", 8, "not YAML"),
    "unknown key": ("latent: 2", "latents: 2", 8, "Did you mean 'latent'?"),
    "missing key": ("    latent: 2\n", "", 3, "latent: is missing"),
    "other version": ("version: 1", "version: 2", 1, "2 given, a number of"),
    "a word as size": ("latent: 2", "latent: two", 8, "'two' given, a whole"),
    "true as size": ("latent: 2", "latent: true", 8, "True given, a whole number"),
    "zero latents": ("latent: 2", "latent: 0", 8, "0 given, a number of at"),
    "huge": ("latent: 2", f"latent: 1{40 * '0'}", 8, "given, a number of at"),
    "NaN": ("1e-2", ".nan", 21, "nan given, a finite number"),
    "a word": ("[radius, mass]", "radius", 6, "a mapping is allowed with"),
    "no scale": ("scales:", "scales: []\nvalidation:", 2, "at least one"),
    "choice": ("huber", "hubert", 18, "Did you mean 'huber'?"),
    "loss of a kind": ("category", "category, loss: mae", 19, "for a categ"),
    "a number as name": ("name: gap", "name: 7", 3, "7 given, a name is"),
    "a long column": ("radius", 201 * "a", 6, "given, up to 200 characters"),
    "a number as column": ("radius", "7", 6, "7 given, up to 200 characters"),
    "no scale above": ("_of: gap", "_of: gaps", 14, "Did you mean 'gap'?"),
    "a cycle": ("[radius, mass]", "{latents_of: binding}", 6, "there is none"),
    "latents twice": ("[density]", "{latents_of: gap}", 15, "allowed, once"),
    "both kinds": ("_of: gap,", "_of: gap, columns: [a],", 14, "either"),
    "neither kind": ("[density]", "[]", 15, "either columns or latents_of"),
    "a lone rename": ("[density]", "{columns: [d], rename: {a: b}}", 15, "is"),
    "rename of no column": ("mass: weight", "mas: w", 14, "mean 'mass'?"),
    "name twice": ("name: binding", "name: gap", 11, "two scales are named"),
    "key twice": ("latent: 2", "latent: 2\n    latent: 3", 9, "latent: stands twice"),
    "column twice": ("mass]", "radius]", 6, "'radius' stands twice"),
    "target as input": ("gap: Gap", "gap: mass", 10, "'mass' stands twice"),
    "target below": ("column: E", "column: weight", 18, "a scale below"),
    "block twice": ("{metal: B}", "{ions: B}", 7, "the name stands twice"),
    "group twice": ("[formula]", "[f, f]", 20, "'f' stands twice"),
    "learnt below": ("column: E", "column: Gap", 18, "is learnt by 'gap'"),
    "no target": (GOOD[GOOD.index("    predict:\n      e") :], "", 11, "last"),
    "nothing goes in": (GOOD.split("gaps.csv\n")[1][:66], "", 3, "goes in"),
    "nothing comes out": (PREDICT, "    reconstruction: 0\n", 3, "nothing comes out"),
    "a tag": ("name: gap", f"name: {TAG}", 3, "nothing here is executed"),
    "an alias": ("[radius, mass]", "*x", 6, "an anchor, alias, tag"),
    "an alias as key": ("latent: 2", "*x : 2", 8, "an anchor, alias, tag"),
    "a merge": ("name: gap", "<<: {name: gap}", 3, "unknown key"),
    "a list as key": ("latent: 2", "? [a]\n    : 2", 8, "a key is a word"),
    "too deep": ("[4]", 20 * "[", 18, "more than 8 levels"),
    "two documents": ("training:", "---\ntraining:", 21, "a second document"),
}


def told(text, path="folder/mine.yml"):
    """Return the fault of a text: one line that names the file."""
    line = conftest.told(parse, text, path)
    assert line.startswith(path)
    return line


def test_a_declaration_and_its_short_forms():
    declared = parse(GOOD, "folder/mine.yml")
    gap, binding = declared.scales
    assert gap.targets() == {"gap.gap": Raw(["Gap"])}
    assert binding.targets()["binding.polar"] == Raw(["P"], category=True)
    assert declared.training.learning_rate == 0.01
    assert (declared.training.seeds, declared.validation.folds) == (2, 5)
    assert declared.title == "mine"
    assert declared.table("binding") == Path("folder/sub/binding.csv")
    assert declared.blocks("binding") == {
        "gap.ions": Raw(["radius", "weight"]),
        "gap.metal": Raw(["B"], category=True),
        "binding.own": Raw(["density"]),
    }
    assert len(read_declaration(EXAMPLE).scales) == 2


@pytest.mark.parametrize(
    ("written", "column"),
    # nitric oxide is no "false", nor is a time or a date a number
    [(word, word) for word in "NO on 1:30 2026-11-21 0x10 1_0 größe".split()]
    + [(f"'{word}'", word) for word in "2019 0E0 true Null ~ .NaN".split()],
)
def test_words_stay_words(written, column):
    declared = parse(GOOD.replace("Gap", written))
    assert declared.scales[0].predict["gap"].column == column


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_its_line(fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, new, line, words = FAULTS[fault]
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if fault == "learnt below":
        text = text.replace("sub/binding.csv", "./gaps.csv")
    message = told(text)
    assert f"line {line}" in message, message
    assert words in message
    assert not list(tmp_path.iterdir()), "nothing is executed or written"


@pytest.mark.parametrize("name", "../x /etc/x .. a/b a\\b .x a.b -x".split())
def test_no_name_leaves_its_folder(name):
    text = yaml.safe_dump({"name": name}) + GOOD
    assert "a name is allowed: a letter" in told(text)
    # nor does the name of the file
    title = parse(GOOD, f"/tmp/{name}.yml").title
    assert title.replace("_", "").isalnum()
    assert parse(GOOD, "a b/../my scales (2).yml").title == "my_scales_2"
    assert parse(GOOD + "name: mine-2\n", "other.yml").title == "mine-2"


def test_a_block_that_is_reached_on_two_ways():
    third = """\
  - name: top
    table: top.csv
    inputs:
      low: {latents_of: gap, rename: {radius: r}}
      middle: {latents_of: binding}
    latent: 1
    predict: {top: Top}
"""
    text = GOOD.replace("training:", third + "training:")
    message = told(text)
    assert "'gap.ions' is reached on two ways" in message
    assert "line 25" in message
    # the same columns on both ways are one
    same = parse(text.replace("{radius: r}", "{mass: weight}"))
    assert same.blocks("top") == same.blocks("binding")


def test_many_columns_are_named_at_once():
    alone, _, _ = GOOD.partition("  - name: binding")

    def columns(text):
        declared = parse(alone.replace("[radius, mass]", text))
        return declared.blocks("gap")["gap.ions"].columns

    assert columns("[radius, {fp_: 8..10}, {x: 00..01}]") == [
        *("radius", "fp_8", "fp_9", "fp_10", "x00", "x01")
    ]
    assert columns('["a\u00a0 b", "c\\nd"]') == ["a b", "c d"]
    assert len(columns(json.dumps([f"{n:060}" for n in range(2000)]))) == 2000
    assert ", fp_: 'x' given" in told(GOOD.replace("[radius, mass]", "[{fp_: x}]"))


def test_a_bomb_or_no_mapping_is_refused():
    levels = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    assert "an anchor, alias, tag" in told(f"a0: &a0 [x]\n{''.join(levels)}")
    assert "more than 4194304 bytes" in told("a: " + 4_200_000 * "x")
    for deep in (60_000 * "[", 20_000 * "- ", 20_000 * "? ", 10_000 * "{a: "):
        assert "more than 8 levels" in told(deep)
    for none in ("", "# nothing\n", "- 1", "text", "3", "[]", "--- \n...\n"):
        assert "line 1: " in told(none)
        assert "a mapping is allowed with the keys version" in told(none)


def test_files(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_declaration(path).title == "mine"
    for content, words in (
        (GOOD.encode().replace(b"Gap", b"G\xfcp"), "line 10: not text in UTF"),
        (b"\0" * 100, "line 1: not YAML"),
        (b"a: " + 4_200_000 * b"x", "line 1: more than 4194304 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"mine.yml, {words}"):
            read_declaration(path)
    for path in (tmp_path, tmp_path / "none.yml"):
        with pytest.raises(DataError, match="no such file to read"):
            read_declaration(path)


# --- properties ------------------------------------------------------------

KEYS = st.sampled_from(
    "version name scales table inputs categories latent hidden predict group "
    "columns latents_of rename column kind training validation".split()
) | st.text(max_size=5)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def parsed_or_told(call, *given):
    """Return the declaration, or nothing after a one-line error."""
    try:
        return call(*given)
    except DataError as error:
        message = str(error).encode()
    assert b"\n" not in message
    return None


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}#&*!|>'\"\\ \n,?%@"))
@settings(max_examples=150)
@example("%YAML 9.9\n---\na: 1")
@example('"\\ud800": "\\ud800"')
@example("\ud800")
@example("a: !<tag:x> b")
def test_any_text_parses_or_is_told(text):
    parsed_or_told(parse, text)


PATHS = """version; name; scales; training; validation; training epochs;
training learning_rate; scales 0; scales 0 name; scales 0 table; scales 0 l1;
scales 0 inputs; scales 0 inputs ions; scales 0 latent; scales 0 hidden;
scales 0 predict; scales 0 predict gap; scales 1 inputs composition;
scales 1 inputs composition rename; scales 1 inputs composition latents_of;
scales 1 predict energy weight; scales 1 predict energy output;
scales 1 reconstruction; scales 1 group"""


@given(path=st.sampled_from(PATHS.split(";")), value=ANYTHING)
@settings(max_examples=150)
@example("scales 0 predict gap", "0\x85")
@example("scales 0 predict gap", "0E0")
@example("scales 0 predict gap", "\U0001f600")
@example("scales 0 table", "\ud800")
@example("scales 0 l1", 10**400)
def test_a_good_file_with_anything_in_one_place(path, value):
    plain = parse(GOOD).plain()
    *ahead, last = [int(k) if k.isdecimal() else k for k in path.split()]
    inner = plain
    for key in ahead:
        inner = inner[key]
    inner[last] = value
    # as a model's file has it, and as JSON, which is YAML all in quotes
    declared = parsed_or_told(from_plain, plain, "any.yml")
    again = parsed_or_told(parse, json.dumps(plain), "any.yml")
    if declared is not None and again is not None:
        assert again.plain() == declared.plain()
