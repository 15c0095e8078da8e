"""Causal tracing by hand: plain hooks on Hugging Face's own modules, one run and one row at a time.

Nothing here uses the package. Noise is added to the output of the token embedding; a place is
restored by overwriting what a module returned with what it returned in the clean run.
"""

import copy
from typing import Any

import torch

_LIKE_LLAMA = {
    "embed": "model.embed_tokens",
    "resid_post": "model.layers.{}",
    "mlp_out": "model.layers.{}.mlp",
    "attention_out": "model.layers.{}.self_attn",
}
# Norms stand between attention or MLP and the stream; what is added is what comes out of them.
_LIKE_OLMO2 = _LIKE_LLAMA | {
    "mlp_out": "model.layers.{}.post_feedforward_layernorm",
    "attention_out": "model.layers.{}.post_attention_layernorm",
}
MODULES = {
    "llama": _LIKE_LLAMA,
    "olmo2": _LIKE_OLMO2,
    "gemma2": _LIKE_OLMO2,
    "gpt2": {
        "embed": "transformer.wte",
        "resid_post": "transformer.h.{}",
        "mlp_out": "transformer.h.{}.mlp",
        "attention_out": "transformer.h.{}.attn",
    },
    "gpt_neox": {
        "embed": "gpt_neox.embed_in",
        "resid_post": "gpt_neox.layers.{}",
        "mlp_out": "gpt_neox.layers.{}.mlp",
        "attention_out": "gpt_neox.layers.{}.attention",
    },
    "opt": {
        "embed": "model.decoder.embed_tokens",
        "resid_post": "model.decoder.layers.{}",
        "mlp_out": "model.decoder.layers.{}.fc2",
        "attention_out": "model.decoder.layers.{}.self_attn",
    },
}


class ByHand:
    """One prompt and target of one model."""

    def __init__(self, hf_model: Any, family: str, prompt: list[int], target: int) -> None:
        self.model = copy.deepcopy(hf_model)
        self.paths = MODULES[family]
        self.prompt = prompt
        self.target = target

    def output_of(self, site: str, layer: int) -> torch.Tensor:
        """What a module returns in the clean run, `[pos, d_model]`."""
        kept = []

        def keep(_module, _args, output):
            kept.append(_first(output).reshape(len(self.prompt), -1).clone())

        handle = self.model.get_submodule(self.paths[site].format(layer)).register_forward_hook(
            keep
        )
        self.log_prob()
        handle.remove()
        return kept[0]

    def log_prob(self) -> float:
        """Log-probability of the target after the prompt, with whatever is attached."""
        with torch.no_grad():
            logits = self.model(torch.tensor([self.prompt])).logits[0, -1]
        return float(logits.log_softmax(dim=0)[self.target])

    def restored(
        self,
        noise: torch.Tensor,
        subject: list[int],
        site: str | None = None,
        layers: list[int] | None = None,
        positions: list[int] | None = None,
    ) -> float:
        """Mean log-probability over draws of noise `[draw, subject, d_model]`, nats."""
        clean = {layer: self.output_of(site, layer) for layer in layers or []}
        found = []
        for draw in noise:
            handles = [self._corrupt(draw, subject)]
            handles += [self._restore(site, i, clean[i], positions) for i in layers or []]
            found.append(self.log_prob())
            for handle in handles:
                handle.remove()
        return sum(found) / len(found)

    def _corrupt(self, draw: torch.Tensor, subject: list[int]) -> Any:
        def add(_module, _args, output):
            output = output.clone()
            for index, position in enumerate(subject):
                output[0, position] += draw[index].to(output.dtype)
            return output

        return self.model.get_submodule(self.paths["embed"]).register_forward_hook(add)

    def _restore(self, site: str, layer: int, clean: torch.Tensor, positions: list[int]) -> Any:
        def overwrite(_module, _args, output):
            new = _first(output).clone()
            flat = new.view(len(self.prompt), -1)  # OPT runs its MLP on [batch*pos d_model]
            for position in positions:
                flat[position] = clean[position]
            return (new, *output[1:]) if isinstance(output, tuple) else new

        module = self.model.get_submodule(self.paths[site].format(layer))
        return module.register_forward_hook(overwrite)


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
