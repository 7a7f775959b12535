# Each target creates its environment when it is missing: Python >= 3.11 and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= clearice-demo

.PHONY: demo test lint types unit bench model clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,onnx]'
	touch $@

demo: $(READY)
	$(BIN)/clearice demo --out $(OUT)

# Side by side: types take one processor for half a minute, and print when they are done.
test: $(READY)
	$(MAKE) --no-print-directory --jobs=3 lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

bench: $(READY)
	mkdir -p build/bench
	for what in train denoise losses loader; do \
	  $(BIN)/clearice benchmark $$what --json build/bench/$$what.json || exit 1; \
	done

# Both models of the package from nothing: ten minutes and four on one H200.
model: $(READY)
	$(BIN)/clearice pretrain --out build/general --network unet-large --steps 18000 \
	  --pack src/clearice/models/general.safetensors
	$(BIN)/clearice pretrain --out build/general-small --network unet-small --steps 8000 \
	  --pack src/clearice/models/general-small.safetensors

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
