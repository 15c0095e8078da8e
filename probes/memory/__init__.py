"""Memory: which memory vectors a prompt uses, what these write, and where else they are used.

A memory vector is a row of an MLP's down projection; its coefficient says how much of it a position
writes into the stream. `top_vectors` finds those that matter at a position of a prompt,
`promoted_tokens` says what a vector writes, `top_contexts` finds the texts of a corpus that use it
most, `shared_vectors` compares two prompts, `fact_changes` two checkpoints, and `knowledge_neurons`
attributes the probability of a fact by integrated gradients.

Source: Geva et al., arXiv 2012.14913 and 2203.14680; Dai et al., arXiv 2104.08696.
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "FactChanges": "probes.memory.neurons",
    "KnowledgeNeurons": "probes.memory.neurons",
    "PromotedTokens": "probes.memory.vectors",
    "SharedVectors": "probes.memory.vectors",
    "TopContexts": "probes.memory.contexts",
    "TopVectors": "probes.memory.vectors",
    "fact_changes": "probes.memory.neurons",
    "knowledge_neurons": "probes.memory.neurons",
    "promoted_tokens": "probes.memory.vectors",
    "shared_vectors": "probes.memory.vectors",
    "top_contexts": "probes.memory.contexts",
    "top_vectors": "probes.memory.vectors",
}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
