"""Run `python -m training.ckl`."""

import sys

from training.ckl.command import main

if __name__ == "__main__":
    sys.exit(main())
