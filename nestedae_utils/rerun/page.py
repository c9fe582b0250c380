"""The page of a run: the book's page of its chapter, in one file.

Sphinx makes it of the executed notebook, with the book's configuration, style
and references, in a process of its own: ``python -m nestedae_utils.rerun.page
NOTEBOOK``.  Nothing is executed and nothing asked of a network, neither then
nor by the page.
"""

import base64
import errno
import gzip
import importlib.util
import json
import mimetypes
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from nestedae_utils.book.readings import LABEL, SETTINGS, mark
from nestedae_utils.data.files import BOOK

# What of a theme's scripts a page without a site around it does not need.
IDLE = ("documentation_options", "doctools", "sphinx_highlight", "sphinx-book-theme")
EXTENSIONS = "myst_nb sphinx_togglebutton sphinxcontrib.bibtex sphinx_book_theme"
MATHJAX = "tex-svg.js"  # has its letters within
# large scripts, by package and folder; Sphinx need not copy them
PACKED = {
    MATHJAX: ("sphinx-mathjax-offline", "static/mathjax"),
    "plotly.min.js": ("plotly", "package_data"),
}
TWIN = "**TWIN.**"
TITLE = re.compile(r"\A(\s*# .*\n)")
# They take half the room so; a browser unpacks them, and draws what waited.
UNPACK = """
const packed = Uint8Array.from(atob("%s"), (one) => one.charCodeAt(0));
const way = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
const script = document.createElement("script");
script.textContent = await new Response(way).text();
document.head.append(script);
for (const old of window.Plotly ? document.querySelectorAll(".live script") : []) {
  const again = document.createElement("script");
  again.textContent = old.textContent;
  old.replaceWith(again);
}
"""
NOTE = """
```{{admonition}} A run, not the book’s page
:class: important

{}
```
"""


def write(notebook: Path, variables: Mapping[str, str], log: IO[bytes]) -> None:
    """Write an executed notebook as HTML beside it.

    The process has the environment ``variables`` and writes what it says to
    ``log``.  An `OSError` tells of a file that cannot be written, any other
    failure is a `RuntimeError`.
    """
    command = [sys.executable, "-m", __name__, str(notebook)]
    how: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
    done = subprocess.run(command, env=variables, cwd=notebook.parent, **how)
    words = done.stdout.decode(errors="replace").strip()
    if done.returncode == errno.EIO:
        number, _, rest = words.rpartition("\n")[2].partition(" ")
        raise OSError(int(number), rest, str(notebook.with_suffix(".html")))
    if done.returncode:
        raise RuntimeError(f"its page cannot be made: {words or 'stopped'}")


def prepared(notebook: dict[str, Any]) -> bool:
    """Put what a run says of itself below its title, and references at the end.

    Return whether its settings or data are others than the book's.
    """
    cells, told, twin = notebook["cells"], [], []
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        for output in list(cell["outputs"]):
            words = "".join(output.get("data", {}).get("text/markdown", ""))
            if output.get("metadata", {}).get(SETTINGS):
                told.append(words)
                cell["outputs"].remove(output)
            elif words.startswith(TWIN):
                twin.append(words)
    same = ["All parameters have the book’s values."]
    marked = (
        [f"Such a sentence is marked [{LABEL}]{{.reading}}"] if told or twin else []
    )
    note = NOTE.format("\n\n".join([*(told or same), *twin[:1], *marked]))
    text = "".join(cells[0]["source"])
    cells[0]["source"] = TITLE.sub(rf"\1{note}\n", text, count=1)
    if any("{cite}" in "".join(cell["source"]) for cell in cells):
        last = "## References\n\n```{bibliography}\n:filter: docname in docnames\n```"
        blank: dict[str, Any] = {"cell_type": "markdown", "metadata": {}, "id": "last"}
        cells.append(blank | {"source": last})
    return bool(told or twin)


def build(notebook: Path, folder: Path) -> str:
    """Return the page of an executed notebook; Sphinx works in a folder."""
    import yaml
    from docutils import nodes
    from sphinx.application import Sphinx

    content = json.loads(notebook.read_text(encoding="utf-8"))
    other = prepared(content)
    name, out = notebook.stem, folder / "out"
    (folder / f"{name}.ipynb").write_text(json.dumps(content), encoding="utf-8")
    index = f"# Run\n\n```{{toctree}}\n:numbered:\n{name}\n```\n"
    (folder / "index.md").write_text(index, encoding="utf-8")
    given = yaml.safe_load((BOOK / "_config.yml").read_text(encoding="utf-8"))
    ours = given["sphinx"]["config"]
    config = {k: v for k, v in ours.items() if not k.startswith(("autodoc", "napol"))}
    config |= {
        "extensions": [*EXTENSIONS.split(), "sphinx.ext.mathjax"],
        "myst_enable_extensions": given["parse"]["myst_enable_extensions"],
        "bibtex_bibfiles": [str(BOOK / one) for one in given["bibtex_bibfiles"]],
        "nb_execution_mode": "off",
        "numfig": True,
        "html_theme": "sphinx_book_theme",
        "html_title": given["title"],
        "html_static_path": [str(BOOK / "_static")],
        "html_css_files": [path.name for path in (BOOK / "_static").glob("*.css")],
        "html_copy_source": False,
        "html_use_index": False,
        "mathjax_path": MATHJAX,
        "pygments_style": "sphinx",
        "templates_path": [str(Path(__file__).parent)],
    }
    app = Sphinx(str(folder), None, str(out), str(out), "html", config, status=None)
    app.builder.search = False  # type: ignore[attr-defined]

    def number(*_: Any) -> None:
        # as in the book, where it is not the first chapter
        first = int((re.match(r"\d+", name) or ["1"])[0])
        of = app.env.toc_secnumbers, *app.env.toc_fignumbers.values()
        for places in (place for one in of for place in one.values()):
            for key, old in places.items():
                places[key] = (first, *old[1:])
        for link in app.env.tocs[name].findall(nodes.reference):
            if link.get("secnumber"):
                link["secnumber"] = (first, *link["secnumber"][1:])

    def plain(app: Any, env: Any, node: Any, content: Any) -> Any:
        # what leads out of the page is text
        return nodes.inline("", content.astext())

    if other:
        app.connect("doctree-read", lambda app, tree: mark(tree))
    app.connect("env-check-consistency", number)
    app.connect("missing-reference", plain)
    app.build()
    return inlined((out / f"{name}.html").read_text(encoding="utf-8"), out)


def inlined(page: str, folder: Path) -> str:
    """Return a page with the files that it asks for within it."""

    def found(name: str) -> Path:
        package, inside = PACKED.get(Path(name).name, ("", ""))
        if not package:
            return folder / name
        spec = importlib.util.find_spec(package)
        assert spec is not None
        return Path(spec.origin or "").parent / inside / Path(name).name

    def data(path: Path) -> str:
        kind = mimetypes.guess_type(path.name)[0] or "font/woff2"
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def style(link: re.Match[str]) -> str:
        path = found(link[1])

        def file(url: re.Match[str]) -> str:
            # of the icons' fonts one is used, in one format
            use = url[1].endswith(("solid-900.woff2", ".png", ".svg"))
            return f"url({data(path.parent / url[1]) if use else 'data:,'})"

        text = path.read_text(encoding="utf-8")
        text = re.sub(r"url\((?!.?data:)([^)]*)\)", file, text)
        return f"<style>{text}</style>"

    def script(tag: re.Match[str]) -> str:
        if any(name in tag[1] for name in IDLE):
            return ""
        content = found(tag[1]).read_bytes()
        if Path(tag[1]).name in PACKED:
            packed = base64.b64encode(gzip.compress(content, mtime=0)).decode()
            return f'<script type="module">{UNPACK % packed}</script>'
        return f"<script>{content.decode()}</script>"

    # of a site's search
    page = re.sub(r"<script>DOCUMENTATION_OPTIONS[^<]*</script>", "", page)
    page = re.sub(r'<link [^>]*href="([^"?]+)[^>]*>', style, page)
    page = re.sub(r'<script [^>]*src="([^"?]+)[^>]*></script>', script, page)
    # a keyboard reaches what scrolls; docutils calls a list what has other children
    page = page.replace("<pre>", '<pre tabindex="0">')
    page = page.replace('<div role="list" class="citation-list">', "<div>")
    # what leads to nothing on this page is text
    places = set(re.findall(r' id="([^"]*)"', page))
    page = re.sub(
        r'<a [^>]*href="#([^"]+)"[^>]*>(.*?)</a>',
        lambda link: link[0] if link[1] in places else link[2],
        page,
        flags=re.S,
    )
    images = r'(?<= src=")(_images/[^"]+)'
    return re.sub(images, lambda at: data(found(at[1])), page)


if __name__ == "__main__":
    # what nbformat would load, for seconds, to look at addresses
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    path = Path(sys.argv[1])
    try:
        with tempfile.TemporaryDirectory(prefix=".page-", dir=path.parent) as place:
            text = build(path, Path(place))
            path.with_suffix(".html").write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"\n{error.errno or errno.EIO} {error.strerror or error}")
        sys.exit(errno.EIO)
    except Exception as error:
        print(f"\n{type(error).__name__}: {error}".replace("\n", " "))
        raise
