# Everything a fresh machine needs: `make demo` and `make test`. Both create the environment first; both can be repeated.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUNS   ?= runs
# Whoever edits a kernel gets it compiled again.
KERNELS := setup.py $(wildcard $(addprefix src/kanscan/ops/,kernels/*.h kernels/*.cpp */kernels/*.h */kernels/*.cpp))

.PHONY: install demo test lint format docs bench bench-user hostile clean

$(STAMP): pyproject.toml constraints.txt $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,clinical,cluster,itk,h5,tensorboard,dev]"
	touch $(STAMP)

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/kanscan demo --output $(RUNS)/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python docs/draw.py

bench: $(STAMP)
	$(BIN)/python benchmarks/ops.py
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/twins.py
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/draw.py

bench-user: $(STAMP)
	cd benchmarks && $(abspath $(BIN))/python user.py

hostile: $(STAMP)
	PYTHONPATH=tests $(BIN)/python tests/hostile/fuzz.py 5000
	$(BIN)/python tests/hostile/bombs.py

clean:
	rm -rf $(VENV) build *.egg-info
