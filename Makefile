# Two commands do everything on a fresh Debian or Ubuntu machine with git, make, python3 and root:
#   make demo    four bare nodes become a cluster that has proved itself, then one link breaks
#   make test    the whole test suite
# Also: make test-full (the heavy tests alone: drivers and CUDA), make lint, make bench, make clean

PYTHON ?= python3
BIN := .venv/bin
LAB_PACKAGES := debootstrap systemd-container nftables iproute2 openssh-client debian-archive-keyring
TEST_PACKAGES := $(LAB_PACKAGES) openssh-server sudo procps gcc libc6-dev gnupg gpgv dnf

.PHONY: demo test test-full lint bench clean lab-system test-system

demo: lab-system .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

test: test-system .venv/developing
	$(BIN)/python -m pytest $(TESTS)

test-full: test-system .venv/developing
	$(BIN)/python -m pytest -m full --durations=0 $(TESTS)

lint: .venv/developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	ANSIBLE_LIBRARY=playbooks/library PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --profile production --offline playbooks inventory

bench: test-system .venv/developing
	$(BIN)/python -m pytest tests/bench -s -p no:cacheprovider

clean:
	rm -rf .venv build dist

# A stamp file stands for each stage of the virtual environment; a changed pyproject.toml renews it.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "clusterctl needs Python 3.11 or newer; $(PYTHON) is older. Give another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory apt PACKAGES=python3-venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

lab-system:
	@$(MAKE) --no-print-directory apt PACKAGES="$(LAB_PACKAGES)"

test-system:
	@$(MAKE) --no-print-directory apt PACKAGES="$(TEST_PACKAGES)"

# Installs what is missing of PACKAGES, and asks apt nothing when nothing is.
.PHONY: apt
apt:
	@missing=""; for package in $(PACKAGES); do \
	  dpkg-query -W -f='$${db:Status-Status}' "$$package" 2>/dev/null | grep -qx installed || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	[ "$$(id -u)" = 0 ] || { echo "these packages are missing:$$missing; install them with: sudo apt-get install$$missing" >&2; exit 1; }; \
	command -v apt-get >/dev/null || { echo "these packages are missing and there is no apt-get here:$$missing" >&2; exit 1; }; \
	echo "installing$$missing"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
