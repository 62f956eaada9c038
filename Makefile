# `make help` tells the targets. Nothing is installed outside .venv/, but for the sshd below.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Python 3.11 is the newest that all extras support; the pins in constraints.txt are for it.
PYTHON ?= $(shell for name in python3.11 python3; do if $$name -c '' 2>/dev/null; then echo $$name; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= deepsparse,openvino,postgres,dev
# Further arguments for pip, such as an index with CPU-only builds of torch.
PIP_ARGS ?=
# Further arguments for the command of a target: make search ARGS="--budget 15m", make test ARGS=tests/specs
ARGS ?=

STAMP := $(VENV)/.installed

.PHONY: help
help:  ## tell the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP)  ## make .venv/ with everything pinned (again only when the pins change)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no python3 found; install Python 3.11 or give PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10; install Python 3.11 or give PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@pins="-c constraints.txt"; \
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { pins=""; echo "note: not Python 3.11, so versions are not pinned and DeepSparse may be missing" >&2; }; \
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_ARGS) $$pins -e '.[$(EXTRAS)]'
	@touch $@

.PHONY: search
search: $(STAMP)  ## search on the built-in phantoms: eight minutes, results in runs/
	$(BIN)/autocompress search --study phantoms --out runs $(ARGS)

# The tests of boards over SSH start a real sshd on 127.0.0.1, and are skipped where there is none. It is installed where
# that asks for no password and starts no service (under systemd the package would listen on port 22 from then on).
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -n)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive timeout 180 apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::http::Timeout=20

.PHONY: sshd
sshd:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin:/sbin"; \
	if command -v sshd && command -v ssh-keygen; then exit 0; fi >/dev/null; \
	if command -v apt-get && [ ! -d /run/systemd/system ] && $(SUDO) true && \
	  { install='install -y --no-install-recommends openssh-server'; $(APT) $$install || { $(APT) update && $(APT) $$install; }; }; \
	then exit 0; fi >/dev/null 2>&1; \
	echo "note: no sshd here, so the tests over SSH are skipped; apt-get install openssh-server would bring it" >&2

# Test files at once. Most tests wait for processes that they started, and keep one core busy at most.
TEST_JOBS ?= 2

.PHONY: test
test: $(STAMP) sshd  ## run the tests
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-slow
test-slow: $(STAMP) sshd  ## run the tests that take minutes
	$(BIN)/python -m pytest -m 'slow and not gpu and not arm64' $(ARGS)

.PHONY: lint
lint: $(STAMP)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: bench
bench: $(STAMP)  ## run all benchmarks one after the other, results in runs/benchmarks/
	@mkdir -p runs/benchmarks
	@shopt -s nullglob; for script in benchmarks/[!_]*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script" $(ARGS) | tee "runs/benchmarks/$$(basename "$$script" .py).txt" || \
	  [ "$${PIPESTATUS[0]}" = 2 ]; done  # 2: what it measures is not on this machine

.PHONY: report
report: $(STAMP)  ## write the report of the search on the phantoms
	$(BIN)/autocompress report phantoms --runs runs $(ARGS)

.PHONY: clean
clean:  ## remove .venv/, caches and build results; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
