# make run   installs, prepares the model and trains Calc-X; BUILD=cpu|gpu, RECIPE=..., PYTHON=...
# make test  installs with the test tools and runs the tests, three files at once, since they often wait, and
#            those of ARGS=tests/rollouts one after the other, which begins sooner (WORKERS=2: else);
#            ARGS="-k gateway" passes on to pytest, as ARGS="--seed 2" does to the training of make run
SHELL := /bin/bash
.DEFAULT_GOAL := run
.PHONY: run test lint install install-test clean

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
BUILD ?= $(if $(wildcard /dev/nvidia[0-9]*),gpu,cpu)
MODEL ?= HuggingFaceTB/SmolLM2-135M-Instruct
RECIPE ?= recipes/$(if $(filter gpu,$(BUILD)),calc_x.yaml,calc_x_cpu.yaml)
WORKERS ?= $(if $(findstring tests/,$(ARGS)),0,3)
BIN := .venv/bin

# Each of Ray's workers would otherwise compile torch, transformers and vLLM again (9 s of CPU).
unexport PYTHONDONTWRITEBYTECODE

run: install
	$(BIN)/python -m al_ray model $(MODEL)
	$(BIN)/al-ray train $(RECIPE) $(ARGS)

test: install-test
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy

install:
	@$(PYTHON) tools/install.py --build $(BUILD)

install-test:
	@$(PYTHON) tools/install.py --build $(BUILD) --test

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
