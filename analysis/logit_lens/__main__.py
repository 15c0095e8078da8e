"""Run `python -m analysis.logit_lens`."""

import sys

from analysis.logit_lens.command import main

if __name__ == "__main__":
    sys.exit(main())
