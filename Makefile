# Each target prepares what it needs: Debian's tools and .venv.
PYTHON_IN_VENV := .venv/bin/python
READY := .venv/.ready
MYPY_PATHS := bus1 bridge/bus1_bridge services/bus1_services benchmarks examples fuzz tests
PAGES := build/man/bus1.1 build/man/bus1.7 build/man/bus1-bridge.1
FUZZ_SECONDS := 600

.DEFAULT_GOAL := help
.PHONY: help test demo bench scaling costs desktop deep fuzz lint man conformance tools

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

test: lint ## lint, type-check and test everything, on dbus-daemon and on bus1-bridge
	$(PYTHON_IN_VENV) -m pytest -q -m "not deep"

demo: $(READY) ## the main job: one bus on which stock D-Bus tools and native services talk
	$(PYTHON_IN_VENV) examples/demo.py

bench: $(READY) ## measure beside dbus-daemon and dbus-broker
	$(PYTHON_IN_VENV) -m benchmarks

scaling: $(READY) ## measure how costs grow with peers, handles, messages and slices; draws docs/scaling.svg
	$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(PYTHON_IN_VENV) -m benchmarks.scaling --plot docs/scaling.svg

costs: $(READY) ## measure what D-Bus operations cost among up to 100,000 rules, 5,000 connections, 50,000 names
	$(PYTHON_IN_VENV) -m benchmarks.costs

desktop: $(READY) ## compare Xfce on bus1-bridge with Xfce on dbus-daemon; two minutes; docs/desktop.png
	.ci/prepare desktop
	$(PYTHON_IN_VENV) tests/desktop_session.py --screenshot docs/desktop.png

deep: $(READY) fuzz ## the long runs: fuzzing, seeded faults, more examples, larger floods
	$(PYTHON_IN_VENV) -m pytest -q -m "deep or not deep" --hypothesis-profile=deep --timeout=1800

fuzz: $(READY) ## fuzz codecs, the server loop, and both bodies of the D-Bus bus, FUZZ_SECONDS=600 each
	$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(PYTHON_IN_VENV) -m fuzz frames --seconds $(FUZZ_SECONDS)
	$(PYTHON_IN_VENV) -m fuzz server --seconds $(FUZZ_SECONDS)
	$(PYTHON_IN_VENV) -m fuzz codec --seconds $(FUZZ_SECONDS)
	$(PYTHON_IN_VENV) -m fuzz twins --seconds $(FUZZ_SECONDS)

man: $(PAGES) ## the manual pages, in build/man

build/man/%: docs/%.rst $(READY)
	mkdir -p $(@D)
	$(PYTHON_IN_VENV) -m docutils --writer=manpage --strict --syntax-highlight=none $< $@

conformance: $(READY) ## write docs/conformance.md: which tests cite which clause
	$(PYTHON_IN_VENV) tests/clauses.py

lint: $(READY) ## ruff, mypy --strict, import contracts
	.venv/bin/ruff check .
	.venv/bin/mypy --strict $(MYPY_PATHS)
	.venv/bin/lint-imports

$(READY): pyproject.toml .ci/prepare | tools
	.ci/prepare venv
	touch $@

tools:
	@.ci/prepare tools
