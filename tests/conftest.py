"""Fixtures; what they import of our packages is checked, as all is that tests import."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests import shape_checks

shape_checks.install()
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
def for_all(tmp_path_factory):
    """Make a folder by its name once, whichever worker comes first; the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder(name, make):
        with FileLock(root / f"{name}.lock"):
            if not (root / name).exists():
                shutil.rmtree(root / f"{name}.partial", ignore_errors=True)
                (root / f"{name}.partial").mkdir()
                make(root / f"{name}.partial")
                (root / f"{name}.partial").rename(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def texts(for_all):
    """A folder with small corpora and a file of passages, to be read only."""
    from tests.training.small_runs import write_texts

    return for_all("texts", write_texts)


@pytest.fixture(scope="session")
def pretrained(texts, tmp_path_factory):
    """A pretraining run of 20,000 parameters with checkpoints 0, 1, 2, 3, 6, 7, to be read only."""
    from tests.training.small_runs import pretrain_arguments
    from training.pretrain import main

    out = tmp_path_factory.mktemp("pretrained") / "tiny"
    assert main(pretrain_arguments(texts, out)) == 0
    return out


@pytest.fixture(scope="session")
def both_found(for_all):
    """By test module, what either of two processes has found: see `tests/two_processes.py`."""

    def make(folder):
        words = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        command = [sys.executable, "-m", *words, "tests.two_processes"]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, capture_output=True, text=True, cwd=root)
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / "found.json").write_text(done.stdout.splitlines()[-1])

    return json.loads((for_all("two-processes", make) / "found.json").read_text())


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
