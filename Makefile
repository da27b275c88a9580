# Every target works on a fresh Debian 12 machine with nothing done before it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO_JOBS ?= $(shell nproc)
export TSS2_LOG ?= all+none

.PHONY: help deps build demo test test-boot lint bench fuzz doc

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

deps: ## Install what is missing (Debian 12; says first what and how long)
	@setup/deps.sh

build: deps ## Build the release binary
	@. setup/env.sh && cargo build --release --locked --bin touchstone

demo: build ## Three software-TPM nodes, one broker, the whole story
	@. setup/env.sh && target/release/touchstone demo

test: deps ## Everything: unit, property, attack tables, real software TPMs
	@setup/test.sh

test-boot: deps ## Genuine boots: a virtual machine with Secure Boot, TPM and IMA attests (part of make test)
	@setup/test-boot.sh

lint: deps ## rustfmt, clippy, licences, bans and sources
	@. setup/env.sh && cargo fmt --all --check && cargo clippy --locked --workspace --all-targets -- -D warnings && setup/deny.sh

bench: deps ## The figures of docs/benchmarks.md, as ratios in one run
	@setup/bench.sh

fuzz: deps ## A short run of every fuzz target
	@setup/fuzz.sh

doc: deps ## API documentation and the book (mdbook where it is installed)
	@. setup/env.sh && RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	@if command -v mdbook >/dev/null; then mdbook build docs; else echo "docs/ is plain Markdown; install mdbook to render it as a book"; fi
