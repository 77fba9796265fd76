# Everything here sets up .venv by itself first; `make run PYTHON=python3.12` chooses the Python.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := .venv-lowest
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# Tests of one file share a worker, and with it a run of all notebooks, clusters and surrogates.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# Material's notice of its successor is no warning about these pages.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

.DELETE_ON_ERROR:
.PHONY: run test test-fast test-lowest check docs lab bench reference clean setup

run: setup  ## all notebooks, then results/runs/<time>/report.html; ARGS="--data cifar10 05"
	@$(BIN)/python -m hpo_lib run --profile quick $(ARGS)

test: setup  ## everything, the notebooks too
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: setup  ## the tests that take seconds
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not browser" $(ARGS)

# Indirect dependencies are the newest, and the lowest direct ones may call what these deprecate:
# such a warning is an error in `make test` alone. Wheels this old exist for Python 3.11 and 3.12.
test-lowest: $(LOWEST)/.installed  ## test-fast with the lowest versions that pyproject.toml allows
	@$(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not slow and not browser" \
	  -W ignore::DeprecationWarning $(ARGS)

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python tests/readability.py hpo_lib
	@$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify --keep-id $(NOTEBOOKS))
	@$(MKDOCS)

docs: setup  ## pages of all tasks and of the API: site/index.html
	@$(MKDOCS)
	@echo "site/index.html"

lab: setup  ## JupyterLab for this machine alone, with a token
	@$(BIN)/jupyter lab --ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks $(ARGS)

bench: setup  ## each benchmark in turn; ARGS=--quick for a minute each
	@$(BIN)/pip install -q -e '.[bench]'
	@set -e; for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script" $(ARGS); done

reference: setup  ## the committed replays of notebook 06 anew: results/reference/replay
	@rm -rf results/reference_run
	@$(BIN)/python -m hpo_lib run --profile quick --into results/reference_run \
	  $(ARGS) 06
	@mkdir -p results/reference/replay
	@cd results/reference_run && cp replay.json replay_summary.csv replay_pairs.csv ranks.csv \
	  ../reference/replay/
	@sed 's|$(CURDIR)/||' results/reference_run/run.json > results/reference/replay/run.json

clean: setup  ## runs and studies, not .venv and not results/reference
	@$(BIN)/python -m hpo_lib clean --yes

setup: .venv/.installed

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is not one: make PYTHON=..." >&2; exit 1; }
	@echo "Setting up .venv (once; some minutes, PyTorch is large) ..."
	@$(PYTHON) -m venv .venv || { \
	  echo "no virtual environment could be made (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(LOWEST)/.installed: pyproject.toml
	@echo "Setting up $(LOWEST) (once for each change of pyproject.toml) ..."
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(LOWEST) $(LOWEST)/bin/uv pip install --quiet \
	  --resolution lowest-direct --editable '.[dev]'
	@touch $@
