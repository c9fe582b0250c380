"""What the book needs of Sphinx beyond Jupyter Book.

1. The landing page is read last, and in every build: it gathers the results
   that the chapters write while they are read.
2. A page whose results were computed on the twin says so above its text, and
   beside each sentence that reads them.
3. Each executed cell has an address, ``page.html#cell-N`` with its execution
   count, so that a number can be linked to the cell that computed it.
4. A page with an interactive figure loads plotly's script, of which the book
   has one copy, taken from the package.
5. Without the repository's URL there is nothing to launch a notebook from.
6. A declaration's signature names its fields, without pydantic's checks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

from nestedae_utils.book import readings, records
from nestedae_utils.book.chapter import NOTICE, results_folder
from nestedae_utils.book.live_map import DIVISION

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def read_index_last(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Order the pages: the landing page behind all chapters."""
    root = app.config.root_doc
    docnames[:] = [*sorted(set(docnames) - {root}), root]


def on_the_twin(docname: str) -> bool:
    """Tell whether the results of a page were computed on the twin."""
    path = results_folder() / f"{docname.rpartition('/')[2]}.json"
    return path.exists() and records.read_results(path)["data_source"] == "twin"


def mark_its_readings(app: Sphinx, doctree: nodes.document) -> None:
    """Label the sentences that read the paper's data on a page of the twin."""
    if on_the_twin(app.env.docname):
        readings.mark(doctree)


def warn_of_the_twin(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put a warning under the title of a page that used the twin."""
    if not on_the_twin(docname):
        return
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is None:
        return
    warning = nodes.warning("", nodes.paragraph("", NOTICE.replace("**", "")))
    parent = title.parent
    parent.insert(parent.index(title) + 1, warning)


def name_the_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Give each executed code cell the id ``cell-N``."""
    for node in doctree.findall(nodes.container):
        if node.get("nb_element") == "cell_code" and node["exec_count"]:
            node["ids"].append(f"cell-{node['exec_count']}")


def offer_plotly(app: Sphinx) -> None:
    """Copy plotly's script into the book, beside the other static files."""
    app.config.html_static_path.append(str(PLOTLY))


def load_plotly(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Load plotly's script where a page has a figure of it."""
    if DIVISION in context.get("body", ""):
        app.add_js_file(PLOTLY.name)


def launch_only_what_is_published(app: Sphinx, config: Config) -> None:
    """Drop the launch buttons, which the theme cannot draw without a URL."""
    if not config.html_theme_options.get("repository_url"):
        config.html_theme_options.pop("launch_buttons", None)


def declare_without_checks(
    app: Sphinx, what: str, name: str, obj: Any, *_: Any
) -> tuple[str, str] | None:
    """Write a declaration's fields with their defaults, without their checks."""
    if what != "class" or not hasattr(obj, "model_fields"):
        return None
    fields = [
        name if one.is_required() else f"{name}={one.default!r}"
        for name, one in obj.model_fields.items()
    ]
    return f"({', '.join(fields)})", ""


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register all with Sphinx."""
    app.connect("config-inited", launch_only_what_is_published)
    app.connect("env-before-read-docs", read_index_last)
    app.connect("doctree-read", name_the_cells)
    app.connect("doctree-read", mark_its_readings)
    app.connect("doctree-resolved", warn_of_the_twin)
    app.connect("builder-inited", offer_plotly)
    app.connect("html-page-context", load_plotly)
    app.connect("autodoc-process-signature", declare_without_checks)
    return {"version": "1", "parallel_read_safe": False}
