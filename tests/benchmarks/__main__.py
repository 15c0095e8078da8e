"""All benchmarks, one after another: `python -m tests.benchmarks [--quick] [NAME...]`.

Each is a module with a `main` and can be run by itself; the quick ones say whether everything still
works and about where the ratios are.
"""

import importlib
import time
from collections.abc import Sequence

from tests.benchmarks.timing import options

NAMES = ("entropy", "lens", "side_by_side", "edits", "training", "evaluation", "remix")


def main(argv: Sequence[str] | None = None) -> None:
    """Run those that are named, or all."""
    parser = options(__doc__, rounds=0, quick=0)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    given = parser.parse_args(argv)
    passed_on = ["--out", str(given.out), *["--quick"] * given.quick]
    passed_on += ["--rounds", str(given.rounds)] if given.rounds else []
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    begun = time.perf_counter()
    for name in given.names or NAMES:
        start = time.perf_counter()
        print(f"\n{name}")
        importlib.import_module(f"tests.benchmarks.{name}").main(passed_on)
        print(f"{name} took {time.perf_counter() - start:.0f} s")
    print(f"\nall took {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
