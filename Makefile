# Everything that is typed in this project, one target each. `make help` lists them.
#
# Needs Python 3.11 or newer, make and a POSIX shell; uv is used when it is there, and not missed when it is not.
# GNU make 3.81 (macOS) reads this file.

PORT    ?=
WORKERS ?= 2
PYTEST  ?=
SHELL   := /bin/sh

# An environment of one's own choice: make VENV=/somewhere/else run
VENV    ?= .venv
PYTHON  := $(VENV)/bin/python
INSTALL := scripts/environment.sh $(VENV)

# What the tests for people without Chromium, or without the extra `local`, leave out.
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable)
ifeq ($(BROWSER),)
EVERYDAY := not local and not nightly and not browser
else
EVERYDAY := not local and not nightly
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ Run

.PHONY: run
run: $(VENV)/.stamp-base ## Start the backend, with a PostgreSQL of its own unless DB_HOST is set
	@exec $(PYTHON) -m llmchatbot serve $(if $(PORT),--port $(PORT))

.PHONY: doctor
doctor: $(VENV)/.stamp-base ## Check the settings, the database and the models, and print a table
	@exec $(PYTHON) -m llmchatbot doctor

.PHONY: migrate
migrate: $(VENV)/.stamp-base ## Create and migrate the PostgreSQL database of DB_HOST
	@exec $(PYTHON) -m llmchatbot migrate

.PHONY: local
local: $(VENV)/.stamp-local ## Install what local GGUF models need (LOCAL_MODEL=file.gguf), then: make run

##@ Check

.PHONY: test
test: $(VENV)/.stamp-dev ## Run the tests: a real PostgreSQL, no network (PYTEST='-k name' for some of them)
	@$(if $(BROWSER),:,echo "Chromium was not found: the tests marked 'browser' are left out (apt-get install chromium).")
	@$(PYTHON) -m pytest -n $(WORKERS) -m "$(EVERYDAY)" $(PYTEST)

.PHONY: test-local
test-local: $(VENV)/.stamp-dev $(VENV)/.stamp-local ## Run the tests that load a GGUF model (extra 'local')
	@$(PYTHON) -m pytest -m "local" $(PYTEST)

.PHONY: nightly
nightly: $(VENV)/.stamp-dev ## Run the long forms: nightly tests, then every plan of the drill (hours)
	@$(PYTHON) -m pytest -m "nightly and not local" $(PYTEST)
	@$(PYTHON) -m llmchatbot drill --size full

.PHONY: drill
drill: $(VENV)/.stamp-base ## Break what the product promises to survive, and check that nothing was lost
	@$(PYTHON) -m llmchatbot drill

.PHONY: check
check: lint types layers check-docs ## Lint, formatting, types, layers, documents

.PHONY: lint
lint: $(VENV)/.stamp-dev
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check

.PHONY: types
types: $(VENV)/.stamp-dev
	@$(PYTHON) -m mypy

.PHONY: layers
layers: $(VENV)/.stamp-dev
	@$(VENV)/bin/lint-imports --no-logo

.PHONY: check-docs
check-docs: $(VENV)/.stamp-dev
	@$(PYTHON) -m pytest -q tests/architecture

.PHONY: bench
bench: $(VENV)/.stamp-base ## Measure beside the usual ways, the two figures that matter
	@$(PYTHON) -m benchmarks.seam
	@$(PYTHON) -m benchmarks --quick

##@ Change

.PHONY: format
format: $(VENV)/.stamp-dev ## Format the code and repair what the linter can repair
	@$(PYTHON) -m ruff format
	@$(PYTHON) -m ruff check --fix

.PHONY: docs
docs: $(VENV)/.stamp-base ## Write again what is made from the code: settings, errors, openapi.json, .env.example
	@$(PYTHON) scripts/make_docs.py

.PHONY: hooks
hooks: $(VENV)/.stamp-dev ## Check each commit before it is made
	@$(VENV)/bin/pre-commit install

.PHONY: lock
lock: ## Write requirements/*.txt from pyproject.toml, keeping versions that fit (needs uv; UPGRADE=1 for the newest)
	@scripts/lock.sh $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove the environment and caches; the data directory stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A stamp is younger than the hashed file it stands for, so the second start installs nothing.
$(VENV)/.stamp-base: requirements/base.txt
	@$(INSTALL) base

$(VENV)/.stamp-local: requirements/local.txt
	@$(INSTALL) local

$(VENV)/.stamp-dev: requirements/dev.txt
	@$(INSTALL) dev
