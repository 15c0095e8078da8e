"""Run `python -m analysis.remix_study`."""

import sys

from analysis.remix_study.command import main

if __name__ == "__main__":
    sys.exit(main())
