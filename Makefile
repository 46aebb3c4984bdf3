# Each target installs what it needs into .venv: Python 3.11 and make are enough.

PYTHON ?= python3.11
CORES ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= 100
FIRST ?= 0
CONSTRAINTS := workflow/envs/constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
PYTEST := pytest -n $(CORES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 40
DATA_DIR ?= $(UNETPIPE_ISBI_DIR)

.PHONY: demo test test-long test-slurm ablation crash crash-s3 check docs bench bench-full minutes schema picture clean

demo: $(VENV)/installed  ## the whole workflow on a synthetic volume
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete
	@$(BIN)/unetpipe status results/demo

test: $(VENV)/installed-test  ## all tests but the long ones; what cannot run here is skipped with its reason
	$(BIN)/python -m $(PYTEST) -m "not long and not slurm"

test-long: $(VENV)/installed-test $(VENV)/installed-docs  ## the long ones: every network in every engine, runs in 2.5D and 3D, an ablation, the benchmarks, the documentation
	$(BIN)/python -m $(PYTEST) -m long

test-slurm: $(VENV)/installed-slurm  ## the workflow on SLURM, which it installs and starts: needs root, and a machine that is part of no cluster
	$(BIN)/python -m pytest -m slurm --durations 20 tests/slurm

ablation: $(VENV)/installed  ## what skips, un-pooling, deformation and more are worth; DATA_DIR may hold the ISBI 2012 stacks
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete --snakefile workflow/ablation.smk \
	  $(if $(DATA_DIR),--config data_dir="$(DATA_DIR)")

crash: $(VENV)/installed-test  ## predictions killed at random moments and resumed; RUNS, SEED and FIRST may be set
	$(BIN)/python tests/support/crash.py --runs $(RUNS) --first $(FIRST) $(if $(SEED),--seed $(SEED))

crash-s3: $(VENV)/installed-test  ## the same, with the predictions in a bucket
	$(BIN)/python tests/support/crash.py --s3 --runs $(RUNS) --first $(FIRST) $(if $(SEED),--seed $(SEED))

check: $(VENV)/installed-test $(VENV)/installed-check  ## formatting, lint, types, workflow lint, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/snakemake --lint --snakefile workflow/ablation.smk
	$(BIN)/python -m unetpipe.reference --check

docs: $(VENV)/installed-docs  ## the documentation as a site, in site/: open site/index.html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --doctree-dir .sphinx docs site

schema: $(VENV)/installed  ## the files that are generated from the settings
	$(BIN)/python -m unetpipe.reference

picture: demo  ## the picture of the README, from the demo
	$(BIN)/python docs/demo_picture.py

bench: $(VENV)/installed-peers  ## speed, as ratios against peers in the same run; TABLE may name a file for the table
	$(BIN)/python -m benchmarks $(if $(TABLE),--write $(TABLE))

bench-full: $(VENV)/installed-peers  ## the same for three widths of the network, and every precision of every engine
	$(BIN)/python -m benchmarks --full $(if $(TABLE),--write $(TABLE))

minutes: $(VENV)/installed-peers  ## scores by minutes of training, beside MONAI's BasicUNet; DATA_DIR holds the ISBI 2012 stacks
	$(BIN)/python -m benchmarks.minutes $(if $(DATA_DIR),"$(DATA_DIR)")

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp is made only after an installation that ended well.
$(VENV)/installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) --editable '.[test,s3,viewer,tensorrt-rtx]'
	touch $@

$(VENV)/installed-slurm: $(VENV)/installed-test
	$(PIP) --editable '.[test,slurm]'
	touch $@

# Without its networks: they need torchvision in the build that fits torch. Its predictor does not.
$(VENV)/installed-peers: $(VENV)/installed-test
	$(PIP) --editable '.[test,peers]'
	$(PIP) --no-deps nnunetv2 dynamic-network-architectures
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --editable '.[docs,s3]'
	touch $@

$(VENV)/installed-check: $(VENV)/installed
	$(PIP) --editable '.[check]'
	touch $@
