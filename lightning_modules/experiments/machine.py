"""How many runs at a time, and on which devices."""

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Machine:
    """How to work through runs.

    Attributes:
        jobs: Runs at a time. With several, each has one thread, unless OMP_NUM_THREADS is set.
        gpus: GPUs to share out, such as [0,1]: a run sees one, several runs may share one.
    """

    jobs: int = 1
    gpus: list[int | str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse to do nothing."""
        if self.jobs < 1:
            raise ValueError(f"jobs is {self.jobs}: must be at least 1")

    def environment(self, slot: int) -> dict[str, str]:
        """Variables of the run in a slot, 0 to jobs - 1."""
        # Threads of several runs would only wait for each other.
        own = {} if "OMP_NUM_THREADS" in os.environ or self.jobs == 1 else {"OMP_NUM_THREADS": "1"}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = str(self.gpus[slot % len(self.gpus)])
        return own
