# make train                              a real task learned in minutes on two CPU cores
# make train CONFIG=dmc.yaml ARGS="--seed 1"
# make demo                               a trained agent's dreams in the browser
# make test                               the tests, in the same environment with the test extra
# make lint                               ruff and the type checker
# make docs                               builds the documentation site: open site/index.html
# make pictures                           draws the pictures of the package's rooms, of a dream and of the lessons
# make bench                              how fast this machine trains, and where the time goes

VENV   ?= .venv
CONFIG ?= quickstart.yaml
ARGS   ?=
PYTEST ?=
PYTHON ?=
BIN    := $(VENV)/bin
# dm_control for Python 3.13, where labmaze, which it asks for and its suite does without, has no wheel
SUITE   = $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps dm_control dm-env lxml scipy

.PHONY: train demo test lint docs pictures bench clean

train: $(VENV)/.installed
	$(BIN)/python -m dreamer_lightning fit --config $(CONFIG) $(ARGS)

demo: $(VENV)/.installed
	$(BIN)/python -m dreamer_lightning demo $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST)
	$(if $(PYTEST),,$(BIN)/python -m pytest -m "compile and not gpu and not slow")

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy src

docs: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build $(ARGS)

pictures: $(VENV)/.installed
	$(BIN)/python docs/draw_house.py
	$(BIN)/python docs/draw_dream.py
	$(BIN)/python docs/draw_lessons.py

bench: $(VENV)/.installed
	$(BIN)/python -m dreamer_lightning bench $(ARGS)

# The first of these that really runs is 3.11 to 3.13.
$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    >/dev/null 2>&1; then \
	    echo "creating $(VENV) with $$python"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "error: Python 3.11 to 3.13 with venv is needed and was not found; name yours with make PYTHON=/path/to/python" >&2; \
	exit 1

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	$(SUITE)
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	$(SUITE)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build site dist src/*.egg-info
