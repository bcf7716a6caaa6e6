# make demo   install, train on the demo data, show what was learned (about 10 minutes on 2 cores)
# make test   install, run the tests
# make lint   style, likely bugs, types
# make table  train and evaluate everything on a data set from its raw files: make table SET=Beauty (hours)
# make venv   install only
# make clean  remove the virtual environment and caches (not runs/)

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# torch goes first, by itself: pip then takes the build for this machine (a CPU wheel where its index has one).
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test lint table venv clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(STAMP)
	@$(RUN) -m cli.demo

test: $(STAMP)
	$(RUN) -m pytest -n 2

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

table: $(STAMP)
	@test -n "$(SET)" || { echo "error: which data set? such as: make table SET=Beauty" >&2; exit 2; }
	$(RUN) benchmarks/science.py --set $(SET)

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no $(PYTHON) on this machine; install Python 3.11 or newer, or: make PYTHON=/path/to/python" >&2; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt "$(TORCH)"
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[offline,test]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
