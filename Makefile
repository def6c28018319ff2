# `make demo` and `make test` do all the setup.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVING_TESTS := $(addprefix tests/integration/deployments/,test_serving_integration.py test_tritonclient.py)
# Tests that take hours together, each up to half an hour.
PATIENT := -o faulthandler_timeout=2400
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo down test test-unit test-slow test-hosts check docs wheel mutate clean
.PHONY: bench-serving bench-features bench-training bench-monitoring bench-cluster bench-evidence bench-models

demo: $(STAMP)
	$(BIN)/rayloop demo

down: $(STAMP)
	$(BIN)/rayloop down

# First the tests without a cluster, one process per core, then those that need one.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --long tests/unit tests/benchmarks
	$(BIN)/python -m pytest tests/integration

# The fast tests, in about two minutes: no long tests, a tenth of each property's examples.
test-unit: $(STAMP)
	$(BIN)/python -m pytest -n auto tests/unit tests/benchmarks

# Unit tests with new random examples; kills, hangs, scaling, several models under load; the tests of serving behind a door.
test-slow: $(STAMP)
	RAYLOOP_EXPLORE=1 $(BIN)/python -m pytest -n auto --long tests/unit tests/benchmarks
	$(BIN)/python -m pytest $(PATIENT) -m "slow and not hosts"
	RAYLOOP_DOOR=1 $(BIN)/python -m pytest $(SERVING_TESTS)

# Several hosts made of namespaces, their stores and their faults: needs root, and skips with a reason without.
test-hosts: $(STAMP)
	$(BIN)/python -m pytest $(PATIENT) -rs -m hosts tests/hosts

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site goes to build/site; a broken link fails.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# What the nodes of ray-cluster.yaml install.
wheel: $(STAMP)
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	cp constraints.txt build/wheel

# ARGS="--only features" runs a part.
mutate: $(STAMP)
	$(BIN)/python -m tests.mutation $(ARGS)

# ARGS="--only one_row,canary --rounds 1" for less; docs/benchmarks.md.
bench-serving: $(STAMP)
	$(BIN)/python -m benchmarks.serving $(ARGS)

# ARGS="--only flights request --small" for less; docs/benchmarks.md.
bench-features: $(STAMP)
	$(BIN)/python -m benchmarks.features $(ARGS)

# ARGS="--only steady --rounds 1" for less; docs/benchmarks.md.
bench-training: $(STAMP)
	$(BIN)/python -m benchmarks.training $(ARGS)

# ARGS="--only changes --changes 100" for less.
bench-cluster: $(STAMP)
	$(BIN)/python -m benchmarks.cluster $(ARGS)

# ARGS="--only weeks --windows 20" for less.
bench-monitoring: $(STAMP)
	$(BIN)/python -m benchmarks.monitoring $(ARGS)

# ARGS="--only leak --small" for less.
bench-evidence: $(STAMP)
	$(BIN)/python -m benchmarks.evidence $(ARGS)

# ARGS="--only label-queue --small" for less.
bench-models: $(STAMP)
	$(BIN)/python -m benchmarks.models $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rayloop needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --use-pep517 -e '.[dev]'
	touch $(STAMP)

$(VENV)/.docs: $(STAMP)
	$(PIP) --use-pep517 -e '.[docs]'
	touch $@

clean: down
	rm -rf $(VENV) build benchmarks/.venvs
