"""Run `python -m analysis.remix_report`."""

import sys

from analysis.remix_report.command import main

if __name__ == "__main__":
    sys.exit(main())
