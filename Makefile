# Two commands set up a bare machine: `make demo` and `make test`. The second run of each is fast.
PYTHON  ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN     := .venv/bin
READY   := .venv/.ready
OUT     ?= runs/demo

.PHONY: demo test lint bench map browser clean

# A story from end to end: a real model measured and read layer by layer, then small ones pretrained,
# taught new knowledge with and without an edit, made to memorize with and without REMIX, and judged.
# What is there already is not made again; `analysis.reproduce` without --experiments goes on to all.
demo: $(READY)
	test -f $(OUT)/entropies/entropy.html || $(BIN)/python -m analysis.entropy \
	    --model smollm2-135m-instruct-q4 --corpus general biomedical --max-tokens 8192 \
	    --out $(OUT)/entropies
	test -f $(OUT)/lens/lens.html || $(BIN)/python -m analysis.logit_lens \
	    --model smollm2-135m-instruct-q4 --factoids triviaqa --limit 32 --out $(OUT)/lens
	$(BIN)/python -m analysis.reproduce --scale smoke --experiments entropies doses mixes \
	    --out $(OUT)/smoke
	$(BIN)/python -m analysis.report $(OUT) --out $(OUT)/report.html

test: $(READY) browser
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	    --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m tests.benchmarks --out runs/bench $(if $(QUICK),--quick)

map:
	$(PYTHON) docs/make_map.py

# pip, not uv: the pinned torch must come from wherever this machine's pip is set up to find it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Browser tests skip, and say so, where this cannot install one.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	    { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	    echo "no chromium here and it cannot be installed: browser tests will be skipped"

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache runs
