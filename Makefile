SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS ?= runs
ONLY ?=

.DEFAULT_GOAL := help
.PHONY: help install demo unit test verify format lint lint-style lint-types lint-imports lint-docs docs bench

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

install: $(STAMP)  ## the environment in .venv, with all development packages

# The pinned opencv-python needs GUI libraries (libGL, X11); where they are missing, the headless build of the same
# version is the same module without them.
$(STAMP): pyproject.toml constraints.txt
	@echo 'installing into $(VENV) (torch is large: minutes)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,docs]'
	@$(BIN)/python -c 'import cv2' >/dev/null 2>&1 || { \
	  echo 'opencv-python lacks system libraries here: installing opencv-python-headless instead'; \
	  $(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless; \
	  $(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt opencv-python-headless; \
	  $(BIN)/python -c 'import cv2'; }
	@touch $@

demo: $(STAMP)  ## store, pretraining and evaluation on the shipped sample; the same command goes on where it stopped
	@start=$$SECONDS; \
	$(BIN)/python -m ecgscan_ray.data.unpack $(RUNS)/demo-data; \
	test -f $(RUNS)/demo-store/manifest.json || $(BIN)/ecgscan prepare --source ptbxl --from $(RUNS)/demo-data \
	  --to $(RUNS)/demo-store --validation-folds 8 --test-folds 9; \
	$(BIN)/ecgscan pretrain --preset laptop --store $(RUNS)/demo-store --out $(RUNS)/demo; \
	$(BIN)/ecgscan evaluate $(RUNS)/demo; \
	took=$$((SECONDS - start)); echo "demo done in $$((took / 60)) min $$((took % 60)) s after installation"

unit: $(STAMP)  ## the tests that need no Ray: at most 2 minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/property -m 'not verify and not ray'

# tests/fuzz first: its children start with the memory of what ran before them.
test: $(STAMP)  ## the test suite, with Ray: at most 10 minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/fuzz tests/integration tests/unit tests/property \
	  -m 'not verify and not ray'
	$(BIN)/python -m pytest tests/integration -m 'not verify and ray'

verify: $(STAMP)  ## the long checks: failing storage, kills, mutated files, several workers
	$(BIN)/python -m pytest -m verify

format: $(STAMP)  ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: lint-style lint-types lint-imports lint-docs  ## style, types, import contracts, documentation

lint-style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: $(STAMP)
	$(BIN)/mypy

lint-imports: $(STAMP)
	$(BIN)/lint-imports

lint-docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: $(STAMP)  ## the documentation as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)  ## [ONLY=loss|paper|ingest|features|realism|real_pages|find|store]: flat JSON on stdout and in bench.json
	@$(BIN)/python -m benchmarks $(ONLY)
