"""Runs of two processes, for `torchrun`; the first one prints what it saw as one line of JSON.

torchrun --nproc-per-node 2 -m tests.training.process_worker OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from interventions import AttentionTemperature, Resuscitation
from tests.training.loop_runs import model_of, rows_of, run, settings_of, tokens
from training.engine import whole
from training.processes import joined_processes
from training.runs.records import PerplexityRecord

CASES: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": "ddp", "micro_batch_size": 2},
    "fsdp": {"parallel": "fsdp", "micro_batch_size": 2},
    "fsdp-checkpointed": {"parallel": "fsdp", "gradient_checkpointing": True},
    "fsdp-bf16": {"parallel": "fsdp", "precision": "bf16"},
    "ddp-bf16": {"parallel": "ddp", "precision": "bf16"},
    "ddp-adapters": {"parallel": "ddp", "micro_batch_size": 2, "lora_rank": 2},
}
"""Settings of each; five rows are shared out among two processes."""


class Looks:
    """Looks at logits, at part of the model by itself, and at a weight."""

    def due(self, step: int) -> bool:
        return step % 5 == 0

    def observe(self, model, step):
        from probes.corpus.token_batch import as_token_batch

        with model.hooks([("blocks.1.mlp.hook_post", lambda c, _p: seen.append(float(c.std())))]):
            seen: list[float] = []
            logits = float(model(tokens(1, 7)).float().std())
            trunk = float(model.trunk(as_token_batch({"input_ids": tokens(1, 7)})).float().std())
        weight = float(model.anatomy.layers[0].down.weight.float().norm())
        yield PerplexityRecord(step, f"{len(seen)} passes", logits, trunk, 7)
        yield PerplexityRecord(step, "weight", weight, seen[0], 7)


def edits_of(model):
    """One that changes attention, one that reads weights in its hooks."""
    means = torch.rand(3, model.d_mlp, generator=torch.Generator().manual_seed(1))
    edit = Resuscitation(means, ratio=0.5, factor=2.0, site="up")
    return [AttentionTemperature(1.3), edit]


def trained(path: Path, settings: dict[str, Any], **given: Any):
    model = model_of("olmo" if settings.get("parallel") == "ddp" else "llama")
    return run(
        path,
        model,
        rows_of(batch_size=5),
        settings_of(steps=7, batch_size=5, checkpoint_every=3, **settings),
        edits=edits_of(model),
        observers=[Looks()],
        **given,
    )


def about(model) -> dict[str, Any]:
    """What became of the parameters and the optimizer's view of them."""
    parameters = list(model.hf_model.parameters())
    return {
        "sharded": all(isinstance(p, DTensor) for p in parameters),
        "shards": all(
            p.to_local().numel() < p.numel() for p in parameters if isinstance(p, DTensor)
        ),
        "dtypes": sorted({str(p.dtype) for p in parameters}),
        "tied": model.anatomy.unembed.weight is model.anatomy.embed.weight,
        "norm": float(sum(whole(p).detach().double().square().sum() for p in parameters)),
    }


def main(out: Path) -> None:
    found = {}
    with joined_processes() as here:
        for name, settings in CASES.items():
            model, _ = trained(out / name, settings)
            found[name] = about(model)
            trained(out / f"{name}-cut", settings, time_limit=0.0)
            # The first process has to have opened the directory before others look into it.
            here.wait_for_all()
            model, _ = trained(out / f"{name}-cut", settings, resume=True)
        for name, parallel in (("alone", "none"), ("fsdp with rates", "fsdp")):
            try:
                from interventions import RowLearningRates

                model = model_of()
                rates = [RowLearningRates(edits_of(model)[1])]
                settings = settings_of(parallel=parallel)
                run(out / name, model, settings=settings, optimizer_edits=rates)
            except ValueError as error:
                found[name] = str(error)
    if here.is_first:
        print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
