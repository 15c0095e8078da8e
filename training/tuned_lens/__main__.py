"""Run `python -m training.tuned_lens`."""

import sys

from training.tuned_lens import main

if __name__ == "__main__":
    sys.exit(main())
