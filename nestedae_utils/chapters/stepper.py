"""Pictures to step through, without scripts: one for each measurement.

Radio buttons and style sheets choose the picture, in a browser, offline; who
has neither sees the last one, and the words of each step.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure


def picture(figure: Figure) -> str:
    """Return a figure as the address of a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=72)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def stepper(pictures: Sequence[str], words: Sequence[str], name: str) -> str:
    """Return HTML that shows one of the pictures, with its words as text.

    ``name`` is one word, another for each stepper of a page.
    """
    rows, rules, last = [], [], len(pictures) - 1
    for step, text in enumerate(words):
        key = f"{name}-{step}"
        checked = " checked" if step == last else ""
        rows.append(
            f'<input type="radio" name="{name}" id="{key}"{checked}>'
            f'<label for="{key}">{escape(text.split(":")[0])}</label>'
        )
        rules.append(f"#{key}:checked ~ .frames .{key} {{ display: block }}")
    frames = "".join(
        f'<div class="{name}-{step}"><img src="{address}" alt="{escape(text)}">'
        f"<p>{escape(text)}</p></div>"
        for step, (address, text) in enumerate(zip(pictures, words, strict=True))
    )
    style = f".stepper .frames div {{ display: none }} {' '.join(rules)}"
    return (
        f"<style>{style}</style>"
        f'<div class="stepper" role="group" aria-label="steps">{"".join(rows)}'
        f'<div class="frames">{frames}</div></div>'
    )
