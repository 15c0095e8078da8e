"""Run by `test_backends` in a process of its own: one backend after the other, then native."""

import logging
import sys

import torch


def main(order: list[str]) -> None:
    import probes
    import probes.hooks
    import probes.measure
    from tests.models import tiny_hf_model, tokens

    native = probes.load_model(tiny_hf_model("gpt_neox"))
    batches = [{"input_ids": tokens(2, 11)}]
    expected = probes.measure_entropy(native, batches)
    if not {"transformer_lens", "nnsight"} & set(sys.modules):
        print("unasked")
    level = logging.getLogger("transformers").level
    for backend in [*order, "native"]:
        model = probes.load_model(tiny_hf_model("gpt_neox"), backend=backend)
        found = probes.measure_entropy(model, batches)
        assert abs(found.attention.total - expected.attention.total) < 1e-4, backend
        assert abs(found.knowledge.total - expected.knowledge.total) < 1e-4, backend
        native.hf_model(tokens(1, 3), labels=tokens(1, 3)).loss.backward()
        assert torch.isfinite(native.anatomy.unembed.weight.grad).all()
        assert logging.getLogger("transformers").level == level
        print(backend)


if __name__ == "__main__":
    main(sys.argv[1:])
