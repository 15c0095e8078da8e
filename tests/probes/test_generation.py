"""Generation against the logits of whole rows, one prompt at a time and without a cache."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from scipy.stats import chisquare
from transformers import TopKLogitsWarper, TopPLogitsWarper

import interventions
import probes
from probes.generation import _Choice, generate, why_not_padded
from probes.scoring import target_readings
from tests.models import FAMILIES, tiny_hf_model, tiny_model, tokens


def some_prompts(count=11, seed=3):
    """Prompts of 1 to 13 tokens, some of the same length."""
    lengths = [1 + (5 * i) % 13 for i in range(count)]
    return [tokens(1, length, seed=seed + i)[0].tolist() for i, length in enumerate(lengths)]


def by_hand(hf_model, prompt, limit):
    """The most probable tokens after a prompt, from the logits of the whole row every time."""
    row = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            row.append(int(hf_model(torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(prompt) :]


def until(row, stops):
    """A row up to its first stop, which is part of it."""
    ends = [place for place, token in enumerate(row) if token in stops]
    return row[: ends[0] + 1] if ends else row


def model_of(family, attention="sdpa", dtype=torch.float64):
    """In float64, where rounding decides no choice, unless said otherwise."""
    hf_model = tiny_hf_model(family, dtype)
    hf_model.set_attn_implementation(attention)
    return probes.load_model(hf_model)


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        *((family, "sdpa") for family in FAMILIES),
        *(("gpt2", "eager"), ("olmo3", "eager"), ("falcon", "sdpa"), ("falcon_rw", "sdpa")),
        *((family, "eager") for family in ("gptj", "codegen", "gpt_neo", "bloom", "mpt")),
    ],
)
def test_a_batch_is_continued_as_every_prompt_by_itself(family, attention):
    """Absolute, learned and rotary positions; windows of three tokens; capped scores."""
    # Eager attention takes its softmax in float32, whatever the model is in; it alone caps scores.
    eager = attention == "eager" or family == "gemma2"
    model = model_of(family, "eager", torch.float32) if eager else model_of(family)
    prompts = some_prompts()
    endless = [by_hand(model.hf_model, prompt, 7) for prompt in prompts]
    stops = {endless[1][2], endless[5][4]}
    expected = [until(row, stops) for row in endless]
    # Otherwise nothing would be shown about rows that leave a batch.
    assert len({len(row) for row in expected}) > 1
    assert why_not_padded(model) is None
    assert generate(model, prompts, max_new_tokens=7, stop_ids=tuple(stops)) == expected
    one_by_one = [
        generate(model, [prompt], max_new_tokens=7, stop_ids=tuple(stops)) for prompt in prompts
    ]
    assert [found for (found,) in one_by_one] == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_it_is_what_hugging_face_generates(family):
    model = model_of(family)
    prompts = [prompt for prompt in some_prompts() if len(prompt) > 1]
    found = generate(model, prompts, max_new_tokens=11, stop_ids=(2,))
    for prompt, tokens_after in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        whole = model.hf_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=11, do_sample=False
        )
        assert whole[0, len(prompt) :].tolist() == tokens_after


def test_batches_do_not_matter():
    model = model_of("olmo3")
    prompts = some_prompts()
    expected = generate(model, prompts, max_new_tokens=5)
    done = []
    small = generate(model, prompts, max_new_tokens=5, batch_tokens=37, on_items=done.append)
    assert small == expected
    assert len(done) > 4
    assert sum(done) == len(prompts)
    # A budget that no prompt fits in still runs each.
    assert generate(model, prompts, max_new_tokens=5, batch_tokens=1) == expected


def test_eager_attention_in_float64_makes_no_numbers_of_pads():
    """A query that sees nothing gets no number there; so equal lengths run together."""
    model = model_of("llama", "eager")
    prompts = some_prompts()
    assert "with pads on the left, by nan" in why_not_padded(model)
    expected = [by_hand(model.hf_model, prompt, 5) for prompt in prompts]
    assert generate(model, prompts, max_new_tokens=5) == expected


def test_where_pads_change_something_only_equal_lengths_share_a_batch():
    """A function that looks at the start of the row, as learned positions of a family might."""
    model = model_of("llama")
    prompts = some_prompts()
    kept = []

    def add_first(stream, _point):
        if stream.shape[1] > 1:
            kept[:] = [stream[:, :1]]
        rows = kept[0][: len(stream)] if len(kept[0]) >= len(stream) else kept[0]
        return stream + rows

    widths = []
    watch = ("hook_embed", lambda stream, _point: widths.append(tuple(stream.shape[:2])))
    with model.hooks([watch, ("blocks.1.hook_resid_pre", add_first)]):
        assert "with pads on the left" in why_not_padded(model)
        long = [prompt for prompt in prompts if len(prompt) > 1]
        expected = [by_hand(model.hf_model, prompt, 1) for prompt in long]
        widths.clear()
        assert generate(model, long, max_new_tokens=1) == expected
    # The trials: a row without a cache, with one in two steps, and the same with pads.
    batches = widths[6:]
    assert sorted(batches, reverse=True) == sorted(
        {(sum(len(p) == n for p in long), n) for n in map(len, long)}, reverse=True
    )


def test_what_is_attached_counts():
    model = model_of("qwen2")
    prompts = some_prompts()
    plain = generate(model, prompts, max_new_tokens=7)
    coefficients = torch.linspace(0.1, 3.0, model.n_layers * model.d_mlp).view(model.n_layers, -1)
    edits = (
        interventions.AttentionTemperature(2.7),
        interventions.Resuscitation(coefficients, ratio=0.7, factor=3.0, site="up"),
    )
    for edit in edits:
        with interventions.applied(model, edit):
            expected = [by_hand(model.hf_model, prompt, 7) for prompt in prompts]
            assert generate(model, prompts, max_new_tokens=7) == expected
        assert expected != plain
    patch = interventions.patch_weights(model, edits[1])
    assert generate(model, prompts, max_new_tokens=7) == expected
    patch.undo()
    assert generate(model, prompts, max_new_tokens=7) == plain


def test_functions_at_the_logits_count():
    model = tiny_model("opt")

    def forbid(logits, _point):
        logits = logits.clone()
        logits[..., 10:] = -torch.inf
        return logits

    with model.hooks([("hook_unembed", forbid)]):
        found = generate(model, some_prompts(), max_new_tokens=3)
    assert max(token for row in found for token in row) < 10


def test_nothing_is_left_behind():
    model = tiny_model("gemma3_text")
    model.hf_model.train()
    state = torch.get_rng_state()
    generate(model, some_prompts(), max_new_tokens=2)
    assert model.hf_model.training
    assert all(parameter.grad is None for parameter in model.hf_model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_those_of_the_softmax_and_of_each_prompt():
    """How often each token comes, against its probability."""
    model = model_of("llama")
    prompt = tokens(1, 5)[0].tolist()
    draws, temperature = 4001, 1.7
    found = generate(
        model,
        [prompt] * draws,
        max_new_tokens=1,
        temperature=temperature,
        generator=torch.Generator().manual_seed(7),
    )
    with torch.no_grad():
        logits = model.hf_model(torch.tensor([prompt])).logits[0, -1]
    expected = draws * (logits / temperature).softmax(-1).numpy()
    counts = torch.bincount(torch.tensor(found)[:, 0], minlength=len(expected)).numpy()
    common = expected >= 5
    assert 5 < common.sum() < len(expected)
    observed = [*counts[common], counts[~common].sum()]
    # A fixed seed: the test would fail by chance for one seed in a thousand.
    assert chisquare(observed, [*expected[common], expected[~common].sum()]).pvalue > 1e-3


@pytest.mark.parametrize(("top_k", "top_p"), [(5, None), (None, 0.6), (5, 0.6), (500, 1.0)])
def test_top_k_and_top_p_draw_as_transformers_would(top_k, top_p):
    logits = torch.randn(1, 29, generator=torch.Generator().manual_seed(4)) * 2
    scores = logits / 1.3
    scores = scores if top_k is None else TopKLogitsWarper(top_k)(None, scores)
    scores = scores if top_p is None else TopPLogitsWarper(top_p)(None, scores)
    count = 3001
    # A draw in the middle of each of so many equal parts: every token gets its share, to one.
    draws = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    choice = _Choice(1.3, draws, top_k, top_p)
    found = choice.tokens(logits.expand(count, -1), range(count), 0)
    shares = torch.bincount(found, minlength=29) - count * scores[0].double().softmax(-1)
    assert shares.abs().max() < 1.01
    assert int((scores > -torch.inf).sum()) == (29 if top_k == 500 else len(found.unique()))


def test_what_is_drawn_does_not_depend_on_batches():
    model = model_of("gpt_neox")
    prompts = some_prompts()

    def drawn(**given):
        generator = torch.Generator().manual_seed(5)
        return generate(
            model, prompts, max_new_tokens=5, temperature=1.3, generator=generator, **given
        )

    assert drawn() == drawn(batch_tokens=29)
    assert drawn() != generate(model, prompts, max_new_tokens=5)
    # As cold as this, the most probable token always comes.
    cold = generate(model, prompts, max_new_tokens=5, temperature=1e-9, generator=torch.Generator())
    assert cold == generate(model, prompts, max_new_tokens=5)


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for draw, token in ((0.0, 1), (0.5 - 2**-53, 1), (0.5, 3), (1 - 2**-53, 3)):
        draws = torch.tensor([[draw]], dtype=torch.float64)
        assert _Choice(1.0, draws).tokens(logits, [0], 0).tolist() == [token]


@pytest.mark.parametrize(
    ("prompts", "given", "message"),
    [
        ([], {}, "there are no prompts to continue; give at least one"),
        ([[5], []], {}, r"prompt \[\] has no tokens \(item 1\)"),
        ([[5]], {"max_new_tokens": 0}, "max_new_tokens is 0: give 1 or more"),
        ([[5]], {"batch_tokens": 0}, "batch_tokens is 0: give 1 or more, or None"),
        ([[5]], {"temperature": 0.0}, "temperature is 0.0: give a number above 0, or None"),
        ([[5]], {"temperature": 0.7}, "temperature is 0.7 and generator not given"),
        ([[5]], {"generator": torch.Generator()}, "temperature is None and generator given"),
        ([[5]], {"top_k": 3}, "give a temperature"),
        ([[5]], {"top_p": 1.2}, "top_p is 1.2: give a number above 0 and up to 1"),
        ([[5]], {"top_k": 0}, "top_k is 0: give 1 or more"),
        ([[5, 101]], {}, r"prompt has token id 101 \(item 0\); LlamaForCausalLM has ids 0 to 100"),
        ([[5] * 50], {"max_new_tokens": 13}, "50 tokens and 13 new ones are more than the 61"),
    ],
)
def test_what_cannot_be_continued_is_refused(prompts, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        generate(tiny_model("llama"), prompts, **{"max_new_tokens": 3, **given})
    assert "\n" not in str(caught.value)


def test_all_positions_can_be_used():
    """The last new token is not run, so it needs none."""
    model = model_of("gpt2")
    prompt = tokens(1, 50)[0].tolist()
    found = generate(model, [prompt, prompt[:3]], max_new_tokens=12)
    assert found[0] == by_hand(model.hf_model, prompt, 12)


def test_a_model_that_does_not_cache_is_refused():
    model = tiny_model("llama")

    def by_place(stream, _point):
        return stream + torch.arange(stream.shape[1])[None, :, None]

    with (
        model.hooks([("blocks.0.hook_resid_pre", by_place)]),
        pytest.raises(ValueError, match=r"other logits with its key-value cache, by .* cannot gen"),
    ):
        generate(model, [[5, 6]], max_new_tokens=2)


def test_other_backends_are_refused():
    model = probes.load_model(tiny_hf_model("llama"), backend="nnsight")
    with pytest.raises(ValueError, match="backend 'nnsight', which does not generate"):
        generate(model, [[5, 6]], max_new_tokens=2)


def test_processes_share_the_prompts_out(monkeypatch):
    """Threads stand for processes: each has a model, and they meet where processes exchange."""
    here, slots, meet = threading.local(), [None, None], threading.Barrier(2)

    def gather(parts, part):
        slots[here.rank] = part
        meet.wait(timeout=60)
        parts[:] = slots
        meet.wait(timeout=60)

    monkeypatch.setattr(torch.distributed, "get_rank", lambda: here.rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    prompts = some_prompts()
    items = [(prompt, [7, 8]) for prompt in prompts]

    models = [model_of("llama"), model_of("llama")]

    def process(rank):
        here.rank = rank
        model, done = models[rank], []
        shared = {"distributed": True, "on_items": done.append}
        written = generate(model, prompts, max_new_tokens=5, batch_tokens=37, **shared)
        return written, done, target_readings(model, items, distributed=True)

    with ThreadPoolExecutor(2) as pool:
        (one, its, first), (other, others, second) = pool.map(process, range(2))
    model = models[0]
    assert one == other == generate(model, prompts, max_new_tokens=5)
    assert sum(its) + sum(others) == len(prompts)
    assert min(len(its), len(others)) > 1
    alone = target_readings(model, items)
    for readings in (first, second):
        assert torch.equal(readings.log_probs, alone.log_probs)
        assert torch.equal(readings.chosen, alone.chosen)
