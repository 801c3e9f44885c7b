# Each target sets itself up: a virtual environment in .venv, filled once and again only when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:
	@echo "make demo    finetune a page retriever on real manuals and open a report (about 10 minutes on a laptop)"
	@echo "make test    everything CI runs: format, lint, types, layers, tests, parity (about 15 minutes)"
	@echo "make check   format, lint, types, layers"
	@echo "make bench   benchmarks against Sentence Transformers, quick sizes"
	@echo "make clean   remove the virtual environment and caches"

$(BIN)/python:
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# The full set holds the demo's: with it in place there is nothing to install.
$(VENV)/.full: pyproject.toml | $(BIN)/python
	@echo "Installing omnitune with its development tools into $(VENV) (first time: some minutes, several GB with torch)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,parity]'
	@touch $(VENV)/.full $(VENV)/.demo

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing omnitune into $(VENV) (first time: some minutes, several GB with torch)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $(VENV)/.demo

demo: $(VENV)/.demo
	@$(BIN)/omnitune demo --out runs/demo

check: $(VENV)/.full
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

test: check
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

bench: $(VENV)/.full
	@for bench in benchmarks/bench_*.py; do echo "$$bench" >&2; $(BIN)/python $$bench --quick || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
