# Two commands matter: `make demo` and `make test`. Both set everything up in .venv first.
#
#   make demo [DATA=folder]   the whole way on one machine, pictures at the end
#   make test                 the tests
#   make test-night           the tests with all of those that take long
#   make soak [MINUTES=20]    kills and stops of real runs, for hours
#   make fuzz [MINUTES=10]    damaged and forged files for every reader, as long as you like
#   make lint types imports   style, types, import contracts
#   make bench-mnist bench-roadside   the measurements of docs/results.md
#   make runtimes             the files in older onnxruntimes, each in an environment of its own
#   make flower               Flower for real: processes with certificates and keys, and simulated
#   make bench-paper ROW=mnist-fc-sub4   a row of the paper's tables
#
# TORCH_INDEX=URL is passed to pip as an extra index, for machines where the plain index would
# bring a CUDA build: https://download.pytorch.org/whl/cpu

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= $(if $(DATA),demo-own,demo-out)
EXTRA_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.PHONY: demo test test-night soak fuzz lint types imports check setup bench-mnist bench-roadside \
	bench-speed bench-paper bench-large runtimes flower clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"edge-stl needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(EXTRA_INDEX) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(EXTRA_INDEX) -c constraints.txt \
		-e '.[demo,fleet,own,sign,cotrain]' pytest pytest-xdist hypothesis scipy ruff mypy import-linter
	touch $@

demo: setup
	$(BIN)/edge-stl demo $(if $(DATA),--data "$(DATA)",) -o "$(OUT)"

# Two processes at a time, each with one thread: what two cores can do.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider -n 2 --dist worksteal

test: setup
	$(PYTEST)

test-night: setup
	EDGE_STL_NIGHT=1 $(PYTEST)

soak: setup
	EDGE_STL_SOAK=1 EDGE_STL_SOAK_MINUTES=$(or $(MINUTES),20) OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
		-p no:cacheprovider -s tests/crash/test_kill.py tests/crash/test_soak.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.cases --minutes $(or $(MINUTES),10)

check: lint types imports test

bench-mnist: setup
	$(BIN)/python -m benchmarks.mnist --seeds 3

bench-roadside: setup
	$(BIN)/python -m benchmarks.roadside --seeds 3

bench-speed: setup
	$(BIN)/python -m benchmarks.speed

ROW ?= mnist-fc-sub4

bench-paper: setup
	$(BIN)/python -m benchmarks.paper $(ROW) --seeds 3

bench-large: setup
	$(BIN)/python -m benchmarks.large

runtimes: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/runtimes.py

# SuperLink, SuperNodes and a simulation, for real; a simulation needs `pip install 'flwr[simulation]'`.
flower: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/flower_real.py

clean:
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
