"""Fixtures. Our packages are imported inside them, after the shape checks are installed."""

import os

import pytest

# Nothing in the suite may reach for a hub; what looks like one is a local cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def smollm2():
    """The built-in model, or a skip that says why it cannot be had here."""
    import probes

    try:
        return probes.load_model("smollm2-135m-instruct-q4")
    except ValueError as error:
        pytest.skip(f"the built-in model cannot be fetched here: {error}")
