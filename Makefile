# Needs bash, Python 3.11 to 3.13 and GNU make 3.81 or later, nothing else.
#
#   PYTHON=...       the Python that .venv is made with (if .venv is there
#                    already, remove it first)
#   TORCH_INDEX=...  one more package index for torch alone; if not set, the
#                    build that suits this machine's card, or the CPU
#   ARGS=...         handed to pytest: make test ARGS="-k scales -x"
#   JOBS=...         processes of `make test` and `make check`, 2 if not set

SHELL := bash
.DEFAULT_GOAL := help

# What the user has installed or set for other work must not shadow .venv:
# packages, and a kernel named python3.
export PYTHONNOUSERSITE := 1
export JUPYTER_PREFER_ENV_PATH := 1
unexport PYTHONPATH PYTHONHOME JUPYTER_PATH

# Some programs named python3.12 fail when run (pyenv's shims), and some
# Pythons cannot make an environment: only running each one tells.
SUITS := import ensurepip, sys, venv; \
	sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; \
	do $$p -c '$(SUITS)' >/dev/null 2>&1 && { echo $$p; break; }; done)
FIND_PYTHON = @'$(PYTHON)' -c '$(SUITS)' >/dev/null 2>&1 || { echo \
	"No Python 3.11, 3.12 or 3.13 with venv and pip$(if $(PYTHON), \
	at $(PYTHON)): install one or name it, make PYTHON=..." >&2; exit 1; }

BIN := .venv/bin
# what is imported compiles when it is; most of it never is
PIP := $(BIN)/python -m pip install --quiet --no-compile
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# One line a page, with a bar of its trainings; the rest is _build/log.txt.
JUPYTER_BOOK := $(BIN)/python _ext/progress.py build . -n -W --keep-going
# The stamp's name tells what was installed and where: a checkout that only
# touches files installs nothing, a folder that was moved starts anew.
STAMP := .venv/.stamp-$(shell { cat requirements.lock pyproject.toml; \
	echo '$(CURDIR)'; } | cksum | cut -d ' ' -f 1)

.PHONY: help .venv book pdf slides exercises test readings check lab reference arithmetic \
	bench format lint types lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[.a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' \
		Makefile

.venv: $(STAMP) ## make the environment: the locked packages and ours

# A finished environment is brought up to date, an unfinished one made anew.
# torch goes in first, so that nothing else decides which build it is: uv asks
# for a card and draws no gigabytes of CUDA without one.
$(STAMP):
	$(FIND_PYTHON)
	@grep -qsxF '$(CURDIR)' .venv/.stamp-* || '$(PYTHON)' -m venv --clear .venv
	@rm -f .venv/.stamp-*
	$(PIP) --constraint requirements.lock uv
	$(if $(TORCH_INDEX),,@UV_HTTP_RETRIES=1 $(BIN)/uv pip install --quiet \
		--python $(BIN)/python --torch-backend auto \
		--constraint requirements.lock torch 2>/dev/null \
		|| echo "torch's own index is out of reach: pip chooses a build")
	$(PIP) --constraint requirements.lock \
		$(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') torch
	$(PIP) --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@echo '$(CURDIR)' > $@

# From clean: a second build publishes what failed in the first one.
book: $(STAMP) ## execute the notebooks in full and build the HTML
	@rm -rf _build/html _build/.doctrees _build/.jupyter_cache results
	@$(JUPYTER_BOOK)
	@for page in $$(sed -n -e 's/^root: *//p' -e 's/^.*file: *//p' _toc.yml); \
	do test -s "_build/html/$$page.html" \
		|| { echo "The book lacks the page $$page." >&2; exit 1; }; done
	@echo '$(CURDIR)/_build/html/index.html'

# Asked before anything is installed or run.
BROWSER ?= $(firstword $(foreach b,chromium chromium-browser google-chrome, \
	$(shell command -v $b)))
FIND_BROWSER = @command -v '$(BROWSER)' >/dev/null || { echo \
	"No Chromium or Chrome found: install one or name it, make pdf \
	BROWSER=..." >&2; exit 1; }

pdf: ## execute the notebooks in full and print the book as one PDF
	$(FIND_BROWSER)
	@$(MAKE) --no-print-directory .venv
	@rm -rf _build/singlehtml _build/.doctrees _build/.jupyter_cache \
		_build/pdf results
	@$(JUPYTER_BOOK) --builder custom --custom-builder singlehtml
	@mkdir -p _build/pdf
	'$(BROWSER)' --headless --no-sandbox --disable-gpu \
		--user-data-dir=_build/pdf/.browser --virtual-time-budget=60000 \
		--no-pdf-header-footer --generate-pdf-document-outline \
		--print-to-pdf=_build/pdf/book.pdf \
		'file://$(CURDIR)/_build/singlehtml/index.html'
	@rm -rf _build/pdf/.browser
	@test -s _build/pdf/book.pdf
	@echo '$(CURDIR)/_build/pdf/book.pdf'

slides: $(STAMP) ## make the slides of a class from the book that was built
	@$(BIN)/python teaching/slides.py

exercises: $(STAMP) ## write each chapter's exercises for students, without solutions
	@$(BIN)/python teaching/exercises.py

test: $(STAMP) ## test the package and, with small settings, each notebook
	@$(BIN)/python tests/prepare.py
	$(PYTEST) -m "not book" $(ARGS)

readings: $(STAMP) ## hold computed sentences against their numbers, at two more settings
	for setting in data seeds; do \
		$(BIN)/python tests/prepare.py $$setting && \
		$(PYTEST) _build/small $(ARGS) || exit 1; done

# What `make book` left is looked at, nothing is built a second time.
check: $(STAMP) ## test the built book: its numbers, and its pages in a browser
	@test -s _build/html/index.html || { echo \
		"No book in _build: run make book first." >&2; exit 1; }
	$(PYTEST) --dist worksteal -m book tests $(ARGS)

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter-lab --notebook-dir=. \
		--LabApp.extra_labextensions_path=_ext/lab start.ipynb

reference: $(STAMP) ## run the chapters and refresh data/reference
	@rm -rf _build/reference && mkdir -p _build/reference
	for notebook in notebooks/*.ipynb; do \
		source=; grep -q 'data_source: str' $$notebook \
			&& source='-p data_source paper'; \
		NESTEDAE_RESULTS=_build/reference $(BIN)/papermill $$notebook \
			_build/reference/$$(basename $$notebook) $$source || exit 1; done
	$(BIN)/python -m nestedae_utils.book.reference _build/reference

arithmetic: $(STAMP) ## what moves in another arithmetic: ARGS="05 06"
	$(BIN)/python benchmarks/arithmetic.py $(ARGS)

bench: $(STAMP) ## measure what a training costs: results/benchmark.json
	$(BIN)/python benchmarks/bench.py $(ARGS)

format: $(STAMP) ## format the code, and take outputs out of notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

lint: $(STAMP) ## check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(STAMP) ## check the types of the package
	$(BIN)/python -m mypy

# Versions that pyproject.toml leaves open stay as they are where they can:
# the old lock is the start. CUDA's packages are the choice of torch's build.
lock: ## resolve pyproject.toml into requirements.lock
	$(FIND_PYTHON)
	'$(PYTHON)' -m venv --clear _build/lock
	_build/lock/bin/python -m pip install --quiet --constraint requirements.lock uv
	cp requirements.lock _build/lock/tree
	_build/lock/bin/uv pip compile --quiet --extra test --universal \
		--python-version 3.11 --fork-strategy fewest --no-annotate \
		--no-header --output-file _build/lock/tree pyproject.toml
	{ echo '# Made by `make lock`; torch stands first.'; \
		grep '^torch==' _build/lock/tree; \
		grep -Ev '^(torch|triton|cuda-.*|nvidia-.*)==' _build/lock/tree; \
		} > requirements.lock

clean: ## remove what was built, not .venv and not the downloaded data
	rm -rf _build results build dist *.egg-info .pytest_cache .ruff_cache \
		.hypothesis .benchmarks
	find . -name .venv -prune -o \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-prune -exec rm -rf {} +
