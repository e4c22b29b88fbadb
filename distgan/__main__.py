"""`python -m distgan` is the `distgan` command."""

import sys

from distgan.cli import main

if __name__ == "__main__":
    sys.exit(main())
