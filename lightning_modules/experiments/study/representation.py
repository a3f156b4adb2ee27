"""What do frozen vectors know, before and after each pretraining? `probe.py` has the judging."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.store.splits import SplitConfig
from lightning_modules.experiments.processes import module
from lightning_modules.experiments.study.pretraining import SCRATCH, Pretraining
from lightning_modules.experiments.study.run import Run, check_split, read_json
from lightning_modules.training.run_folder import CHECKPOINTS

KIND = "representation"
#: Starts that are no pretraining: random weights, and the inputs themselves.
UNTRAINED, INPUTS = "untrained", "inputs"
PROBES = "probes.json"


@dataclass(frozen=True)
class Probe(Run):
    """Vectors of one backbone and what probes find in them.

    Attributes:
        stores: Stores to judge on.
        targets: Labels to find.
        map_materials: Materials on the map.
        allow_task: Other tasks that the checkpoint may name.
    """

    stores: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    map_materials: int = 1000
    allow_task: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What is judged on what; what may be imported for it changes nothing."""
        return {
            "stores": list(self.stores),
            "targets": list(self.targets),
            "map_materials": self.map_materials,
        }

    def commands(self, root: Path) -> Iterator[tuple[str, list[str]]]:
        """`python -m lightning_modules.experiments.probing.probe`."""
        start = str(self.factors["start"])
        yield (
            "probe",
            module(
                "lightning_modules.experiments.probing.probe",
                f"--checkpoint={root / self.needs[0] / CHECKPOINTS / 'last.ckpt'}",
                f"--weights={start if start in (UNTRAINED, INPUTS) else 'checkpoint'}",
                f"--seed={self.factors['seed']}",
                f"--map_materials={self.map_materials}",
                *(f"--store={store}" for store in self.stores),
                *(f"--target={target}" for target in self.targets),
                *(f"--allow-task={task}" for task in self.allow_task),
                f"--output={root / self.name / PROBES}",
            ),
        )

    def collect(self, root: Path) -> dict[str, Any]:
        """What the probes found."""
        # Vectors are judged on the split that a data module has by default.
        check_split(SplitConfig(), root, self.needs)
        found: dict[str, Any] = read_json(root / self.name / PROBES)
        return found


@dataclass(frozen=True)
class Representation:
    """A representation study.

    Attributes:
        folder: Where all runs lie; studies with equal pretraining share one.
        pretraining: Ways to pretrain.
        stores: Stores to judge on; with space groups, the crystal system is judged too.
        targets: Labels to find in the vectors.
        starts: Names of pretraining recipes.
        map_materials: Materials on the map of the vectors.
        allow_task: Tasks of your own that the recipes name; importing one runs its code. As a flag
            repeatable, as of other commands.
    """

    folder: str
    pretraining: Pretraining
    stores: list[str]
    targets: list[str]
    starts: list[str]
    map_materials: int = 1000
    allow_task: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse studies that show nothing."""
        self.pretraining.check(self.starts)
        if not self.starts or SCRATCH in self.starts:
            raise ValueError(
                f"starts is {self.starts}: must name pretraining recipes; untrained vectors and "
                "the inputs themselves are always judged beside them"
            )

    def probe(self, start: str, seed: int) -> Probe:
        """Judging one backbone."""
        # Untrained vectors need a checkpoint too: it says what the backbone looks like.
        pretrained = self.starts[0] if start in (UNTRAINED, INPUTS) else start
        return Probe(
            name=f"{KIND}/{start}/seed={seed}",
            factors={"start": start, "seed": seed},
            needs=self.pretraining.needed(pretrained, self.pretraining.seeds.index(seed)),
            stores=tuple(self.stores),
            targets=tuple(self.targets),
            map_materials=self.map_materials,
            allow_task=tuple(self.allow_task),
        )

    def plan(self, results: dict[str, Any], failed: set[str]) -> Sequence[Run]:
        """All runs."""
        seeds = self.pretraining.seeds
        runs: list[Run] = [*self.pretraining.runs(self.starts, range(len(seeds)))]
        runs.append(self.probe(INPUTS, seeds[0]))
        runs += [self.probe(x, seed) for x in (UNTRAINED, *self.starts) for seed in seeds]
        return runs
