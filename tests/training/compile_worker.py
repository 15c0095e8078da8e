"""A run with compiled blocks and one without; prints what came of them as one line of JSON.

python -m tests.training.compile_worker OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

from torch._dynamo.utils import counters

from tests.models import tokens
from tests.training.loop_runs import losses_of, run, settings_of


class Watching:
    """Looks through a hook that was not there before."""

    def __init__(self) -> None:
        self.fired: list[int] = []

    def due(self, step: int) -> bool:
        return step % 5 == 0

    def observe(self, model, step):
        with model.hooks([("blocks.1.mlp.hook_post", lambda _t, _p: self.fired.append(step))]):
            model(tokens(1, 5))
        return []


def main(out: Path) -> dict[str, Any]:
    found = {}
    for name, compiled in (("plain", False), ("compiled", True)):
        looks = Watching()
        model, _ = run(out / name, settings=settings_of(compile=compiled), observers=[looks])
        blocks = [layer.block for layer in model.anatomy.layers]
        found[name] = {
            "losses": losses_of(out / name),
            "fired": looks.fired,
            "graphs": counters["stats"]["unique_graphs"],
            "left_compiled": sum(block._compiled_call_impl is not None for block in blocks),
        }
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
