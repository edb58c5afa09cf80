# One command each; every one of them first installs what is missing (see .ci/setup).
# The target folder is shared by all checkouts on a machine: llama.cpp is compiled once.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/assayd/target
export PATH := $(HOME)/.cargo/bin:$(PATH)

# One cargo profile for everything: each further profile would compile llama.cpp again.
CARGO_FLAGS := --release --locked

.PHONY: help setup build demo test test-long test-accelerator bench lint models fuzz

# For `make fuzz`: how long each target runs.
FUZZ_SECONDS ?= 300

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

setup: ## Install what a build needs and is missing
	@bash .ci/setup

build: setup ## Build the binary
	cargo build $(CARGO_FLAGS) -p assayd
	@echo "built $(CARGO_TARGET_DIR)/release/assayd"

demo: build ## Judge the example models: the main job on real input
	@"$(CARGO_TARGET_DIR)/release/assayd" demo

test: setup ## Run every test but the long ones
	cargo test $(CARGO_FLAGS) --workspace

test-long: setup ## The runs that take minutes and are left out of `make test`
	cargo test $(CARGO_FLAGS) --workspace -- --ignored

# BACKENDS: a folder with libggml-cpu-*.so and a back end for another device, of the same llama.cpp. FEATURES: cuda, for
# safetensors folders on a card. A test whose device is not named says NOT TESTED.
test-accelerator: setup ## The tests on a second device: make test-accelerator BACKENDS=folder FEATURES=cuda
	$(if $(BACKENDS),ASSAYD_TEST_BACKENDS="$(abspath $(BACKENDS))") cargo test $(CARGO_FLAGS) \
		$(if $(FEATURES),--features $(FEATURES)) -p assayd --test accelerator -- --ignored --nocapture

bench: build ## Challenges to a verdict, the plugins' share of the time, speed of digests, headers, generation and scoring beside others
	cargo test $(CARGO_FLAGS) -p assayd --test queries -- --ignored --nocapture
	@bash .ci/bench

lint: setup ## What CI checks besides the tests
	cargo fmt --all -- --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

# One thread, for one order of sums; and memory kept between steps instead of given back.
fuzz: ## Fuzz every reader for FUZZ_SECONDS each (needs cargo-fuzz and a nightly compiler)
	cd host && cargo +nightly run --manifest-path fuzz/Cargo.toml --release --example seed -- fuzz/corpus ../examples/models/*.gguf
	cd host && for target in gguf safetensors imatrix pickle texts template render folder lists bundle; do \
		cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -timeout=10 -max_len=65536 || exit 1; done

models: setup ## Make the example models again (some minutes)
	RAYON_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 \
		cargo run $(CARGO_FLAGS) -p assayd-examples -- models
