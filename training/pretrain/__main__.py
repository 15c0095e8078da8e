"""Run `python -m training.pretrain`."""

import sys

from training.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
