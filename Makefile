# Every target sets up what it needs by itself, says in a line what it does and is quiet about what
# went well. PYTHON chooses the interpreter (3.11 or later), VENV the environment's directory.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test,lint

BIN := $(VENV)/bin
QUIET := tools/quiet
UV := $(shell command -v uv 2>/dev/null)
SOURCES := $(wildcard src tests examples benchmarks tools conftest.py)
# What an installation is made of, besides the Python files that it only points to.
BUILT_FROM := pyproject.toml setup.py $(wildcard src/memquota/accounting/*.[ch])

.PHONY: test venv lint types cover pytest demo docs bench soak mutants clean
.DELETE_ON_ERROR:

test: lint types cover

venv: $(VENV)/.has-$(EXTRAS)
	@:

# One stamp for each set of extras, so that only what changed there, or in the compiled part, installs again.
$(VENV)/.has-%: $(BUILT_FROM) | $(BIN)/python
ifdef UV
	@$(QUIET) "venv: install memquota[$*] into $(VENV)" $(UV) pip install --python $(BIN)/python -e '.[$*]'
else
	@$(QUIET) "venv: install memquota[$*] into $(VENV)" $(BIN)/python -m pip install -e '.[$*]'
endif
	@touch '$@'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("memquota needs Python 3.11 or later: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
ifdef UV
	@$(QUIET) "venv: make $(VENV)" $(UV) venv --python $(PYTHON) $(VENV)
else
	@$(QUIET) "venv: make $(VENV)" $(PYTHON) -m venv $(VENV)
endif

lint: venv
	@$(QUIET) "lint: ruff check" $(BIN)/ruff check .
	@$(QUIET) "lint: ruff format" $(BIN)/ruff format --check .

types: venv
	@$(QUIET) "types: mypy" $(BIN)/mypy $(SOURCES)
	@$(QUIET) "types: pyright" $(BIN)/pyright --pythonpath $(BIN)/python

# The tests, the doctests and the code in README and docs, with coverage; the books want all of it.
cover: venv
	@echo "test: pytest with coverage"
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q
	@$(BIN)/coverage report --format=total | sed 's/.*/coverage: & % of lines and branches/'
	@$(QUIET) "coverage: 100 % of _core" $(BIN)/coverage report --include='*/_core/*' --fail-under=100

pytest: venv
	@echo "test: pytest, $$($(BIN)/python --version)"
	@$(BIN)/python -m pytest -q

# DEMO takes options: make demo DEMO="--scenario flood --backend trio", or DEMO=--help.
demo: $(VENV)/.has-demo
	@$(BIN)/python -m memquota.cli demo $(DEMO)

docs: $(VENV)/.has-docs
	@$(QUIET) "docs: sphinx, into docs/_build/html" $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.has-bench
	@echo "bench: every operation against its peer"
	@$(BIN)/python -m benchmarks

soak: venv
	@echo "soak: the long runs"
	@MEMQUOTA_TESTS=soak $(BIN)/python -m pytest -q -s -m soak -o faulthandler_timeout=0

mutants: venv
	@echo "mutants: _core under tests/core"
	@$(BIN)/python tools/mutants.py

clean:
	@echo "clean: environments, caches and what was built"
	@rm -rf .venv .venv-* .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist docs/_build src/*.egg-info
	@find src -name '*.so' -delete
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
