# Two commands are all that a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast bench simulate lint types contract check docs clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "lightning-flip needs Python 3.11, 3.12 or 3.13; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## train twelve small models on digits and print what flipped
	$(BIN)/python examples/digits/demo.py

# Where Python is told to write no bytecode, every process that a test starts compiles the package again: 2 s each.
test test-fast: export PYTHONDONTWRITEBYTECODE =
PYTEST := $(BIN)/python -m pytest -n logical --dist worksteal

test: $(STAMP) ## every test, doctests included, on every core
	$(PYTEST)

test-fast: $(STAMP) ## within a minute: functions, tables, stores, metrics, data, doctests
	$(PYTEST) -m 'not slow' tests/functional tests/tables tests/stores tests/metrics tests/data tests/oracles lightning_flip

bench: $(STAMP) ## what following every sample costs in a step
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -o addopts= -o timeout=0 -s --benchmark-columns=min,median,iqr,rounds

simulate: $(STAMP) ## error rates of the gate's decisions: writes docs/gate_statistics.md, in minutes
	$(BIN)/python docs/simulations/run.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contract: $(STAMP)
	$(BIN)/lint-imports

check: test lint types contract

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build/html

clean:
	rm -rf $(VENV) build dist docs/_build
