# The one entry point. `make` alone lists the targets.

# Seconds for each combination of pool mode and workers; there are twelve, two at a time.
ANSWERS_SECONDS ?= 3600
# Sequences of the model test.
MODEL_CASES ?= 5000000

# Seconds per fuzz target.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := scanner startup messages

CARGO ?= cargo
TARGET = $${CARGO_TARGET_DIR:-target}

.DEFAULT_GOAL := help
.PHONY: help setup build test answers lint doc demo bench bench-tokens instructions fuzz clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (Debian packages: PostgreSQL, a C compiler, Valgrind, Python, Node)
	@tools/setup test

build: ## Build the release binaries into target/release
	$(CARGO) build --release --locked -p iambouncer -p rds-sim

# The tests start the programs and load the PAM module, so these are built first; with all targets, since tests
# bring features with them and everything would be compiled twice otherwise. At the end the release build of the
# pooler is held to its budget of instructions, by the `bench` that is there by then.
test: setup ## Run all tests, on a machine with nothing but Rust and make
	@tools/drivers
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --workspace --locked
	TEST_IO_ENGINE=epoll $(CARGO) test --workspace --locked --test it
	$(CARGO) build --release --locked -p iambouncer
	IAMBOUNCER=$(TARGET)/release/iambouncer $(TARGET)/debug/bench --instructions

answers: setup ## Look for crossed answers for hours: ANSWERS_SECONDS for each pool mode, number of workers and engine
	MODEL_CASES=$(MODEL_CASES) $(CARGO) test --locked -p iambouncer --lib -- answers::model_tests
	@for engine in epoll io_uring; do \
		echo "random messages, $$engine"; \
		TEST_IO_ENGINE=$$engine ANSWERS_SECONDS=$(ANSWERS_SECONDS) \
			$(CARGO) test --locked -p iambouncer --test it -- answers::generator --nocapture || exit 1; \
	done

lint: ## Check format, lints and dependencies
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny check"; $(CARGO) deny --locked check; \
	else \
		echo "Dependencies are not checked: install cargo-deny with 'cargo install cargo-deny --locked'."; \
	fi

doc: ## Build the API documentation and write the pages in docs/ that tables give
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	UPDATE_DOCS=1 $(CARGO) test --quiet --locked -p iambouncer --test config_docs

# One build for both programs: two would compile what they share twice, with other features.
demo: setup ## Watch it work: PostgreSQL that only lets tokens in, and a client that knows none (ONCE=1 to end)
	$(CARGO) build --release --locked -p iambouncer -p rds-sim --bins --example demo
	@$(TARGET)/release/examples/demo

# Two builds, so that the pooler is built with its own features and no others. The example is the other design for
# several threads, in the section "All cores"; without it that column is missing. Variables reach the program
# through the environment; bench/NOTES.md lists them.
bench: ## Compare with PgBouncer, HAProxy and others, and write bench/RESULTS.md (QUICK=1 for a short try)
	@tools/setup bench
	$(CARGO) build --release --locked -p iambouncer
	$(CARGO) build --release --locked -p bench --bin bench --example mutex_pool
	$(CARGO) run --release --locked --quiet -p bench

# Python and Node.js are the machine's; what they need is pinned and put below the target directory.
bench-tokens: ## Mint tokens next to boto3 and @aws-sdk/rds-signer, and write bench/TOKENS.md
	@tools/drivers
	$(CARGO) run --release --locked --quiet -p bench -- --tokens

# A part of `make bench` by itself, in seconds. Counts, not times: a busy machine does not change them.
instructions: setup ## Hold the relay's instructions per query to bench/instructions.txt (UPDATE_BUDGET=1 writes it)
	$(CARGO) build --release --locked -p iambouncer
	$(CARGO) run --release --locked --quiet -p bench -- --instructions

fuzz: ## Fuzz the wire protocol, FUZZ_SECONDS for each target (needs cargo-fuzz)
	@$(CARGO) fuzz --version >/dev/null 2>&1 \
		|| { echo "cargo-fuzz is missing: install it with 'cargo install cargo-fuzz --locked'." >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzz $$target"; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts bench/raw
