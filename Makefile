# Each target prepares what it needs: Debian's tools and .venv.
PYTHON_IN_VENV := .venv/bin/python
READY := .venv/.ready
MYPY_PATHS := bus1 bridge/bus1_bridge services/bus1_services benchmarks examples tests

.DEFAULT_GOAL := help
.PHONY: help test demo bench deep lint tools

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

test: lint ## lint, type-check and test everything, on dbus-daemon and on bus1-bridge
	$(PYTHON_IN_VENV) -m pytest -q -m "not deep"

demo: $(READY) ## the main job: one bus on which stock D-Bus tools and native services talk
	$(PYTHON_IN_VENV) examples/demo.py

bench: $(READY) ## measure beside dbus-daemon and dbus-broker
	$(PYTHON_IN_VENV) -m benchmarks

deep: $(READY) ## the long runs: more examples, larger floods
	$(PYTHON_IN_VENV) -m pytest -q -m "deep or not deep" --hypothesis-profile=deep --timeout=1800

lint: $(READY) ## ruff, mypy --strict, import contracts
	.venv/bin/ruff check .
	.venv/bin/mypy --strict $(MYPY_PATHS)
	.venv/bin/lint-imports

$(READY): pyproject.toml .ci/prepare | tools
	.ci/prepare venv
	touch $@

tools:
	@.ci/prepare tools
