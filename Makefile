# make demo and make test set up everything on a fresh machine with Python 3.11+ and pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test check docs wheel bench clean

help:
	@echo "make demo    paint footage, find the people in it, search, and write a page: under three minutes once $(VENV) is made"
	@echo "make test    all tests"
	@echo "make check   format, lint, types, who may import whom"
	@echo "make docs    the documentation site, in site/"
	@echo "make wheel   build the package and try it in an empty environment"
	@echo "make bench   how fast embedding is here"
	@echo "make clean   remove $(VENV)"

demo: $(VENV)/.demo
	$(BIN)/osnet demo
	@echo "osnet is $(BIN)/osnet; after '. $(BIN)/activate' the commands above work as they stand"

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.ready
	$(BIN)/mkdocs build --strict --quiet

# The empty environment links to the PyTorch of $(VENV), because a second one takes 5 GB; pip installs the rest.
wheel: $(VENV)/.ready
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	rm -rf build/bare
	$(BIN)/python -m venv --without-pip build/bare
	find $(abspath $(VENV))/lib/python*/site-packages -maxdepth 1 \( -name 'torch*' -o -name 'triton*' -o -name 'nvidia*' \) \
		-exec ln -s {} "$$(echo build/bare/lib/python*/site-packages)" \;
	$(BIN)/python -m pip --python build/bare/bin/python install --quiet --no-compile dist/*.whl
	cd build && bare/bin/osnet --help >/dev/null && bare/bin/python -c 'import osnet; osnet.create_model("osnet_x0_25")'
	rm -rf build/bare

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/extraction.py

# The demo needs a part of what the tests need.
define install
@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "osnet needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
$(PYTHON) -m venv $(VENV)
@echo "installing PyTorch and the other packages into $(VENV); this takes some minutes"
$(BIN)/python -m pip install --quiet --editable '.[$(1)]'
endef

$(VENV)/.demo: pyproject.toml
	$(call install,demo)
	@touch $@

$(VENV)/.ready: pyproject.toml
	$(call install,dev)
	@touch $(VENV)/.demo $@

clean:
	rm -rf $(VENV)
