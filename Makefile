# `make demo` and `make test` do everything on a machine with git, Python >= 3.11.
# Nothing outside this folder is changed: packages go to .venv, results to runs/.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=

# A stamp's name holds a checksum of pyproject.toml and of this folder's path, so packages are installed again when
# either changes (a virtual environment cannot be moved), and not when git merely touches the file.
KEY := $(shell { cat pyproject.toml; pwd; } | cksum | cut -d' ' -f1)
INSTALLED := $(VENV)/.installed-$(KEY)
INSTALLED_TEST := $(VENV)/.installed-test-$(KEY)
INSTALLED_DEV := $(VENV)/.installed-dev-$(KEY)

.PHONY: help setup demo test check docs golden bench torture fuzz soak crf clean

help:
	@echo "make demo    install, then run the whole pipeline on generated images and print the scores"
	@echo "make test    install, then run the tests (PYTEST_ARGS='-k labels' for some of them)"
	@echo "make check   install, then ruff and mypy"
	@echo "make docs    install, then write docs/settings.md anew, after a change of settings"
	@echo "make golden  write tests/golden/ anew, after a change of numbers that is meant"
	@echo "make setup   only install, into $(VENV)"
	@echo "make bench   install, then measure speeds, the dense CRF's on real photos (RCA_VOC_PART=DIR says where they are)"
	@echo "make torture install, then kill the pipeline 300 times at random moments and compare its results (minutes)"
	@echo "make fuzz    install, then feed every reader of files 20,000 broken ones"
	@echo "make soak    install, then watch memory, files and logs over 1,000 steps and 5,000 photos"
	@echo "make crf     build pydensecrf2, which the dense CRF is compared with (needs g++)"
	@echo "make clean   remove $(VENV), caches and build output (not runs/)"
	@echo
	@echo "PYTHON=python3.12    the interpreter that $(VENV) is made with (now: $(PYTHON))"
	@echo "TORCH_INDEX=URL      package index for torch and torchvision, for example that of the CPU builds"

setup: $(INSTALLED)

demo: $(INSTALLED)
	$(VENV)/bin/rca demo

test: $(INSTALLED_TEST)
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

check: $(INSTALLED_DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(INSTALLED)
	$(VENV)/bin/rca settings --markdown > docs/settings.md.tmp && mv docs/settings.md.tmp docs/settings.md

golden: $(INSTALLED_TEST)
	$(VENV)/bin/python tests/test_golden.py

bench: $(INSTALLED_TEST)
	$(VENV)/bin/python benchmarks/eval_rate.py
	$(VENV)/bin/python benchmarks/crf_rate.py --processes 2 --out runs/crf_rate.json

torture: $(INSTALLED_TEST)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.torture --kills 300 --work runs/torture

fuzz: $(INSTALLED_TEST)
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/fuzzing.py --runs 20000 --keep runs/fuzz

soak: $(INSTALLED_TEST)
	$(VENV)/bin/python benchmarks/soak.py --steps 1000 --photos 5000 --out runs/soak.json

crf: $(INSTALLED)
	$(PIP) install -e '.[crf]'

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find rcatool tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED):
	@command -v $(PYTHON) >/dev/null || \
	  { echo "make: there is no '$(PYTHON)'. Install Python >= 3.11, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $$($(PYTHON) --version 2>&1) is too old: rcatool needs Python >= 3.11. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: $(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f $(VENV)/.installed*
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing rcatool and what it needs into $(VENV) (torch is large: minutes and gigabytes)"
	$(if $(TORCH_INDEX),$(PIP) install --index-url $(TORCH_INDEX) torch torchvision)
	$(PIP) install -e .
	@touch $@

$(INSTALLED_TEST): $(INSTALLED)
	$(PIP) install -e '.[test]'
	@echo "building pydensecrf2, which the dense CRF is compared with (about a minute)"
	@$(PIP) install -e '.[crf]' >$(VENV)/crf.log 2>&1 || \
	  echo "notice: pydensecrf2 could not be built (see $(VENV)/crf.log): the comparisons with it are skipped. 'make crf' tries again."
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) install -e '.[dev]'
	@touch $@
