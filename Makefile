# xxact: `make` prints what there is.
#
# Variables:
#   CONFIG    recipe                                    (configs/pretrain_mxm.yaml)
#   DATA      overlay in configs/data/, without .yaml   (the recipe's own: prototypes)
#   MODEL     overlay in configs/model/                 (the recipe's own: tiny)
#   TRAINER   overlay in configs/trainer/               (all devices of this machine)
#   CKPT      checkpoint, for `make validate`
#   ARGS      anything else, as for `xxact fit`: ARGS="--run runs/mine --trainer.max_steps 5000"
#   PYTHON    the Python (3.11 or newer) that makes the environment
#   VENV      the environment

PYTHON  ?= python3
VENV    ?= .venv
CONFIG  ?= configs/pretrain_mxm.yaml
DATA    ?=
MODEL   ?=
TRAINER ?=
CKPT    ?= runs/pretrain_mxm/checkpoints/last.ckpt
ARGS    ?=

BIN      := $(VENV)/bin
READY    := $(VENV)/.ready
EMBEDDED := data/prototypes/manifest.json
OVERLAYS  = $(if $(DATA),--config configs/data/$(DATA).yaml) \
            $(if $(MODEL),--config configs/model/$(MODEL).yaml) \
            $(if $(TRAINER),--config configs/trainer/$(TRAINER).yaml)

.DEFAULT_GOAL := help
.PHONY: help install data pretrain validate test test-ddp lint format tensorboard clean

help: ## print this
	@echo "usage: make TARGET [CONFIG=… DATA=… MODEL=… TRAINER=… CKPT=… ARGS=… PYTHON=…]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; sed -n '/^# Variables/,/^$$/p' Makefile | sed 's/^# \?//'

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(READY) ## make the environment (.venv) from pyproject.toml

$(EMBEDDED): | $(READY)
	$(BIN)/xxact prepare prototypes --output data/prototypes

data: $(EMBEDDED) ## prepare the embedded data set (a minute)

pretrain: $(READY) $(if $(DATA),,$(EMBEDDED)) ## pretrain the backbone by masked XRD modeling
	$(BIN)/xxact fit --config $(CONFIG) $(OVERLAYS) $(ARGS)

validate: $(READY) ## metrics of a checkpoint on the validation split (CKPT=…)
	$(BIN)/xxact validate --config $(CONFIG) $(OVERLAYS) --ckpt_path $(CKPT) $(ARGS)

test: $(READY) ## run the tests (both cores)
	$(BIN)/python -m pytest -n 2 -m "not ddp" $(ARGS)

test-ddp: $(READY) ## run the long tests of several processes
	$(BIN)/python -m pytest -m ddp $(ARGS)

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: $(READY) ## show curves and pictures of all runs
	$(BIN)/tensorboard --logdir runs

clean: ## remove caches (never data/ or runs/)
	rm -rf .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv*' -type d -prune -exec rm -rf {} +
