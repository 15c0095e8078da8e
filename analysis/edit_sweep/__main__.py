"""Run `python -m analysis.edit_sweep`."""

import sys

from analysis.edit_sweep.command import main

if __name__ == "__main__":
    sys.exit(main())
