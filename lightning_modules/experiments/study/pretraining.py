"""Pretraining runs, which all studies in one folder share."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.study.run import Training

SCRATCH = "scratch"


@dataclass(frozen=True)
class Pretraining:
    """Ways to pretrain.

    Attributes:
        recipes: Recipe by name.
        after: Recipes that do not start from scratch: name, and name of the recipe before it.
        seeds: Seeds to pretrain with; a run of seed s starts from `seeds[s % len(seeds)]`.
    """

    recipes: dict[str, Recipe] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])

    def check(self, starts: Iterable[str]) -> None:
        """Refuse starts that nothing is known of.

        Raises:
            ValueError: naming those that there are.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"pretraining.seeds is {self.seeds}: name at least one, each once")
        for name in {name for pair in self.after.items() for name in pair} - self.recipes.keys():
            raise ValueError(f"pretraining.after: no recipe {name!r} in pretraining.recipes")
        for name in self.after:
            self._chain(name)
        for start in starts:
            if start != SCRATCH and start not in self.recipes:
                raise ValueError(
                    f"start {start!r}: there are {SCRATCH} and, in pretraining.recipes, "
                    f"{', '.join(self.recipes) or 'none'}"
                )

    def _chain(self, start: str) -> list[str]:
        """A start and all that come before it, the first one first."""
        chain = [start]
        while chain[0] in self.after:
            if self.after[chain[0]] in chain:
                raise ValueError(f"pretraining.after: {chain[0]!r} comes before itself")
            chain.insert(0, self.after[chain[0]])
        return chain

    def run(self, start: str, seed: int = 0) -> Training:
        """The pretraining run that a run with this seed starts from."""
        own = self.seeds[seed % len(self.seeds)]
        return Training(
            name=f"pretraining/{start}/seed={own}",
            factors={"start": start, "seed": own},
            needs=self.needed(self.after[start], seed) if start in self.after else (),
            recipe=self.recipes[start] + seeded(own),
        )

    def needed(self, start: str, seed: int) -> tuple[str, ...]:
        """Names of the runs that a run needs."""
        return () if start == SCRATCH else (self.run(start, seed).name,)

    def chain(self, start: str, seed: int) -> list[Training]:
        """All pretraining that a run with this start has behind it, the first one first."""
        return [] if start == SCRATCH else [self.run(name, seed) for name in self._chain(start)]

    def runs(self, starts: Iterable[str], seeds: Iterable[int]) -> list[Training]:
        """Every pretraining run that starts and seeds need, each once."""
        seeds = list(seeds)
        found = [run for start in starts for seed in seeds for run in self.chain(start, seed)]
        return list({run.name: run for run in found}.values())


def seeded(seed: int) -> Recipe:
    """Seeds of weights, order, masks and augmentation; the split stays."""
    return Recipe(set={"seed_everything": seed, "data.seed": seed})
