# Each target does the whole set-up it needs, from a bare clone, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FUZZ_S ?= 600
STAMP := $(VENV)/.installed
FUZZER := $(VENV)/.fuzzer
COMPILED := pipeline/_lanes.c pipeline/codec/_quick.c pipeline/codec/_sha256.h pipeline/script/_payments.c
UV := --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11

.PHONY: help setup demo test check bench chaos fuzz lock docs clean

help:
	@echo "make demo   the main job on an embedded broker: 500 payloads, faults included"
	@echo "make test   the tests            make check  format, lint, types, import contracts"
	@echo "make bench  the measurements     make chaos  the long fault tests      make fuzz  the long fuzzing"
	@echo "make test LONG_TESTS=1   the same, with the long forms of those that have one"
	@echo "make setup  install into .venv   make docs   regenerate reference pages"
	@echo "make lock   resolve dependencies again       make clean  remove what was built or run here"

setup: $(STAMP)

$(STAMP): requirements-dev.lock pyproject.toml $(COMPILED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	$(BIN)/beefline demo

# atheris is bound to its platform: a lock of its own. Where it is not to be had, the tests that need it are skipped.
$(FUZZER): requirements-fuzz.lock $(STAMP)
	@if $(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --requirement $<; then \
		touch $@; \
	else \
		echo "atheris could not be installed (see above): there may be no wheel of it for this platform. Fuzzing is left out."; \
	fi

test: setup $(FUZZER)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/beefline bench

chaos: setup
	$(BIN)/beefline chaos

# What is found is left in .beefline/fuzz; the last lines tell how to keep it.
fuzz: setup $(FUZZER)
	LONG_TESTS=1 $(BIN)/python -m pytest -q tests/pipeline/script/test_fast_path.py
	$(BIN)/python -m tests.fuzz.target parse .beefline/fuzz/parse -max_total_time=$(FUZZ_S) -artifact_prefix=.beefline/fuzz/failed-
	$(BIN)/python -m tests.fuzz.target verify .beefline/fuzz/verify -max_total_time=$(FUZZ_S) -artifact_prefix=.beefline/fuzz/failed-
	@echo "to keep what was found, as tests/fuzz/corpus-*.hex:"
	@echo "  $(BIN)/python -m tests.fuzz.keep parse .beefline/fuzz/parse"
	@echo "  $(BIN)/python -m tests.fuzz.keep verify .beefline/fuzz/verify"

docs: setup
	$(BIN)/beefline topics docs --write

lock:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile $(UV) --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile $(UV) --output-file requirements-fuzz.lock requirements-fuzz.in
	$(BIN)/uv pip compile $(UV) --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml

clean:
	@if [ -x $(BIN)/beefline ]; then $(BIN)/beefline broker stop; fi
	rm -rf $(VENV) .beefline build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
