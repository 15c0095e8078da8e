"""Numbers of the paper on continual memorization, in percent of the facts of stage A.

Source: Chen et al., 2024: Tables 1 to 6 and the text of section 5. Table 1 is the rows "none" of
Table 2.

Example:
    >>> GRIDS[0].numbers()["both", "LAMA"]
    62.4
"""

from collections.abc import Mapping

from analysis.claims.choices import Paper
from analysis.published.records import Grid, Published, against
from analysis.statistics.results import Direction

TOLERANCE = 0.5
FACTOID_COLUMNS = ("LAMA", "EQ", "WQ")
OTHER_COLUMNS = ("GSM8K", "MATH", "EC", "APPS", "UC")
MEANS = ("factoid mean", "other mean")
"""Names of the columns that hold printed means."""
COLUMNS = (*FACTOID_COLUMNS, *OTHER_COLUMNS)
IN_DOMAIN = "ID"
"""Column of a later set of the same kind as the first."""
TWO_STAGES = "two stages"
WITH_ID = (IN_DOMAIN, *FACTOID_COLUMNS, MEANS[0], *OTHER_COLUMNS, MEANS[1])
WITHOUT_ID = (*FACTOID_COLUMNS, MEANS[0], *OTHER_COLUMNS, MEANS[1])
MIXING = "2 items of 50 words"
"""What is mixed in for each item of a stage, wherever something is."""
_LLAMA, _MISTRAL = "Llama-3-8B", "Mistral-7B-v0.3"
FAMILIAR, UNFAMILIAR = "familiar", "unfamiliar"


def _grid(
    table: int,
    first: str,
    row_name: str,
    columns: tuple[str, ...],
    rows: Mapping[str, str],
    model: str = _LLAMA,
    facts: str = UNFAMILIAR,
) -> Grid:
    return Grid(
        prefix=f"chen-table-{table}-{first}",
        paper=Paper.CONTINUAL_MEMORIZATION,
        place=f"Table {table}",
        measure="accuracy",
        unit="percent",
        tolerance=TOLERANCE,
        row_name=row_name,
        column_name="later",
        columns=columns,
        rows=rows,
        conditions={
            "model": model,
            "first": first,
            "facts": facts,
            "items": "2000",
            "metric": "exact match",
            **({"mixing": MIXING} if "mix" in row_name else {}),
        },
        from_row=next(iter(rows)),
        beside={MEANS[0]: MEANS[1]} if MEANS[0] in columns else {},
    )


GRIDS = (
    _grid(
        2,
        "KVR",
        "mix",
        WITH_ID,
        {
            "none": "0.5 2.1 17.4 33.8 13.5 24.4 27.3 49.5 26.7 66.6 38.9",
            "random at A": "8.9 2.5 42.5 61.4 28.8 64.1 75.9 85.3 75.0 89.1 77.9",
            "generic at A": "0.1 0.0 3.2 30.1 8.4 47.3 58.4 62.2 19.0 74.3 52.2",
            "random later": "0.2 0.1 2.9 5.3 2.1 15.1 11.7 33.8 16.5 66.8 28.8",
            "generic later": "0.8 40.0 36.4 33.9 27.8 12.8 8.8 40.5 16.8 70.2 29.8",
            "both": "10.6 62.4 69.5 70.2 53.2 45.8 45.4 74.7 51.2 86.8 60.8",
        },
    ),
    _grid(
        2,
        "PopQA",
        "mix",
        WITH_ID,
        {
            "none": "49.8 7.7 57.8 72.5 47.0 19.0 92.4 77.0 55.1 48.5 58.4",
            "random at A": "62.0 17.7 69.3 65.8 53.7 51.4 89.3 82.7 81.8 66.0 72.2",
            "generic at A": "24.0 2.8 11.3 31.8 17.5 46.4 92.7 94.0 87.2 90.9 82.2",
            "random later": "35.7 5.2 38.1 45.9 31.2 16.8 93.5 87.5 59.3 70.7 65.6",
            "generic later": "86.6 90.8 93.9 74.4 86.4 25.9 94.0 92.4 73.9 74.7 72.2",
            "both": "82.6 85.8 90.7 80.5 84.9 38.5 88.7 88.3 79.2 74.4 73.8",
        },
    ),
    _grid(
        2,
        "TriviaQA",
        "mix",
        WITH_ID,
        {
            "none": "45.6 4.3 40.5 68.6 39.8 9.4 87.6 54.4 70.4 67.6 57.9",
            "random at A": "64.9 8.1 60.0 70.8 51.0 27.1 84.9 71.2 87.3 70.8 68.3",
            "generic at A": "9.4 0.9 3.8 21.0 8.8 31.9 82.9 93.5 90.7 90.1 77.8",
            "random later": "25.0 5.5 19.9 38.8 22.3 4.1 81.0 84.0 62.2 71.6 60.6",
            "generic later": "90.8 90.1 91.5 89.8 90.6 2.8 79.1 75.9 53.7 69.8 56.3",
            "both": "90.2 89.2 89.6 86.5 88.9 12.5 81.8 71.2 74.6 70.0 62.0",
        },
    ),
    _grid(
        3,
        "KVR",
        "mix",
        WITHOUT_ID,
        {
            "none": "0.1 15.4 29.6 15.0 4.8 1.5 12.7 13.1 51.9 16.8",
            "both": "47.5 44.1 39.0 43.5 60.1 39.1 52.9 54.8 81.0 57.0",
        },
        _MISTRAL,
    ),
    _grid(
        3,
        "PopQA",
        "mix",
        WITHOUT_ID,
        {
            "none": "66.9 92.3 89.6 82.9 96.9 96.8 96.9 96.9 96.7 96.8",
            "both": "90.5 92.3 89.0 90.6 91.7 91.6 91.8 91.9 91.3 91.7",
        },
        _MISTRAL,
    ),
    _grid(
        3,
        "TriviaQA",
        "mix",
        WITHOUT_ID,
        {
            "none": "71.6 86.4 91.5 83.2 4.8 99.0 95.9 79.9 97.0 75.3",
            "both": "77.0 81.5 83.1 80.5 1.6 91.1 95.3 97.7 90.7 75.3",
        },
        _MISTRAL,
    ),
    _grid(
        4,
        "KVR",
        "replay ratio",
        COLUMNS,
        {
            "0": "2.2 17.5 34.1 26.4 27.5 50.0 30.0 66.7",
            "0.01": "13.7 37.1 54.2 71.0 69.7 73.2 73.8 81.9",
            "0.05": "6.3 45.8 72.6 77.0 75.9 76.7 80.1 88.9",
            "0.1": "13.2 33.3 78.2 80.3 85.0 76.5 86.7 91.1",
        },
    ),
    _grid(
        4,
        "PopQA",
        "replay ratio",
        COLUMNS,
        {
            "0": "15.7 64.3 78.6 33.6 93.5 80.5 63.2 53.7",
            "0.01": "12.0 66.0 75.3 94.4 95.1 95.7 90.8 87.6",
            "0.05": "27.4 64.4 84.5 95.9 95.2 95.4 95.9 95.3",
            "0.1": "46.6 64.0 83.8 96.1 96.0 95.7 96.3 95.7",
        },
    ),
    _grid(
        4,
        "TriviaQA",
        "replay ratio",
        COLUMNS,
        {
            "0": "7.8 48.4 76.8 57.6 91.0 59.5 75.6 73.5",
            "0.01": "7.5 51.8 72.0 66.8 90.6 93.3 74.2 84.0",
            "0.05": "25.7 57.0 77.8 88.9 94.0 93.7 94.4 92.0",
            "0.1": "34.9 57.9 80.7 93.0 95.5 95.4 95.2 93.0",
        },
    ),
    _grid(
        5,
        "PopQA",
        "mix later",
        COLUMNS,
        {
            "none": "27.3 24.4 39.1 13.0 18.3 36.3 7.4 46.9",
            "knowledge pile": "56.0 52.1 46.6 4.1 4.8 19.5 10.3 15.8",
            "arxiv": "65.1 60.4 52.7 9.2 3.2 26.5 21.8 19.3",
            "random": "24.9 27.9 29.1 7.5 6.0 25.4 2.8 18.4",
            "fineweb": "54.9 54.4 51.3 6.6 5.2 29.1 30.0 18.4",
        },
        facts=FAMILIAR,
    ),
    _grid(
        5,
        "TriviaQA",
        "mix later",
        COLUMNS,
        {
            "none": "16.5 20.7 40.4 24.7 26.7 52.9 21.9 56.6",
            "knowledge pile": "55.9 57.5 50.3 11.0 6.8 28.4 20.9 23.4",
            "arxiv": "66.4 65.9 56.6 13.0 2.8 34.8 33.5 25.8",
            "random": "14.4 26.5 26.5 14.0 7.5 21.8 13.4 27.5",
            "fineweb": "56.6 57.6 52.6 13.0 6.0 38.9 56.9 17.7",
        },
        facts=FAMILIAR,
    ),
    _grid(
        6,
        "PopQA",
        "mix later",
        COLUMNS,
        {
            "none": "55.5 47.1 68.0 14.5 42.8 25.9 18.4 38.9",
            "knowledge pile": "75.8 77.1 76.1 28.1 20.9 19.9 18.3 14.2",
            "arxiv": "78.2 79.0 77.6 28.1 20.9 19.9 18.3 14.2",
            "random": "52.7 53.8 62.6 28.1 20.9 19.9 18.3 14.2",
            "fineweb": "75.0 74.4 75.1 28.1 20.9 19.9 18.3 14.2",
        },
        _MISTRAL,
        FAMILIAR,
    ),
    _grid(
        6,
        "TriviaQA",
        "mix later",
        COLUMNS,
        {
            "none": "61.6 56.9 69.3 19.6 54.3 36.7 21.2 18.6",
            "knowledge pile": "79.1 79.6 73.9 29.3 20.8 20.6 20.7 18.6",
            "arxiv": "81.3 81.8 76.3 29.3 20.8 20.6 20.7 18.6",
            "random": "60.8 58.0 64.0 29.3 20.8 20.6 20.7 18.6",
            "fineweb": "78.8 80.0 73.7 29.3 20.8 20.6 20.7 18.6",
        },
        _MISTRAL,
        FAMILIAR,
    ),
)


def _headline(
    name: str,
    place: str,
    value: float,
    conditions: dict[str, str],
    told: Direction | None = None,
) -> Published:
    """A number of the text; it goes the way told from no mix."""
    return Published(
        identifier=f"chen-{name}",
        paper=Paper.CONTINUAL_MEMORIZATION,
        place=place,
        measure="accuracy",
        unit="percent",
        conditions={"model": _LLAMA, "first": "KVR", "metric": "exact match", **conditions},
        value=value,
        tolerance=TOLERANCE,
        change_from="no mix" if told else "",
        told=told,
    )


_MIXES = _headline(
    "headline-mixes", "section 1", 53.2, {"later": MEANS[0], "mix": "both", "mixing": MIXING}
)
_REPLAY = _headline(
    "headline-replay",
    "section 1",
    41.6,
    {"later": MEANS[0], "replay ratio": "0.1"},
    Direction.RISES,
)
HEADLINES = (
    against(_MIXES, _REPLAY, "a tenth shown again"),
    _REPLAY,
    _headline("three-stages-none", "section 5", 37.0, {"later": TWO_STAGES}),
)
RECORDS = (*(one for grid in GRIDS for one in grid.records()), *HEADLINES)
"""All of them."""
