r"""In which layer a fact becomes readable: `python -m analysis.logit_lens`.

Reads prompts and targets, or a set of factoids, through every layer, and writes into `--out` the
page `lens.html`, `lens.json` (all items by layer), `lens.csv` (a row per item, position and layer)
and `items.csv`. With `--compare` the same items are read in a second model, whose files go into
`compared/`; with `--causal` layers are also restored into a run whose subject is corrupted. Under
`torchrun` the items are shared out. Ranks count from 0, the top; the other numbers are in nats.

Example:
    $ python -m analysis.logit_lens --model smollm2-135m-instruct-q4 \
          --prompt "The capital of France is" --target " Paris" --out runs/lens
    $ python -m analysis.logit_lens --model smollm2-135m-instruct-q4 \
          --factoids triviaqa --limit 64 --out runs/triviaqa
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.choices import Backend, Lens, RestoredPositions, TargetSpan
from probes.cli import LoadingSettings, command_main, progress

if TYPE_CHECKING:
    from analysis.lens_result import LensResult

PAGE = "lens.html"
FILES = (PAGE, "lens.json", "lens.csv", "items.csv", "comparison.json", "causal.csv")


@dataclass(frozen=True, kw_only=True)
class LensArguments(LoadingSettings):
    """Read what every layer's residual stream says about a target."""

    model: str
    """Built-in model, hub id, Hugging Face folder or .gguf file."""
    out: Path
    """Folder for the results; made if it is not there."""
    prompt: tuple[str, ...] = ()
    """What the target should follow; several are allowed."""
    target: tuple[str, ...] = ()
    """One for each prompt, usually with a space in front."""
    factoids: str | None = None
    """Instead of prompts: triviaqa, nq-open, kvr, or a .jsonl file with question and answer."""
    limit: int = 100
    """How many factoids to read."""
    seed: int = 0
    """Seed of what is drawn: generated factoids, controls, noise, resampled items."""
    compare: str | None = None
    """A second model to read the same items in: a patched or fine-tuned one, say."""
    compare_revision: str | None = None
    """The second model's branch, tag or commit."""
    lens: Lens = Lens.LOGIT
    """logit: streams as they are; tuned or jacobian: through the translators of --translators."""
    translators: Path | None = None
    """Folder of `python -m training.tuned_lens` or `training.jacobian_lens`, made for this model;
    or a published Jacobian lens: a .pt file, or neuronpedia/jacobian-lens on the hub."""
    compare_translators: Path | None = None
    """The same for the second model."""
    positions: str = "all"
    """last (the readout position), all, or positions of the prompt such as 0,3,-1."""
    span: TargetSpan = TargetSpan.FIRST
    """Whether an item's numbers are of the target's first token that is more than a space, of every
    token, or their mean."""
    norm: bool = True
    """Whether streams go through the final norm before the unembedding."""
    embedding: bool = False
    """Whether the stream before block 0 is a layer."""
    top_k: int = 10
    """How many of the most likely tokens to keep; a target is found where it is among them."""
    prepend_bos: bool | None = None
    """Whether prompts begin with a BOS token; None for the tokenizer's own habit."""
    controls: bool = True
    """Whether to rank other tokens too: targets of other items, tokens of the same frequency."""
    control_corpus: str = "general"
    """Corpus whose token frequencies controls are matched by."""
    causal: bool = False
    """Whether to restore layers into a run with a corrupted subject; some seconds an item."""
    causal_positions: RestoredPositions = RestoredPositions.LAST
    """Positions to restore layers at: last is where the lens reads, subject where the noise is."""
    backend: Backend = Backend.NATIVE
    """What runs the model; native is the fastest."""
    overwrite: bool = False
    """Replace earlier results in --out."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: LensArguments, _words: Sequence[str]) -> None:
    from probes.cli import importing, refuse_existing

    _refuse_contradictions(arguments)
    refuse_existing(arguments.out, overwrite=arguments.overwrite, known=FILES)
    with importing("torch"):
        import analysis.lens_result  # noqa: F401 - what everything below needs
        from training.processes import joined_processes

    with joined_processes() as here:
        asked = _asked(arguments)
        results = [_read(arguments, asked)]
        if arguments.compare is not None:
            second = replace(
                arguments,
                model=arguments.compare,
                revision=arguments.compare_revision,
                translators=arguments.compare_translators,
                controls=False,
            )
            results.append(_read(second, asked))
        if here.is_first:
            _write(arguments, results)


def _refuse_contradictions(arguments: LensArguments) -> None:
    if bool(arguments.prompt) == (arguments.factoids is not None):
        raise ValueError("say what to read: --prompt with --target, or --factoids, one of the two")
    if len(arguments.prompt) != len(arguments.target):
        raise ValueError(
            f"each --prompt needs a --target: found {len(arguments.prompt)} prompts and "
            f"{len(arguments.target)} targets"
        )
    if arguments.limit < 1 or arguments.top_k < 1:
        raise ValueError(
            f"--limit is {arguments.limit} and --top-k {arguments.top_k}; both must be 1 or more"
        )
    if (arguments.lens is Lens.LOGIT) != (arguments.translators is None):
        lens = Lens.TUNED if arguments.lens is Lens.LOGIT else arguments.lens
        raise ValueError(
            f"--lens {lens} and --translators go together; make translators with: python -m "
            f"training.{lens}_lens --model ... --corpus ... --out DIR"
        )
    fitted_twice = arguments.compare is not None and arguments.lens is not Lens.LOGIT
    if fitted_twice and arguments.compare_translators is None:
        raise ValueError(
            f"with --lens {arguments.lens}, --compare needs --compare-translators of its own"
        )
    _positions(arguments.positions)


def _positions(given: str) -> Any:
    if given in ("last", "all"):
        return given
    try:
        return tuple(int(position) for position in given.split(","))
    except ValueError:
        raise ValueError(
            f"--positions must be last, all, or numbers such as 0,3,-1; found {given!r}"
        ) from None


def _asked(arguments: LensArguments) -> dict[str, Any]:
    if arguments.factoids is None:
        return {"prompts": arguments.prompt, "targets": arguments.target}
    from training.data.factoids import load_factoids, prompt_and_target, subject_span

    factoids = load_factoids(arguments.factoids, limit=arguments.limit, seed=arguments.seed)
    pairs = [prompt_and_target(factoid, factoids.template) for factoid in factoids]
    return {
        "prompts": [prompt for prompt, _ in pairs],
        "targets": [target for _, target in pairs],
        "subjects": [subject_span(factoid, factoids.template) for factoid in factoids],
        "source": factoids.name,
    }


def _read(arguments: LensArguments, asked: Mapping[str, Any]) -> "tuple[LensResult, Any]":
    import analysis
    from analysis.lens_result import control_tokens
    from training.processes import this_process

    model = arguments.load(arguments.model, backend=arguments.backend)
    n_items, translators, controls = len(asked["prompts"]), None, None
    if arguments.translators is not None:
        from probes.translators import load_translators

        translators = load_translators(arguments.translators, model)
        if translators.name is not arguments.lens:
            raise ValueError(
                f"{arguments.translators} holds a {translators.name} lens; read through it with "
                f"--lens {translators.name}"
            )
    # A single item has no other items' targets to be compared with.
    if arguments.controls and n_items > 1:
        controls = control_tokens(
            model,
            asked["prompts"],
            asked["targets"],
            corpus=arguments.control_corpus,
            seed=arguments.seed,
            prepend_bos=arguments.prepend_bos,
        )
    here = this_process()
    names = ("top_k", "span", "norm", "embedding", "prepend_bos")
    settings = {name: getattr(arguments, name) for name in names}
    with progress(f"{model.name}, items", n_items, shown=here.is_first) as advance:
        result = analysis.lens(
            model,
            **asked,
            **settings,
            positions=_positions(arguments.positions),
            translators=translators,
            controls=controls,
            distributed=not here.is_alone,
            on_items=advance,
        )
    if not arguments.causal:
        return result, None
    import torch

    from probes.causal import causal_recovery

    generator = torch.Generator().manual_seed(arguments.seed)
    with progress("causal check, items", n_items, shown=here.is_first) as advance:
        return result, causal_recovery(
            model,
            result.items,
            generator=generator,
            positions=arguments.causal_positions,
            on_items=advance,
        )


def _write(arguments: LensArguments, read: "Sequence[tuple[LensResult, Any]]") -> None:
    from probes.cli import importing, output_folder

    with importing("pandas"):
        from analysis.document import html, print_report
        from analysis.lens_page import lens_report
        from analysis.lens_tables import save_numbers
    from probes.shown import finite_or_none, json_text

    results, k, compared, further = [result for result, _ in read], arguments.top_k, None, []
    if len(results) == 2:
        try:
            compared = results[0].compare(results[1], k=k, seed=arguments.seed)
        except ValueError as refusal:
            further = [f"The models are not compared item by item: {refusal}."]
    report = lens_report(results, k=k, causal=read[0][1], difference=compared, findings=further)
    with output_folder(arguments.out) as folder:
        for (result, causal), inside in zip(read, (".", "compared"), strict=False):
            save_numbers(result, folder / inside, k)
            if causal is not None:
                causal.to_dataframe().to_csv(folder / inside / "causal.csv", index=False)
        if compared is not None and compared.tests:
            content = finite_or_none(compared.to_dict())
            text = json_text(content, "comparison.json", indent=2)
            (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        (folder / PAGE).write_text(html(report), encoding="utf-8")
    print_report(report)
    # Not through rich, which would break a long path between lines.
    print(f"page: {arguments.out / PAGE}")


main = command_main(LensArguments, _run, program="analysis.logit_lens")

if __name__ == "__main__":
    sys.exit(main())
