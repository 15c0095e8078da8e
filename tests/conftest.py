"""Fixtures. Our packages are imported inside them, after the shape checks are installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A folder with small corpora and a file of passages, to be read only."""
    from tests.training.small_runs import write_texts

    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def pretrained(texts, tmp_path_factory):
    """A pretraining run of 20,000 parameters with checkpoints 0, 1, 2, 3, 6, 7, to be read only."""
    from tests.training.small_runs import pretrain_arguments
    from training.pretrain import main

    out = tmp_path_factory.mktemp("pretrained") / "tiny"
    assert main(pretrain_arguments(texts, out)) == 0
    return out


@pytest.fixture(scope="session")
def both_found():
    """By test module, what either of two processes has found: see `tests/two_processes.py`."""
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [sys.executable, "-m", *words, "tests.two_processes"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def driver():
    """A headless browser, or a skip where there is none."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not both on the PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in BROWSER_FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(chromedriver)
    started = webdriver.Chrome(options=options, service=service)
    yield started
    started.quit()
