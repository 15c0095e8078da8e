"""Read and edit a model at its hook points: which memory vectors does one prompt lean on?

Run: python examples/hook_points.py
"""

import probes
from probes import Site

PROMPT = "The capital of France is"


def main() -> None:
    model = probes.load_model("smollm2-135m-instruct-q4")

    # Names are TransformerLens's; a filter keeps memory small.
    logits, cache = model.run_with_cache(PROMPT, lambda name: name.endswith("mlp.hook_post"))
    print(f"{PROMPT!r} goes on {model.tokenizer.decode(logits[0, -1].argmax())!r}")

    layer = model.n_layers - 1
    coefficients = cache[Site.MLP_COEFFICIENTS, layer][0, -1]
    strongest = coefficients.abs().topk(5).indices
    print(f"strongest coefficients of layer {layer}: {strongest.tolist()}")

    def silence(tensor, _point):
        tensor = tensor.clone()
        tensor[..., strongest] = 0.0
        return tensor

    with model.hooks([(f"blocks.{layer}.mlp.hook_post", silence)]):
        edited, _ = model.run_with_cache(PROMPT, "hook_embed")
    print(f"without them it goes on {model.tokenizer.decode(edited[0, -1].argmax())!r}")


if __name__ == "__main__":
    main()
