# `make sweep` and `make test` are all it takes; both set up on first use. Stamps keep second runs instant.

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3 2>/dev/null))
EXTRA  ?= cpu
SPEC   ?= search_spaces/quickstart.yaml
BENCH  ?= trl_step
ARGS   ?=
# Minutes within which `make test-slow` must end, so that it leaves tests out; empty = all of it runs.
BUDGET ?=

VENV   := .venv
BIN    := $(VENV)/bin
HOME_  := .trimtab
READY  := $(VENV)/.ready-$(EXTRA)
DEV    := $(VENV)/.ready-dev-$(EXTRA)

# uv ignores pip's configuration.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
else ifeq ($(EXTRA),cpu)
TORCH_BACKEND := --torch-backend cpu
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
# Many images set it. Every process of a sweep would compile trimtab's own modules again, and pytest the tests'.
unexport PYTHONDONTWRITEBYTECODE
# DeepSpeed is built from source, against the torch that is installed: no isolation, none of its extensions.
export DS_BUILD_OPS := 0
# Empty where an installation is used once: `make install VENV=/tmp/once COMPILE=` (tests/e2e).
COMPILE := --compile-bytecode
INSTALL := $(BIN)/uv pip install --python $(BIN)/python $(COMPILE) $(TORCH_BACKEND) --constraint constraints.txt
# $(call aloud,WHAT,COMMAND) says every 4 s that WHAT goes on, unless COMMAND draws a progress bar of its own.
aloud = @[ -t 2 ] || { s=0; while sleep 4 >/dev/null 2>&1; do s=$$((s + 4)); echo "  $(1): $$s s"; done; } & sign=$$!; \
  echo '$(2)'; $(2); ended=$$?; kill $$sign 2>/dev/null; exit $$ended
BUILD_NEEDS := torch numpy setuptools wheel ninja py-cpuinfo hatchling editables

.PHONY: sweep plan ui stop doctor test test-slow bench results mutants lint format constraints install model clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

sweep: $(READY)
	$(BIN)/trimtab sweep $(SPEC) --confirm $(ARGS)

plan: $(READY)
	$(BIN)/trimtab plan $(SPEC) $(ARGS)

ui stop doctor: $(READY)
	$(BIN)/trimtab $@ $(ARGS)

install: $(READY)

# Trains the shipped model's recipe again, for those who want to see or change it: 20 minutes on an idle core.
model: $(READY)
	$(BIN)/python -m trainables.models.tiny $(HOME_)/rebuilt $(ARGS)

# Two workers, whatever the cores: two worlds of processes is what 24 GB hold (docs/testing.md).
test: lint
	$(BIN)/pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(DEV)
	$(BIN)/pytest -n 2 -m slow $(if $(BUDGET),--time-budget $(BUDGET)) $(ARGS)

# One module of benchmarks/, two threads at most: `make bench BENCH=trl_step ARGS="--workload short"`.
bench: $(DEV)
	OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.$(BENCH) $(ARGS)

# The papers' figures at our scale: hours of sweeps, from where they stand, then docs/results.md.
results: $(DEV)
	$(BIN)/python -m benchmarks.results $(ARGS)

# Which small faults of the scientific core the quick tests catch (docs/testing.md). mutmut is installed here only.
mutants: $(DEV)
	$(INSTALL) --no-build-isolation --editable '.[$(EXTRA),dev,bench,mutants]'
	$(BIN)/python -m benchmarks.mutants $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Rewrites constraints.txt with the newest versions that pyproject.toml allows, one set for CPU and GPU. Test
# before committing.
constraints: $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --quiet $(TORCH_BACKEND) $(BUILD_NEEDS)
	$(BIN)/uv pip compile --python $(BIN)/python pyproject.toml \
	  --extra cpu --extra gpu --extra dev --extra bench \
	  --no-build-isolation $(TORCH_BACKEND) --upgrade --no-emit-index-url --no-annotate --no-header --quiet \
	  --output-file $(VENV)/constraints.new
	sed 's/+cpu//' $(VENV)/constraints.new > constraints.txt

# Removes what was installed and cached; results in .trimtab/ stay.
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "PYTHON=$(PYTHON) is not Python 3.11 or 3.12; install one or say make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(READY): pyproject.toml constraints.txt | $(BIN)/uv
	@echo "Installing (about two minutes and 4 GB the first time)"
	$(call aloud,installing torch and what builds the others,$(INSTALL) $(BUILD_NEEDS))
	$(call aloud,installing and compiling the rest,$(INSTALL) --no-build-isolation --editable ".[$(EXTRA)]")
	touch $@

$(DEV): $(READY)
	$(INSTALL) --no-build-isolation --editable '.[$(EXTRA),dev,bench]'
	touch $@
