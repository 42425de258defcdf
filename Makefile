# Each target prepares what it needs: Debian's tools, .venv, and the native module where cargo is.
PYTHON_IN_VENV := .venv/bin/python
READY := .venv/.ready
CARGO := $(shell command -v cargo)
RUST := $(shell find rust -name target -prune -o -type f -print)
NATIVE := bus1/_native.abi3.so
BODIES := $(READY) $(if $(CARGO),$(NATIVE))
PYTEST := $(PYTHON_IN_VENV) -m pytest -q
WITHOUT_CARGO = @echo 'There is no cargo: nothing native is built, checked or tested.'
MYPY_PATHS := bus1 bridge/bus1_bridge services/bus1_services benchmarks examples fuzz tests
GLIBC := 2.17
PAGES := build/man/bus1.1 build/man/bus1.7 build/man/bus1-bridge.1
FUZZ_SECONDS := 600

.DEFAULT_GOAL := help
.PHONY: help test native wheel demo bench scaling costs desktop deep fuzz sanitize lint man conformance tools

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

test: lint $(BODIES) ## lint, type-check and test everything, on dbus-daemon and on bus1-bridge with either body
ifdef CARGO
	cd rust && cargo test --locked --no-default-features
	cd benchmarks/generator && cargo test --locked
endif
	BUS1_ACCEL=python $(PYTEST) -m "not deep"
ifdef CARGO
	BUS1_ACCEL=native $(PYTEST) -m "not deep"
else
	$(WITHOUT_CARGO)
endif

native: $(READY) ## build the native module where this tree finds it; needs cargo
	cd rust && cargo build --release --locked
	install -m 644 rust/target/release/libbus1_native.so $(NATIVE)

wheel: $(READY) ## the wheel to publish, in dist/, for every CPython >= 3.11; needs cargo
	.ci/wheel $(GLIBC)

demo: $(BODIES) ## the main job: one bus on which stock D-Bus tools and native services talk
	$(PYTHON_IN_VENV) examples/demo.py

bench: $(BODIES) ## measure beside dbus-daemon and dbus-broker, and the floor; ten minutes; needs cargo
	$(PYTHON_IN_VENV) -m benchmarks

scaling: $(BODIES) ## measure how costs grow with peers, handles, messages and slices; draws docs/scaling.svg
	$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(PYTHON_IN_VENV) -m benchmarks.scaling --plot docs/scaling.svg

costs: $(BODIES) ## measure what D-Bus operations cost among up to 100,000 rules, 5,000 connections, 50,000 names
	$(PYTHON_IN_VENV) -m benchmarks.costs

desktop: $(BODIES) ## compare Xfce on bus1-bridge with Xfce on dbus-daemon; two minutes; docs/desktop.png
	.ci/prepare desktop
	$(PYTHON_IN_VENV) tests/desktop_session.py --screenshot docs/desktop.png

deep: $(BODIES) fuzz sanitize ## the long runs: fuzzing, AddressSanitizer, seeded faults, more examples, larger floods
	BUS1_ACCEL=python $(PYTEST) -m "deep or not deep" --hypothesis-profile=deep --timeout=1800
ifdef CARGO
	BUS1_ACCEL=native $(PYTEST) -m "deep or not deep" --hypothesis-profile=deep --timeout=1800
else
	$(WITHOUT_CARGO)
endif

fuzz: $(BODIES) ## fuzz codecs, SASL, match rules, the server loop, both bodies of the bus, FUZZ_SECONDS=600 each
	$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(PYTHON_IN_VENV) -m fuzz frames --seconds $(FUZZ_SECONDS)
	$(PYTHON_IN_VENV) -m fuzz server --seconds $(FUZZ_SECONDS)
	$(PYTHON_IN_VENV) -m fuzz codec --seconds $(FUZZ_SECONDS)
	$(PYTHON_IN_VENV) -m fuzz texts --seconds $(FUZZ_SECONDS)
	$(PYTHON_IN_VENV) -m fuzz twins --seconds $(FUZZ_SECONDS)

sanitize: $(BODIES) ## the native body under AddressSanitizer; ten minutes; needs cargo and gcc
ifdef CARGO
	.ci/sanitize
else
	$(WITHOUT_CARGO)
endif

man: $(PAGES) ## the manual pages, in build/man

build/man/%: docs/%.rst $(READY)
	mkdir -p $(@D)
	$(PYTHON_IN_VENV) -m docutils --writer=manpage --strict --syntax-highlight=none $< $@

conformance: $(READY) ## write docs/conformance.md: which tests cite which clause
	$(PYTHON_IN_VENV) tests/clauses.py

lint: $(READY) ## ruff, mypy --strict, import contracts; rustfmt and clippy
	.venv/bin/ruff check .
	.venv/bin/mypy --strict $(MYPY_PATHS)
	.venv/bin/lint-imports
ifdef CARGO
	cd rust && cargo fmt --check
	cd rust && cargo clippy --locked --all-targets -- -D warnings
	cd rust && cargo clippy --locked --all-targets --no-default-features -- -D warnings
	cd benchmarks/generator && cargo fmt --check
	cd benchmarks/generator && cargo clippy --locked --all-targets -- -D warnings
else
	$(WITHOUT_CARGO)
endif

$(READY): pyproject.toml setup.py .ci/prepare | tools
	.ci/prepare venv
	touch $@

# an install that is editable builds the module, but says little and goes on where it cannot
$(NATIVE): $(RUST) | $(READY)
	$(MAKE) native
	touch $@

tools:
	@.ci/prepare tools
