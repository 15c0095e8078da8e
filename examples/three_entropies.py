"""The three entropies of a model over a corpus, and which layers use their memory least evenly.

Run: python examples/three_entropies.py [MODEL] [CORPUS]
"""

import sys

import probes


def main(name: str = "smollm2-135m-instruct-q4", source: str = "general") -> None:
    model = probes.load_model(name)
    corpus = probes.load_corpus(source)
    batches = probes.token_batches(
        corpus, model.tokenizer, sequence_length=256, batch_size=4, max_tokens=2048
    )
    result = probes.measure_entropy(model, batches)

    knowledge = result.knowledge
    low, high, level = knowledge.interval
    print(f"knowledge entropy  {knowledge.total:.2f} of at most {knowledge.maximum:.2f} nats")
    print(f"  {level:.0%} interval     {low:.2f} to {high:.2f}")
    print(f"  by contribution  {result.contribution.total:.2f} (no rescaling can move it)")
    print(f"attention entropy  {result.attention.total:.2f} nats, summed over layers")
    print(f"next-token entropy {result.next_token.mean:.2f} nats a position")

    share = knowledge.effective_memory_vectors / model.d_mlp
    for layer in share.argsort()[:3].tolist():
        print(f"layer {layer:>2} works as if {share[layer]:.0%} of its memory vectors were used")


if __name__ == "__main__":
    main(*sys.argv[1:])
