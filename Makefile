# `make help` lists the targets. All of them work from a fresh clone.

# The first of these that is Python 3.11 or newer builds the environment.
PYTHON ?= python3.13 python3.12 python3.11 python3
# Further arguments: make test ARGS='-k ledger', make demo ARGS='--help'
ARGS ?=
# make lock LOCK_FLAGS=--upgrade
LOCK_FLAGS ?=
UV_VERSION := 0.13.8
PIP_AUDIT_VERSION := 2.10.1
STUDIO_VERSION := 1.23.2

BIN := .venv/bin
# Two stamps: what running needs, and what testing and checking need on top.
RUNTIME := .venv/.runtime
DEV := .venv/.dev
# Label Studio's dependencies are not ours: an environment of its own.
STUDIO := .venv/label-studio
STUDIO_LOCK := tests/studio/requirements.lock

# Starting is twice as slow without bytecode.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Matrices are small: more threads only get in each other's way.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:
.PHONY: help demo test test-slow test-kafka test-browser test-label-studio test-docker dashboards fuzz soak reliability lint audit docs lock bench clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; \
	do printf '  make %-17s %s\n' "$$name" "$$text"; done

demo: $(RUNTIME) ## run the whole loop on this machine, with a real data set
	@$(BIN)/stream-al demo $(ARGS)

# One more than two cores: the tests with processes wait for a third of their time.
test: $(DEV) ## run the tests that need no Kafka
	@$(BIN)/python -m pytest -m "not kafka and not browser and not studio and not docker and not slow" -n 3 $(ARGS)

test-slow: $(DEV) ## run what takes long: planted bugs, benchmarks in small
	@$(BIN)/python -m pytest -m "slow and not kafka and not docker" -n 3 $(ARGS)

# Kafka itself comes through Maven; the check stands before the environment is built. Each worker has a node of its own.
test-kafka: ## run the tests against a real Apache Kafka (needs Java and Maven)
	@missing=; for tool in java mvn; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	  echo "test-kafka did not run, missing:$$missing; apt-get install openjdk-17-jre-headless maven"; \
	  test "$$CI" != true && test "$$STREAM_AL_REQUIRE_KAFKA" != 1; \
	else \
	  $(MAKE) --no-print-directory $(DEV) && \
	  STREAM_AL_REQUIRE_KAFKA=1 $(BIN)/python -m pytest -m kafka tests/kafka -n 2 --dist worksteal $(ARGS); \
	fi

# Chromium is Debian's: Playwright's own is never downloaded. Screenshots stay in artifacts/browser.
test-browser: ## drive the label page with a browser (needs Chromium)
	@if ! command -v chromium >/dev/null 2>&1 && test -z "$$STREAM_AL_CHROMIUM"; then \
	  echo "test-browser did not run, missing: chromium; apt-get install chromium"; \
	  test "$$CI" != true && test "$$STREAM_AL_REQUIRE_BROWSER" != 1; \
	else \
	  $(MAKE) --no-print-directory $(DEV) && \
	  STREAM_AL_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m browser tests/browser $(ARGS); \
	fi

# In a network namespace where there is loopback only: nothing is asked of the world, and nothing told.
test-label-studio: $(DEV) $(STUDIO)/.installed ## run the bridge against a real Label Studio
	@LABEL_STUDIO_ENVIRONMENT=$(CURDIR)/$(STUDIO) STREAM_AL_REQUIRE_STUDIO=1 \
	$(BIN)/python -m tests.studio.alone $(BIN)/python -m pytest -m studio tests/studio -n 2 $(ARGS)

# The tests bring an engine of their own, and images of what Debian and Maven give: no registry is asked.
test-docker: ## build the image and run the whole stack in containers (needs root on Debian 12, and packages)
	@missing=; test "$$(id -u)" = 0 || missing=" root"; \
	for tool in dockerd docker mmdebstrap nsenter java mvn; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
	  echo "test-docker did not run, missing:$$missing; apt-get install docker.io iptables mmdebstrap openjdk-17-jre-headless maven"; \
	  test "$$CI" != true && test "$$STREAM_AL_REQUIRE_DOCKER" != 1; \
	else \
	  $(MAKE) --no-print-directory $(DEV) && \
	  STREAM_AL_REQUIRE_DOCKER=1 $(BIN)/python -m pytest -m docker tests/docker $(ARGS); \
	fi

# The library is in an environment of its own: nothing else needs it.
GRAFANA := .cache/docker/grafana

dashboards: | $(BIN)/python ## write the Grafana dashboards again, from docker/grafana/generate.py
	@test -e $(GRAFANA)/.done || { $(BIN)/python -m venv --clear $(GRAFANA) && \
	  $(GRAFANA)/bin/python -m pip install --quiet --require-hashes -r docker/grafana/requirements.lock && touch $(GRAFANA)/.done; }
	@$(GRAFANA)/bin/python docker/grafana/generate.py

fuzz: $(DEV) ## feed 100,000 spoiled payloads to every decoder
	@$(BIN)/python -m tests.fuzz $(ARGS)

soak: $(DEV) ## ten minutes at full speed, with flat memory (ARGS='--seconds 30' for a smoke)
	@$(BIN)/python -m tests.soak $(ARGS)

FAULTS := artifacts/faults.json

reliability: $(DEV) ## run the tests of faults and write docs/reliability.md from what they tried
	@rm -f $(FAULTS)
	@failed=0; $(BIN)/python -m pytest -m "fault and not kafka and not browser and not studio" -n 2 --faults $(FAULTS) $(ARGS) || failed=1; \

	@failed=0; $(BIN)/python -m pytest -m "fault and not kafka and not browser and not docker" -n 2 --faults $(FAULTS) $(ARGS) || failed=1; \
	$(BIN)/python -m tests.fuzz --faults $(FAULTS) || failed=1; \
	$(MAKE) --no-print-directory test-kafka ARGS='--faults $(FAULTS)' || failed=1; \
	$(BIN)/python -m tests.faults $(FAULTS) && test $$failed = 0

lint: $(DEV) ## check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

audit: | $(BIN)/python ## ask the advisory sources about the locked dependencies (needs the internet)
	@test -x .venv/audit/bin/pip-audit || { $(BIN)/python -m venv .venv/audit && \
	  .venv/audit/bin/python -m pip install --quiet pip-audit==$(PIP_AUDIT_VERSION); }
	@.ci/audit .venv/audit/bin/pip-audit requirements.lock requirements-dev.lock requirements-site.lock

docs: $(RUNTIME) ## write the generated files again: config.yaml, references, schemas, Kubernetes' rules
	@$(BIN)/python -m stream_al.config_doc
	@$(BIN)/python -m stream_al.metrics
	@$(BIN)/python -m stream_al.cli.reference
	@$(BIN)/python -m stream_al.asyncapi
	@$(BIN)/python -m stream_al.web.openapi
	@$(BIN)/python docker/kubernetes/generate.py

SITE := .venv/site
.PHONY: site

# MkDocs has an environment of its own: the service does not need it. With --quiet it would not count warnings.
site: | $(BIN)/python ## write the documentation as a site, into build/site
	@test -x $(SITE)/bin/mkdocs && cmp -s requirements-site.lock $(SITE)/lock || { $(BIN)/python -m venv --clear $(SITE) && \
	  $(SITE)/bin/python -m pip install --quiet --require-hashes -r requirements-site.lock && \
	  cp requirements-site.lock $(SITE)/lock; }
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict $(ARGS)

# How fast it is; what it is worth, the other files of benchmarks/ say one by one. Kafka needs Java and Maven.
bench: $(DEV) ## measure speed, start and memory (ARGS=--quick: in three minutes)
	@failed=; for what in throughput.py "throughput.py --widths" start.py processes.py "throughput.py --kafka"; do \
	  echo "== benchmarks/$$what"; $(BIN)/python benchmarks/$$what $(ARGS) || failed="$$failed $$what;"; \
	done; test -z "$$failed" || { echo "missed a bar:$$failed"; exit 1; }

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url --no-emit-find-links $(LOCK_FLAGS)
LOCK = $(COMPILE) pyproject.toml --extra plots

lock: $(RUNTIME) ## resolve the dependencies anew into the lock files
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	@$(LOCK) --output-file requirements.lock
	@$(LOCK) --extra test --extra quality --constraint requirements.lock --output-file requirements-dev.lock
	@echo "label-studio==$(STUDIO_VERSION)" | $(COMPILE) - --output-file $(STUDIO_LOCK)
	@$(COMPILE) --group site --output-file requirements-site.lock

clean: ## delete the environment and all caches, but no data
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find stream_al tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Every python on the PATH is tried: a version manager's shim may stand before the one that works.
$(BIN)/python:
	@chosen=; bare=; IFS=:; \
	for name in $$(echo "$(PYTHON)" | tr ' ' ':'); do for folder in $$PATH; do \
	  case "$$name" in */*) path="$$name";; *) path="$$folder/$$name";; esac; \
	  if [ -z "$$chosen" ] && [ -x "$$path" ] && \
	    "$$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    if "$$path" -c 'import ensurepip, venv' >/dev/null 2>&1; then chosen="$$path"; \
	    else bare="$${bare:-$$("$$path" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')}"; fi; \
	  fi; \
	done; done; \
	if [ -n "$$chosen" ]; then \
	  echo "creating .venv with $$("$$chosen" --version) ($$chosen)"; "$$chosen" -m venv --clear .venv; \
	elif [ -n "$$bare" ]; then echo "Python has no venv module: apt-get install $$bare" >&2; exit 1; \
	else echo "no Python 3.11 or newer found: apt-get install python3 python3-venv" >&2; exit 1; fi

# uv is faster but does not read pip's settings (an index, a certificate): pip is tried where uv fails.
define install
	@echo "installing $(1)"
	@if { test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv==$(UV_VERSION) 2>/dev/null; } && \
	  $(BIN)/uv pip install --quiet --python $(2)/bin/python --require-hashes $(3) -r $(1) 2>.venv/uv.log; then :; \
	else \
	  echo "installing $(1) with pip, uv did not succeed (.venv/uv.log)"; \
	  $(2)/bin/python -m pip install --quiet --require-hashes -r $(1); \
	fi
endef

$(RUNTIME): pyproject.toml requirements.lock | $(BIN)/python
	$(call install,requirements.lock,.venv,--compile-bytecode)
	@echo "installing stream-al"
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	$(call install,requirements-dev.lock,.venv,--compile-bytecode)
	@touch $@

$(STUDIO)/.installed: $(STUDIO_LOCK) | $(BIN)/python
	@$(BIN)/python -m venv --clear $(STUDIO)
	$(call install,$(STUDIO_LOCK),$(STUDIO),)
	@touch $@
