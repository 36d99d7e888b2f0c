# Targets of microlatent; `make` alone prints them. DEVICE=cuda runs the bench on a GPU.
VENV ?= .venv
PYTHON := $(VENV)/bin/python
PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -p xdist -n logical --maxprocesses 4
DEVICE ?= cpu
OUTPUTS ?= outputs
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types coverage format bench dashboard sync lock clean

help:  ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.ready: requirements/lock.txt scripts/setup_env.sh
	@scripts/setup_env.sh $(VENV)
	@touch $@

setup: $(VENV)/.ready  ## make the environment (torch in the build that fits, then the locked packages)

demo: $(VENV)/.ready  ## simulate a specimen, run the main jobs, compare with what was planted (SYSTEM=wells, another, or all)
	@$(PYTHON) scripts/demo.py --outputs $(OUTPUTS) $(SYSTEM)

test: $(VENV)/.ready  ## the fast tests
	@scripts/setup_browser.sh $(VENV)
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/.ready  ## all tests: slow ones and real data too
	@scripts/setup_browser.sh $(VENV)
	@$(PYTEST)

lint: $(VENV)/.ready  ## ruff: rules and format
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

types: $(VENV)/.ready  ## mypy: types of the core, which pyproject.toml lists
	@$(PYTHON) -m mypy

coverage: $(VENV)/.ready  ## the fast tests again, and the lines that none of them runs
	@$(PYTHON) -m coverage erase
	@OMP_NUM_THREADS=1 $(PYTHON) -m coverage run -m pytest -q -m "not slow"
	@$(PYTHON) -m coverage combine -q && $(PYTHON) -m coverage report

format: $(VENV)/.ready  ## ruff: rewrite files in the house format
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

bench: $(VENV)/.ready  ## speed and memory against the reference's method, as ratios (DEVICE=cpu or cuda)
	@$(PYTHON) benchmarks/bench.py --device $(DEVICE)

dashboard: $(VENV)/.ready  ## show all runs and sweeps below OUTPUTS in a browser, on this machine alone
	@$(PYTHON) -m microlatent.dashboard --outputs $(OUTPUTS)

sync: $(VENV)/.ready  ## upload offline W&B runs below OUTPUTS; without a key it lists them
	@$(PYTHON) scripts/sync.py --outputs $(OUTPUTS)

lock:  ## resolve requirements/lock.txt anew (needs uv)
	@uv pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --no-emit-package torch -o requirements/lock.txt

clean:  ## remove the environment; outputs/ stays
	@rm -rf $(VENV) .ruff_cache .pytest_cache .mypy_cache .coverage*
