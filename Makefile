# Each target sets up what it needs; prerequisites are make and a Python >= 3.11.
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help setup demo test check fmt lock bench model faults fuzz kubernetes cluster clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found (tried python3 and python3.11 to python3.14)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(VENV)/.ready ## the virtual environment, from the lock file

demo: $(VENV)/.ready ## kill a worker and a coordinator, watch the calls go on
	$(BIN)/coordinator demo

test: check ## everything: format, lint, types, layers, tests with their coverage
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup --cov --cov-report= --ignore tests/cluster tests

check: $(VENV)/.ready ## format, lint, types and layers only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@if command -v luacheck >/dev/null; then luacheck --quiet coordinator/store/lua coordinator/sessions/lua; else echo "luacheck is not installed: Lua is not linted"; fi

fmt: $(VENV)/.ready ## format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

LOCK := uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
lock: ## the lock files anew (needs uv): everything for development, and what the image holds
	$(LOCK) --all-extras pyproject.toml -o requirements.lock
	echo "setuptools>=77" | $(LOCK) -c requirements.lock --extra kubernetes --extra sessions pyproject.toml - -o requirements-image.lock

bench: $(VENV)/.ready ## measure detection, takeover, claims, cost, the sidecar
	$(BIN)/coordinator bench
	$(BIN)/python -m benchmarks.sidecar

model: $(VENV)/.ready ## explore the protocol's model, the long scenarios too, and what each rule is for; all planted mutations
	$(BIN)/python -m tests.model --full --without
	ALL_MUTATIONS=1 $(BIN)/python -m pytest -q -n 2 tests/property/test_mutations.py

faults: $(VENV)/.ready ## every fault in full length; writes the tables of docs/faults.md
	$(BIN)/python -m tests.faults --write

fuzz: $(VENV)/.ready ## thousands of requests to the sidecar, made from its OpenAPI document
	FUZZ_EXAMPLES=100 FUZZ_PHASES=examples,coverage,fuzzing $(BIN)/python -m pytest -q tests/sidecar/test_fuzz.py

kubernetes: $(VENV)/.ready ## image, alerts on a real Prometheus, charts on a real cluster: what this machine has the means for
	$(BIN)/python -m pytest -q -n 0 -rs tests/cluster

cluster: $(VENV)/.ready ## builds the cluster's programs (Go >= 1.25; six minutes, once) for `make kubernetes`
	$(BIN)/python -m tests.cluster.binaries

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .hypothesis .pytest_cache .mypy_cache .ruff_cache
