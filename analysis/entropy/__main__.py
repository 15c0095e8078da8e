"""Run `python -m analysis.entropy`."""

import sys

from analysis.entropy.command import main

if __name__ == "__main__":
    sys.exit(main())
