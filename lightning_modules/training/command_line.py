"""The commands that train: `xxact fit | validate | test`, on Lightning's CLI.

Recipes and overlays are YAML; later files win over earlier ones and the command line over all.
"""

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from datamodules.io.arguments import DESCRIBE, Asked, exit_with_error
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules import checkpoints
from lightning_modules.base import Task
from lightning_modules.checkpoints.atomic_io import AtomicCheckpointIO
from lightning_modules.checkpoints.places import find, is_model
from lightning_modules.training import recipe_checks as checks
from lightning_modules.training import resumption
from lightning_modules.training import run_folder as runs
from lightning_modules.training.calibration import CalibrateIntervals
from lightning_modules.training.callbacks import loggers
from lightning_modules.training.callbacks.console import LossBar, ValidationLines, figures, score
from lightning_modules.training.callbacks.every_run import (
    METRICS_FINAL,
    PICTURES,
    LastCheckpoint,
    MetricsWriter,
    SaveRunConfig,
    WholeModel,
    finite_metrics,
    write_json,
)
from lightning_modules.training.callbacks.loggers import FinalMetrics

#: What every run has, unless it says otherwise: steps are counted, not epochs.
INVARIANTS = {
    "max_epochs": -1,  # `trainer.max_steps` ends a run
    "check_val_every_n_epoch": None,  # validations come every `val_check_interval` steps
    "num_sanity_val_steps": 1,
    "use_distributed_sampler": False,  # the stream shares out its batches itself
}

#: Keys of the saved configuration that belong to one start, not to the run.
_OF_ONE_START = ("resume", "ckpt_path", "config", "subcommand")

#: What jsonargparse adds to an error in a model's key; the reason stands in the other lines.
_NOISE = (
    "Does not validate against any of the Union",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
)


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints a run keeps.

    Attributes:
        every_n_steps: Steps between two writes of `last.ckpt`, from which `--resume` continues.
        keep_best: How many of the best, by the task's monitored metric, to keep.
    """

    every_n_steps: int = 500
    keep_best: int = 1


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


class Parser(LightningArgumentParser):
    """Lightning's parser, with errors of one line."""

    #: The files of the command line, for the errors; a subclass for each command line has them.
    recipes: ClassVar[Sequence[tuple[Path, dict[str, Any]]]] = ()

    def parse_args(self, args: Any = None, *others: Any, **named: Any) -> Any:
        """As of Lightning; hands itself over when asked for."""
        if args and DESCRIBE in args:
            raise Asked(self)
        return super().parse_args(args, *others, **named)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line and exit with 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        exit_with_error(checks.explain(message, self.recipes), _NOISE)


#: `checkpoint` is a group of keys of a fit; evaluating takes a checkpoint, as other commands do.
_ALIASES = {"--checkpoint": "--ckpt_path", "--ckpt-path": "--ckpt_path"}


def spelled(args: Sequence[str]) -> list[str]:
    """The command line in the names that its keys have.

    `--checkpoint` names the checkpoint to evaluate, as in `xxact predict` (`--ckpt_path` is
    Lightning's name for it); in a key hyphens are underscores, but for what is a path.
    """
    words = []
    for word in args:
        flag, equals, value = word.partition("=")
        if args[0] != "fit":
            flag = _ALIASES.get(flag, flag)
        if flag.startswith("--") and "/" not in flag:
            flag = "--" + flag[2:].replace("-", "_")
        words.append(flag + equals + value)
    return words


class XxactCLI(LightningCLI):
    """Lightning's CLI with a run's folder, `--resume`, and checkpoints that must fit."""

    checkpoint: Path | None = None
    #: Whether `data.seed` follows `seed_everything`.
    one_seed = False

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Subcommands, and the trainer's arguments that they do not take."""
        # A fit's --ckpt_path would let the checkpoint's values override the command line: trap 1.
        return {
            "fit": {
                "model",
                "train_dataloaders",
                "val_dataloaders",
                "datamodule",
                "ckpt_path",
                "weights_only",
            },
            "validate": {"model", "dataloaders", "datamodule", "weights_only"},
            "test": {"model", "dataloaders", "datamodule", "weights_only"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder, resumption and checkpoints; the model takes the data's grid."""
        parser.add_argument("--run", type=str, default="runs/run", help="The run's folder.")
        parser.add_argument(
            "--resume",
            type=resumption.Resume,
            default="never",
            nargs="?",
            const="newest",
            help="Continue from the newest checkpoint of the run; 'auto' starts afresh if none.",
        )
        parser.add_class_arguments(CheckpointConfig, "checkpoint")
        parser.link_arguments("data.grid", "model.init_args.grid")
        # Ignored by tasks that have no targets.
        parser.link_arguments("data.targets", "model.init_args.targets")

    def _parse_ckpt_path(self) -> None:
        """Nothing: the checkpoint's values must not override the recipe's (trap 1)."""

    def _of(self, key: str) -> Any:
        return self.config[self.subcommand][key]

    def _set_seed(self) -> None:
        """Seed everything, with a seed that can be one."""
        checks.check_seed(self._of("seed_everything"), "seed_everything")
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Link the seeds and find the checkpoint, before anything is built or written."""
        self._check_types()
        if self._of("data")["seed"] is None:
            # One seed for all that is random. `seed_everything` may be false: nothing is seeded.
            self.one_seed = True
            self._of("data")["seed"] = int(self._of("seed_everything"))
        if self.subcommand == "fit":
            # Ranks that another one launched come after it: its files are no other run's.
            resume = self._of("resume")
            rank = rank_zero_only.rank  # type: ignore[attr-defined]
            if resume == "never" and (rank or self._of("trainer.fast_dev_run")):
                return
            self.checkpoint = resumption.open_run(Path(self._of("run")), resume)
        elif not self._of("ckpt_path"):
            raise ValueError(
                f"{self.subcommand}: no checkpoint; give one with --checkpoint "
                f"{self._of('run')}/checkpoints/last.ckpt"
            )
        else:
            self.checkpoint = find(self._of("ckpt_path"))

    def _check_types(self) -> None:
        """Refuse groups of keys that are none; the parser lets them pass."""
        model, config = self._of("model"), self.config[self.subcommand]
        module, _, name = model.class_path.rpartition(".")
        checks.check_types(
            getattr(import_module(module), name), model.get("init_args"), "model.init_args"
        )
        checks.check_types(XRDDataModule, config.get("data"), "data")
        checks.check_types(CheckpointConfig, config.get("checkpoint"), "checkpoint")
        checks.check_types(Trainer, config.get("trainer"), "trainer")
        checks.check_packages(config["trainer"].get("logger"), loggers.PACKAGES)

    def instantiate_classes(self) -> None:
        """Build what the recipe names; a logger may refuse its server's address."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if (refused := loggers.does_not_start(error)) is None:
                raise
            raise refused from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: TensorBoard, metrics files, checkpoints."""
        if not isinstance(self.model, Task):
            raise ValueError(f"model.class_path: {type(self.model).__name__} is not a Task")
        if self.checkpoint is not None:
            checkpoints.check_same_task(
                self.checkpoint,
                checkpoints.read(self.checkpoint),
                self.model,
                None if self.subcommand == "fit" else set(self.model.shaping),
            )
        given = self._get(self.config_init, "trainer")
        folder = self._of("run")
        fitting = self.subcommand == "fit" and not given["fast_dev_run"]
        kwargs.setdefault("default_root_dir", folder)
        if fitting and given["logger"] is not False:
            own = [] if given["logger"] in (None, True) else given["logger"]
            own = own if isinstance(own, list) else [own]
            kwargs["logger"] = [
                TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
                *own,
            ]
        elif not fitting:
            kwargs["logger"] = False
        if self.checkpoint is not None and is_model(self.checkpoint):
            kwargs["callbacks"] = [*(given["callbacks"] or []), WholeModel(self.checkpoint)]
        own_lines = given["enable_progress_bar"] is None and not sys.stdout.isatty()
        if own_lines:
            kwargs["enable_progress_bar"] = False
        if fitting:
            kwargs["callbacks"] = [*(given["callbacks"] or []), *self._run_callbacks(folder)]
            if given["logger"] is not False:
                kwargs["callbacks"].append(LearningRateMonitor("step"))
            bars = [c for c in kwargs["callbacks"] if isinstance(c, ProgressBar)]
            if own_lines and bars:
                kwargs["enable_progress_bar"] = True
            elif own_lines:
                kwargs["callbacks"].append(ValidationLines())
            elif given["enable_progress_bar"] is not False and not bars:
                kwargs["callbacks"].append(LossBar(given["log_every_n_steps"] or 50))
            plugins = _as_list(given["plugins"])
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                plugins.append(AtomicCheckpointIO())
            kwargs["plugins"] = plugins
        return super().instantiate_trainer(**kwargs)

    def _run_callbacks(self, folder: str) -> list[Callback]:
        directory = Path(folder) / runs.CHECKPOINTS
        config = self._get(self.config_init, "checkpoint")
        parser = self._parser(self.subcommand)
        assert isinstance(parser, Parser)
        return [
            MetricsWriter(),
            SaveRunConfig(self._config_text(), [path for path, _ in parser.recipes]),
            FinalMetrics(self._configuration()),
            ModelCheckpoint(
                directory,
                filename="best-{step}",
                monitor=self.model.monitor,
                save_top_k=config.keep_best,
                save_weights_only=False,
            ),
            # After the others, so that it holds their states of the same step.
            LastCheckpoint(config.every_n_steps),
            # After it: rewrites the checkpoints.
            CalibrateIntervals(),
        ]

    def _config_text(self) -> str:
        return yaml.safe_dump(self._configuration(), sort_keys=False)

    def _configuration(self) -> dict[str, Any]:
        """Every value of the run, as plain ones."""
        parser = self._parser(self.subcommand)
        config = yaml.safe_load(parser.dump(self.config[self.subcommand], skip_unset=False))
        if self.one_seed:
            # What starts from this file with another `seed_everything` changes all of it, too.
            config["data"]["seed"] = None
        return {key: value for key, value in config.items() if key not in _OF_ONE_START}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        # A model is no file of Lightning's: `WholeModel` loads it.
        of_run = self.checkpoint is not None and not is_model(self.checkpoint)
        kwargs["ckpt_path"] = str(self.checkpoint) if of_run else None
        return kwargs | {"weights_only": True}

    def fit(self, **arguments: Any) -> None:
        """Train; a start that fails before its first step leaves no folder behind."""
        # Before TensorBoard writes anything, and before a rank waits for another.
        self.datamodule.check("fit", self.trainer.world_size, bool(self.trainer.limit_val_batches))
        writes = self.trainer.is_global_zero and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        with resumption.training_in(Path(self._of("run")), self.trainer, self.checkpoint, writes):
            loggers.start(self.trainer.loggers, self._configuration())
            self.trainer.fit(**arguments)

    @rank_zero_only
    def after_fit(self) -> None:
        """Say how good it is and where everything is."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = self._of("run")
        print(f"\nDone: {self.trainer.global_step} steps.")
        for line in score(self.trainer, self.model):
            print(line)
        print(
            f"  checkpoint   {folder}/{runs.CHECKPOINTS}/last.ckpt\n"
            f"  metrics      {folder}/{METRICS_FINAL} and metrics.jsonl (a line a validation)"
        )
        if (Path(folder) / PICTURES).is_dir():
            print(f"  pictures     {folder}/{PICTURES}/")
        if not any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            return
        shown = "" if Path(folder).parent == Path("runs") else f", or tensorboard --logdir {folder}"
        print(f"  curves       make tensorboard{shown}")

    @rank_zero_only
    def after_validate(self) -> None:
        """Write the metrics beside the checkpoint's run."""
        assert self.checkpoint is not None
        # Nothing is written beside a model, which others share.
        a_run = not is_model(self.checkpoint)
        folder = runs.folder_of(self.checkpoint) if a_run else Path(self._of("run"))
        path = folder / f"metrics.{self.subcommand}.json"
        metrics = finite_metrics(self.trainer.callback_metrics)
        write_json(path, {"checkpoint": str(self.checkpoint), **metrics})
        stage = "test" if self.subcommand == "test" else "val"
        for name, value in figures(self.trainer, self.model, stage).items():
            print(f"{name} {value}")
        print(f"metrics: {path}")

    after_test = after_validate


def main(args: Sequence[str]) -> None:
    """Run `xxact fit | validate | test`.

    Args:
        args: The command line, the subcommand first.
    """
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    # Nothing that the user did or could mend.
    for message in (
        ".*LightningCLI's args parameter is intended.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*isinstance.treespec, LeafSpec.*",
        # jsonargparse 4.49 renamed what Lightning 2.6 (and, for its sake, we) call by the old name.
        "(?s).*deprecated in v4.49.*",
        "(?s).*only one JsonargparseDeprecationWarning.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message)
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(logger).addFilter(lambda record: "Tip:" not in record.getMessage())
    recipes = checks.recipes_of(args)
    try:
        XxactCLI(
            Task,
            XRDDataModule,
            subclass_mode_model=True,
            save_config_callback=None,
            trainer_defaults=INVARIANTS,
            seed_everything_default=0,
            parser_class=type("Parser", (Parser,), {"recipes": recipes}),
            parser_kwargs={"parser_mode": "omegaconf+"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=spelled(args),
        )
    except checks.RecipeError as error:
        raise ValueError(f"{checks.file_of(error.key, recipes)}{error}") from error
    except OmegaConfBaseException as error:
        raise ValueError(checks.explain_reference(error, recipes)) from error
