"""``python -m nestedae_utils`` is the command ``nestedae``."""

import sys

from nestedae_utils.cli import main

if __name__ == "__main__":
    sys.exit(main())
