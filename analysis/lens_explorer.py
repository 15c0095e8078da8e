"""Lens page data: everything a page needs to draw any item, in as few bytes as it can.

A result of a hundred items has a million places with ten tokens each. The page holds a table of the
tokens that occur and, for every place, numbers of rows of it: typed arrays, deflated, in base64.
First bytes of all numbers stand before all second bytes, which deflates by a fifth better.
Log-probabilities of the most likely tokens are kept in steps of 1/2048 nat down to -31.99, below
which a page shows nothing; the exact numbers are in `lens.json` and `lens.csv`.

Example:
    >>> import numpy as np
    >>> packed(np.array([1, 2, 300]))["type"], packed(np.array([1.5]))["type"]
    ('Uint16Array', 'Float32Array')
"""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.lens_result import LensResult
from analysis.lens_tables import input_ids, items_table, series_labels
from analysis.numbers import visible
from analysis.theme import SEQUENTIAL_SCALE

LOG_PROB_STEP = 1 / 2048
"""Nats between two log-probabilities of a most likely token that a page can tell apart."""
_LARGEST = np.iinfo(np.uint16).max
_NAMES = {
    np.dtype(np.uint8): "Uint8Array",
    np.dtype(np.uint16): "Uint16Array",
    np.dtype(np.uint32): "Uint32Array",
    np.dtype(np.int16): "Int16Array",
    np.dtype(np.float32): "Float32Array",
}


def explorer_data(results: Sequence[LensResult], k: int) -> dict[str, Any]:
    """What the script of the page reads, ready for JSON."""
    from plotly.colors import sample_colorscale

    places = [i / 15 for i in range(16)]
    rgb = sample_colorscale(SEQUENTIAL_SCALE, places, colortype="tuple")
    names = series_labels(results)
    return {
        "k": k,
        "step": LOG_PROB_STEP,
        "series": [_series(*one, k) for one in zip(names, results, strict=True)],
        "highestKl": max(float(result.per_token.readout.kl.max()) for result in results),
        "colours": ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in rgb],
    }


def _series(name: str, result: LensResult, k: int) -> dict[str, Any]:
    read = result.per_token
    known = _known_ids(result)
    starts = np.searchsorted(read.item.numpy(), np.arange(len(result.items) + 1))
    return {
        "name": name,
        "layers": list(result.layer_labels),
        "tokens": _packed_texts([visible(result.text(token)) for token in known.tolist()]),
        "dVocab": result.d_vocab,
        "topK": read.readout.top_ids.shape[-1],
        "items": _items(result, k),
        "starts": packed(starts),
        "input": packed(np.searchsorted(known, input_ids(result))),
        "target": packed(np.searchsorted(known, read.target.numpy())),
        "position": packed(read.position.numpy()),
        "place": packed(read.place.numpy().astype(np.int16)),
        **{name: packed(getattr(read.readout, name).numpy()) for name in ("rank", "entropy", "kl")},
        "logProb": packed(read.readout.log_prob.numpy()),
        "topIds": packed(np.searchsorted(known, read.readout.top_ids.numpy())),
        "topSteps": packed(_steps(read.readout.top_log_probs.numpy())),
    }


def _known_ids(result: LensResult) -> np.ndarray:
    """Every token id that the page names, in order."""
    read = result.per_token
    shown = [read.readout.top_ids.flatten().numpy(), read.target.numpy(), input_ids(result)]
    return np.unique(np.concatenate(shown))


def _items(result: LensResult, k: int) -> list[dict[str, Any]]:
    """What the list of items shows of each."""
    table = items_table(result, k).rename(
        columns={"first_layer": "first", "settling_layer": "settles"}
    )
    kept = table[["prompt", "target", "rank", "first", "settles"]]
    return kept.astype(object).where(kept.notna(), None).to_dict("records")


def _steps(log_probs: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(-log_probs / LOG_PROB_STEP), 0, _LARGEST).astype(np.uint16)


def packed(values: np.ndarray) -> dict[str, str]:
    """An array as the smallest typed array that holds it, deflated, in base64."""
    small = values.astype(_smallest(values))
    # Little-endian, as every browser's typed arrays are.
    raw = small.astype(small.dtype.newbyteorder("<")).flatten().view(np.uint8)
    planes = raw.reshape(-1, small.itemsize).T.tobytes()
    return {"type": _NAMES[small.dtype], "data": _deflated(planes)}


def _packed_texts(texts: Sequence[str]) -> dict[str, str]:
    written = json.dumps(texts, ensure_ascii=False)
    return {"type": "JSON", "data": _deflated(written.encode())}


def _deflated(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def _smallest(values: np.ndarray) -> np.dtype:
    if values.dtype.kind == "f":
        return np.dtype(np.float32)
    if values.dtype == np.int16:
        return values.dtype
    assert values.size == 0 or values.min() >= 0
    highest = int(values.max(initial=0))
    return next(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32) if highest <= np.iinfo(t).max)
