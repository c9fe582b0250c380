"""The YAML file that declares scales: what it says, and every fault in it."""

import json
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.own import declaration
from nestedae_utils.own.declaration import Raw, from_plain, parse

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


def told(text, path="folder/mine.yml"):
    """Return the fault of a text: one line that names the file."""
    with pytest.raises(DataError) as caught:
        parse(text, path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(path)
    return message


def test_a_declaration_and_its_short_forms():
    found = parse(GOOD, "folder/mine.yml")
    gap, binding = found.scales
    assert gap.predict["gap"].column == "Gap"
    assert gap.inputs["ions"].columns == ["radius", "mass"]
    assert binding.predict["polar"].kind == "category"
    assert binding.reconstruction == 1.0
    assert found.training.learning_rate == 0.01
    assert found.training.seeds == 2
    assert found.validation.folds == 5
    assert found.title == "mine"
    assert found.table("binding") == Path("folder/sub/binding.csv")
    assert found.blocks("binding") == {
        "gap.ions": Raw(("radius", "weight")),
        "gap.metal": Raw(("B",), category=True),
        "binding.own": Raw(("density",)),
    }
    with pytest.raises(ParameterError, match="Did you mean 'gap'"):
        found.blocks("gaps")


def test_the_example_of_the_book_and_of_the_docstring():
    assert len(declaration.read_declaration(EXAMPLE).scales) == 2
    shown = declaration.__doc__.split("::\n")[1].split("\n\nThe file")[0]
    assert len(parse(textwrap.dedent(shown)).scales) == 2


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        ("NO", "NO"),  # nitric oxide is no "false"
        ("on", "on"),
        ("1:30", "1:30"),  # no number to the base of sixty
        ("2026-11-21", "2026-11-21"),  # no date
        ("'2019'", "2019"),
        ("0x10", "0x10"),
        ("größe", "größe"),
    ],
)
def test_words_stay_words(column, wanted):
    found = parse(GOOD.replace("Gap", column))
    assert found.scales[0].predict["gap"].column == wanted


def test_a_name_for_what_is_written():
    assert parse(GOOD + "name: mine-2\n", "other.yml").title == "mine-2"
    assert parse(GOOD, "a b/../my scales (2).yml").title == "my_scales_2"
    assert parse(GOOD, "???").title == "declaration"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "..", "a/b", "a\\b", ".x", "a.b", "", "-x"]
)
def test_no_name_leaves_its_folder(name):
    text = yaml.safe_dump({"name": name}) + GOOD
    assert "a name is allowed: a letter" in told(text)
    # nor does the name of the file
    assert re.fullmatch(r"[\w-]+", parse(GOOD, f"/tmp/{name}.yml").title)


# (what is replaced, by what, the line, words of the message)
FAULTS = {
    "not YAML": ("latent: 2", "latent: [2", 9, "not YAML"),
    "a tab": ("    latent: 2", "\tlatent: 2", 8, "not YAML"),
    "two colons": ("latent: 2", "latent: 2: 3", 8, "not YAML"),
    "a control character": ("latent: 2", "latent: \a", 8, "not YAML"),
    "unknown key": ("latent: 2", "latents: 2", 8, "Did you mean 'latent'?"),
    "unknown key above": ("training:", "train:", 21, "'training'?"),
    "unknown key below": ("loss", "los", 18, "Did you mean 'loss'?"),
    "missing key": ("    latent: 2\n", "", 3, "latent: is missing"),
    "missing table": ("    table: gaps.csv\n", "", 3, "table: is missing"),
    "missing column": ("{column: E, ", "{", 18, "column: is missing"),
    "missing version": ("version: 1\n", "", 1, "version: is missing"),
    "other version": ("version: 1", "version: 2", 1, "2 given, 1 is allowed"),
    "version true": ("version: 1", "version: true", 1, "True given, 1 is"),
    "a word as size": ("latent: 2", "latent: two", 8, "'two' given, a whole"),
    "a fraction": ("latent: 2", "latent: 2.5", 8, "2.5 given, a whole"),
    "true as size": ("latent: 2", "latent: true", 8, "True given, a whole"),
    "nothing": ("latent: 2", "latent:", 8, "None given, a whole number"),
    "zero latents": ("latent: 2", "latent: 0", 8, "from 1 to 200"),
    "huge": ("latent: 2", f"latent: 1{40 * '0'}", 8, "1e+40 given, a whole"),
    "NaN": ("1e-2", ".nan", 21, "nan given, a finite number"),
    "infinite": ("1e-2", "1e400", 21, "inf given, a finite number"),
    "negative": ("1e-2", "-1e-2", 21, "-0.01 given, a finite number from"),
    "a list": ("dropout: 0.1", "dropout: [1]", 18, "[1] given, a finite"),
    "a mapping": ("[4]", "{a: 4}", 18, "{'a': 4} given, a list"),
    "a word": ("[radius, mass]", "radius", 6, "a mapping is allowed with"),
    "scales": ("scales:", "scales: 3\nvalidation:", 2, "3 given, a list is"),
    "no scale": ("scales:", "scales: []\nvalidation:", 2, "at least one"),
    "too many": ("[4]", "[4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]", 18, "most 10"),
    "choice": ("huber", "hubert", 18, "Did you mean 'huber'?"),
    "loss of a kind": ("category", "category, loss: mae", 19, "for a categ"),
    "a number as name": ("name: gap", "name: 7", 3, "7 given, a name is"),
    "a line break": ("radius", '"a\\nb"', 6, "up to 200 printable"),
    "a number as column": ("radius", "7", 6, "7 given, a text of up to"),
    "bar in a name": ("name: gap", "name: a|b", 3, "'a|b' given, a name"),
    "missing latents": (
        "latents_of: gap",
        "latents_of: gaps",
        14,
        "a scale above this one is allowed ('gap'). Did you mean 'gap'?",
    ),
    "its own latents": ("_of: gap", "_of: binding", 14, "a scale above"),
    "a cycle": (
        "ions: [radius, mass]",
        "ions: {latents_of: binding}",
        6,
        "a scale above this one is allowed (there is none)",
    ),
    "latents twice": ("own: [density]", "own: {latents_of: gap}", 15, "twice"),
    "columns and latents": (
        "{latents_of: gap,",
        "{latents_of: gap, columns: [a],",
        14,
        "either a list of columns",
    ),
    "nothing in a block": ("[density]", "[]", 15, "either a list of columns"),
    "rename in a block": (
        "[density]",
        "{columns: [density], rename: {a: b}}",
        15,
        "rename: is allowed beside latents_of only",
    ),
    "rename of no column": ("mass: weight", "mas: w", 14, "mean 'mass'?"),
    "name twice": ("name: binding", "name: gap", 11, "two scales are named"),
    "key twice": ("latent: 2", "latent: 2\n    latent: 3", 9, "stands twice"),
    "column twice": ("mass]", "radius]", 6, "'radius' stands twice"),
    "target as input": ("gap: Gap", "gap: mass", 10, "'mass' stands twice"),
    "target below": ("column: E", "column: weight", 18, "one below it"),
    "block twice": ("{metal: B}", "{ions: B}", 7, "the name stands twice"),
    "group twice": ("[formula]", "[f, f]", 20, "'f' stands twice"),
    "a target seen below": (
        "column: E,",
        "column: Gap,",
        18,
        "scale 'gap' has learnt the column 'Gap'",
    ),
    "nothing is predicted": (
        GOOD[GOOD.index("    predict:\n      energy") :],
        "",
        11,
        "the last scale predicts nothing",
    ),
    "nothing goes in": (
        GOOD[GOOD.index("    inputs:") : GOOD.index("    latent: 2")],
        "",
        3,
        "nothing goes in",
    ),
    "nothing comes out": (
        "    predict:\n      gap: Gap\n",
        "    reconstruction: 0\n",
        3,
        "nothing comes out",
    ),
    "a tag": (
        "name: gap",
        "name: !!python/object/apply:os.system ['touch pwned']",
        3,
        "nothing in it is executed",
    ),
    "a harmless tag": ("latent: 2", "latent: !!int 2", 8, "is not allowed"),
    "an anchor": ("[radius, mass]", "&x [radius]", 6, "an anchor or alias"),
    "an alias": ("[radius, mass]", "*x", 6, "'x', is not allowed"),
    "a merge": ("name: gap", "<<: {name: gap}", 3, "unknown key"),
    "a list as key": ("latent: 2", "? [a]\n    : 2", 8, "a key is a word"),
    "too deep": ("[4]", 20 * "[", 18, "more than 8 levels"),
    "two documents": ("training:", "---\ntraining:", 21, "a second document"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_its_line(fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, new, line, words = FAULTS[fault]
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if fault == "a target seen below":
        text = text.replace("sub/binding.csv", "./gaps.csv")
    message = told(text)
    assert f"line {line}" in message, message
    assert words in message
    assert not list(tmp_path.iterdir()), "nothing is executed or written"


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
    renamed = text.replace("{radius: r}", "{mass: weight}")
    assert set(parse(renamed).blocks("top")) == {
        "gap.ions",
        "gap.metal",
        "binding.own",
    }


def test_a_bomb_is_refused_before_it_grows():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        refs = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{refs}]")
    assert "an anchor or alias" in told("\n".join(lines))
    assert "more than 65536 bytes" in told("a: " + 70_000 * "x")
    assert "more than 8 levels" in told(60_000 * "[")
    assert "more than 8 levels" in told(20_000 * "- ")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "- 1", "text", "3", "[]", "--- \n...\n"]
)
def test_no_mapping(text):
    assert "begin with 'version: 1'" in told(text)


def test_files(tmp_path):
    path = tmp_path / "mine.yml"
    with pytest.raises(DataError, match="no such file"):
        declaration.read_declaration(path)
    with pytest.raises(DataError, match="no such file"):
        declaration.read_declaration(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert declaration.read_declaration(path).title == "mine"
    path.write_bytes(GOOD.encode().replace(b"Gap", b"G\xfcp"))
    with pytest.raises(DataError, match=r"mine.yml, line 10: not text in U"):
        declaration.read_declaration(path)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"mine.yml, line 1: not YAML"):
        declaration.read_declaration(path)
    path.write_text("a: " + 70_000 * "x")
    with pytest.raises(DataError, match="more than 65536 bytes"):
        declaration.read_declaration(path)


# --- properties ------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
)
KEYS = st.sampled_from(
    "version name scales table inputs categories latent hidden predict group "
    "columns latents_of rename column kind training validation".split()
) | st.text(max_size=5)
ANYTHING = st.recursive(
    SCALARS,
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
        message = str(error)
        assert "\n" not in message
        message.encode()
        return None


@given(ANYTHING)
@settings(max_examples=300, deadline=None)
@example({"version": 1, "scales": [{"a": 10**400}]})
def test_any_structure_parses_or_is_told(value):
    parsed_or_told(from_plain, value, "any.yml")
    parsed_or_told(parse, yaml.safe_dump(value, allow_unicode=True))


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}#&*!|>'\"\\ \n,?%@"))
@settings(max_examples=300, deadline=None)
@example("%YAML 9.9\n---\na: 1")
@example('"\\ud800": "\\ud800"')
@example("\ud800")
@example("a: !<tag:x> b")
def test_any_text_parses_or_is_told(text):
    parsed_or_told(parse, text)


PATHS = (
    "version",
    "name",
    "scales",
    "training",
    "validation",
    "training epochs",
    "training learning_rate",
    "scales 0",
    "scales 0 name",
    "scales 0 table",
    "scales 0 inputs",
    "scales 0 inputs ions",
    "scales 0 latent",
    "scales 0 hidden",
    "scales 0 l1",
    "scales 0 predict",
    "scales 0 predict gap",
    "scales 1 inputs composition",
    "scales 1 inputs composition rename",
    "scales 1 inputs composition latents_of",
    "scales 1 predict energy weight",
    "scales 1 predict energy output",
    "scales 1 reconstruction",
    "scales 1 group",
)


@given(path=st.sampled_from(PATHS), value=ANYTHING)
@settings(max_examples=300, deadline=None)
@example("scales 0 predict gap", "0\x85")
@example("scales 0 predict gap", "0E0")
@example("scales 0 table", "\ud800")
def test_a_good_file_with_anything_in_one_place(path, value):
    plain = parse(GOOD).plain()
    *ahead, last = [int(k) if k.isdecimal() else k for k in path.split()]
    inner = plain
    for key in ahead:
        inner = inner[key]
    inner[last] = value
    found = parsed_or_told(from_plain, plain, "any.yml")
    again = parsed_or_told(parse, yaml.safe_dump(plain, allow_unicode=True))
    if found is not None and again is not None:
        assert again.plain() == found.plain()


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
COLUMNS = st.text(
    st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12
)


@st.composite
def declarations(draw):
    """Return the plain form of a declaration of one or two scales."""
    used = draw(st.lists(COLUMNS, min_size=6, max_size=12, unique=True))
    names = draw(st.lists(NAMES, min_size=6, max_size=6, unique=True))
    low, high, block, kind, target, latents = names
    whole = st.integers(1, 200)
    first = {
        "name": low,
        "table": "low.csv",
        "inputs": {block: used[:3]},
        "categories": {kind: used[3]},
        "latent": draw(whole),
        "l1": draw(st.floats(0, 100)),
        "predict": {target: {"column": used[4], "weight": 0.5}},
    }
    second = {
        "name": high,
        "table": "high.csv",
        "inputs": {latents: {"latents_of": low, "rename": {used[0]: "zz z"}}},
        "latent": draw(whole),
        "hidden": draw(st.lists(whole, max_size=3)),
        "predict": {target: used[5]},
        "group": used[:2],
    }
    return {
        "version": 1,
        "scales": draw(st.sampled_from([[first], [first, second]])),
        "training": {"epochs": draw(whole), "seeds": draw(whole)},
        "validation": {"folds": draw(st.integers(2, 1000))},
    }


@given(declarations())
@settings(max_examples=100, deadline=None)
def test_a_declaration_makes_the_round_trip(plain):
    found = from_plain(plain, "mine.yml")
    again = parse(found.text(), "mine.yml")
    assert again.plain() == found.plain()
    assert again.text() == found.text()
    # JSON is YAML with every text in quotes
    text = json.dumps(plain, ensure_ascii=False)
    assert parse(text, "mine.yml").plain() == found.plain()


@pytest.mark.parametrize("column", ["0E0", "7", "true", "Null", "~", ".NaN"])
def test_a_text_that_reads_as_something_else_is_quoted(column):
    found = parse(GOOD.replace("Gap", f"'{column}'"))
    again = parse(found.text())
    assert again.scales[0].predict["gap"].column == column
