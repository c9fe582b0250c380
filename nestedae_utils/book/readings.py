"""What a page says of sentences that were written for the book's settings."""

from collections.abc import Mapping
from typing import Any

from docutils import nodes
from IPython.display import Markdown, display

from nestedae_utils.book.parameters import Notebook

SETTINGS = "nestedae_settings"
"""The mark of the output in which a chapter tells its other settings."""
READING = "<!-- reading -->"
"""Stands in a notebook above a paragraph that reads results without a number."""
LABEL = "book’s settings"


def changed(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from the book's: their values here.

    Where a chapter runs, and what it says of its own data, does not count.
    """
    here = {n: v for n, v in given.items() if v != notebook.parameters[n].default}
    return {n: v for n, v in here.items() if n not in ("device", "data_source")}


def tell(notebook: Notebook, others: Mapping[str, Any]) -> None:
    """Say at the top of a run which parameters differ from the book's."""
    each = ", ".join(
        f"`{name}` {here} (the book: {notebook.parameters[name].default})"
        for name, here in others.items()
    )
    words = (
        f"**Other settings than the book’s:** {each}. Numbers and figures are this "
        "run’s. Sentences that read them were written for the book’s settings, "
        "unless they are computed: where the two part, the numbers hold."
    )
    display(Markdown(words), metadata={SETTINGS: True})


def mark(tree: nodes.document) -> None:
    """Label each paragraph that has a computed number or reads a figure.

    So are the lines of what was learnt, and what stands below `READING`.
    Outputs of cells are computed whole.
    """
    for node in list(tree.findall(nodes.paragraph)):
        above = list(parents(node))
        if any(isinstance(one, nodes.container) for one in above):
            continue
        learnt = any("what-was-learnt" in one.get("ids", ()) for one in above)
        place = node.parent.index(node)
        said = place and node.parent[place - 1].astext().strip() == READING
        if learnt or said or any(map(reads, node.findall(nodes.Element))):
            node.insert(0, nodes.inline("", LABEL, classes=["reading"]))
            node.insert(1, nodes.Text(" "))


def reads(node: nodes.Element) -> bool:
    """Tell whether this is a glued value, or a reference to a figure."""
    return "pasted-text" in node.get("classes", ()) or node.get("reftype") == "numref"


def parents(node: nodes.Element) -> Any:
    """Yield what a node lies in, from within."""
    while node.parent is not None:
        node = node.parent
        yield node
