# make demo   environment, installation, training on the bundled digits, evaluation, a sheet of pictures
# make test   installation with the tools of development, lint, types, and every test
# make bench  benchmarks, each of which prints its own table: first those of speed, then those of what is claimed otherwise;
#             those of speed want a machine that does nothing else. What they compare with goes into .bench/contestants
# make bench-speed BENCH="--rounds 2"   those of speed only, with options that all of them have

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

SPEED := step time_to_objective marginal start_up exponents

.PHONY: demo test lint types unit slow bench bench-speed clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/installed
	$(BIN)/lowerbound train digits --out $(DEMO) --overwrite
	@echo
	@echo "look at       $(DEMO)/sheet.png"
	@echo "try next      $(BIN)/lowerbound --help"

test: lint types unit

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

# on all processors up to eight: a worker holds half a gigabyte of torch
unit: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

bench-speed: .venv/installed
	$(BIN)/python benchmarks/environment.py
	for name in $(SPEED); do echo; $(BIN)/python benchmarks/$$name.py $(BENCH) || exit 1; done

bench: bench-speed
	$(BIN)/python benchmarks/notebook_mlp.py
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/known_evidence.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/linear_vae.py
	$(BIN)/python benchmarks/imputation.py

clean:
	rm -rf .venv .bench build dist src/*.egg-info
