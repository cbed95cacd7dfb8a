# The two commands of the README. Each sets up what it needs and works on a fresh clone.

.PHONY: demo test tidy check setup kubernetes clean

# Sets up, builds and shows the main job: two clusters, one mesh, verified.
demo: setup
	cargo build --release --locked --bin tombolo
	./target/release/tombolo up --exit

# Sets up and runs all tests.
test: setup kubernetes
	tools/test

# Form and structure.
tidy:
	cargo fmt --all --check
	cargo xtask tidy

# The lints of Cargo.toml, for tests too, on top of that: what CI checks besides the tests.
check: tidy
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Debian packages and the real Envoy that tests use.
setup:
	tools/setup

# The real etcd, kube-apiserver, kube-controller-manager and kubectl that tests use.
kubernetes:
	tools/kubernetes/if-go

clean:
	cargo clean
	rm -rf .cache tools/kubernetes/bin
