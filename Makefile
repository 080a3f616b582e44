# Every target sets itself up: it needs Python 3.11 or newer, git and make, and installs into VENV only.
#   make demo            the main job, from an empty checkout to a video
#   make test            the tests that need no Ray
# PYTHON=...      the interpreter to build VENV with (default: the first of python3, python3.13, ... that is >= 3.11)
# VENV=...        the environment (default: .venv); another PYTHON needs another one: PYTHON=python3.12 VENV=.venv-3.12
# JOBS=...        processes that `make test` divides the test files among (default: 2)
# COVERAGE=1      `make test` counts the lines that it runs, and `make test-ray` adds those that it runs
# TORCH_INDEX=... a further package index for torch, such as PyTorch's own for CPU builds (default: pip's settings)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
TORCH_INDEX ?=
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
READY := $(VENV)/ready
METAWORLD := .venv-metaworld/ready
TESTS ?=
JOBS ?= $(if $(TESTS),0,2)
comma := ,

# torch comes first and alone: a GPU build drags gigabytes along, and only torch may come from TORCH_INDEX.
# $(call install,FOLDER,LOCK,WHAT) fills a virtual environment.
define install
@if [ -z "$(PYTHON)" ]; then echo "WarpRL needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; fi
@if [ ! -d warprl/envs ]; then echo "warprl/envs is no symbolic link here; clone again with: git clone -c core.symlinks=true" >&2; exit 2; fi
@if [ ! -x $(1)/bin/pip ] && ! $(PYTHON) -m venv --clear $(1); then \
	rm -rf $(1); echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; fi
@echo "Installing into $(1): a few minutes the first time"
$(1)/bin/pip install --quiet --retries 2 --constraint $(2) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
$(1)/bin/pip install --quiet --constraint $(2) --editable '.[$(3)]'
endef

.PHONY: coverage coverage-report metaworld metaworld-test metaworld-lock help setup demo test test-ray test-cluster slow-test lint type check format build lock clean reference audit
.PHONY: benchmark-throughput benchmark-scaling benchmark-learning benchmark-comparison

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into .venv (every other target does it by itself)

$(READY): pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,dev)
	@touch $@

$(METAWORLD): pyproject.toml constraints-metaworld.txt
	$(call install,.venv-metaworld,constraints-metaworld.txt,dev$(comma)metaworld)
	@touch $@

demo: $(READY) ## train, evaluate and film: three minutes (DEMO=short: a rehearsal; VIDEO=required: fail without GL)
	$(BIN)/python -m warprl.launch.demo $(if $(filter short,$(DEMO)),--short) $(if $(filter required,$(VIDEO)),--require-video)

test: $(READY) ## the tests but for slow ones and Ray's (one file: make test TESTS=tests/test_warp.py)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		$(if $(COVERAGE),--cov --cov-report=) $(TESTS)

test-ray: $(READY) ## the tests that start Ray: workers, Tune, sweeps
	$(BIN)/python -m pytest -m 'ray and not slow' $(if $(COVERAGE),--cov --cov-append --cov-report=) $(TESTS)

test-cluster: $(READY) ## the tests that start clusters of several nodes on this machine
	$(BIN)/python -m pytest -m 'cluster and not slow' $(TESTS)

slow-test: $(READY) ## the tests that take minutes: learning, long determinism runs
	$(BIN)/python -m pytest -m slow $(TESTS)

# It takes half as much processor time again. Processes that tests start are not looked into.
coverage: ## make test and test-ray, and the files of which they run less than 90 %
	$(MAKE) test test-ray coverage-report COVERAGE=1

coverage-report: $(READY) ## what the last tests with COVERAGE=1 ran: the total, and the files below 90 %
	$(BIN)/coverage report --sort=cover | awk 'NR == 1 || /^TOTAL/ || $$NF + 0 < 90'

metaworld: $(METAWORLD) ## an environment with Meta-World, in .venv-metaworld (docs/metaworld.md)

metaworld-test: $(METAWORLD) ## the tests that need it
	.venv-metaworld/bin/python -m pytest -m 'not slow' tests/test_meta_world.py

lint: $(READY) ## ruff: style, imports, docstrings, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## mypy, strict, over the package, the tests and the benchmarks
	$(BIN)/mypy

check: lint type test test-ray ## lint, types and tests

# It needs the network and fails nothing: what it finds may be no fault of ours, and may come up any day.
audit: ## report known vulnerabilities of the locked versions
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	if ! $(PYTHON) -m venv "$$folder" || ! timeout 60 "$$folder/bin/pip" install --quiet --retries 0 pip-audit >/dev/null 2>&1; then \
		echo "audit: skipped, because pip-audit cannot be installed here"; exit; fi; \
	timeout 120 "$$folder/bin/pip-audit" --requirement constraints.txt --no-deps --disable-pip --progress-spinner off \
		>"$$folder/report" 2>&1 || true; \
	grep -v -e 'could not be audited' -e '^WARNING' -e 'Skip Reason' -e '^---' "$$folder/report" | tail -n 100 || true; \
	echo "audit: $$(grep -c 'could not be audited' "$$folder/report" || true) of $$(grep -c '==' constraints.txt) versions could not be looked up"

format: $(READY) ## rewrite the code as `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(READY) ## write docs/configuration.md, the reference of all keys, from the code
	$(BIN)/python -m warprl.launch.runs.reference > docs/configuration.md

build: $(READY) ## the wheel and the source distribution, in dist/
	$(BIN)/python -m build --no-isolation

benchmark-throughput: $(READY) ## steps per second against the raw physics (minutes; needs an idle machine)
	$(BIN)/python benchmarks/throughput.py

benchmark-scaling: $(READY) ## what a run costs the process that drives it (minutes)
	$(BIN)/python benchmarks/scaling.py

# A sweep with a run that failed ends with status 1, and the next one is still worth training.
benchmark-learning: $(READY) ## train the experiments and report the learning curves (a day)
	for file in benchmarks/experiments/*.yaml; do $(BIN)/warprl sweep $$file || [ $$? = 1 ]; done
	$(BIN)/python benchmarks/learning.py

benchmark-comparison: $(READY) ## held-out adaptation of those runs, and docs/results.md (hours)
	$(BIN)/python benchmarks/comparison.py

lock: $(READY) ## rewrite constraints.txt from what .venv holds
	$(BIN)/pip freeze --all --exclude pip --exclude-editable | sed -E 's/\+cpu$$//' > constraints.txt

metaworld-lock: $(METAWORLD) ## rewrite constraints-metaworld.txt from what .venv-metaworld holds
	.venv-metaworld/bin/pip freeze --all --exclude pip --exclude-editable | sed -E 's/\+cpu$$//' > constraints-metaworld.txt

clean: ## remove .venv, .venv-* and everything that tools left; keeps runs/
	rm -rf .venv .venv-* build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
