# make demo and make test set up everything on a fresh machine with Python 3.11+ and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test check bench clean

help:
	@echo "make demo DATA=folder WEIGHTS=file-or-name   evaluate, index, search, and draw what was found"
	@echo "make test                                    all tests"
	@echo "make check                                   format, lint, types"
	@echo "make bench                                   how fast embedding is here"
	@echo "make clean                                   remove $(VENV)"

demo:
	@test -n "$(DATA)" -a -n "$(WEIGHTS)" || { echo 'make demo needs DATA, a folder in the layout of Market-1501 or with query and gallery, and'; \
	  echo 'WEIGHTS, a file or a name such as osnet_x0_25_msmt17: make demo DATA=my/crops WEIGHTS=osnet_x0_25_msmt17'; exit 2; }
	@$(MAKE) --no-print-directory $(VENV)/.ready
	$(BIN)/osnet demo --data "$(DATA)" --weights "$(WEIGHTS)"

test: $(VENV)/.ready
	$(BIN)/python -m pytest

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/embedding.py

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "osnet needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
