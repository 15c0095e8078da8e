"""What two processes on gloo find, launched once for all tests that ask (the fixture `both_found`).

Run by torchrun; prints, for each module, what its `found_by_a_process()` gives in either process.
"""

import json
import os
from importlib import import_module

from torch import distributed as dist

MODULES = (
    "tests.probes.test_entropy_pass",
    "tests.probes.test_target_scoring",
    "tests.training.test_observers",
    "tests.training.test_gradient_alignment",
)


def main() -> None:
    dist.init_process_group("gloo")
    found = {name: import_module(name).found_by_a_process() for name in MODULES}
    both = [None, None]
    dist.all_gather_object(both, found)
    if dist.get_rank() == 0:
        print(json.dumps({name: [of[name] for of in both] for name in MODULES}), flush=True)
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort an interpreter that takes itself apart


if __name__ == "__main__":
    main()
