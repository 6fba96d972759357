# Every target does its own set-up: a virtual environment in .venv, with torch and torchvision from one index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test docs torture check types scan bench bench-regret gpu gpu-wheels gpu-report paper bounds bounds-check dist clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip compiles what it installs in one process, and this in one for each core. Some packages hold files that are no
# Python. Their own tests and the hundreds of models of transformers, a third of all, are left to whoever imports them.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x 'site-packages/(.*/tests|transformers/models)/' $(VENV)/lib || true

setup: $(VENV)/.ready ## install clrtool and what its tests need into .venv

# What runs clrtool comes first and alone: the demo waits for nothing else, and the tests add to it.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) .
	$(COMPILE)
	touch $@

$(VENV)/.ready: $(VENV)/.installed
	$(PIP) '.[dev]'
	$(COMPILE)
	touch $@

demo: $(VENV)/.installed ## install clrtool alone; range test, plan and pictures of the handwritten digits
	$(BIN)/clrtool rangetest digits --fresh
	$(BIN)/clrtool plan digits
	$(BIN)/clrtool plot digits

test: setup ## run all tests and doctests, a process with one thread for each core, the longest files first
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

docs: setup ## run every command of the README and the guide, and write the outputs of today into them
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.documents
	$(BIN)/python -m tests.gallery
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.notebook

torture: setup ## kills, signals, full disks, damaged and hostile files, in their long form: an hour on two cores
	CLRTOOL_TORTURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		-m "long or short"

check: setup ## lint, format and types, a scan for unsafe calls, and dependencies: consistent and without known holes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory --jobs types scan

types: setup
	$(BIN)/mypy --num-workers auto

# Beside the former, for it uses one core and waits for a database.
scan: setup
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive clrtool
	$(BIN)/python -m pip check
	$(BIN)/python -m tests.audit

bench: setup ## measure ratios on this machine and write tests/benchmarks/RESULTS.md; installs other finders
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m tests.benchmarks.run

bench-regret: setup ## train with what clrtool recommends and write tests/benchmarks/REGRET.md
	$(BIN)/python -m tests.benchmarks.regret.run

# It installs nothing: where there is no environment it takes the Python that has torch.
gpu: ## on a machine with a GPU: all that only it can show, in 9 minutes; ARGS=--cpu for everything but the capture
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.gpu $(ARGS)

gpu-wheels: setup ## fetch what a machine with torch may lack for make gpu, as wheels in gpu-wheels/
	$(BIN)/python -m tests.gpu.wheels

gpu-report: ## put what make gpu has measured into tests/benchmarks/RESULTS.md
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.gpu.report $(FILE)

paper: setup ## train the paper's network and write tests/benchmarks/PAPER.md: two hours on two cores
	$(BIN)/python -m tests.benchmarks.paper.run

# The shipped configs that need no data but their own.
BOUNDS = $(BIN)/clrtool rangetest configs/digits.yaml --fresh -q -o runs/bounds/digits $(1) configs/digits.bounds.json && \
	$(BIN)/clrtool rangetest configs/custom.yaml --fresh -q -o runs/bounds/custom $(1) configs/custom.bounds.json \
		--allow-import 'custom_factories:*'

bounds: setup ## measure what the shipped configs recommend, and keep it in configs/*.bounds.json
	$(call BOUNDS,--write)

bounds-check: setup ## hold what the shipped configs recommend against configs/*.bounds.json
	$(call BOUNDS,--check)

dist: setup ## build wheel and sdist into dist/ and check them; CLRTOOL_URL=... says where the project lies
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) runs gpu-wheels build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
