# Python 3.11+ and make are all that is needed; uv is used for speed where it works.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test processes side by side: one more than two cores, for some tests wait for other processes.
WORKERS ?= 3
# Tests of one file stay with one worker, which builds their fixtures once. Tests start many processes: they read bytecode that is
# written once, even where the shell asks not to write any.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) --dist worksteal
LOCK_EXTRAS := --extra all --extra test --extra lint
# What the documentation needs beside all that, one requirement a line.
DOCS_EXTRA := import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"]))
DOCS_STAMP := $(VENV)/.installed-docs

ifndef PYTHON
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$python && break; done)
endif

.PHONY: help setup demo test test-all lint format benchmark docs figures release-check lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(STAMP) ## install the locked environment and this package into .venv

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "boltzflow needs Python 3.11, 3.12 or 3.13; none is on the PATH. Name one: make PYTHON=/path/to/python3" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)

# The installer, as words of the shell in $install: uv where it works, else pip.
define choose
if uv --version >/dev/null 2>&1; then install="uv pip install --compile-bytecode --python $(BIN)/python"; \
else $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip -q; \
install="$(BIN)/python -m pip install --quiet --disable-pip-version-check"; fi
endef

# The package is installed without build isolation: its build tools come, with hashes, from the lock.
$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@set -e; $(choose); \
	echo "installing the locked environment into $(VENV) with $${install%% -*} ..."; \
	$$install --require-hashes --no-deps -r requirements.lock; \
	$$install --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP) ## DW4 from nothing, a molecule and the report, in two minutes on two fast cores
	$(BIN)/boltzflow demo

test: $(STAMP) ## the tests that take minutes in all
	$(PYTEST)

test-all: $(STAMP) ## all tests, the slow ones too
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) -m "slow or not slow"

lint: $(STAMP) ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmark: $(STAMP) ## the benchmarks of benchmarks/
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

$(DOCS_STAMP): requirements-docs.lock $(STAMP)
	@set -e; $(choose); $$install --require-hashes --no-deps -r requirements-docs.lock
	@touch $(DOCS_STAMP)

# Four processes for two cores: that is how Sphinx deals the notebooks out evenly, and each of them waits for its kernel most of the time.
docs: $(DOCS_STAMP) ## the site, into docs/_build/html; every warning is an error
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -b html -j 4 -W --keep-going -q docs docs/_build/html
	@echo "the site is in docs/_build/html/index.html"

figures: $(STAMP) ## the pictures of the site and of the README
	@set -e; for file in docs/figures/[a-z]*.py; do JAX_PLATFORMS=cpu $(BIN)/python "$$file"; done

release-check: $(STAMP) ## wheel and source archive, built and tried in clean environments
	$(BIN)/python tools/release_check.py

lock: ## renew requirements.lock and requirements-docs.lock (needs uv)
	uv pip compile pyproject.toml $(LOCK_EXTRAS) --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock
	@$(PYTHON) -c '$(DOCS_EXTRA)' | uv pip compile - -c requirements.lock --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate -o requirements-docs.lock

clean: ## remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache docs/_build
