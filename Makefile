# make repro   environment, install, the whole pipeline on the embedded samples
# make test    environment, install, lint, types, fast tests
# make docs    the documentation as HTML
# make release the wheel, its checksum, licences and bill of materials of what it needs
# make lock    requirements.lock anew, after a change of constraints.txt
# make audit   known vulnerabilities of what is installed
# make slow    the tests marked slow: whole pipelines, resumed trainings, exports, a browser
# make faults  every command under every fault (make test: a sample of them)
# All are idempotent; the second time they only do what is left to do.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(BIN):$(PATH)
export NO_ALBUMENTATIONS_UPDATE := 1
# Two processes of one thread each: small tensors gain nothing from threads.
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal

.PHONY: repro test slow faults lint docs release lock audit install clean
install: $(READY)

repro: $(READY)
	dvc repro
	@cat runs/report/table.md

test: lint
	$(PYTEST) -m "not slow and not gpu"

slow: $(READY)
	$(PYTEST) -m "slow and not gpu and not faults" --durations=10

faults: $(READY)
	$(PYTEST) -m faults tests/faults

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

# The versions of constraints.txt with the hashes of their files, for every platform.
lock:
	pipx run uv pip compile pyproject.toml --all-extras --universal --python-version 3.11.0 \
	  --generate-hashes --constraint constraints.txt --no-header --quiet \
	  --output-file requirements.lock

# Known vulnerabilities of these versions; asks the package index.
audit:
	pipx run pip-audit --requirement requirements.lock --require-hashes --disable-pip

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "descry needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf runs datasets/*/coco datasets/*/*.partial .descry
