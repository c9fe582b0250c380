"""Refresh ``data/reference``: ``python -m nestedae_utils.reference FOLDER``.

The folder holds the results of a full run of all chapters; ``make reference``
makes that run.  Only runs with the paper's data and settings are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nestedae_utils import records
from nestedae_utils.checks import DataError


def refresh(results: Path, reference: Path = records.REFERENCE) -> list[Path]:
    """Keep our own numbers of every chapter's results.

    Raises
    ------
    DataError
        If there are no results, or a chapter used the twin or other
        settings than the paper's; nothing is written then.
    """
    found = records.results_of(results)
    if not found:
        raise DataError(
            f"{results}: no results there; run the chapters first, with "
            "`make reference`."
        )
    for name, content in found.items():
        if content["data_source"] == "twin" or not content["as_in_paper"]:
            raise DataError(
                f"{name}: run on {content['data_source']!r} data with "
                f"{content['parameters']}; the reference takes the paper's "
                "data and settings only."
            )
    return [
        records.write_json(
            reference / f"{name}.json", records.own_numbers(content)
        )
        for name, content in found.items()
    ]


if __name__ == "__main__":
    try:
        for path in refresh(Path(sys.argv[1])):
            print(path)
    except (DataError, IndexError) as error:
        sys.exit(f"reference: {error}")
