# Two commands do all the set-up: `make quickstart` and `make test`. Each makes .venv first if it
# is missing or older than what it is made from; what only tests and checks need comes on top.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
TOOLS := $(VENV)/.made-tools
INSTALL := $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt
# Tests mostly wait, above all for Ray: three processes keep two cores busy. A test that is left
# over goes to whoever is idle; those of one file mostly stay together, and share what it prepares.
PARALLEL := --numprocesses 3 --dist worksteal

.PHONY: quickstart test slow check bench gpu gpu-bundle schema clean

quickstart: $(STAMP)
	$(BIN)/python jobs/flights.py
	$(BIN)/heliostat run jobs/quickstart.yaml
	$(BIN)/heliostat run jobs/sweep.yaml

test: $(TOOLS)
	$(BIN)/pytest -m "not slow" $(PARALLEL)

slow: $(TOOLS)
	$(BIN)/pytest -m slow $(PARALLEL)

check: $(TOOLS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(TOOLS)
	$(BIN)/python -m tests.bench

# Tests and benchmarks of a GPU, in eight minutes at most. On a machine without a network, which has
# no .venv, from the bundle and the machine's own Python.
BUNDLE := dist/gpu/packages.tar.xz
FROM_BUNDLE := $(if $(wildcard $(STAMP)),,$(wildcard $(BUNDLE)))

gpu: $(if $(FROM_BUNDLE),,$(TOOLS))
	$(if $(FROM_BUNDLE),tests/gpu/start $(BUNDLE),$(BIN)/python -m tests.bench.gpu)

gpu-bundle: $(TOOLS)
	$(BIN)/python -m tests.gpu.pack

# pip first: the version of constraints.txt shows how far an installation is.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing heliostat and the libraries it stands on into $(VENV):'
	@echo 'about 100 packages, 2 GB; two to five minutes, and seconds the next time.'
	$(INSTALL) --quiet pip
	$(INSTALL) --editable '.[examples]'
	@touch $@

$(TOOLS): $(STAMP)
	@echo 'Adding what tests and checks need to $(VENV): about 60 packages, 1 GB.'
	$(INSTALL) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
