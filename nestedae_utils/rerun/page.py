"""The page of a run: the book's page of its chapter, in one file.

Sphinx makes it of the executed notebook, with the book's configuration, style
and references, in a process of its own: ``python -m nestedae_utils.rerun.page
NOTEBOOK``.  Nothing is executed and nothing asked of a network, neither then
nor by the page.
"""

import base64
import errno
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

from nestedae_utils.book.readings import SETTINGS, mark
from nestedae_utils.data.files import BOOK

# What of a theme's scripts a page without a site around it does not need.
IDLE = ("documentation_options", "doctools", "sphinx_highlight", "sphinx-book-theme")
EXTENSIONS = "myst_nb sphinx_togglebutton sphinxcontrib.bibtex sphinx_book_theme"
TITLE = re.compile(r"\A(\s*# .*\n)")
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


def prepared(notebook: dict[str, Any]) -> dict[str, Any]:
    """Put what a run says of its settings below its title, and its references."""
    cells, told = notebook["cells"], []
    for cell in cells:
        outputs = cell.get("outputs", [])
        news = [out for out in outputs if out.get("metadata", {}).get(SETTINGS)]
        told += ["".join(out["data"]["text/markdown"]) for out in news]
        cell["outputs"] = [out for out in outputs if out not in news]
        if cell["cell_type"] != "code":
            del cell["outputs"]
    note = NOTE.format("\n\n".join(told) or "All parameters have the book’s values.")
    text = "".join(cells[0]["source"])
    cells[0]["source"] = TITLE.sub(rf"\1{note}\n", text, count=1)
    if any("{cite}" in "".join(cell["source"]) for cell in cells):
        last = "## References\n\n```{bibliography}\n:filter: docname in docnames\n```"
        blank: dict[str, Any] = {"cell_type": "markdown", "metadata": {}, "id": "last"}
        cells.append(blank | {"source": last})
    return {**notebook, "nestedae": {"settings": bool(told)}}


def build(notebook: Path, folder: Path) -> str:
    """Return the page of an executed notebook; Sphinx works in a folder."""
    import yaml
    from docutils import nodes
    from sphinx.application import Sphinx

    content = prepared(json.loads(notebook.read_text(encoding="utf-8")))
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
        "mathjax_path": "tex-svg.js",
        "pygments_style": "sphinx",
        "templates_path": [str(Path(__file__).parent)],
    }
    app = Sphinx(str(folder), None, str(out), str(out), "html", config, status=None)
    app.builder.search = False

    def number(*_: Any) -> None:
        # as in the book, where it is not the first chapter
        first = int((re.match(r"\d+", name) or ["1"])[0])
        of = app.env.toc_secnumbers, *app.env.toc_fignumbers.values()
        for places in (place for one in of for place in one.values()):
            for key, old in places.items():
                places[key] = (first, *old[1:])

    def plain(app: Any, env: Any, node: Any, content: Any) -> Any:
        # what leads out of the page is text
        return nodes.inline("", content.astext())

    if content["nestedae"]["settings"] or "**TWIN.**" in str(content["cells"]):
        app.connect("doctree-read", lambda app, tree: mark(tree))
    app.connect("env-check-consistency", number)
    app.connect("missing-reference", plain)
    app.build()
    return inlined((out / f"{name}.html").read_text(encoding="utf-8"), out)


def inlined(page: str, folder: Path) -> str:
    """Return a page with the files that it asks for within it."""

    def found(name: str) -> Path:
        path = folder / name
        if name.endswith("tex-svg.js"):
            (at,) = importlib.util.find_spec(  # type: ignore[union-attr]
                "sphinx-mathjax-offline"
            ).submodule_search_locations
            path = Path(at) / "static" / "mathjax" / "tex-svg.js"
        return path

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
        text = found(tag[1]).read_text(encoding="utf-8")
        return "<script>" + text.replace("</script", r"<\/script") + "</script>"

    # of a site's search
    page = re.sub(r"<script>DOCUMENTATION_OPTIONS[^<]*</script>", "", page)
    page = re.sub(r'<link [^>]*href="([^"?]+)[^>]*>', style, page)
    page = re.sub(r'<script [^>]*src="([^"?]+)[^>]*></script>', script, page)
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
