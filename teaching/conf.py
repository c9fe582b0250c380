"""How the slides of the class are built: see slides.py."""

from typing import Any

from sphinx.application import Sphinx
from sphinx_revealjs._ext.notes import revealjs_notes

project = "NestedAE companion"
language = "en"
extensions = ["myst_parser", "sphinx_revealjs"]
myst_enable_extensions = ["attrs_inline", "colon_fence"]
html_copy_source = False
html_show_sourcelink = False
# its fonts lie beside it, those of other themes come from a network
revealjs_style_theme = "white-contrast"
revealjs_static_path = ["_static"]
revealjs_css_files = ["slides.css"]
revealjs_script_conf = {
    "width": 1280,
    "height": 720,
    "margin": 0.04,
    "hash": True,
    "slideNumber": "c/t",
    "transition": "none",
    "center": False,
}
revealjs_script_plugins = [
    {"name": "RevealNotes", "src": "revealjs/plugin/notes/notes.js"}
]


def begin(translator: Any, node: revealjs_notes) -> None:
    """Open the notes, with their paragraphs: the extension would join them."""
    translator.body.append('<aside class="notes">')


def end(translator: Any, node: revealjs_notes) -> None:
    """Close the notes."""
    translator.body.append("</aside>")


def setup(app: Sphinx) -> None:
    """Register the notes' form."""
    app.add_node(revealjs_notes, override=True, revealjs=(begin, end))
