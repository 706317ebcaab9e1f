"""`python -m rljax` is the command `rljax`."""

import sys

from rljax.command import main

if __name__ == "__main__":
    sys.exit(main())
