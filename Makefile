# Every target sets up what it needs; all are safe to repeat.
.PHONY: setup demo test lint dev lock clean
.DEFAULT_GOAL := help

BIN := .venv/bin
READY := .venv/.ready

help:
	@echo "make demo    set up, run the demo dataset end to end in Dagster, print where the results are"
	@echo "make test    set up, check style and types, run the tests"
	@echo "make dev     Dagster's web UI, its daemon and MLflow's UI, until Ctrl-C"
	@echo "make lint    style and types only        make lock   resolve requirements.lock anew"
	@echo "make setup   the virtual environment .venv   make clean   remove it"

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed"; exit 1; }
	@echo "setting up .venv (PyTorch and friends: 7 GB, some minutes the first time)"
	@test -x $(BIN)/python || python3 -m venv .venv
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/gbif-platform demo

dev: setup
	@$(BIN)/gbif-platform dev

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# two files at a time: most tests wait for servers, processes and the disk
test: lint
	@$(BIN)/pytest -n 2 --dist loadfile

lock: setup
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
