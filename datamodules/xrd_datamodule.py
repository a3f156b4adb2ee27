"""The LightningDataModule: stores in, rendered batches out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batch import Batch
from datamodules.grid import Grid
from datamodules.rendering.augmentation import STRAIN_POWERS, Augmentation
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from datamodules.store.collection import Collection
from datamodules.store.splits import SPLITS, SplitConfig, split_rows, spread
from datamodules.stream.batches import Batches, number_copies
from datamodules.stream.stream import Stream, check_world_size


class XRDDataModule(L.LightningDataModule):
    """Composition, diffraction pattern and labels of materials from one or several stores.

    Batches are dictionaries as in `datamodules.batch`. Lines become patterns on the batch's
    device: with random changes in training, without any in validation, test and prediction.

    Args:
        stores: Folders made by `xxact prepare`; several are concatenated, with their targets merged
            by name and unit.
        targets: Labels to serve, in this order; `volume_per_atom` and `density` always exist.
        global_batch_size: Materials a step over all processes; a multiple of their number.
        grid: 2θ grid of the patterns.
        split: Training, validation, calibration and test, by hash.
        fraction: Share of the training formulas to use; smaller shares are parts of larger ones.
        augmentation: Ranges of the random changes to training patterns; all off by default.
        augment: False switches them off, whatever the ranges; True refuses ranges that are all off.
        views: Ranges of the changes to a second pattern of each material in training, for a
            contrast of the two; all off by default, then there is none. An impurity is the same
            material in both.
        peaks: Peak shape without augmentation.
        num_workers: Processes that gather ahead; 0 gathers in the training process.
        seed: Seed of order, masks and augmentation; None takes the run's, `seed_everything`.
        max_elements: Element slots of a material, E.
        shuffle: Whether training permutes the materials in each epoch.
        repeat: How many times an epoch serves the training materials of a store, by its folder: for
            a few measured patterns among many simulated ones. Each copy is changed at random anew.
    """

    def __init__(
        self,
        stores: list[str],
        targets: list[str] | None = None,
        global_batch_size: int = 128,
        grid: Grid = Grid(),  # noqa: B008 (frozen)
        split: SplitConfig = SplitConfig(),  # noqa: B008
        fraction: float = 1.0,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        augment: bool | None = None,
        views: Augmentation = Augmentation(),  # noqa: B008
        peaks: PeakShape = PeakShape(),  # noqa: B008
        num_workers: int = 0,
        seed: int | None = None,
        max_elements: int = 12,
        shuffle: bool = True,
        repeat: dict[str, int] | None = None,
        max_validation: int | None = 20_000,
    ) -> None:
        super().__init__()
        if max_validation is not None and max_validation < 1:
            raise ValueError(
                f"max_validation is {max_validation}; give at least 1, or null for all. To switch "
                "validation off: --trainer.limit_val_batches 0"
            )
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}; give 0 or more")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; give a share above 0 and at most 1")
        if augment and not augmentation.is_on:
            raise ValueError(
                "data.augment is true, but no range in data.augmentation is: name what to change, "
                "as configs/augmentation/measured.yaml does, or leave data.augment away"
            )
        for folder, times in (repeat or {}).items():
            if times < 1:
                raise ValueError(f"repeat: {folder} is served {times} times; give at least 1")
            if Path(folder) not in [Path(store) for store in stores]:
                rank_zero_warn(f"data.repeat: {folder} is none of data.stores; it has no effect")
        self._repeat = repeat
        check_world_size(global_batch_size, 1)
        self.target_names = list(targets or [])
        self.global_batch_size = global_batch_size
        self.grid = grid
        self.split = split
        self.fraction = fraction
        self.num_workers = num_workers
        self.seed = 0 if seed is None else seed
        self.max_validation = max_validation
        self.max_elements = max_elements
        self.shuffle = shuffle
        self._rows: dict[str, np.ndarray] = {}
        self._training: tuple[L.Trainer | None, Stream] | None = None
        # Opened at once: a wrong path is told before a run's folder is made.
        self.collection = Collection(stores)
        self.collection.check_targets(self.target_names)
        self._where = ", ".join(str(store.folder) for store in self.collection.stores)
        if self.collection.max_elements > max_elements:
            raise ValueError(
                f"{self._where}: materials have up to {self.collection.max_elements} elements, "
                f"data.max_elements is {max_elements}; raise it"
            )
        self.augmentation = Augmentation() if augment is False else augmentation
        for changes in (self.augmentation, views):
            self.collection.check_grid(grid, changes.largest_strain, changes.largest_shift)
        for line in self.collection.differences_of_peaks(peaks.fwhm, peaks.polarization):
            rank_zero_warn(line)
        # A strained cell has another volume and density: their labels go with it.
        powers = [STRAIN_POWERS.get(name, 0) for name in self.target_names]
        self.views = views
        self.renderer = Renderer(grid, peaks, self.augmentation, powers, views)

    @property
    def target_units(self) -> list[str]:
        """Unit of each target, in their order."""
        return [self.collection.units[name] for name in self.target_names]

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split in the concatenated stores, shape (n,), ascending; repeated as told.

        Args:
            split: "train", "validation", "calibration", "test" or "all".
        """
        if not self._rows:
            self._rows = split_rows(self.collection, self.split, self.fraction, self._repeat)
        if split == "all":
            return np.arange(len(self.collection))
        assert split in SPLITS, split
        return self._rows[split]

    def target_statistics(self) -> dict[str, dict[str, float]]:
        """Mean, std, min and count of each target's labels on the training split, in its unit."""
        train = self.rows("train")
        return {
            name: _label_statistics(self.collection.column(name)[train])
            for name in self.target_names
        }

    def check(self, stage: str, world_size: int = 1, validates: bool = True) -> None:
        """Refuses what cannot run; the same on every rank, before any waits for another.

        Args:
            stage: "fit", "validate", "test" or "predict".
            world_size: Number of processes.
            validates: Whether the fit validates.

        Raises:
            ValueError: if the processes cannot share the global batch, or a split is too small.
        """
        check_world_size(self.global_batch_size, world_size)
        n_train = len(self.rows("train"))
        if stage == "fit" and n_train < self.global_batch_size:
            raise ValueError(
                f"{self._where}: the training split has {n_train} materials, fewer than "
                f"data.global_batch_size {self.global_batch_size}; lower it, or use a larger store "
                "or fraction"
            )
        needed = {"fit": "validation", "validate": "validation", "test": "test"}.get(stage)
        if needed and validates and not len(self.rows(needed)):
            off = ", or switch validation off with --trainer.limit_val_batches 0"
            raise ValueError(
                f"{self._where}: the {needed} split is empty ({len(self.collection)} materials); "
                f"use a larger store or raise data.split.{needed}{off if stage == 'fit' else ''}"
            )

    def setup(self, stage: str) -> None:
        """See `check`."""
        trainer = self.trainer
        validates = stage != "fit" or trainer is None or bool(trainer.limit_val_batches)
        self.check(stage, self._world_size, validates)

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def sample(self, split: str) -> np.ndarray:
        """The rows of a split that a validation or calibration uses, in an order by hash.

        Shape (n,), n at most `max_validation`. Any first part of them, as `limit_val_batches`
        takes it, is a sample of all stores.
        """
        rows = self.rows(split)
        formulas = self.collection.column("formula_key")[rows]
        return spread(rows, formulas, self.split.seed, self.max_validation)

    def stream(
        self,
        split: str,
        *,
        train: bool = False,
        rows: np.ndarray | None = None,
        pin_memory: bool = False,
    ) -> Stream:
        """The loader of a split for this process.

        Args:
            split: "train", "validation", "calibration", "test" or "all".
            train: Shuffled, endless and resumable, or each row once in its order.
            rows: Which of the split's rows to serve, in which order; None serves all.
            pin_memory: Page-lock batches for a GPU; a trainer on one has it done anyway.
        """
        rows = self.rows(split) if rows is None else rows
        trainer = self.trainer
        # Which rows get one follows from the first that asks for any.
        asking = [a for a in (self.augmentation, self.views) if train and a.has_impurity]
        impurities = (asking[0], np.unique(rows)) if asking else None
        dataset = Batches(
            self.collection, self.target_names, self.max_elements, self.seed, impurities
        )
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return Stream(
            dataset,
            number_copies(rows) if train else rows,
            self.global_batch_size,
            train=train,
            # Overfitting needs the same batches in every epoch.
            shuffle=self.shuffle and not getattr(trainer, "overfit_batches", 0),
            seed=self.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=self._world_size,
            num_workers=self.num_workers,
            pin_memory=pin_memory or on_gpu,
            limit=self._limit(len(rows) // self.global_batch_size) if train else None,
            identity={
                "stores": self.collection.fingerprints,
                "split": self.split.to_dict(),
                "fraction": self.fraction,
                "rows": hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest(),
            },
        )

    def _limit(self, n_batches: int) -> int | None:
        """Batches of a training epoch under the trainer's `limit_train_batches`."""
        limit = self.trainer.limit_train_batches if self.trainer is not None else None
        return int(n_batches * limit) if isinstance(limit, float) else limit

    def train_dataloader(self) -> Stream:
        """Shuffled, resumable batches of the training split; for one trainer always the same."""
        # Lightning asks again with `reload_dataloaders_every_n_epochs`: the position must stay.
        if self._training is None or self.trainer is None or self._training[0] is not self.trainer:
            self._training = self.trainer, self.stream("train", train=True)
        return self._training[1]

    def val_dataloader(self) -> Stream | list[Any]:
        """Batches of the validation split's `sample`."""
        rows = self.sample("validation")
        return self.stream("validation", rows=rows) if len(rows) else []

    def test_dataloader(self) -> Stream:
        """Batches of the test split."""
        return self.stream("test")

    def predict_dataloader(self) -> Stream:
        """Batches of all rows of the stores, in their order."""
        return self.stream("all")

    def calibration_dataloader(self) -> Stream:
        """Batches of the calibration split's `sample`.

        Raises:
            ValueError: if it is empty.
        """
        if not len(self.rows("calibration")):
            raise ValueError(
                f"{self._where}: the calibration split is empty; use a larger store or "
                "raise data.split.calibration"
            )
        return self.stream("calibration", rows=self.sample("calibration"))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Renders the patterns on the batch's device."""
        training = self.trainer is not None and self.trainer.training
        return self.renderer(batch, augment=training)


def _label_statistics(values: np.ndarray) -> dict[str, float]:
    """Statistics of the labels that are there, in float64: mean, std, min and count."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return {"mean": 0.0, "std": 1.0, "min": 0.0, "count": 0}
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "count": len(values),
    }
