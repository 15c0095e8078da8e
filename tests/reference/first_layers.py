"""Where facts of a run of stages are readable first, from the hidden states that transformers gives."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import probes
from training.recipes import from_json
from training.remix_config import RemixConfig
from training.remix_items import stage_items


def first_layers(run: Path, stage: str, k: int) -> tuple[dict[str, int], int]:
    """Of facts of stage A whose answer begins with a top token, the first such layer; all facts."""
    (checkpoint,) = (run / f"stage-{stage}/checkpoints").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    config = from_json(RemixConfig, {**manifest["configuration"], **manifest["execution"]})
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    items = stage_items(config, config.stages[0], probes.load_model(str(checkpoint)))
    found = {}
    for item, row in zip(items.asked, items.rows.items, strict=True):
        target = row.answer_ids[0]
        with torch.no_grad():
            ids = torch.tensor([list(row.prompt_ids)])
            states = model(ids, output_hidden_states=True).hidden_states[1:]
            # The last of these states is normed already.
            streams = [*(model.model.norm(s[0, -1]) for s in states[:-1]), states[-1][0, -1]]
            logits = [model.lm_head(stream) for stream in streams]
        ranks = [int((each > each[target]).sum()) for each in logits]
        layers = [layer for layer, rank in enumerate(ranks) if rank < k]
        if layers:
            found[item.identifier] = layers[0]
    return found, len(items.rows.items)
