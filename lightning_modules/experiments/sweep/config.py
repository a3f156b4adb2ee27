"""What a sweep is: a recipe, a space, a metric."""

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lightning_modules.experiments.recipes import Recipe, digest, value_text

if TYPE_CHECKING:
    import optuna

#: Key of the space that adds a file instead of a value.
CONFIG = "config"

Number = int | float


@dataclass(frozen=True)
class Dimension:
    """The values of one key: a range, or choices.

    Attributes:
        low: Lowest value of a range; a range of whole numbers stays whole.
        high: Highest value.
        log: Whether the range is logarithmic.
        step: Distance of neighbouring values.
        choices: Values to choose from, of any kind.
    """

    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: list[Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what is neither a range nor choices."""
        if self.choices is not None:
            if self.low is not None or self.high is not None or not self.choices:
                raise ValueError("space: give either choices (not none) or low and high")
            return
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(
                f"space: low is {self.low}, high is {self.high}: give both, low below high, or "
                "choices"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("space: a logarithmic range must be above 0 and has no step")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"space: step is {self.step}: must be positive")

    @property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers."""
        return all(isinstance(x, int) for x in (self.low, self.high, self.step or 1))

    def grid(self, key: str) -> list[Any]:
        """All values.

        Raises:
            ValueError: if there are infinitely many.
        """
        if self.choices is not None:
            return [_scalar(value) for value in self.choices]
        assert self.low is not None
        assert self.high is not None
        step = self.step or (1 if self.is_whole and not self.log else None)
        if step is None:
            raise ValueError(f"space: {key}: a grid needs choices or a step")
        n = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + i * step for i in range(n)]

    def suggest(self, trial: "optuna.Trial", key: str) -> Any:
        """A value for a trial."""
        if self.choices is not None:
            return trial.suggest_categorical(key, [_scalar(value) for value in self.choices])
        assert self.low is not None
        assert self.high is not None
        if self.is_whole:
            step = int(self.step or 1)
            return trial.suggest_int(key, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)


def _scalar(value: Any) -> Any:
    """Optuna chooses among plain values; lists and the like travel as text."""
    return value if value is None or isinstance(value, bool | int | float) else value_text(value)


@dataclass(frozen=True)
class Pruning:
    """When to end a trial early.

    Attributes:
        kind: `median` ends trials that are worse than half of the others at the same step,
            `hyperband` shares out steps in brackets, `none` lets all run to their end.
        warmup_steps: Training steps before any trial is ended.
        startup_trials: Trials that run to their end before any is ended (`median`).
    """

    kind: Literal["median", "hyperband", "none"] = "median"
    warmup_steps: int = 0
    startup_trials: int = 4


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        folder: Where the trials' runs and the results lie.
        recipe: What every trial begins with.
        space: Values to try, by any key of `xxact fit`; the key `config` chooses overlays.
        metric: Metric in `metrics.jsonl` to judge by.
        direction: Which way is better.
        judge_by: Its best value of a run, or the last one.
        trials: How many to make, over all workers.
        sampler: `tpe` learns from finished trials, `grid` tries all combinations, `random` draws.
        seed: Of the sampler.
        pruning: When to end a trial early.
        storage: Optuna storage; by default SQLite in the folder. Workers on several machines share
            one, such as `postgresql://user@host/database`.
        heartbeat: Seconds between a worker's signs of life; after two without one its trial is
            started again by another worker.
    """

    folder: str
    recipe: Recipe
    space: dict[str, Dimension]
    metric: str
    direction: Literal["minimize", "maximize"] = "minimize"
    judge_by: Literal["best", "last"] = "best"
    trials: int = 20
    sampler: Literal["tpe", "grid", "random"] = "tpe"
    seed: int = 0
    pruning: Pruning = field(default_factory=Pruning)
    storage: str | None = None
    heartbeat: int = 10

    def __post_init__(self) -> None:
        """Refuse sweeps that cannot be made."""
        if not self.space:
            raise ValueError("space is empty: name at least one key")
        if self.trials < 1:
            raise ValueError(f"trials is {self.trials}: must be at least 1")
        if self.heartbeat < 1:
            raise ValueError(f"heartbeat is {self.heartbeat}: must be at least 1 second")
        if self.sampler == "grid":
            self.grid()

    def grid(self) -> dict[str, list[Any]]:
        """All values of each key."""
        return {key: dimension.grid(key) for key, dimension in self.space.items()}

    @property
    def n_trials(self) -> int:
        """Trials to make: a grid has only so many."""
        if self.sampler != "grid":
            return self.trials
        return min(self.trials, math.prod(len(values) for values in self.grid().values()))

    def url(self) -> str:
        """The storage's address."""
        return self.storage or f"sqlite:///{self.folder}/trials.db"

    def suggest(self, trial: "optuna.Trial") -> Recipe:
        """The recipe of a trial."""
        values = {key: dimension.suggest(trial, key) for key, dimension in self.space.items()}
        overlay = values.pop(CONFIG, None)
        return self.recipe + Recipe([] if overlay is None else [str(overlay)], values)

    def identity(self) -> str:
        """Hash of what all trials of a sweep must have in common."""
        space = {key: asdict(dimension) for key, dimension in self.space.items()}
        return digest([self.recipe.identity(), space, self.metric, self.direction, self.judge_by])
