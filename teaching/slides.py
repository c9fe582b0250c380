"""The slides of the 90-minute class: filled from a build, made one folder.

``make slides`` takes the text, ``teaching/class.md``, and puts into it the
numbers in ``results/`` and the figures of the notebooks that `make book`
executed; sphinx-revealjs makes ``_build/slides/index.html`` of it, which needs
neither a network nor the rest of the book.  The text says

- ``number("quantity", digits)`` for a record, ``estimate`` with its interval,
- ``parameter("chapter", "name")`` for what a chapter was run with,
- ``claim("claim")`` for a claim, ``verdict`` and ``paper`` for what is judged, and
- ``figure("fig-01-loss")`` for a figure, with its text for those who do not see it.
"""

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from sphinx.cmd.build import main as sphinx_build

from nestedae_utils.book import claims, records

HERE = Path(__file__).parent
ROOT = HERE.parent


class Build:
    """What `make book` left: the records, and figures by name."""

    def __init__(self, root: Path = ROOT) -> None:
        self.results = records.results_of(root / "results")
        self.executed = root / "_build" / "jupyter_execute" / "notebooks"
        if not self.results or not self.executed.is_dir():
            raise SystemExit("No book in _build: run make book first.")
        self.known = {
            one["quantity"]: one
            for content in self.results.values()
            for one in content["records"]
        }
        self.assessed = claims.assess(self.results).set_index("claim")

    def number(self, quantity: str, digits: int = 2) -> str:
        """Return a recorded value, rounded."""
        return f"{self.known[quantity]['value']:.{digits}f}"

    def estimate(self, quantity: str, digits: int = 2) -> str:
        """Return a recorded difference and the ends of its interval, rounded."""
        value, low, high = (
            f"{self.known[quantity][key]:+.{digits}f}".replace("-", "−")
            for key in ("value", "low", "high")
        )
        return f"{value} ({low} to {high})"

    def parameter(self, chapter: str, name: str) -> Any:
        """Return a parameter that a chapter was run with."""
        return self.results[chapter]["parameters"][name]

    def verdict(self, claim: str) -> str:
        """Return the mark and the word of a claim's verdict."""
        word = self.assessed["verdict"][claim]
        return f"{claims.MARKS[word]} {word}"

    def paper(self, claim: str, digits: int = 2) -> str:
        """Return what a claim states; nothing stands beside the twin."""
        if self.assessed["verdict"][claim] == claims.TWIN:
            return ""
        return f"{claims.claims()[claim].paper:.{digits}f}"

    def twin(self, chapter: str) -> str:
        """Return TWIN where a chapter's data were generated, else nothing."""
        return "TWIN" * (self.results[chapter]["data_source"] == "twin")

    def figure(self, name: str, folder: Path, alone: bool = False) -> str:
        """Write a chapter's figure into a folder; return it as Markdown."""
        (path,) = self.executed.glob(f"{name[4:6]}_*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells:
            about = cell.metadata.get("mystnb", {})
            if about.get("figure", {}).get("name") == name:
                (drawn,) = (
                    one["data"]["image/svg+xml"]
                    for one in cell.outputs
                    if "image/svg+xml" in one.get("data", {})
                )
                (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
                text = f"![{about['image']['alt']}]({name}.svg)"
                return text + "{.alone}" * alone
        raise KeyError(f"{path}: no figure {name}")


def build(out: Path, root: Path = ROOT) -> Path:
    """Build the slides of a book into a folder; return their page."""
    book = Build(root)
    shutil.rmtree(out, ignore_errors=True)
    source = out.with_name(f"{out.name}_source")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    text = (HERE / "class.md").read_text(encoding="utf-8")
    names = "number estimate parameter verdict paper twin".split()
    words = {name: getattr(book, name) for name in names}
    words |= {"figure": partial(book.figure, folder=source)}
    words |= {"claim": claims.claims().__getitem__}
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
    (source / "index.md").write_text(template.render(words), encoding="utf-8")
    options = ["-q", "-W", "-b", "revealjs", "-c", HERE, "-d", source / ".doctrees"]
    if status := sphinx_build([*map(str, options), str(source), str(out)]):
        raise SystemExit(status)
    shutil.rmtree(source)
    return out / "index.html"


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "_build" / "slides"))
