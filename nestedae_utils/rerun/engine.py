"""papermill's engine ``nestedae``, which refuses what `runs.plan` refuses.

``papermill --engine nestedae notebook out -p ...`` starts and writes nothing
then; papermill alone runs an unknown name with the defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from papermill.engines import NBClientEngine

from nestedae_utils.errors import ParameterError


class Refused(click.UsageError, ParameterError):
    """A parameter is not allowed; papermill's command says so in a line."""


class Engine(NBClientEngine):
    """papermill's own engine, behind the check of parameters."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, **settings: Any) -> Any:
        """Execute a notebook whose parameters are allowed."""
        # papermill loads every engine when it is imported, few are used
        from nestedae_utils.book import parameters
        from nestedae_utils.rerun import runs

        path = Path(settings["input_path"])
        try:
            notebook = parameters.find(path.stem, path.parent)
            runs.plan(notebook, nb.metadata.papermill.get("parameters", {}))
        except ParameterError as error:
            raise Refused(str(error)) from None
        return super().execute_notebook(nb, kernel_name, **settings)
