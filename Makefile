# `make` alone lists the doors. What they need is installed once into .venv and node_modules: a stamp file says so.

VENV := .venv
BIN := $(VENV)/bin
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
ARGS ?=

# Much of the tests' time is waiting, so three processes share them, file by file, in the order of tests/conftest.py.
all_tests := --numprocesses=3 --dist=loadfile --no-loadscope-reorder

# Looked at only when something has to be installed.
uv = $(shell command -v uv)
fit = import sys; sys.exit(sys.version_info < (3, 11))
fit_for_venv = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
choose = $(shell for python in $(PYTHONS); do $$python -c '$(1)' 2>/dev/null && { echo $$python; break; }; done)
install = $(if $(uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install -qq --no-compile --no-input \
	--disable-pip-version-check)
new_node = node -e 'process.exit(parseInt(process.versions.node) >= 22 ? 0 : 1)' 2>/dev/null
npm_ci = $(BIN)/python -m sstream.testing npm ci --no-audit --no-fund --no-update-notifier --loglevel=error \
	--fetch-retry-mintimeout=500 --fetch-retry-maxtimeout=4000 --prefix

# pip and node trust the certificates of this machine; so shall uv, as there may be a proxy before the registry.
export UV_SYSTEM_CERTS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint docs bench bench-check autobahn sanitize dist vendor clean

help: ## list these
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.made ## the Teahouse on this machine: Redis, two servers, the Express sidecar
	@$(MAKE) --silent --no-print-directory --keep-going -j2 $(VENV)/.demo demo/express/node_modules/.made || { \
		test $(VENV)/.demo -nt requirements-demo.txt || exit 1; \
		echo "• going on without the Express sidecar: its packages could not be installed, as said above"; }
	@$(BIN)/python -m demo $(ARGS)

test: $(VENV)/.dev demo/express/node_modules/.made sstream/client/node_modules/.made build/autobahn/.made ## all tests; ARGS="tests/rpc -k cancel" picks some
	@$(BIN)/python -m pytest $(or $(ARGS),$(all_tests))

lint: $(VENV)/.dev ## formatting, style and types, looked at and not changed
	@status=0; $(BIN)/ruff format --check --quiet . || status=1; $(BIN)/ruff check --quiet . || status=1; \
		$(BIN)/python -m mypy --strict sstream || status=1; exit $$status

docs: $(VENV)/.dev ## the documentation as web pages, in build/docs
	@$(BIN)/python -m sphinx -W --keep-going -q -d build/docs/.trees docs build/docs && echo "build/docs/index.html"

bench: benchmarks/.venv/.made benchmarks/node_modules/.made ## sstream beside its peers, 15 minutes; ARGS="run --quick", "load ws://...", "--help"
	@benchmarks/.venv/bin/python -m benchmarks $(or $(ARGS),run)

bench-check: benchmarks/.venv/.made benchmarks/node_modules/.made ## has anything become slower than the stored run says?
	@benchmarks/.venv/bin/python -m benchmarks check $(ARGS)

autobahn: $(VENV)/.dev ## the Autobahn testsuite against the websocket engine; ARGS="--fast" leaves the long cases out
	@$(BIN)/python -m tests.websocket.autobahn $(ARGS)

sanitize: $(VENV)/.dev ## the websocket engine's tests, its part in C under gcc's sanitizers; ARGS picks some
	@$(BIN)/python -m tests.websocket.sanitize $(ARGS)

dist: $(VENV)/.dev ## build what is published, try it in empty environments of every Python; needs the network; ARGS=3.12 picks one
	@$(BIN)/python -m tests.distribution $(ARGS)

vendor: sstream/client/node_modules/.made ## build the browser client's MessagePack codec anew from npm
	@$(BIN)/python -m sstream.testing node sstream/client/vendor.mjs

clean: ## remove all that make has made
	rm -rf $(VENV) demo/express/node_modules sstream/client/node_modules benchmarks/.venv benchmarks/node_modules \
		benchmarks/build build dist *.egg-info .hypothesis \
		.mypy_cache .pytest_cache .ruff_cache
	find . -path ./.git -prune -o \( -name __pycache__ -o -name '*.so' \) -prune -exec rm -rf {} +

# An environment that is there and works is kept, whoever made it.
$(VENV)/.made:
	$(eval python := $(call choose,$(if $(uv),$(fit),$(fit_for_venv))))
	@$(if $(python),,$(if $(call choose,$(fit)),$(error $(call choose,$(fit)) has no venv module: install it \
		(Debian: apt install python3-venv), or uv, or name another Python: make PYTHON=/path/to/python3),$(error \
		sstream needs Python 3.11 or newer; tried $(PYTHONS): name another, make PYTHON=/path/to/python3)))
	@if ! $(BIN)/python -c '$(fit)' 2>/dev/null || ! $(if $(uv),true,$(BIN)/python -m pip --version >/dev/null 2>&1); then \
		echo "• making $(VENV) with $$($(python) --version)"; \
		$(if $(uv),uv venv --quiet --clear --python "$$(command -v $(python))",$(python) -m venv --clear) $(VENV); fi
	@touch $@

$(VENV)/.demo: $(VENV)/.made requirements-demo.txt
	@echo "• installing Tornado, a Redis server and a few more"
	@$(install) -r requirements-demo.txt
	@touch $@

$(VENV)/.node: $(VENV)/.made requirements-node.txt
	@$(new_node) || { echo "• installing a node, as PATH has none of version 22 or newer"; \
		$(install) -r requirements-node.txt; }
	@touch $@

$(VENV)/.dev: $(VENV)/.demo $(VENV)/.node requirements-dev.txt setup.py pyproject.toml sstream/version.py \
		$(wildcard sstream/*/*.c)
	@echo "• installing sstream and what its tests need"
	@$(install) -r requirements-dev.txt
	@$(install) --no-build-isolation -e .
	@touch $@

demo/express/node_modules/.made: demo/express/package-lock.json demo/express/package.json | $(VENV)/.demo $(VENV)/.node
	@echo "• installing the Express sidecar's packages"
	@$(npm_ci) demo/express >/dev/null
	@touch $@

sstream/client/node_modules/.made: sstream/client/package-lock.json sstream/client/package.json | $(VENV)/.dev
	@echo "• installing the client's tools"
	@$(npm_ci) sstream/client >/dev/null
	@touch $@

# The contenders and what shows them live in an environment of their own: none of it is the product's.
benchmarks/.venv/.made: private BIN = benchmarks/.venv/bin
benchmarks/.venv/.made: benchmarks/requirements.txt setup.py $(wildcard sstream/websocket/*.c) | $(VENV)/.made
	@echo "• installing the benchmarks' contenders"
	@test -x $(BIN)/python || $(if $(uv),uv venv --quiet --python $(VENV)/bin/python benchmarks/.venv,$(VENV)/bin/python -m venv \
		benchmarks/.venv)
	@$(install) -r benchmarks/requirements.txt
	@$(install) --no-build-isolation -e .
	@touch $@

# Not `npm ci`: a registry may lack msgpackr's optional parts for other systems, and it would refuse the lock for that.
benchmarks/node_modules/.made: private BIN = benchmarks/.venv/bin
benchmarks/node_modules/.made: benchmarks/package-lock.json benchmarks/package.json | benchmarks/.venv/.made
	@$(subst npm ci,npm install --no-save,$(npm_ci)) benchmarks >/dev/null && touch $@ || \
		echo "• going on without the contenders from npm: they could not be installed, as said above"

# The tests run the cases of it that are fast. It wants a Python 2.7, and says so where there is none.
build/autobahn/.made: | $(VENV)/.dev
	@$(BIN)/python -m tests.websocket.autobahn --install && mkdir -p $(@D) && touch $@ || \
		echo "• going on without the Autobahn testsuite: it could not be installed, as said above"
