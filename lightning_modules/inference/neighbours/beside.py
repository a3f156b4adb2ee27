"""The known materials that lie nearest to what is predicted, with their labels beside the answer.

Shapes: K compositions that a row may have, E element slots, W width of the vectors, L grid points.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.inference.neighbours.library import Library


class Nearest:
    """Finds known materials by what is known of a row: pattern, composition or both.

    Args:
        library: The known materials, with the model by whose vectors they are compared.
        units: Units of the predicted targets: of the library's labels those are told.
        top: Materials a row.

    Raises:
        ValueError: if the library has no model, or gives a target in another unit.
    """

    def __init__(
        self,
        library: Library,
        units: Mapping[str, str],
        top: int = 3,
    ) -> None:
        if library.model is None:
            raise ValueError("the library was made without an aligned model; give it one")
        self.library, self._model, self._top = library, library.model, top
        theirs = library.units
        self._labels = [name for name in units if name in theirs]
        for name in self._labels:
            if theirs[name] != units[name]:
                stores = ", ".join(str(store.folder) for store in library.collection.stores)
                raise ValueError(
                    f"{stores}: gives {name} in {theirs[name]}, the model "
                    f"predicts it in {units[name]}; prepare the library with the model's unit"
                )

    @torch.no_grad()
    def find(
        self,
        compositions: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
        pattern: tuple[Tensor, Tensor] | None,
    ) -> list[dict[str, Any]]:
        """The nearest materials, the most similar first.

        Args:
            compositions: Atomic numbers (K, E), 0 after those that are there, fractions (K, E), and
                weights (K,) of what the composition may be; None where nothing is known of it.
            pattern: The rendered pattern and what of it was measured, (1, L) each; or None.

        Returns:
            For each material its `id`, `formula`, `similarity` (1: the same, as far as the model
            can tell) and its labels by name, None where one is missing.
        """
        vector = torch.zeros(1, 1, device=self._model.device)
        if compositions is not None:
            elements, fractions, weights = map(torch.from_numpy, compositions)
            vectors = self._model.compositions(elements, fractions)
            mean = (weights.to(vectors)[:, None] * vectors).sum(dim=0, keepdim=True)
            vector = vector + F.normalize(mean, dim=1)
        if pattern is not None:
            vector = vector + self._model.patterns(*pattern)
        found = self.library.nearest(F.normalize(vector, dim=1), self._top)[0]
        return [
            {
                "id": known.id,
                "formula": known.formula,
                "similarity": None if known.similarity is None else round(known.similarity, 4),
                **{name: known.labels[name] for name in self._labels},
            }
            for known in found
        ]
