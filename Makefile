# make demo and make test set up everything on a fresh machine with Python 3.11+ and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data/people-mini
WEIGHTS ?= osnet_x0_25_msmt17

.PHONY: demo test check bench clean

demo: $(VENV)/.ready  ## evaluate, index, search; DATA=folder WEIGHTS=file or name
	$(BIN)/osnet demo --data "$(DATA)" --weights "$(WEIGHTS)"

test: $(VENV)/.ready  ## all tests
	$(BIN)/python -m pytest

check: $(VENV)/.ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready  ## how fast embedding is here
	$(BIN)/python benchmarks/embedding.py

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "osnet needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
