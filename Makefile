# Every target sets up what it needs: a virtual environment in .venv, made once.
# Another Python than the first suitable one: make PYTHON=python3.12 demo

PY := .venv/bin/python
DEMO_CMD = $(PY) -m mlxquant.demo
# tests run in this many processes; ARGS goes to pytest: make test ARGS='-k affine'
JOBS ?= 2
ARGS ?=
# slow tests run in CI, or with SLOW=1; the kernels' whole grid by make kernels-full
MARKED = -m "not full$(if $(SLOW)$(CI),, and not slow)"

# Without cached bytecode every process that a test starts compiles its imports anew.
unexport PYTHONDONTWRITEBYTECODE
# Test processes share the cores already: BLAS threads that wait for one another take most of the time.
test kernels-full: export OPENBLAS_NUM_THREADS = 1
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo test kernels-full lint format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv-run  ## quantize the bundled model to 4 bits and compare its replies
	@$(DEMO_CMD)

test: setup  ## the tests, with SLOW=1 every one; the last lines name what could not be checked
	@$(PY) -m pytest -n $(JOBS) --dist loadgroup $(MARKED) $(ARGS)

kernels-full: setup  ## every kernel of every format over its whole grid, with every access watched
	@$(PY) -m pytest -n $(JOBS) -m full $(ARGS) tests/kernels

lint: setup  ## ruff (rules and format) and mypy
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: setup  ## rewrite the sources as ruff formats them
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

setup:  ## the virtual environment with mlxquant, its tests' tools and llama.cpp in it
	@./.ci/setup dev

.PHONY: .venv-run
.venv-run:
	@./.ci/setup

clean:  ## delete the virtual environment and everything that was built
	rm -rf .venv build dist mlxquant.egg-info mlxquant-demo
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
