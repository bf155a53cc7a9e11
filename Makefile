# make repro   environment, install, the whole pipeline on the embedded samples
# make test    environment, install, lint, types, fast tests
# make docs    the documentation as HTML
# make release the wheel, its checksum and the licences of what it needs
# make slow    the tests marked slow: whole pipelines, resumed trainings, exports, a browser
# All are idempotent; the second time they only do what is left to do.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(BIN):$(PATH)
export NO_ALBUMENTATIONS_UPDATE := 1
# Two processes of one thread each: small tensors gain nothing from threads.
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal

.PHONY: repro test slow lint docs release install clean
install: $(READY)

repro: $(READY)
	dvc repro
	@cat runs/report/table.md

test: lint
	$(PYTEST) -m "not slow and not gpu"

slow: $(READY)
	$(PYTEST) -m "slow and not gpu" --durations=10

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy

# The documentation as HTML, in docs/_build; what the code says is written anew first.
docs: $(READY)
	python docs/generate.py
	python -m sphinx --fail-on-warning --quiet -b html docs docs/_build
	@echo docs/_build/index.html

# Wheel, checksums and licences, in dist/.
release: $(READY)
	python tools/release.py
	@cat dist/SHA256SUMS

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "descry needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf runs datasets/*/coco datasets/*/*.partial .descry
