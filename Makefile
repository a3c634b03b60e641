# Each target sets up what it needs: on a machine with Python 3.11 (or later) and make, nothing else is done by hand.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

# The tests' tensors are small: a second thread would only wait, and, beside another busy process, wait for long.
test check: export OMP_NUM_THREADS ?= 1

.PHONY: demo test check bench docs clean

demo: $(READY)
	$(BIN)/regard demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --doctest-modules src
	$(BIN)/python -m pytest -q --doctest-glob='*.md' docs README.md README.zh-CN.md

bench: $(READY)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --requirement benchmarks/requirements.txt
	$(BIN)/python -m benchmarks

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt furo myst-parser sphinx
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build

clean:
	rm -rf $(VENV) docs/_build

# A suitable PyTorch that is already on the machine is used as it is; otherwise the pinned version is installed.
$(READY): pyproject.toml constraints.txt
	PYTHON="$(PYTHON)" VENV="$(VENV)" sh tools/setup.sh
	touch $@
