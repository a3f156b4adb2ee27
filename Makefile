# xxact: `make` prints what there is.
#
# Variables:
#   CONFIG    recipe                                    (configs/pretrain_mxm.yaml)
#   DATA      overlay in configs/data/, without .yaml   (the recipe's own: prototypes)
#   MODEL     overlay in configs/model/                 (the recipe's own: tiny)
#   TRAINER   overlay in configs/trainer/               (all devices of this machine)
#   LOGGER    overlay in configs/logger/: wandb, mlflow, csv, none   (TensorBoard alone)
#   CKPT      checkpoint, for `make validate`, `evaluate` and `predict`
#   TARGETS   overlay in configs/targets/, for `make regress`   (the recipe's own: structure)
#   MODALITY  overlay in configs/modality/, for `make regress`  (the recipe's own: both, or one)
#   INPUT     table of formulas and ids, for `make predict`
#   STORE     store that has the patterns of the ids, for `make predict`
#   SWEEP     sweep, for `make sweep`                   (configs/sweep/lr.yaml)
#   STUDY     for `make study-…`: mp, nrel or hypothetical take configs/study/…_mp.yaml and so on
#   JOBS      runs at a time, for sweeps and studies    (1)
#   LAB       folder of measured patterns, for `make adapt` (none: those of data/lab); LABELS: table
#             of their formulas;
#             LAB_ARGS: such as "--wavelength CuKa"
#   ARGS      anything else, as for `xxact fit`: ARGS="--run runs/mine --trainer.max_steps 5000"
#   GPU_PYTHON  the Python for `make test-gpu` and `make bench-gpu`, where no environment can be made
#   PYTHON    the Python (3.11 or newer) that makes the environment
#   VENV      the environment

PYTHON  ?= python3
VENV    ?= .venv
CONFIG  ?= configs/pretrain_mxm.yaml
DATA    ?=
MODEL   ?=
TRAINER ?=
LOGGER  ?=
CKPT    ?= runs/pretrain_mxm/checkpoints/last.ckpt
TARGETS  ?=
MODALITY ?=
INPUT    ?=
STORE    ?=
SWEEP   ?= configs/sweep/lr.yaml
STUDY   ?=
JOBS    ?= 1
ARGS    ?=
GPU_PYTHON ?= $(BIN)/python

BIN      := $(VENV)/bin
READY    := $(VENV)/.ready
DEV      := $(VENV)/.ready-dev
EMBEDDED := data/prototypes/manifest.json
OVERLAYS  = $(if $(DATA),--config configs/data/$(DATA).yaml) \
            $(if $(MODEL),--config configs/model/$(MODEL).yaml) \
            $(if $(TRAINER),--config configs/trainer/$(TRAINER).yaml) \
            $(if $(LOGGER),--config configs/logger/$(LOGGER).yaml)

MEASURED = --config configs/augmentation/measured.yaml
KEPT    := runs/models
SHIPPED := pretrained aligned properties

REGRESSED = $(OVERLAYS) $(if $(TARGETS),--config configs/targets/$(TARGETS).yaml) \
            $(if $(MODALITY),--config configs/modality/$(MODALITY).yaml)

.DEFAULT_GOAL := help
.PHONY: help models install dev data pretrain align geometry regress adapt evaluate predict validate sweep \
        study-convergence study-representation study-scaling schema test test-ddp test-loggers test-page test-gpu bench-gpu fuzz lint format docs tensorboard clean

help: ## print this
	@echo "usage: make TARGET [CONFIG=… DATA=… MODEL=… TRAINER=… LOGGER=… CKPT=… ARGS=… PYTHON=…]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; sed -n '/^# Variables/,/^$$/p' Makefile | sed 's/^# \?//'

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[completion]'
	@$(BIN)/xxact schema >/dev/null || echo "no schemas for editors: \`make schema\` says why"
	@$(BIN)/xxact completion --output $(VENV)/completions >/dev/null || echo "no completion for shells"
	@touch $@

# What only some targets need: the extras of pyproject.toml.
$(VENV)/.ready-%: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

install: $(READY) ## make the environment (.venv) from pyproject.toml

dev: $(DEV) ## all that tests and checks need, too

$(EMBEDDED): | $(READY)
	$(BIN)/xxact prepare prototypes --output data/prototypes

data: $(EMBEDDED) ## prepare the embedded data set (a minute)

pretrain: $(READY) $(if $(DATA),,$(EMBEDDED)) ## pretrain the backbone by masked XRD modeling
	$(BIN)/xxact fit --config $(CONFIG) $(OVERLAYS) $(ARGS)

align: $(READY) $(if $(DATA),,$(EMBEDDED)) ## pretrain the backbone by contrastive alignment
	$(BIN)/xxact fit --config configs/pretrain_contrastive.yaml $(OVERLAYS) $(ARGS)

geometry: $(READY) $(if $(DATA),,$(EMBEDDED)) ## pretrain the backbone on volumes and densities (after align)
	$(BIN)/xxact fit --config configs/pretrain_geometry.yaml $(OVERLAYS) $(ARGS)

regress: $(READY) $(if $(DATA),,$(EMBEDDED)) ## train on labels (ARGS="--model.init_from …")
	$(BIN)/xxact fit --config configs/regression.yaml $(REGRESSED) $(ARGS)

adapt: $(READY) ## adapt a backbone to a lab's patterns (LAB=folder LABELS=table.csv [CKPT=…] [CONFIG=…])
	$(if $(LAB),$(BIN)/xxact prepare patterns $(LAB) $(if $(LABELS),--labels $(LABELS)) $(LAB_ARGS) --output data/lab)
	$(BIN)/xxact fit --config $(if $(filter file,$(origin CONFIG)),configs/pretrain_masked_contrastive.yaml,$(CONFIG)) \
	  --config configs/augmentation/measured.yaml --config configs/data/lab.yaml \
	  --run runs/adapted $(if $(filter file,$(origin CKPT)),,--model.init_from $(CKPT)) $(ARGS)

models: $(READY) ## train the models of models/ again, with their cards (hours; killed, it goes on)
	$(BIN)/xxact fit --config configs/pretrain_contrastive.yaml --config configs/study/constant_rate.yaml \
	  --config configs/models/pretrained.yaml $(if $(TRAINER),--config configs/trainer/$(TRAINER).yaml) \
	  --run $(KEPT)/pretrained --resume auto $(ARGS)
	$(BIN)/xxact fit --config configs/pretrain_contrastive.yaml $(MEASURED) --config configs/models/all_crystals.yaml \
	  $(if $(TRAINER),--config configs/trainer/$(TRAINER).yaml) --run $(KEPT)/all_crystals --resume auto \
	  --model.init_from $(KEPT)/pretrained/checkpoints/last.ckpt $(ARGS)
	$(BIN)/xxact fit --config configs/pretrain_contrastive.yaml $(MEASURED) --config configs/models/all_crystals.yaml \
	  --config configs/models/aligned.yaml $(if $(TRAINER),--config configs/trainer/$(TRAINER).yaml) \
	  --run $(KEPT)/aligned --resume auto --model.init_from $(KEPT)/all_crystals/checkpoints/last.ckpt $(ARGS)
	$(BIN)/xxact fit --config configs/regression.yaml $(MEASURED) --config configs/models/properties.yaml \
	  $(if $(TRAINER),--config configs/trainer/$(TRAINER).yaml) --run $(KEPT)/properties --resume auto \
	  --model.init_from $(KEPT)/pretrained/checkpoints/last.ckpt $(ARGS)
	$(BIN)/xxact report evidence --checkpoint $(KEPT)/aligned/checkpoints/last.ckpt \
	  --store data/materials_project --store data/wbm --augmentation configs/augmentation/measured.yaml
	for name in $(SHIPPED); do \
	  $(BIN)/xxact test --config $(KEPT)/$$name/config.yaml --checkpoint $(KEPT)/$$name/checkpoints/last.ckpt && \
	  rm -rf models/$$name && $(BIN)/xxact export --checkpoint $(KEPT)/$$name/checkpoints/last.ckpt \
	  --output models/$$name --notes configs/models/$$name.md --precision bfloat16 || exit 1; done

evaluate: $(READY) ## errors, coverage and plots of a checkpoint on the test split (CKPT=…)
	$(BIN)/xxact test --config $(patsubst %/,%,$(dir $(patsubst %/,%,$(dir $(CKPT)))))/config.yaml \
	  --checkpoint $(CKPT) $(ARGS)

predict: $(READY) ## predict the materials of a table (CKPT=… INPUT=table.csv [STORE=…])
	$(BIN)/xxact predict --checkpoint $(CKPT) --input $(INPUT) $(if $(STORE),--store $(STORE)) $(ARGS)

validate: $(READY) ## metrics of a checkpoint on the validation split (CKPT=…)
	$(BIN)/xxact validate --config $(CONFIG) $(OVERLAYS) --checkpoint $(CKPT) $(ARGS)

sweep: $(VENV)/.ready-sweep $(EMBEDDED) ## search for the best values of any keys (SWEEP=… JOBS=…)
	$(BIN)/xxact sweep --config $(SWEEP) --jobs $(JOBS) $(ARGS)

study-convergence: $(READY) $(EMBEDDED) ## how much sooner is a pretrained model as good? (STUDY=mp JOBS=…)
study-representation: $(VENV)/.ready-probes $(EMBEDDED) ## what do frozen vectors know, before and after pretraining?
study-scaling: $(READY) $(EMBEDDED) ## error against training size, for either modality and both
study-convergence study-representation study-scaling: study-%:
	$(BIN)/xxact study $* --config configs/study/$*$(if $(STUDY),_$(STUDY)).yaml --jobs $(JOBS) $(ARGS)
	$(BIN)/xxact report $* --study runs/study$(if $(STUDY),_$(STUDY))

schema: $(READY) ## write configs/schemas and completions anew, for editors and shells (after a new task)
	$(BIN)/xxact schema
	$(BIN)/xxact completion --output $(VENV)/completions

test: $(DEV) ## run the tests (both cores)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not ddp and not browser" $(ARGS)

test-page: $(DEV) $(VENV)/.ready-serve $(VENV)/.ready-browser ## run the tests of the page, in a real browser where chromium is
	$(BIN)/python -m pytest tests/lightning_modules/page $(ARGS)

test-loggers: build/loggers/.ready ## run the tests of Weights & Biases and MLflow, in an environment of their own
	build/loggers/bin/python -m pytest tests/lightning_modules/training/test_loggers.py $(ARGS)

# On top of the environment, so that nothing is downloaded twice; what MLflow pins changes nothing in it.
SITE := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
build/loggers/.ready: $(DEV) pyproject.toml
	$(BIN)/python -m venv build/loggers
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" \
	  >"$$(build/loggers/bin/python $(SITE))/beneath.pth"
	build/loggers/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[wandb,mlflow]'
	@touch $@

test-ddp: $(DEV) ## run the long tests of several processes
	$(BIN)/python -m pytest -m ddp $(ARGS)

test-gpu: $(if $(filter file,$(origin GPU_PYTHON)),$(DEV)) ## run the tests that need a GPU (GPU_PYTHON=…)
	XXACT_TEST_DEVICE=cuda $(GPU_PYTHON) -m pytest -n 4 -m gpu tests/gpu $(ARGS)

bench-gpu: $(if $(filter file,$(origin GPU_PYTHON)),$(DEV)) ## measure everything on a GPU, in ten minutes (GPU_PYTHON=…)
	$(GPU_PYTHON) benchmarks/gpu.py $(ARGS)

fuzz: $(DEV) ## feed damaged files to every reader (ARGS="checkpoints --n 1000 --seed 7 --keep DIR")
	$(BIN)/python -m tests.fuzz.runner $(ARGS)

lint: $(DEV) ## check style, types and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(DEV) ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-docs ## build the documentation as a site (build/site/index.html)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tensorboard: $(READY) ## show curves and pictures of all runs
	$(BIN)/tensorboard --logdir runs

clean: ## remove caches (never data/ or runs/)
	rm -rf .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv*' -type d -prune -exec rm -rf {} +
