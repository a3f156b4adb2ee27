"""What a run is made of: recipes, overlays and values, as `xxact fit` takes them."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from lightning_modules.training.recipe_files import read_yaml


@dataclass(frozen=True)
class Recipe:
    """Arguments of `xxact fit`.

    Attributes:
        config: Recipe first, overlays after; paths as for `xxact fit`.
        set: Values by key, such as `trainer.max_steps: 600`; they win over the files.
    """

    config: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: "Recipe") -> "Recipe":
        """This recipe with another one's overlays and values after its own."""
        return Recipe([*self.config, *other.config], {**self.set, **other.set})

    def arguments(self) -> list[str]:
        """The command line, without the run's folder."""
        return [
            *(f"--config={path}" for path in self.config),
            *(f"--{key}={value_text(value)}" for key, value in self.set.items()),
        ]

    def identity(self) -> dict[str, Any]:
        """What the run depends on: its arguments, and what its files say.

        Raises:
            ValueError: if a file cannot be read.
        """
        return {"arguments": self.arguments(), "files": digest([read_yaml(p) for p in self.config])}


def value_text(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def digest(content: Any) -> str:
    """A short hash of plain values."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
