"""Measuring: the runs of a reproduction as the tables that claims are tested on.

Where facts lie in depth needs models, which are removed once all is concluded; what was read is
kept beside the other tables, and taken from there afterwards.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.claim_tables.folders import Results, find_results, tables_of
from analysis.claim_tables.memorization import fact_depths, memorization_table
from analysis.claims.measurements import Table
from analysis.reproduce.jobs import Job
from analysis.runs import Chain, read_chain
from training.runs.durable_files import write_whole

DEPTHS_FILE = "depths.csv"
_RUN = "run"


def results_of(jobs: Sequence[Job], runs: Path) -> Results:
    """The results of jobs that are over."""
    return find_results([runs / job.name for job in jobs])


def measured_tables(
    results: Results, runs: Path, located: Sequence[str], items: int, folder: Path
) -> dict[Table, pd.DataFrame]:
    """The tables that claims are tested on; they are written into a folder as well."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = tables_of(results)
    there = {path.name for path in results.remix_runs}
    names = [name for name in located if name in there]
    if names:
        chains = [read_chain(runs / name) for name in names]
        depths = _depths(chains, items, folder / DEPTHS_FILE)
        rows = memorization_table(chains, depths=depths)
        deep = rows[rows["measure"].isin(depths["measure"])]
        tables[Table.MEMORIZATION] = pd.concat(
            [tables[Table.MEMORIZATION], deep], ignore_index=True
        )
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", table.to_csv(index=False))
    return tables


def _depths(chains: Sequence[Chain], items: int, kept: Path) -> pd.DataFrame:
    if not kept.is_file():
        found = fact_depths(chains, items)
        told = found.assign(**{_RUN: [Path(path).name for path in found[_RUN]]})
        write_whole(kept, told.to_csv(index=False))
    read = pd.read_csv(kept, dtype={"cluster": object})
    paths = {chain.path.name: str(chain.path) for chain in chains}
    return read.assign(
        run=[paths[name] for name in read[_RUN]],
        cluster=read["cluster"].where(read["cluster"].notna(), None),
    )
