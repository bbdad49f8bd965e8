# Two commands on a fresh machine with Python 3.10-3.12 and make: `make demo`, `make test`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One OpenMP thread a process: on two cores, several pools stall each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# A process a core, at most 4: each takes about 1 GB, and cells that are timed want a core.
PARALLEL := -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder
TESTS_CACHE := $(or $(UDACISENSE_TESTS_CACHE),tests/.cache)

.PHONY: help setup demo test test-all toolchain browser lint format docs audit android-test android-apk clean

help:
	@echo "make demo    set up and run the whole job: train, compress, export, verify, bench, report"
	@echo "make test    set up, lint and run the quick tests"
	@echo "make test-all  the same with the slow proofs: what continuous integration runs"
	@echo "make toolchain  set up what the tests of .pte and .tflite need (2.9 GB), or take yours; without it they skip"
	@echo "make browser set up what the report's browser tests need beside Chromium; without it they skip"
	@echo "make lint    ruff, mypy"
	@echo "make format  let ruff rewrite the sources"
	@echo "make docs    build the documentation into site/"
	@echo "make audit   look for known vulnerabilities in what is installed (needs a network)"
	@echo "make android-test  compile and test the Android app on this machine (JDK 17, Maven)"
	@echo "make android-apk   pack the Android app into a checked APK (JDK 17, Maven, zipalign, apksigner)"
	@echo "make clean   remove the environment and what the demo wrote"

setup: $(STAMP)

# Rebuilt when missing or older than pyproject.toml; the stamp is written last, so a broken set-up is redone.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python found; install Python 3.11 or set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "error: %s is Python %d.%d; Python 3.10 to 3.12 is needed: set PYTHON=/path/to/python3.11" % (sys.executable, *v))'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/udacisense demo --output demo

test: $(STAMP) lint
	$(PYTEST) $(PARALLEL) -m "not (slow or docs or fuzz or browser or android or adb or runtime or toolchain)"

test-all: $(STAMP) lint
	$(PYTEST) $(PARALLEL) -m "not runtime" --durations 30

# The tests only read it, so one that is whole in the user's cache serves them too.
toolchain: $(STAMP)
	$(BIN)/python tests/helpers/set_up_toolchain.py

browser: $(VENV)/.browser $(TESTS_CACHE)/axe.min.js

$(VENV)/.browser: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[browser]'
	@touch $@

$(TESTS_CACHE)/axe.min.js: tests/helpers/set_up_browser.py | $(STAMP)
	$(BIN)/python tests/helpers/set_up_browser.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

# Apart from .venv, so that what the auditor itself needs is not what is audited.
audit: $(STAMP)
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv --clear .venv-audit && .venv-audit/bin/pip install --quiet 'pip-audit>=2.7,<3'; }
	$(BIN)/python -m pip list --format=freeze --exclude-editable | grep -v '^\(pip\|setuptools\)==' > .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --requirement .venv-audit/installed.txt --no-deps --disable-pip --strict

android-test: $(STAMP)
	android_demo/test.sh

android-apk: $(STAMP)
	android_demo/apk/build.sh

clean:
	rm -rf $(VENV) .venv-audit site demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
