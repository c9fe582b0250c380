"""papermill's engine ``nestedae``, which refuses what `runs.plan` refuses.

``papermill --engine nestedae notebook out -p ...`` starts and writes nothing
then; papermill alone runs an unknown name with the defaults.
"""

from pathlib import Path
from typing import Any

import click

from nestedae_utils.errors import ParameterError


class Refused(click.UsageError, ParameterError):
    """A parameter is not allowed; papermill's command says so in a line."""


class Engine:
    """papermill's own engine, behind the check of parameters.

    Not a subclass: papermill loads this module while it is imported itself.
    """

    @staticmethod
    def execute_notebook(nb: Any, kernel_name: str, **settings: Any) -> Any:
        """Execute a notebook whose parameters are allowed."""
        from papermill.engines import NBClientEngine

        from nestedae_utils.book import parameters
        from nestedae_utils.rerun import runs

        path = Path(settings["input_path"])
        given = nb.metadata.papermill.get("parameters", {})
        try:
            runs.plan(parameters.find(path.stem, path.parent), given)
        except ParameterError as error:
            raise Refused(str(error)) from None
        return NBClientEngine.execute_notebook(nb, kernel_name, **settings)

    @staticmethod
    def nb_kernel_name(nb: Any, name: str | None = None) -> str:
        """Return the name of a notebook's kernel."""
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @staticmethod
    def nb_language(nb: Any, language: str | None = None) -> str:
        """Return a notebook's language."""
        from papermill.utils import nb_language

        return nb_language(nb, language)
