# What a newcomer needs: `make demo`. What a contributor needs: `make test`. The rest is parts of them.
#
# Three environments, each installed from its lock file once, and again when that file changes: .venv runs the service,
# .venv-triton holds Triton (it needs NumPy below 2), .venv-test holds the service, tests and training.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
LOCKS := infra/locks
PIP := -m pip --disable-pip-version-check --no-input -qq

# A stamp carries the checksum of what was installed: another content is another file, so nothing is installed twice.
checksum = $(shell cat $(1) 2>/dev/null | cksum | cut -d' ' -f1)
SERVICE := .venv/installed-$(call checksum,$(LOCKS)/service.txt $(LOCKS)/broker.txt pyproject.toml)
TRITON := .venv-triton/installed-$(call checksum,$(LOCKS)/triton.txt)
TEST := .venv-test/installed-$(call checksum,$(LOCKS)/test.txt $(LOCKS)/torch.txt $(LOCKS)/broker.txt pyproject.toml)

# Tests wait for servers most of the time. Each process starts servers of its own, about 2 GB together.
JOBS ?= 3

# ONNX Runtime reports its use to its maker unless told not to.
export ORT_DISABLE_TELEMETRY := 1
# A machine may say that Python writes no bytecode. Then every worker and every command would compile all that it imports
# (3 s of CPU instead of 1), and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE
SHELL := /bin/sh
# Environments are installed side by side. Bytecode comes at the first use (Triton's server writes none, so not there).
MAKEFLAGS += --no-print-directory -j3
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench faults envs service-env triton-env test-env python clean

help:
	@echo "make demo     the whole service on this machine, with pictures of its own; ends with a report"
	@echo "make test     every check: style, types, layers, and the tests on real servers"
	@echo "make lint     the checks that need no server"
	@echo "make bench    figures: throughput, latency, memory"
	@echo "make faults   every promise under staged faults, the long versions (hours); ends with a table of figures"
	@echo "make envs     only install the three environments"
	@echo "make clean    remove environments, caches and reports"

# DEMO="--catalog DIR --designs DIR" and the like are handed on.
demo: $(SERVICE) $(TRITON)
	@.venv/bin/design-dedup demo $(DEMO)

test: lint $(SERVICE) $(TRITON)
	@echo "pytest"; begin=$$(date +%s); \
		.venv-test/bin/python -m pytest -q --numprocesses=$(JOBS) --dist=worksteal --durations=10 $(PYTEST) && $(passed)

lint: $(TEST)
	@$(call step,ruff check) .venv-test/bin/ruff check -q . && $(passed)
	@$(call step,ruff format) .venv-test/bin/ruff format -q --check . && $(passed)
	@$(call step,mypy) .venv-test/bin/mypy --no-error-summary && $(passed)
	@$(call step,lint-imports) .venv-test/bin/lint-imports --no-logo >.venv-test/lint-imports.log 2>&1 \
		|| { cat .venv-test/lint-imports.log; exit 1; } && $(passed)

bench: $(TEST) $(TRITON)
	@.venv-test/bin/python -m tests.bench $(BENCH)

# PYTEST="-k twins" and the like are handed on. What measures time comes after the rest, alone. 5: nothing was chosen.
faults: $(SERVICE) $(TRITON) $(TEST)
	@run() { FAULTS=long .venv-test/bin/python -m pytest -q --timeout=20000 tests/faults "$$@" || [ $$? -eq 5 ]; }; \
		run -m "not alone" --numprocesses=4 --dist=worksteal $(PYTEST); first=$$?; \
		run -m alone $(PYTEST) && exit $$first

envs: $(SERVICE) $(TRITON) $(TEST)
service-env: $(SERVICE)
triton-env: $(TRITON)
test-env: $(TEST)

$(SERVICE): | python
	@$(call fresh,.venv,the service) \
		.venv/bin/python $(PIP) install --no-compile -r $(LOCKS)/service.txt && \
		$(call project,.venv) && $(installed)

$(TRITON): | python
	@$(call fresh,.venv-triton,Triton) \
		.venv-triton/bin/python $(PIP) install -r $(LOCKS)/triton.txt && $(installed)

$(TEST): | python
	@$(call fresh,.venv-test,tests and training) \
		.venv-test/bin/python $(PIP) install --no-compile -r $(LOCKS)/test.txt && \
		.venv-test/bin/python $(PIP) install --no-compile -r $(LOCKS)/torch.txt && \
		$(call project,.venv-test) && $(installed)

python:
	@[ -n "$(PYTHON)" ] && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "design-dedup needs Python 3.11 or newer as python3.11 or python3; found: $$("$(PYTHON)" -V 2>&1)." >&2; \
		echo "Name another one with: make demo PYTHON=/path/to/python3.11" >&2; exit 1; }

clean:
	rm -rf .venv .venv-triton .venv-test .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf build ./*.egg-info report*.html

# A line a step: what it is, and how long it took.
step = begin=$$(date +%s); printf '%-15s' "$(1)";
passed = echo "ok, $$(( $$(date +%s) - begin )) s"
fresh = begin=$$(date +%s); echo "installing $(1) ($(2))"; \
	rm -f $(1)/installed-* && "$(PYTHON)" -m venv $(1) &&
installed = touch $@ && echo "installed $(@D) in $$(( $$(date +%s) - begin )) s"
# The broker is held to its hash; the project itself is installed as a link to this folder.
project = $(1)/bin/python $(PIP) install --no-deps --require-hashes -r $(LOCKS)/broker.txt && \
	$(1)/bin/python $(PIP) install --no-deps -e .
