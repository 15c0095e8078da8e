r"""Every claim of the papers, tested: `python -m analysis.reproduce`.

Plans the runs that the claims need, shows them and about how long they take, makes them, several at
a time, and writes the ledger of claims (`ledger.md`, `.json`, `.csv`), its page `report.html`, the
comparison with published numbers (`verification.md`, `.csv`, `.json`) and the measurements
(`tables/`) into `--out`. Stopped at any moment and started again it goes on where it was.

Example:
    $ python -m analysis.reproduce --scale smoke --out runs/smoke
    $ python -m analysis.reproduce --scale lab --out runs/lab --minutes 8.5
    $ python -m analysis.reproduce --scale smoke --claims entropy-falls --out runs/one
    $ python -m analysis.reproduce --scale paper --knowledge paraphrase70.json once60.json \
          --dry-run --out runs/paper
    $ python -m analysis.reproduce --verify runs/ckl runs/sweep
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from analysis.claims.choices import Experiment
from analysis.reproduce_scales import SCALES, ScaleData, with_data
from probes.cli import command_main


def needed(claims: Iterable[str]) -> tuple[Experiment, ...]:
    """The experiments that some claims need, in the order of the ledger."""
    from analysis.claims.catalogue import CLAIMS

    wanted = {experiment for claim in claims for experiment in CLAIMS[claim].needs}
    return tuple(experiment for experiment in Experiment if experiment in wanted)


def claims_of(experiments: Iterable[Experiment]) -> list[str]:
    """The claims about some experiments that need no others but unedited runs."""
    from analysis.claims.catalogue import CLAIMS

    wanted = set(experiments)
    there = {*wanted, Experiment.UNEDITED}
    return [
        name
        for name, claim in CLAIMS.items()
        if there.issuperset(claim.needs) and not wanted.isdisjoint(claim.needs)
    ]


PROGRAM = "analysis.reproduce"


class ScaleName(StrEnum):
    """How large a reproduction is."""

    SMOKE = "smoke"  # small models that are trained here: half an hour on two CPU cores
    DESK = "desk"  # smolLM2-135M as it is, edited in every way: two nights on two CPU cores
    LAB = "lab"  # smolLM2-135M and a trajectory of 31M parameters: hours on one GPU
    PAPER = "paper"  # the papers' models and data, from the hub: days on a node of GPUs


@dataclass(frozen=True, kw_only=True)
class ReproduceArguments(ScaleData):
    """Test every claim of the papers on runs made for it, and write the ledger."""

    scale: ScaleName = ScaleName.SMOKE
    """smoke (two CPU cores, half an hour), desk (the same, two nights), lab (one GPU) or paper (a
    cluster)."""
    out: Path | None = None
    """Folder of the reproduction; made if it is not there, gone on with if it is."""
    claims: tuple[str, ...] = ()
    """Only these claims, and the runs that they need; all."""
    experiments: tuple[Experiment, ...] = ()
    """Only the claims that these experiments are enough for; all."""
    seeds: int | None = None
    """Seeds of every arm, which can be added to later; as many as the scale has."""
    processes: int | None = None
    """Runs made at the same time; as many as the scale is sized for."""
    dry_run: bool = False
    """Show the plan and its cost, try every run on a tiny model as it would start, and stop."""
    list: bool = False
    """Print the commands, one a run, and stop; those of a set wait for the sets before it."""
    shard: str | None = None
    """Only every n-th run of each set, the i-th of them first: i/n."""
    minutes: float | None = None
    """Stop after so many, to go on later."""
    keep_checkpoints: bool = False
    """Keep the models of all runs; trajectories are kept in any case."""
    verify: tuple[Path, ...] = ()
    """Hold these results against the published numbers instead; no run is made."""
    debug: bool = False
    """Show the traceback of an error."""


def _run(arguments: ReproduceArguments, given: Sequence[str]) -> None:
    if arguments.verify:
        from analysis.published.verification import verify_command

        verify_command(arguments.verify, arguments.out)
        return
    if arguments.out is None:
        raise ValueError("--out is missing; give a folder for the reproduction")
    from analysis.claims.catalogue import CLAIMS, claim_named
    from analysis.jobs import RUNS, in_waves, shard_of
    from analysis.reproduce_plan import plan_part, whole_plan

    if arguments.claims and arguments.experiments:
        raise ValueError("--claims and --experiments choose the same thing; give one of them")
    chosen = claims_of(arguments.experiments) if arguments.experiments else CLAIMS
    names = list(arguments.claims or chosen)
    if not names:
        raise ValueError(
            f"no claim can be tested with {', '.join(arguments.experiments)} alone; add others of "
            "--experiments"
        )
    claims = [claim_named(name) for name in names]
    scale = with_data(SCALES[arguments.scale](), arguments)
    missing = scale.knowledge.config.missing()
    if missing and not arguments.dry_run:
        raise ValueError(f"the scale {scale.name} leaves to be given: {'; '.join(missing)}")
    if arguments.seeds is not None:
        if arguments.seeds < 1:
            raise ValueError(f"--seeds must be 1 or more, found {arguments.seeds}")
        scale = replace(scale, seeds=arguments.seeds)
    wanted = needed(claim.identifier for claim in claims)
    whole = whole_plan(scale, arguments.out / RUNS)
    jobs = plan_part(whole, wanted)
    if not jobs:
        raise ValueError(
            f"the scale {scale.name} has no runs for {', '.join(names)}; choose others, or a "
            "larger --scale"
        )
    waves = [shard_of(wave, arguments.shard) for wave in in_waves(jobs)]
    if arguments.list:
        for number, wave in enumerate(waves, start=1):
            print("\n".join([f"# set {number}", *(job.line() for job in wave)]))
        return
    from analysis.numbers import command_line
    from analysis.reproduce_concluding import Reproduction, reproduce

    reproduce(
        Reproduction(scale, tuple(jobs), tuple(whole), tuple(claims), wanted, arguments.out),
        command=command_line(PROGRAM, given),
        at_once=scale.at_once if arguments.processes is None else arguments.processes,
        mine=[job for wave in waves for job in wave],
        minutes=arguments.minutes,
        keep_checkpoints=arguments.keep_checkpoints,
        dry_run=arguments.dry_run,
    )


main = command_main(ReproduceArguments, _run, program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
