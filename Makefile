# Each target sets up what it needs; prerequisites are make and a Python >= 3.11 with its venv module.
VENV ?= .venv
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV) must be one path without a space)
endif
BIN := $(VENV)/bin
ENVIRONMENTS := .environments

# python3, else those for which the embedded Redis has a wheel, else newer ones; it must be able to make an environment.
PYTHONS := python3 python3.12 python3.11 python3.13 python3.14
FITS := -Ic 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
ifndef PYTHON
PYTHON := $(shell for p in $(PYTHONS); do $$p $(FITS) 2>/dev/null && echo $$p && break; done)
endif

# Of the caller's variables for Python, pip and uv only those go on that say where packages come from and how output looks. One that
# moves, adds or changes what is installed or imported would make another environment than the lock says; settings of a
# coordinator are for that one, not for the demo or for tests.
KEPT := PYTHONDONTWRITEBYTECODE PYTHONIOENCODING PYTHONPYCACHEPREFIX PYTHONUNBUFFERED PYTHONUTF8 \
	PIP_CACHE_DIR PIP_CERT PIP_CLIENT_CERT PIP_CONFIG_FILE PIP_DEFAULT_TIMEOUT PIP_DISABLE_PIP_VERSION_CHECK PIP_EXTRA_INDEX_URL \
	PIP_FIND_LINKS PIP_INDEX_URL PIP_KEYRING_PROVIDER PIP_NO_CACHE_DIR PIP_NO_INDEX PIP_PROXY PIP_RETRIES PIP_TIMEOUT PIP_TRUSTED_HOST \
	UV_CACHE_DIR UV_DEFAULT_INDEX UV_INDEX UV_NATIVE_TLS
unexport $(filter-out $(KEPT),$(filter PYTHON% PIP_% UV_% COORDINATOR_%,$(.VARIABLES)))

# Extras for other people's frameworks, which are heavy and do not fit beside one another: each has requirements-NAME.lock, an environment
# and tests in tests/adapters/NAME, and is in no other environment.
ADAPTERS := livekit pipecat

.PHONY: help setup demo test test-long test-fast check environments adapters voice-stacks fmt lock bench model faults fuzz kubernetes cluster clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# One environment with two stamps: what runs, and what checks on top of it. A stamp's name tells what it was made from and by which
# Python; it is written last, so that what was interrupted, moved or made from other files is made anew.
KEY := $(shell { pwd -P; "$(PYTHON)" -Ic 'import sys; print(sys.version, sys.base_prefix)'; sed '/^\[tool/,$$d' pyproject.toml; \
	cat requirements-demo.lock requirements.lock; } 2>/dev/null | cksum | tr ' ' -)
RUNS := $(VENV)/.runs-$(KEY)
READY := $(VENV)/.ready-$(KEY)

# $(1) is an environment. `locked` takes wheels only, so that nothing is built with what no lock file names. `offline` asks no index and
# reads no configuration: it stops, and names it, when a requirement is not there already, also one of an extra, at any depth.
locked = $(1)/bin/python -Im pip install --quiet --no-user --no-deps --require-hashes --only-binary :all: --requirement
offline = PIP_CONFIG_FILE=/dev/null PYTHONWARNINGS=ignore $(1)/bin/python -Im pip --isolated install --quiet --no-index
# $(2) are extras of the project, $(3) is the lock file that should hold what it needs, and what it is built with.
project = { $(call offline,$(1)) $(BUILT_WITH) && $(call offline,$(1)) --no-build-isolation --editable '.[$(2)]'; } || \
	{ echo "$(3) does not give what pip names above, as pyproject.toml and its requirements want it: 'make lock' makes it anew." >&2; exit 1; }
pyproject = $(if $(PYTHON),$(shell "$(PYTHON)" -Ic 'import shlex, tomllib; of = tomllib.load(open("pyproject.toml", "rb")); print($(1))'))
BUILT_WITH = $(call pyproject,shlex.join(of["build-system"]["requires"]))
EXTRAS = $(call pyproject,chr(44).join(name for name in of["project"]["optional-dependencies"] if name not in "$(ADAPTERS)".split()))
COMMA := ,

$(RUNS):
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with its venv module was found (tried $(PYTHONS)); on Debian: apt install python3-venv." >&2; exit 1; }
	@"$(PYTHON)" $(FITS) || { echo "PYTHON=$(PYTHON) is no Python >= 3.11 with its venv module." >&2; exit 1; }
	@test -n "$(filter .venv $(ENVIRONMENTS)/%,$(VENV))" || test ! -e "$(VENV)" || test -e "$(VENV)/.of-make" || \
		{ echo "VENV=$(VENV) is there and was not made by this Makefile: it stays as it is." >&2; exit 1; }
	@echo "Installing what runs into $(VENV)"
	@"$(PYTHON)" -Im venv --clear $(VENV)
	@touch $(VENV)/.of-make
	@$(call locked,$(VENV)) requirements-demo.lock
	@$(call project,$(VENV),embedded,requirements-demo.lock)
	@touch $@

$(READY): | $(RUNS)
	@echo "Installing what checks into $(VENV)"
	@rm -f $(RUNS)
	@$(call locked,$(VENV)) requirements.lock
	@$(call project,$(VENV),$(EXTRAS),requirements.lock)
	@touch $(RUNS) $@

setup: $(READY) ## the virtual environment, from the lock files

demo: $(RUNS) ## kill a worker and a coordinator, watch the calls go on; installs only what runs
	$(BIN)/coordinator demo

# What takes longest, each in a short form; the installs and other servers are those of `make environments`.
LONG := tests/faults tests/callers tests/sidecar/test_example_answers.py tests/sidecar/test_example_faults.py \
	tests/sidecar/test_examples.py tests/sidecar/test_fuzz.py
# These are long, and belong to what is measured: `make test COVERAGE=1` has them, and `make test-long` else.
MEASURED := tests/model tests/property tests/sidecar/test_restart.py
ELSEWHERE := tests/cluster tests/install tests/acceptance/test_other_servers.py

# Measuring takes nearly as much time as the tests themselves: COVERAGE=1, as .ci/run has it, asks for it, and for what pyproject.toml wants.
test: check ## format, lint, types, layers, and tests; COVERAGE=1: with their coverage
	$(BIN)/python -m pytest -q -n auto --dist loadgroup $(if $(COVERAGE),--cov --cov-report=) $(addprefix --ignore ,$(LONG) $(if $(COVERAGE),,$(MEASURED)) $(ELSEWHERE)) tests

test-long: $(READY) ## faults, callers, the model and properties, a sidecar's restarts, examples in three languages, each in its short form
	$(BIN)/python -m pytest -q -n auto --dist loadgroup $(LONG) $(if $(COVERAGE),,$(MEASURED))

# Sources are compiled once, also where the caller writes no compiled ones beside them: else that takes half of the time.
COMPILED := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(CURDIR)/$(VENV)/.compiled"
test-fast: $(READY) ## tests that start no program and no server, in half a minute
	$(COMPILED) $(BIN)/python -m pytest -q --fast -p no:schemathesis -n 2 tests

check: $(READY) ## format, lint, types and layers only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@if command -v luacheck >/dev/null; then luacheck --quiet coordinator/store/lua coordinator/sessions/lua; else echo "luacheck is not installed: Lua is not linted"; fi

fmt: $(READY) ## format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

WORKERS := tests/uvloop tests/worker tests/child tests/acceptance --ignore tests/acceptance/test_other_servers.py
UVLOOP := $(ENVIRONMENTS)/uvloop
NEWER := $(ENVIRONMENTS)/newer
# A loop of uvloop does not let the exception of a time-out's signal through, so there a thread ends what hangs.
environments: $(READY) ## every Python, pip and Redis here; the worker's and acceptance tests on uvloop with sniffio, and on a Python >= 3.13
	PROPERTY_EXAMPLES=150 $(BIN)/python -m pytest -q -n auto tests/property/test_state_machine.py tests/property/test_epochs.py
	EVERY_ENVIRONMENT=1 $(BIN)/python -m pytest -q -n auto --dist loadgroup -rs tests/install tests/acceptance/test_other_servers.py
	$(MAKE) setup VENV=$(UVLOOP) PYTHON="$(PYTHON)"
	$(call locked,$(UVLOOP)) requirements-uvloop.lock
	PYTHONPATH="$(CURDIR)/tests/uvloop" $(UVLOOP)/bin/python -m pytest -q -n auto --dist loadgroup --timeout-method=thread $(WORKERS)
	@newer="$$($(BIN)/python -m tests.install.pythons 3.13)"; \
	if [ -z "$$newer" ]; then echo "There is no Python >= 3.13 here: nothing was run on one."; else \
	set -x; $(MAKE) setup VENV=$(NEWER) PYTHON="$$newer" && $(NEWER)/bin/python -m pytest -q -n auto --dist loadgroup $(WORKERS); fi

# As the environments above: a stamp tells what it was made from, and is written last.
OF_ADAPTER = $(ENVIRONMENTS)/$(1)/.of-$(shell { pwd -P; "$(PYTHON)" -Ic 'import sys; print(sys.version)'; sed '/^\[tool/,$$d' pyproject.toml; \
	cat requirements-$(1).lock; } 2>/dev/null | cksum | tr ' ' -)
adapters: $(ADAPTERS:%=adapter-%) ## the tests of the adapters, each beside its framework in an environment of its own

# What there is as a source alone (docopt, for num2words) is built after the rest, with what the rest has brought, and no index is asked.
SOURCES := docopt
# The entries of a lock on standard output: $(2) is `own` for those of SOURCES, `! own` for the others.
entries = awk -v names=" $(SOURCES) " '/^[a-z0-9]/ { split($$0, of, "=="); own = index(names, " " of[1] " ") } $(2)' $(1)
built = $(1)/bin/python -Im pip install --quiet --no-user --no-deps --require-hashes --no-build-isolation --no-binary :all: --requirement

$(ADAPTERS:%=environment-%): environment-%:
	@test -e $(call OF_ADAPTER,$*) || { set -e; echo "Installing what $* needs into $(ENVIRONMENTS)/$*"; \
	"$(PYTHON)" -Im venv --clear $(ENVIRONMENTS)/$*; \
	$(call entries,requirements-$*.lock,! own) >$(ENVIRONMENTS)/$*/wheels.lock; \
	$(call entries,requirements-$*.lock,own) >$(ENVIRONMENTS)/$*/sources.lock; \
	$(call locked,$(ENVIRONMENTS)/$*) $(ENVIRONMENTS)/$*/wheels.lock; \
	$(call built,$(ENVIRONMENTS)/$*) $(ENVIRONMENTS)/$*/sources.lock; \
	$(call project,$(ENVIRONMENTS)/$*,dev$(COMMA)$*,requirements-$*.lock); \
	touch $(call OF_ADAPTER,$*); }

$(ADAPTERS:%=adapter-%): adapter-%: environment-%
	$(ENVIRONMENTS)/$*/bin/python -m pytest -q -n 2 --dist loadgroup -rs tests/adapters/$*

KILLS := 5
voice-stacks: $(ADAPTERS:%=environment-%) ## what callers hear on real LiveKit and Pipecat; writes docs/voice-stacks.md; KILLS=50 is the long form
	$(foreach adapter,$(ADAPTERS),$(ENVIRONMENTS)/$(adapter)/bin/python -m tests.voice_stacks.$(adapter) --kills $(KILLS) --write &&) true

UV := $(ENVIRONMENTS)/uv
LOCK = $(UV)/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 $(UPGRADE)
lock: ## the lock files anew: pins stay as long as they fit; UPGRADE=--upgrade takes the newest
	"$(PYTHON)" -Im venv --clear $(UV)
	$(call locked,$(UV)) requirements-uv.lock
	$(LOCK) $(addprefix --extra ,$(subst $(COMMA), ,$(EXTRAS))) pyproject.toml -o requirements.lock
	printf '%s\n' $(BUILT_WITH) | $(LOCK) -c requirements.lock --extra embedded pyproject.toml - -o requirements-demo.lock
	printf '%s\n' $(BUILT_WITH) | $(LOCK) -c requirements.lock --extra kubernetes --extra sessions pyproject.toml - -o requirements-image.lock
	printf '%s\n' sniffio uvloop | $(LOCK) -c requirements.lock - -o requirements-uvloop.lock
	echo uv | $(LOCK) - -o requirements-uv.lock
	for adapter in $(ADAPTERS); do $(LOCK) --extra dev --extra $$adapter pyproject.toml -o requirements-$$adapter.lock || exit; done

bench: $(READY) ## measure detection, takeover, claims, cost, the sidecar, what idle and slow clients take
	$(BIN)/coordinator bench
	$(BIN)/python -m benchmarks.sidecar
	$(BIN)/python -m benchmarks.clients

model: $(READY) ## explore the protocol's model, the long scenarios too, and what each rule is for; all planted mutations
	$(BIN)/python -m tests.model --full --without
	ALL_MUTATIONS=1 $(BIN)/python -m pytest -q -n 2 tests/property/test_mutations.py
	PROPERTY_EXAMPLES=1000 $(BIN)/python -m pytest -q -n 2 --timeout=1800 tests/property/test_state_machine.py tests/property/test_epochs.py

faults: $(READY) ## every fault in full length; writes the tables of docs/faults.md
	$(BIN)/python -m tests.faults --write

fuzz: $(READY) ## thousands of requests to sidecar and coordinator, from the OpenAPI document, generated, and of raw bytes
	FUZZ_EXAMPLES=100 FUZZ_PHASES=examples,coverage,fuzzing $(BIN)/python -m pytest -q tests/sidecar/test_fuzz.py
	RAW_EXAMPLES=5000 GENERATED_EXAMPLES=5000 $(BIN)/python -m pytest -q tests/web/test_raw_requests.py tests/web/test_generated_requests.py
	GARBAGE_ROUNDS=800 $(BIN)/python -m pytest -q -n 2 tests/property/test_garbage.py

kubernetes: $(READY) ## image, alerts on a real Prometheus, charts on a real cluster: what this machine has the means for
	$(BIN)/python -m pytest -q -n 0 -rs tests/cluster

cluster: $(READY) ## builds the cluster's programs (Go >= 1.25; six minutes, once) for `make kubernetes`
	$(BIN)/python -m tests.cluster.binaries

clean: ## remove the virtual environments and caches
	rm -rf .venv $(ENVIRONMENTS) .hypothesis .pytest_cache .mypy_cache .ruff_cache
