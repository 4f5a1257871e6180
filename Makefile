# `make demo` makes a video of a person; `make test` runs the tests. Each sets up .venv by itself: one or two minutes the first time,
# nothing after that until pyproject.toml or constraints.txt changes.

# The first of these that starts and is at least 3.11. Choose another one with: make demo PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt

.PHONY: help demo test check lint docs figures ablation format clean

help:
	@echo 'make demo     a video of a person, from a photograph and a prompt, with the tiny model'
	@echo 'make test     the tests'
	@echo 'make check    what CI runs: ruff, pyright, import-linter, the documentation, the tests'
	@echo 'make docs     the documentation as web pages, in site/'
	@echo 'make figures  every picture of the README and the documentation, made again'
	@echo 'make ablation  train and measure every row of the papers'"'"' ablations on drawn people: hours on a CPU, goes on where it was stopped'
	@echo 'make format   let ruff mend what it can'
	@echo 'make clean    remove .venv and everything built'

# The stamp comes last, so that a set-up that was cut short starts again. torch goes first: the rest may need it to build or choose.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'Likeness needs Python 3.11 or newer; none was found. Name one: make PYTHON=/path/to/python' >&2; exit 1; }
	@echo 'setting up $(VENV) with $(PYTHON) (a minute or two, once)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch setuptools
	@$(PIP) --no-build-isolation --editable '.[dev,train,curate,evaluate]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m likeness.demo

test: $(STAMP)
	@$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

ablation: $(STAMP)
	@$(BIN)/python -m likeness.recipes.ablation --output runs/ablation --page docs/ablations.md

figures: $(STAMP)
	@$(BIN)/python -m likeness.recipes.figures --output docs/images

# One after the other, also under `make -j`, with the tests last: their summary is what a reader of the log looks for.
check: $(STAMP)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory test

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
