# demo: finetune and report on real pages    test: everything CI runs    check: format, lint, types, layers
# oldest: tests on the oldest releases that pyproject.toml allows
# bench: speed and memory against Sentence Transformers    gpu: the same and more on a machine with a GPU
# clean: what can be made again    docs: the site, in docs/_build
#
# Each sets up .venv by itself, once; a change of pyproject.toml installs again. ARGS= reaches the command.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test oldest check bench docs gpu clean

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
COMMA := ,
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

# A development install can run the demo too.
DEMO_STAMP := $(if $(wildcard .venv/.dev),.venv/.dev,.venv/.demo)

# Installs, showing the large wheels as they come: the first install is a long wait.
LARGE_WHEELS := awk '/^ *(Downloading|Using cached) .*\.whl \(.* MB\)/ \
    { sub(/.*(Downloading|Using cached) (.*\/)?/, "   "); sub(/-[^-]*-[^-]*-[^-]*\.whl/, ""); print; fflush() }'
INSTALL = set -o pipefail; $(BIN)/python -m pip install --progress-bar off --editable $(1) | $(LARGE_WHEELS)

help:
	@echo "make demo    finetune a page retriever on some manuals and open the report (minutes, no GPU)"
	@echo "make test    everything CI runs: make check, tests, parity with Sentence Transformers"
	@echo "make oldest  tests on the oldest releases of upstream that pyproject.toml allows, in .venv-oldest"
	@echo "make check   format, lint, types, import layers"
	@echo "make bench   speed and memory against Sentence Transformers"
	@echo "make docs    the documentation site in docs/_build"
	@echo "make gpu     on a machine with a GPU: is it right and fast there? At most eight minutes"
	@echo "make clean   remove caches and build output; 'make clean ALL=1' removes .venv too"

demo: $(DEMO_STAMP)
	@$(BIN)/omnitune demo $(ARGS)

test: check
	@echo "== tests and parity with Sentence Transformers ($(WORKERS) workers; some minutes)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

# Without the frameworks of tests/integrations and tests/export, which ask for newer releases.
oldest:
	@test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip install -q -e '.[demo,late,lora,office,optuna,serve,speech,video,parity]' \
	    pytest hypothesis httpx espeakng-loader -c tests/oldest.txt
	@OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(or $(ARGS),tests/training tests/model tests/modules tests/parity)

check: .venv/.dev
	@echo "== format and lint (ruff)"
	@$(BIN)/ruff format --check --output-format concise . || { echo "Not formatted: run $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check .
	@echo "== types (mypy --strict)"
	@$(BIN)/mypy
	@echo "== import layers (import-linter)"
	@$(BIN)/lint-imports --no-logo 2>&1 || { echo "A room imports upwards or sideways." >&2; exit 1; }

bench: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run_all.py $(or $(ARGS),--quick)

docs: .venv/.dev
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build && echo "docs/_build/index.html"

# Installs nothing: a machine with a GPU often has no network, and its own torch.
gpu:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py $(ARGS)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "omnitune needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || \
	    { rm -rf .venv; echo "No venv module; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }

.venv/.demo: pyproject.toml | .venv/bin/python
	@echo "== installing omnitune for the demo (the first time 2 to 5 minutes: torch is large)"
	@$(call INSTALL,'.[demo]')
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "== installing omnitune for development (the first time 3 to 6 minutes: torch is large)"
	@$(call INSTALL,'.[dev$(COMMA)parity]')
	@touch $@

clean:
	@rm -rf build dist docs/_build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@$(if $(ALL),rm -rf .venv .venv-oldest,true)
	@echo "Clean. What runs made stays in runs/."
