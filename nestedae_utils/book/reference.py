"""Refresh ``data/reference``: ``python -m nestedae_utils.book.reference DIR``.

The folder DIR holds the results of a full run of all chapters; ``make
reference`` makes that run.  Our own numbers of it are kept, without the
paper's, if it had the paper's data and the book's settings; the README's
pictures, and ``repeat`` of ``data/quantities.csv``, come from the same run.
"""

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nestedae_utils.book import records
from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError, replacing

PICTURES = {
    "latent_map": ("07_latent_maps", "fig-07-map"),
    "single_vs_nested": ("03_fig2_single_vs_nested", "fig-03-violins"),
    "what_is_seen": ("08_audit", "fig-08-seen"),
}
"""The README's pictures, each with its notebook and its figure's name."""


def refresh(results: Path, reference: Path) -> list[Path]:
    """Keep every chapter's results, or, with a DataError, none of them."""
    chapters = records.results_of(results)
    if not chapters:
        hint = "run the chapters first, with `make reference`."
        raise DataError(f"{results}: no results there; {hint}")
    for name, content in chapters.items():
        source, ours = content["data_source"], content["records"]
        if source == "twin" or not content["as_in_paper"]:
            raise DataError(
                f"{name}: run on {source!r} data with {content['parameters']}; "
                "the reference takes the paper's data and settings only."
            )
        content.pop("trained", None)  # the keys of a cache
        content["records"] = [{key: one[key] for key in records.OURS} for one in ours]
    write = records.write_json
    return [write(reference / f"{name}.json", one) for name, one in chapters.items()]


def repeat(record: Mapping[str, Any]) -> float:
    """Return within what a second run must come to the value of a record.

    Twice as far as the farther end of its 95 % interval, two digits, rounded up: then
    95 of 100 whole runs agree. No less than four standard errors of the replicas: seeds
    are close by chance at times. Equal ends leave a hundredth of the value, or 1e-6; of
    a count, which has no spread, three in n (doi:10.1001/jama.1983.03330370053031).
    """
    value, low, high = (record[key] for key in ("value", "low", "high"))
    if low is None:
        return 0.0
    least = 2 * (record["spread"] or 0) / math.sqrt(record["replicas"])
    same = 0.005 if record["spread"] is not None else 1.5 / record["replicas"]
    away = max(value - low, high - value, least) if low < high else abs(value) * same
    reach = max(1e-6, 2 * away)
    digit = 10.0 ** (math.floor(math.log10(reach)) - 1)
    return float(f"{math.ceil(reach / digit * (1 - 1e-9)) * digit:.2g}")


def write_repeats(contents: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Write ``repeat`` of all recorded quantities into their table."""
    found = {one["quantity"]: one for content in contents for one in content["records"]}
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    place = header.index("repeat")
    for row in rows:
        if row[0] in found:
            row[place] = f"{repeat(found[row[0]]):g}"
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def picture(notebook: Path, name: str) -> str:
    """Return the SVG of a figure of an executed notebook."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        for output in cell["outputs"] if figure.get("name") == name else ():
            if svg := output.get("data", {}).get("image/svg+xml"):
                return "".join(svg)
    fault = f"no figure {name!r} with an SVG; execute the notebook."
    raise DataError(f"{notebook}: {fault}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m nestedae_utils.book.reference DIR")
    folder, images = Path(sys.argv[1]), DATA.with_name("images")
    try:
        written = refresh(folder, records.REFERENCE)
        contents = records.results_of(folder).values()
        written.append(write_repeats(contents, DATA / "quantities.csv"))
        drawn = {
            images / f"{name}.svg": picture(folder / f"{notebook}.ipynb", figure)
            for name, (notebook, figure) in PICTURES.items()
        }
        images.mkdir(exist_ok=True)
        for path, svg in drawn.items():
            path.write_text(svg, encoding="utf-8")
        print(*written, *drawn, sep="\n")
    except (DataError, OSError) as error:
        sys.exit(f"reference: {error}")
