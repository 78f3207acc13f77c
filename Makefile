# Each target does all of its own set-up. `make help` lists them.
BIN := .venv/bin
CONFIG ?= conf/igpo.yaml

.PHONY: help setup train study test test-all test-matrix kill-matrix lint gpu-proof test-gpu-set wheel image clean
PYTHONS ?= 3.11 3.12 3.13
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup:  ## the environment in .venv, from the frozen list (GPU=1: with CUDA builds)
	@requirements/setup.sh

train: setup  ## train the embedded default (CONFIG=... for another experiment)
	$(BIN)/rllib train file $(CONFIG)

study: setup  ## compare the methods over seeds and difficulties (hours; what is finished is kept)
	$(BIN)/igpo study

test: setup lint  ## lint, types and the tests
	$(BIN)/python -m pytest

test-all: setup  ## the slow tests too: real engines, killed processes, the real command line
	$(BIN)/python -m pytest -m "slow or not slow"

test-matrix:  ## the fast tests on every Python of PYTHONS="3.11 3.12 3.13" (an environment each: .venv-3.12)
	set -e; for version in $(PYTHONS); do \
		VENV=.venv-$$version PYTHON=python$$version requirements/setup.sh; \
		.venv-$$version/bin/python -m pytest; \
	done

kill-matrix: setup  ## kill processes of small runs, let them go on, count what was lost (hours, resumable; ARGS=--quick)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.kill_matrix $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/lint-imports --no-cache --no-logo

gpu-proof:  ## the proof on one GPU, nine minutes (docs/gpu.md; ARGS=--all for more; first: make setup GPU=1)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

test-gpu-set:  ## the frozen set for GPUs installs, and a CUDA engine imports without a GPU (10 GB; minutes)
	requirements/test_gpu_set.sh

wheel: setup  ## dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

image:  ## a container image with everything for a CPU: docker run igpo-rllib rllib train file conf/igpo.yaml
	docker build --tag igpo-rllib --build-arg COMMIT=$$(git describe --always --abbrev=40 --exclude '*' --dirty=+changes) .

clean:
	rm -rf .venv .venv-3.* dist .pytest_cache .ruff_cache .hypothesis
