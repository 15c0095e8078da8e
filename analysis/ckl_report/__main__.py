"""Run `python -m analysis.ckl_report`."""

import sys

from analysis.ckl_report.command import main

if __name__ == "__main__":
    sys.exit(main())
