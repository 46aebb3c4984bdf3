# Each target installs what it needs into .venv: Python 3.11 and make are enough.

PYTHON ?= python3.11
CORES ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= 100
FIRST ?= 0
CONSTRAINTS := workflow/envs/constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: demo test crash check bench schema picture clean

demo: $(VENV)/installed  ## the whole workflow on a synthetic volume
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete
	@$(BIN)/unetpipe status results/demo

test: $(VENV)/installed-test  ## all tests; what cannot run here is skipped with its reason
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile

crash: $(VENV)/installed-test  ## predictions killed at random moments and resumed; RUNS, SEED and FIRST may be set
	$(BIN)/python tests/support/crash.py --runs $(RUNS) --first $(FIRST) $(if $(SEED),--seed $(SEED))

check: $(VENV)/installed-test $(VENV)/installed-check  ## formatting, lint, types, workflow lint, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/python -m unetpipe.reference --check

schema: $(VENV)/installed  ## the files that are generated from the settings
	$(BIN)/python -m unetpipe.reference

picture: demo  ## the picture of the README, from the demo
	$(BIN)/python docs/demo_picture.py

bench: $(VENV)/installed-test  ## speed, as ratios against a peer or a limit in the same run
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp is made only after an installation that ended well.
$(VENV)/installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) --editable '.[test,tensorrt-rtx]'
	touch $@

$(VENV)/installed-check: $(VENV)/installed
	$(PIP) --editable '.[check]'
	touch $@
