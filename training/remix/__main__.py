"""Run `python -m training.remix`."""

import sys

from training.remix import main

if __name__ == "__main__":
    sys.exit(main())
