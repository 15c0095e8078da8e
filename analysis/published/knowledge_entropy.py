"""Numbers of the Knowledge Entropy paper.

K there is the sum of a target's log-probabilities over the length of the padded row, in batches of
16 over 4 processes: about a twelfth of the mean over its tokens. A is its change over its size.

Source: Kim et al., ICLR 2025: Tables 1 and 2, footnote 11, Figures 2, 3 and 5 to 9, B.4.2.

Example:
    >>> len(RECORDS)
    94
"""

from analysis.claims.choices import Paper
from analysis.published.records import Grid, Published, Reading, against
from analysis.statistics.results import Direction

_PAPER = Paper.KNOWLEDGE_ENTROPY
POINTS_TOLERANCE = 0.5
"""Of percentages: what the same weights and data may differ by."""
K_TOLERANCE = 0.002
"""Of K: what that is in it."""
CHECKPOINTS = ("118k", "369k", "554k", "738k")
"""Updates of pretraining of the models in the tables; the last one is where pretraining ended."""
LAST_STEP = 738_000
"""Updates of pretraining of the last of them."""
FIRST_CURVE_STEP = 18_000
"""Updates at the first checkpoint that Figure 8 shows: entropies are not followed from before."""
_CONDITIONS = {
    "model": "OLMo-1B",
    "corpus": "PubMed",
    "corpus rows": "204800 of 1024",
    "knowledge": "fictional knowledge, 70 paraphrased and 60 once",
}
PADDED_METRIC = "padded mean, batches of 16 over 4 processes"
TASK_METRIC = "sciq, winogrande, piqa, openbookqa, hellaswag, arc-easy, zero-shot"
_PADDED = {**_CONDITIONS, "metric": PADDED_METRIC}
_TASKS = {**_CONDITIONS, "metric": TASK_METRIC}


def _grid(measure: str, number: int, rows: dict[str, str]) -> Grid:
    is_k = measure == "K"
    return Grid(
        prefix=f"kim-table-{number}",
        paper=_PAPER,
        place=f"Table {number}",
        measure=measure,
        unit="nats" if is_k else "percent",
        tolerance=K_TOLERANCE if is_k else POINTS_TOLERANCE,
        row_name="recipe",
        column_name="checkpoint",
        columns=CHECKPOINTS,
        rows=rows,
        conditions=_PADDED if measure in "AK" else _TASKS,
        from_column=CHECKPOINTS[0],
    )


GRIDS = (
    _grid(
        "A",
        1,
        {
            "baseline": "25.2 24.8 21.4 18.8",
            "batch size 2048": "8.9 7.8 1.0 -92.2",
            "learning rate 1e-3": "17.3 15.7 10.7 5.0",
            "learning rate 1e-4": "21.6 23.0 23.7 22.6",
            "3 epochs": "28.8 28.0 25.9 24.5",
        },
    ),
    _grid(
        "F",
        1,
        {
            "baseline": "10.5 12.9 17.0 19.5",
            "batch size 2048": "2.2 3.5 5.5 44.9",
            "learning rate 1e-3": "16.7 20.3 23.0 23.5",
            "learning rate 1e-4": "2.4 3.2 4.6 7.3",
            "3 epochs": "14.8 17.4 20.1 23.1",
        },
    ),
    _grid(
        "K",
        2,
        {
            "baseline": "-0.281 -0.280 -0.293 -0.301",
            "batch size 2048": "-0.342 -0.344 -0.368 -0.714",
            "learning rate 1e-3": "-0.310 -0.314 -0.332 -0.353",
            "learning rate 1e-4": "-0.294 -0.287 -0.284 -0.287",
            "3 epochs": "-0.267 -0.268 -0.276 -0.280",
        },
    ),
    _grid(
        "P",
        2,
        {
            "baseline": "54.0 54.6 52.8 52.0",
            "batch size 2048": "59.0 60.5 60.1 35.6",
            "learning rate 1e-3": "50.3 49.9 49.0 49.4",
            "learning rate 1e-4": "58.9 60.7 60.6 59.9",
            "3 epochs": "51.4 51.7 50.8 49.7",
        },
    ),
)


def _range(name: str, place: str, measure: str, low: float, high: float, **given: str) -> Published:
    """A range that the ticks of an axis show; all of them fall over pretraining."""
    return Published(
        identifier=f"kim-{name}",
        paper=_PAPER,
        place=place,
        measure=measure,
        unit="nats",
        reading=Reading.TICKS,
        conditions={"model": "OLMo-1B", "corpus": "Dolma, first batch", **given},
        low=low,
        high=high,
        change_from="the first checkpoint",
        told=Direction.FALLS,
    )


_H, _LAYER, _7B = "knowledge entropy", "knowledge entropy of a layer", "OLMo-7B"
RANGES = (
    _range("figure-2-1b", "Figure 2", _H, 143.6, 144.0),
    _range("figure-2-7b", "Figure 2", _H, 297.0, 297.6, model=_7B),
    _range("figure-8a", "Figure 8a", _LAYER, 8.88, 9.0),
    _range("figure-8b", "Figure 8b", _LAYER, 9.12, 9.3, model=_7B),
    _range("figure-6", "Figure 6", _H, 143.4, 143.7, model="Pythia 1.4B", corpus="Dolma"),
    _range("figure-7-c4", "Figure 7", _H, 143.3, 143.9, corpus="C4"),
    _range("figure-7-pubmed", "Figure 7", _H, 143.3, 143.9, corpus="PubMed"),
    _range("figure-9", "Figure 9", "knowledge entropy, ReLU", 143.2, 144.0),
    _range("figure-3-attention", "Figure 3", "attention entropy", 40.0, 70.0),
    _range("figure-3-next-token", "Figure 3", "next-token entropy", 2.4, 2.8),
)


def _number(
    name: str, place: str, measure: str, value: float, unit: str, tolerance: float, told: Direction
) -> Published:
    return Published(
        identifier=f"kim-{name}",
        paper=_PAPER,
        place=place,
        measure=measure,
        unit=unit,
        conditions={**_CONDITIONS, "corpus": "C4"} if "c4" in name else _CONDITIONS,
        value=value,
        tolerance=tolerance,
        change_from="0",
        told=told,
    )


def _gap(name: str, value: float) -> Published:
    what = "acquisition of the last checkpoint less the first"
    return _number(name, "B.4.2", what, value, "percent", POINTS_TOLERANCE, Direction.FALLS)


_FAMILIAR = _gap("gap-c4", -3.4)
NUMBERS = (
    _number(
        "footnote-11-acquisition",
        "footnote 11",
        "Pearson correlation of acquisition with knowledge entropy",
        0.94,
        "correlation",
        0.01,
        Direction.RISES,
    ),
    _number(
        "footnote-11-forgetting",
        "footnote 11",
        "Pearson correlation of forgetting with knowledge entropy",
        -0.96,
        "correlation",
        0.01,
        Direction.FALLS,
    ),
    against(_gap("gap-pubmed", -6.4), _FAMILIAR, "the same on C4"),
    _FAMILIAR,
)
RECORDS = (*(one for grid in GRIDS for one in grid.records()), *RANGES, *NUMBERS)
"""All of them."""
