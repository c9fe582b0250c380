"""For a kernel that lacks the package: it is told in a line what to do.

A kernel that works in this folder finds this file first. Where the package is
there, it takes this module's place at once.
"""

import importlib
import os
import sys


class NoPackage(ModuleNotFoundError):
    """The package is not there; IPython shows the line alone."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


here, paths = os.path.dirname(os.path.abspath(__file__)), list(sys.path)
del sys.modules[__name__]
sys.path[:] = [path for path in paths if os.path.abspath(path) != here]
try:
    importlib.import_module(__name__)
except ModuleNotFoundError as error:
    raise NoPackage(
        f"No module {error.name!r} in this kernel's Python, {sys.executable}: choose "
        f"another kernel, start `make lab` in {os.path.dirname(here)}, or run `pip "
        "install` with that folder in this Python; then restart the kernel."
    ) from None
finally:
    sys.path[:] = paths
