"""Run `python -m analysis.ckl_study`."""

import sys

from analysis.ckl_study.command import main

if __name__ == "__main__":
    sys.exit(main())
