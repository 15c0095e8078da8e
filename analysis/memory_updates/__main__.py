"""Run `python -m analysis.memory_updates`."""

import sys

from analysis.memory_updates.command import main

if __name__ == "__main__":
    sys.exit(main())
