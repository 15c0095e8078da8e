"""Run `python -m training.ckl`."""

import sys

from training.ckl import main

if __name__ == "__main__":
    sys.exit(main())
