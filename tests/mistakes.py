"""A hundred mistakes, each with words of the line that answers it; run as a user would run them.

Tests check the types of arguments themselves, which users do not: `test_mistakes` runs this module
as a process of its own, `python -m tests.mistakes`.
"""

import json
import os
import re
import tempfile
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import analysis
import interventions
import probes
import training
from interventions import AblateHeads, AttentionTemperature, MemoryEdit, RankOneWrite, Resuscitation
from probes import memory
from tests.analysis.ckl_runs import make_run
from tests.models import tiny_hf_model, tiny_model, tiny_tokenizer, tokens
from training import LoopSettings, ModelShape, OptimizerSettings

SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_mlp": 32, "d_vocab": 101, "positions": 32}
POST = "blocks.0.hook_resid_post"
ROOT = Path(__file__).parent.parent
PLAIN = (ValueError, TypeError, KeyError, IndexError, AttributeError)


class _Half:
    """An edit that is not whole, and an observer that is not; as one of these it answers wrong."""

    def attached(self, model, clock): ...

    def due(self, step):
        return True


class _Observes(_Half):
    def observe(self, model, step):
        return {"loss": 3.0}


def things(folder):
    """What a script has at hand."""
    (folder / "empty").mkdir()
    (folder / "file").write_text("w1 w2")
    hf = tiny_hf_model("llama")
    model = probes.load_model(hf, tokenizer=tiny_tokenizer())
    batches = [{"input_ids": tokens(2, 9, seed)} for seed in range(20)]
    entropies = probes.measure_entropy(model, batches[:2])
    rows = tokens(8, 6).numpy()

    def run(text, function, name=POST):
        return model.run_with_hooks(text, fwd_hooks=[(name, function)])

    def train(**given):
        how = {
            "model": training.new_model(ModelShape(family="llama", **SHAPE)),
            "source": rows,
            "settings": LoopSettings(steps=3, batch_size=4),
            "directory": folder / f"run {len([*folder.iterdir()])}",
        }
        return training.train(**how | {"progress": False} | given)

    def patch(*edits):
        return interventions.patch_weights(model, *edits)

    def write(**given):
        how = {"layer": 0, "prompt": "w1 w2 w3", "subject": "w2", "target": "w4"} | given
        return interventions.rank_one_write(model, **how)

    def patching(**given):
        how = {"clean": "w1 w2", "corrupted": "w1 w4", "metric": "w3"} | given
        return analysis.patching(model, **how)

    train(directory=folder / "made")
    return SimpleNamespace(
        **{"hf": hf, "model": model, "bare": probes.load_model(tiny_hf_model("llama"))},
        **{"neox": tiny_model("gpt_neox"), "tokenizer": tiny_tokenizer(), "batches": batches},
        **{"ids": tokens(1, 3), "batch": batches[0], "entropies": entropies, "means": MEANS},
        **{"folder": folder, "empty": folder / "empty", "file": folder / "file"},
        **{"made": folder / "made", "run": run, "train": train, "patch": patch, "write": write},
        **{"patching": patching, "corpus": probes.load_corpus(["w1 w2 w3"] * 9)},
        cache=model.run_with_cache("w1 w2 w3")[1],
        few=model.run_with_cache("w1 w2 w3", "blocks.0.attn.hook_q")[1],
        lens=analysis.lens(model, ["w1 w2", "w3 w4"], ["w5", "w6"]),
        other=analysis.lens(model, ["w1 w9"], ["w5"]),
        read=analysis.read_run(make_run(folder / "ckl")),
        only_next=probes.measure_entropy(model, batches[:2], "next_token"),
    )


MEANS = torch.rand(3, 29, generator=torch.Generator().manual_seed(0)) + 0.1

LOADING = [
    ("load_model", lambda t: probes.HookedTransformer),
    ("probes.load_model", lambda t: analysis.load_model),
    ("AblateHeads", lambda t: interventions.AblateHead),
    ("top_vectors", lambda t: memory.top_vector),
    ("smollm2-135m-instruct-q4", lambda t: probes.load_model("smollm2-135m")),
    ("check the spelling", lambda t: probes.load_model("./no/such/folder")),
    ("save_pretrained", lambda t: probes.load_model(t.empty)),
    ("pass a name", lambda t: probes.load_model(None)),
    ("pass a name", lambda t: probes.load_model(["gpt2"])),
    ("tokenizer", lambda t: probes.load_model(t.hf, tokenizer="gpt2")),
    ("transformer_lens", lambda t: probes.load_model(t.hf, backend="transformerlens")),
    ("leave it out|in memory", lambda t: probes.load_model(t.hf, revision="step3000")),
    ("with model.hooks", lambda t: t.model.reset_hooks()),
    ("with model.hooks", lambda t: t.model.add_hook(POST, print)),
    ("load_model", lambda t: t.model.to("cuda")),
    ("hf_model.parameters", lambda t: t.model.parameters()),
    ("W_out", lambda t: t.model.W_outs),
    ("n_heads", lambda t: t.model.cfg.n_head),
    ("0 to 2", lambda t: t.model.blocks[7].attn.W_Q),
    ("W_Q", lambda t: t.model.blocks[0].attn.W_QK),
    ("MLP_UP", lambda t: t.neox.W_gate),
    ("has no tokenizer", lambda t: t.bare("w1 w2")),
]
CALLING = [
    ("has no tokens", lambda t: t.model("")),
    ("item 1", lambda t: t.model(["w1", ""])),
    ("at least one", lambda t: t.model([])),
    ("texts or lists of token ids", lambda t: t.model(None)),
    ("texts or lists of token ids", lambda t: t.model(3)),
    ("texts or lists of token ids", lambda t: t.model({"input_ids": t.ids})),
    ("give integers", lambda t: t.model(torch.ones(1, 3))),
    ("whole numbers", lambda t: t.model([[1.0, 2.5]])),
    ("whole numbers", lambda t: t.model(np.ones((1, 3)))),
    ("101 tokens", lambda t: t.model(torch.tensor([[500]]))),
    ("101 tokens", lambda t: t.model(torch.tensor([[-1]]))),
    ("shorter", lambda t: t.model("w1 " * 100)),
    ("give one shape|integers", lambda t: t.model(t.ids, attention_mask=torch.ones(1, 2))),
    ("logits, loss", lambda t: t.model("w1", return_type="logit")),
    ("two tokens", lambda t: t.model("w1", return_type="loss")),
    ("is 2 tokens", lambda t: t.model.to_single_token("w1 w2")),
    ("text of one token", lambda t: t.model.to_single_token(3)),
    ("padded", lambda t: t.model.to_tokens(["w1", "w1 w2"])),
    ("True, False or None", lambda t: t.model.to_tokens("w1", prepend_bos="yes")),
    ("whole numbers", lambda t: t.model.to_string([1.5])),
    ("ids 0 to 100", lambda t: t.model.to_string([500])),
    ("1 or more", lambda t: t.model.generate("w1", max_new_tokens="8")),
    ("1 or more", lambda t: t.model.generate("w1", max_new_tokens=0)),
    ("above 0", lambda t: t.model.generate("w1", temperature=-1)),
    ("up to 1", lambda t: t.model.generate("w1", top_p=2.0)),
    ("max_new_tokens", lambda t: t.model.generate("w1", max_new_tokens=1000)),
    (
        "to_single_token",
        lambda t: probes.generate(t.model, "w1", max_new_tokens=2, stop_ids=["</s>"]),
    ),
    (
        "manual_seed",
        lambda t: probes.generate(t.model, "w1", max_new_tokens=2, temperature=1.0, generator=0),
    ),
]
HOOKING = [
    (POST, lambda t: t.run("w1", print, "blocks.0.hook_resid_pst")),
    ("hook_pattern", lambda t: t.run("w1", print, "blocks.0.attn.hook_attn")),
    ("0 to 2", lambda t: t.run("w1", print, "blocks.3.hook_resid_post")),
    (r"\[\(name, function\)\]", lambda t: t.model.run_with_hooks("w1", fwd_hooks=(POST, print))),
    (r"\[\(name, function\)\]", lambda t: t.model.run_with_hooks("w1", fwd_hooks={POST: print})),
    (r"\[\(name, function\)\]", lambda t: t.model.hooks(POST)),
    ("tensor, hook", lambda t: t.run("w1", "print")),
    ("tensor, hook", lambda t: t.run("w1", lambda x: x)),
    (r"\[1, 3, 42\]", lambda t: t.run("w1 w2 w3", lambda x, hook: x[:, :1])),
    (r"\[1, 3, 42\]", lambda t: t.run("w1 w2 w3", lambda x, hook: x.mean(1, keepdim=True))),
    ("float32", lambda t: t.run("w1 w2", lambda x, hook: x.double())),
    ("a tensor of shape", lambda t: t.run("w1 w2", lambda x, hook: x.detach().numpy())),
    ("or None", lambda t: t.run("w1 w2", lambda x, hook: 0.0)),
    (
        r"\[1, 3, 3, 3\]",
        lambda t: t.run("w1 w2 w3", lambda x, hook: x[:, 0], "blocks.0.attn.hook_pattern"),
    ),
    ("hook_pattern", lambda t: t.model.run_with_cache("w1", "blocks.0.attn.patern")),
    ("hook_names", lambda t: t.model.run_with_cache("w1", lambda name: "patern" in name)),
    ("hook_names", lambda t: t.model.run_with_cache("w1", [])),
    ("a list of names", lambda t: t.model.run_with_cache("w1", 3)),
    ("resid_post", lambda t: t.neox.run_with_cache(t.ids, "blocks.0.hook_resid_mid")),
    ("'cuda'", lambda t: t.model.run_with_cache("w1", device="gpu")),
    ("one text", lambda t: t.model.run_with_cache(["w1", "w2"], remove_batch_dim=True)),
    ("hook_pattern", lambda t: t.cache["patern", 0]),
    ("not captured", lambda t: t.cache["pattern", 7]),
    ("names_filter", lambda t: t.few["k", 0]),
    (r"\('pattern', 0\)", lambda t: t.cache[0, "pattern"]),
    ("'all', 'attn' or 'mlp'", lambda t: t.cache.decompose_resid(mode="heads")),
    ("0 to 3", lambda t: t.cache.accumulated_resid(9)),
    ("-3 to 2", lambda t: t.cache.accumulated_resid(pos_slice=99)),
    ("one token", lambda t: t.cache.logit_attrs(t.cache.decompose_resid(), 500)),
    ("pos_slice", lambda t: t.cache.logit_attrs(t.cache.decompose_resid(pos_slice=-1), "w1")),
    ("mlp_coefficients", lambda t: probes.capture(t.model, t.batch, "mlp_coeficients")),
    ("run_with_cache", lambda t: probes.capture(t.model, t.batch, POST)),
    ("0 to 2", lambda t: probes.capture(t.model, t.batch, "resid_post", layers=[7])),
    ("0 to 2", lambda t: probes.capture(t.model, t.batch, "resid_post", layers="all")),
    ("one or several", lambda t: probes.capture(t.model, t.batch, [])),
    ("to_tokens", lambda t: probes.capture(t.model, "w1 w2", "resid_post")),
    ("input_ids", lambda t: probes.capture(t.model, {"ids": t.ids}, "resid_post")),
    ("RunningMean", lambda t: probes.stream(t.model, t.batches, "blocks.0.mlp.hook_post")),
    ("RunningMean", lambda t: probes.stream(t.model, t.batches, {POST: torch.mean})),
    (POST, lambda t: probes.stream(t.model, t.batches, {POST[:-1]: probes.RunningMean()})),
]
MEASURING = [
    ("knowledge", lambda t: probes.measure_entropy(t.model, t.batches, "knowlege")),
    ("abs", lambda t: probes.measure_entropy(t.model, t.batches, coefficient="absolute")),
    ("'coefficient'", lambda t: probes.measure_entropy(t.model, t.batches, coefficients="abs")),
    ("relu_output", lambda t: probes.measure_entropy(t.neox, t.batches, coefficient="relu_gate")),
    ("no batches", lambda t: probes.measure_entropy(t.model, iter([]))),
    ("token_batches", lambda t: probes.measure_entropy(t.model, "general")),
    ("token_batches", lambda t: probes.measure_entropy(t.model, t.corpus)),
    ("load_model", lambda t: probes.measure_entropy(t.batches, t.model)),
    ("result.knowledge.total", lambda t: t.entropies.total),
    ("general", lambda t: probes.load_corpus("generall")),
    ("list of texts|strings", lambda t: probes.load_corpus([1, 2, 3])),
    ("column", lambda t: probes.load_corpus([{"body": "w1"}])),
    ("load_corpus", lambda t: probes.token_batches("general", t.tokenizer)),
    ("model.tokenizer", lambda t: probes.token_batches(t.corpus, t.model)),
    ("whole number", lambda t: probes.token_batches(t.corpus, t.tokenizer, sequence_length=8.0)),
    ("packed, document", lambda t: probes.token_batches(t.corpus, t.tokenizer, layout="pack")),
    ("pairs", lambda t: probes.target_log_probs(t.model, ("w1 w2", "w3"))),
    ("has no tokens", lambda t: probes.target_log_probs(t.model, [("w1", "")])),
    ("token_mean", lambda t: probes.target_log_probs(t.model, [("w1", "w2")], "mean")),
    ("ids 0 to 100", lambda t: probes.target_log_probs(t.model, [([5], [500])])),
    ("analysis.lens", lambda t: probes.target_ranks(t.model, [("w1", "w2")])),
    (
        "manual_seed",
        lambda t: probes.causal_recovery(t.model, list(t.lens.items), generator=0),
    ),
    ("result.knowledge", lambda t: probes.knowledge_entropy(t.entropies)),
    (r"\[layer d_mlp\]", lambda t: probes.knowledge_entropy(torch.ones(3))),
    ("non-negative", lambda t: probes.knowledge_entropy(-np.ones((2, 3)))),
    ("lens.rank", lambda t: probes.localize(t.lens, 10, 101)),
    ("measure again", lambda t: probes.load_result("no/such/folder")),
    ("training.tuned_lens", lambda t: probes.load_translators(t.empty, t.model)),
    ("is 2 tokens", lambda t: probes.logit_attribution(t.model, "w1 w2", "w3 w4")),
    ("text or an id", lambda t: probes.logit_attribution(t.model, "w1 w2", ("w3", "w4"))),
    ("two tokens", lambda t: probes.logit_attribution(t.model, "w1 w2", "w3", "w3")),
    ("-2 to 1", lambda t: probes.logit_attribution(t.model, "w1 w2", "w3", position="last")),
    ("one at a time", lambda t: probes.logit_attribution(t.model, ["w1 w2", "w3"], "w3")),
    ("contribution", lambda t: memory.top_vectors(t.model, "w1 w2", by="coef")),
    ("give the token", lambda t: memory.top_vectors(t.model, "w1 w2", by="logit")),
    ("0 to 28", lambda t: memory.promoted_tokens(t.model, 0, 100)),
    ("list of pairs", lambda t: memory.top_contexts(t.model, t.batches, [3])),
    ("checkpoints of one model", lambda t: memory.fact_changes(t.model, t.neox, "w1 w2", "w3")),
    ("one length", lambda t: t.patching(corrupted="w1 w2 w3")),
    ("prompts that differ", lambda t: t.patching(corrupted="w1 w2")),
    ("one, or two", lambda t: t.patching(metric=("w3", "w5", "w6"))),
    ("one number a row", lambda t: t.patching(metric=lambda logits: logits.mean())),
    ("resid_pre", lambda t: t.patching(sites="resid")),
    ("mixed_values", lambda t: t.patching(heads=True)),
    ("-2 to 1", lambda t: t.patching(positions=[99])),
    ("resid_pre", lambda t: t.patching().plot("mlp_out")),
]
EDITING = [
    ("one half", lambda t: Resuscitation(MEANS, ratio=50)),
    ("preserving", lambda t: Resuscitation(MEANS, site="mlp")),
    ("0 to 2", lambda t: Resuscitation(MEANS, layers=[9])),
    (r"\[layer d_mlp\]", lambda t: Resuscitation(t.model)),
    ("on this model", lambda t: t.patch(Resuscitation(torch.ones(2, 29) + torch.rand(2, 29)))),
    ("above 0", lambda t: AttentionTemperature(0)),
    ("is a number", lambda t: AttentionTemperature("hot")),
    ("changes nothing", lambda t: t.patch(AttentionTemperature(1.0))),
    (r"\{3: \[17, 256\]\}", lambda t: MemoryEdit([3, 4])),
    ("0 to 2", lambda t: t.patch(MemoryEdit({9: [0]}))),
    ("0 to 28", lambda t: t.patch(MemoryEdit({0: [100]}))),
    ("from 0 up", lambda t: MemoryEdit({-1: [0]})),
    ("finite number", lambda t: MemoryEdit({0: [1]}, scale="0")),
    ("changes nothing", lambda t: MemoryEdit({0: [1]}, scale=1)),
    ("rows by layer", lambda t: MemoryEdit({0: [1]}, added=torch.ones(1, 42))),
    (r"\{5: \[0, 3\]\}", lambda t: AblateHeads("L0H1")),
    ("0 to 2", lambda t: t.patch(AblateHeads({0: [7]}))),
    ("'resid_post', 3", lambda t: interventions.Steer("resid_post", torch.ones(42))),
    (r"\[width\]", lambda t: interventions.Steer(("resid_post", 0), torch.ones(1, 42))),
    ("has 42", lambda t: t.patch(interventions.Steer(("resid_post", 0), np.ones(9)))),
    ("changes nothing", lambda t: interventions.Steer(("resid_post", 0), torch.zeros(42))),
    ("by a hook", lambda t: t.patch(interventions.Steer(("resid_post", 0), torch.ones(42)))),
    ("another model", lambda t: t.patch(RankOneWrite(0, torch.ones(42), torch.ones(29)))),
    ("does not hold the subject", lambda t: t.write(subject="w9")),
    ("a list of texts", lambda t: t.write(prefixes="w5 ")),
    ("ValueSearch", lambda t: t.write(search={"steps": 3})),
    ("one by one", lambda t: interventions.applied(t.model, [AttentionTemperature(1.5)])),
    ("load_model", lambda t: interventions.applied(AttentionTemperature(1.5))),
    ("AttentionTemperature", lambda t: interventions.applied(t.model, AttentionTemperature)),
    ("give one such as", lambda t: interventions.applied(t.model, _Half())),
    (
        "list of edits",
        lambda t: interventions.save_patched(t.model, t.folder / "a", MemoryEdit({0: [1]})),
    ),
    ("another folder", lambda t: interventions.save_patched(t.model, t.made)),
    ("a path", lambda t: interventions.save_patched(t.model, None)),
    ("save_patched", lambda t: interventions.load_edits(t.empty)),
    ("pass one", lambda t: interventions.resuscitate(t.model, t.batches)),
    ("Resuscitation", lambda t: interventions.MatchedNoise(AttentionTemperature(1.5))),
]
TRAINING = [
    ("llama", lambda t: ModelShape(family="gpt2", **SHAPE)),
    ("a multiple of 6", lambda t: ModelShape(family="llama", **SHAPE | {"n_heads": 3})),
    ("give int", lambda t: ModelShape(family="llama", **SHAPE | {"d_model": 16.0})),
    ("ModelShape", lambda t: training.new_model("llama")),
    ("1 or more", lambda t: LoopSettings(steps=0, batch_size=4)),
    ("give int", lambda t: LoopSettings(steps="3", batch_size=4)),
    ("fp32", lambda t: LoopSettings(steps=3, batch_size=4, precision="float32")),
    ("OptimizerSettings", lambda t: LoopSettings(steps=3, batch_size=4, optimizer="adamw")),
    ("3 steps", lambda t: LoopSettings(steps=3, batch_size=4, checkpoint_steps=(9,))),
    ("give float", lambda t: OptimizerSettings(learning_rate="1e-3")),
    ("above 0", lambda t: OptimizerSettings(learning_rate=-1.0)),
    ("cosine", lambda t: training.ScheduleSettings(kind="cos")),
    ("LoopSettings", lambda t: t.train(settings={"steps": 3})),
    ("rows of token ids", lambda t: t.train(source="general")),
    ("corpus_source", lambda t: t.train(source=["w1 w2", "w3 w4"] * 4)),
    ("list of token ids", lambda t: t.train(source=np.ones((8, 5)))),
    ("own tokenizer", lambda t: t.train(source=np.full((8, 5), 500))),
    ("shorter rows", lambda t: t.train(source=np.full((8, 100), 5))),
    ("smaller batch", lambda t: t.train(source=np.full((2, 5), 5))),
    ("make them as long", lambda t: t.train(source=[{"input_ids": [5, 6], "labels": [5]}] * 8)),
    ("input_ids", lambda t: t.train(source=[{"text": "w1 w2"}] * 8)),
    ("return a TrainingBatch", lambda t: t.train(source=lambda step: None)),
    ("token ids", lambda t: t.train(source=lambda step: torch.ones(4, 5))),
    ("one of the step", lambda t: t.train(source=lambda: [[5, 6]] * 4)),
    ("batch_size=4", lambda t: t.train(source=lambda step: [[5, 6]] * 3)),
    ("another folder", lambda t: t.train(directory=t.made)),
    ("give a folder", lambda t: t.train(directory=t.file)),
    ("load_model", lambda t: t.train(model=t.hf)),
    ("due and observe", lambda t: t.train(observers=[_Half()])),
    ("training.Record", lambda t: t.train(observers=[_Observes()])),
    ("list of functions", lambda t: t.train(callbacks=print)),
    ("tensorboard", lambda t: t.train(track="wandbb")),
    ("LossBelow", lambda t: t.train(stop=0.1)),
    ("seconds", lambda t: t.train(time_limit="1h")),
    ("settings", lambda t: t.train(epochs=2)),
    ("hellaswag", lambda t: training.load_task("hella")),
    ("triviaqa", lambda t: training.load_factoids("trivia")),
    ("generic", lambda t: training.load_mix("generics", 4)),
    ("positive", lambda t: training.Cadence(every=0)),
    ("Cadence", lambda t: training.EntropyObserver(t.batches, 5)),
    ("token_batches", lambda t: training.EntropyObserver("general", training.Cadence(every=2))),
    ("ExampleSource", lambda t: training.RowSource([[1, 2], [3, 4]], 2)),
    ("258 or more", lambda t: training.train_byte_pairs(["one text"], 10)),
    ("holds no run", lambda t: training.read_manifest(t.empty)),
    ("StepRecord", lambda t: training.records_of(t.made, "step")),
    ("'step'", lambda t: list(training.read_records(t.made, "steps"))),
    ("1 to the 3", lambda t: training.learning_rate(9, LoopSettings(steps=3, batch_size=4))),
    ("longer rows", lambda t: training.fit_jacobian_lens(t.model, t.batches)),
    ("tulu", lambda t: training.render_prompt("w1", t.tokenizer, "chatml")),
    ("load_corpus", lambda t: training.corpus_novelty(t.model, "general")),
]
ANALYSING = [
    ("each prompt needs a target", lambda t: analysis.lens(t.model, "w1", ["w2", "w3"])),
    ("load_model", lambda t: analysis.lens("gpt2", "w1", "w2")),
    ("texts or lists of token ids", lambda t: analysis.lens(t.model, "w1", 5)),
    ("texts or lists of token ids", lambda t: analysis.lens(t.model, {"w1": "w2"}, "w2")),
    ("last, all", lambda t: analysis.lens(t.model, "w1", "w2", positions="first")),
    ("0 to 0", lambda t: analysis.lens(t.model, "w1", "w2", positions=[9])),
    ("load_translators", lambda t: analysis.lens(t.model, "w1", "w2", translators="tuned")),
    ("one each", lambda t: analysis.lens(t.model, "w1", "w2", controls={"c": [1, 2]})),
    ("two numbers", lambda t: analysis.lens(t.model, "w1 w2", "w3", subjects=["w1"])),
    ("0 to 1", lambda t: t.lens.plot(item=9)),
    ("1 or more", lambda t: t.lens.first_layer(k="10")),
    ("has none", lambda t: t.lens.control_rank("frequency")),
    ("the same ones", lambda t: t.lens.compare(t.other)),
    ("another of its kind", lambda t: t.lens.compare(t.entropies)),
    ("another of its kind", lambda t: t.read.compare("runs/other")),
    ("nothing to draw", lambda t: t.only_next.plot()),
    ("give a folder", lambda t: t.lens.save(t.file)),
    ("at least one", lambda t: analysis.sweep([], t.batches)),
    ("only once", lambda t: analysis.sweep(t.model, iter(t.batches))),
    ("token_batches", lambda t: analysis.sweep(t.model, "general")),
    ("--out folder", lambda t: analysis.read_run(t.empty)),
    ("a path", lambda t: analysis.read_run(t.model)),
    ("give numbers", lambda t: analysis.acquisition("a", 1.0)),
    ("two arrays of one shape", lambda t: analysis.acquisition(np.ones(2), np.ones(3))),
    ("tables", lambda t: analysis.acquisition(0.5, 1.0, convention="paper")),
    ("smaller window", lambda t: analysis.effectivity(torch.randn(2, 20), [99])),
    ("official", lambda t: analysis.effectivity(torch.randn(2, 20), [1], 5, compat="paper")),
    ("longest possible offset", lambda t: analysis.retainability(torch.randn(2, 20), [1], [99], 5)),
    ("one value per offset", lambda t: analysis.fit_forgetting_curve([1, 9, 99], np.ones((2, 4)))),
    ("lens.rank", lambda t: analysis.depth_change(t.lens, t.lens, k=5, d_vocab=101, seed=0)),
    ("to_dataframe", lambda t: analysis.plot_result(3)),
    ("'before': 'folder'", lambda t: analysis.checkpoint_ranks(["a"], [("w1", "w2")])),
    ("0.95 is usual", lambda t: analysis.ClusterBootstrap(level=95)),
]
MISTAKES = [*LOADING, *CALLING, *HOOKING, *MEASURING, *EDITING, *TRAINING, *ANALYSING]
MOST_PASSES = 8
"""An edit is tried by hooks and by weights; nothing here goes through the 20 batches."""


def what_is_wrong(words, mistake, t, passes):
    """Why the answer to a mistake is none; None where it is one."""
    del passes[:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f"no error, but {type(mistake(t)).__name__}"
    except Exception as error:
        line, last = str(error), Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not isinstance(error, PLAIN) or not last.is_relative_to(ROOT / "."):
            return f"{type(error).__name__} from {last}: {line}"
        if ".venv" in last.parts or "\n" in line or not re.search(words, line):
            return f"{last.name} says {line!r}"
        return f"{len(passes)} forward passes" if len(passes) > MOST_PASSES else None


def found():
    """What is wrong with the answers, by the number of the mistake."""
    passes, wrong = [], {}
    with tempfile.TemporaryDirectory() as folder:
        t = things(Path(folder))
        for model in (t.model, t.neox):
            model.hf_model.register_forward_pre_hook(lambda *_: passes.append(1))
        for number, (words, mistake) in enumerate(MISTAKES):
            if said := what_is_wrong(words, mistake, t, passes):
                wrong[f"{number}: {words}"] = said
    return wrong


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps({"mistakes": len(MISTAKES), "wrong": found()}))
