# The README's two commands (demo, test) and the project's habits; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test lint type chaos bench clean
.NOTPARALLEL:

VENV ?= .venv
PY = $(VENV)/bin/python
DIGITS = data/digits
HOUSE = setup.py pyproject.toml scripts/bootstrap.sh $(wildcard edl_allreduce/horovod_*.py)

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo $(DIGITS)/.made ## everything from nothing: train a model on real digits with two workers, evaluate it
	@echo "==> Training with 2 Horovod workers (usually under a minute)"
	@$(PY) -m edl_allreduce.launch train --model_zoo=model_zoo --model_def=digits.Classifier \
		--data='$(DIGITS)/train/*.recordio' --output=out/digits --num_epochs=20 --batch_size=128 --num_workers=2 --overwrite
	@echo "==> Evaluating on held-out digits"
	@$(PY) -m model_zoo.digits evaluate out/digits $(DIGITS)/test/*.recordio

test: $(VENV)/.dev ## everything the tests need, then the tests
	@$(PY) -m pytest -m "not job and not cluster" --numprocesses=2 --dist=loadfile --no-loadscope-reorder
	@$(PY) -m pytest -m job --durations=15
	@$(PY) -m pytest -m cluster --durations=15

lint: $(VENV)/.dev ## style and format (ruff), layers (import-linter)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@$(VENV)/bin/lint-imports --no-logo

type: $(VENV)/.dev ## types (mypy --strict)
	@$(PY) -m mypy

FAULTS = 200

chaos: $(VENV)/.dev $(DIGITS)/.made ## a storm of FAULTS=200 over a real job, by SEED=…, and the proof that nothing was lost (half an hour)
	@$(PY) -m tests.chaos --faults=$(FAULTS) $(SEED:%=--seed=%) --data='$(DIGITS)/train/*.recordio'

bench: $(VENV)/.dev $(DIGITS)/.made ## a look at every measurement of benchmarks/ (6 minutes); each by itself measures more (docs/performance.md)
	@for script in benchmarks/*.py; do echo "==> $$script"; $(PY) "$$script" --short || exit 1; done
	@echo "==> benchmarks.elasticity" && $(PY) -m benchmarks.elasticity --repeats=2 --peers=

clean: ## remove what these commands made here (the Horovod cache stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf $(DIGITS) out/digits

# An environment is made anew, or brought up to date, when what it consists of has changed.
$(VENV)/.demo: $(HOUSE)
	@scripts/bootstrap.sh $(VENV) worker,demo
	@touch $@

$(VENV)/.dev: $(HOUSE)
	@scripts/bootstrap.sh $(VENV) worker,dev
	@touch $@

$(DIGITS)/.made: $(VENV)/.demo model_zoo/digits.py
	@echo "==> Real handwritten digits as RecordIO in $(DIGITS)"
	@$(PY) -m model_zoo.digits make $(DIGITS)
	@touch $@
