"""Run `python -m analysis.reproduce`."""

import sys

from analysis.reproduce.command import main

if __name__ == "__main__":
    sys.exit(main())
