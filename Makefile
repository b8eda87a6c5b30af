# Every target sets up what it needs: `make demo` or `make test` is all there is to type.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := ci/constraints.txt
# A plain install of torch on Linux brings CUDA (several GB). For the CPU build:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP_FLAGS := --disable-pip-version-check -q -c $(CONSTRAINTS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
STAMP := $(VENV)/.installed
# Each process imports torch (some GB of memory) and computes with one thread: more threads than cores hinder one
# another. What needs the same server and what is in one file stays together (tests/work_shares.py).
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

# Idle OpenMP threads spin by default and take the cores from whatever else runs.
export OMP_WAIT_POLICY ?= PASSIVE
# Containers set this; every process, and tests start hundreds, would then compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test fast lint types contracts check campaign clean

install: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q 'pip>=25.1'
	$(BIN)/python -m pip install $(PIP_FLAGS) -e . --group dev
	@touch $@

demo: install
	$(BIN)/guardrail demo --directory demo

test: install
	$(PYTEST)

fast: install
	$(PYTEST) -m "not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

contracts: install
	$(BIN)/lint-imports --config ci/importlinter.ini

check: lint types contracts test

# Long tables and full matrices; their results live in benchmarks/RESULTS.md.
campaign: install
	$(BIN)/python benchmarks/der_settings.py --json build/der_settings.json
	$(BIN)/python benchmarks/testbed_table.py --json build/testbed_table.json
	$(BIN)/python benchmarks/methods.py --json build/methods.json
	GUARDRAIL_CAMPAIGN=1 $(PYTEST) tests/unit/train tests/unit/data/test_detector_testbed.py
	GUARDRAIL_CAMPAIGN=1 $(PYTEST) tests/server
	$(BIN)/python benchmarks/server.py --json build/server.json

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache
