# make demo     everything once: environment, store, pretraining, evaluation (idempotent: goes on where it stopped)
# make test     the suite; make verify = the long checks; make lint = ruff, types, import contracts
# make -s bench [ONLY=name]   flat JSON on stdout and in bench.json
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS ?= runs
ONLY ?=

.PHONY: install demo test verify lint lint-style lint-types lint-imports bench

install: $(STAMP)

# The pinned opencv-python wants GUI libraries (libGL, X11); where they are missing, the headless build of the same
# version is the same module without them.
$(STAMP): pyproject.toml constraints.txt
	@echo 'installing into $(VENV) (torch is large: minutes)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@$(BIN)/python -c 'import cv2' >/dev/null 2>&1 || { \
	  echo 'opencv-python lacks system libraries here: installing opencv-python-headless instead'; \
	  $(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless; \
	  $(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt opencv-python-headless; \
	  $(BIN)/python -c 'import cv2'; }
	@touch $@

demo: $(STAMP)
	@start=$$SECONDS; \
	$(BIN)/python -m ecgscan_ray.data.unpack $(RUNS)/demo-data; \
	test -f $(RUNS)/demo-store/manifest.json || $(BIN)/ecgscan prepare --source ptbxl --from $(RUNS)/demo-data \
	  --to $(RUNS)/demo-store --validation-folds 8 --test-folds 9; \
	$(BIN)/ecgscan pretrain --preset laptop --store $(RUNS)/demo-store --out $(RUNS)/demo; \
	$(BIN)/ecgscan evaluate $(RUNS)/demo; \
	took=$$((SECONDS - start)); echo "demo done in $$((took / 60)) min $$((took % 60)) s after installation"

test: $(STAMP)
	$(BIN)/python -m pytest

verify: $(STAMP)
	$(BIN)/python -m pytest -m verify

lint: lint-style lint-types lint-imports

lint-style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: $(STAMP)
	$(BIN)/mypy

lint-imports: $(STAMP)
	$(BIN)/lint-imports

bench: $(STAMP)
	@$(BIN)/python -m benchmarks $(ONLY)
