"""A library of known materials: stores, with the vectors that an aligned model gives their rows.

From Python:

    model = AlignedModel("models/aligned")
    library = Library("data/mp", model)
    for known in library.nearest(model.patterns(xrd, measured), top=5)[0]:
        print(known.id, known.formula, known.similarity, known.labels)

Shapes: N rows of the library, W width of the vectors, Q queries, B rows of a batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.rendering.renderer import Renderer
from datamodules.store.collection import Collection
from datamodules.store.gathering import Gatherer
from datamodules.store.store import MANIFEST
from lightning_modules.checkpoints.exported import checksum
from lightning_modules.inference.evidence import AlignedModel
from lightning_modules.inference.neighbours.filters import ElementFilter, element_bits
from lightning_modules.inference.neighbours.index import (
    SUFFIX,
    IndexMismatchError,
    VectorIndex,
    build_index,
)

#: Columns of a structure that are told of a known material beside its labels.
_OF_STRUCTURE = ("space_group", "volume_per_atom", "density")
_BATCH = 256
#: Rows of a library without a word about progress.
_SILENT = 2000


@dataclass(frozen=True)
class Known:
    """A material of the library.

    Attributes:
        row: Its row in the concatenated stores.
        id: Identifier in its source.
        formula: Reduced formula.
        similarity: Product of its vector with the query's, -1 to 1; None where there was no query.
        labels: Values by name, in the units of `Library.units`; None where a label is missing.
    """

    row: int
    id: str
    formula: str
    similarity: float | None = None
    labels: dict[str, float | None] = field(default_factory=dict)


class Library:
    """Stores of known materials, searched by vectors.

    A row's vector is the sum of those of its simulated pattern and of its composition, scaled to
    one: patterns and compositions both find it.

    Args:
        stores: Folders of stores with diffraction lines.
        model: Gives the vectors; None for a library that is not searched by them.
        index: File that keeps the vectors; made where it does not exist. None: a file beside the
            first store, named after the model, or in the user's cache where that folder cannot be
            written; it is made when it is first needed, and again where it does not fit.
        quiet: Whether to say nothing on standard error.

    Raises:
        ValueError: if a store is missing, damaged, has no lines or too few of them for the model's
            grid, or `index` belongs to another library or model.
    """

    def __init__(
        self,
        stores: str | Path | Sequence[str | Path],
        model: AlignedModel | None = None,
        index: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        folders = [stores] if isinstance(stores, str | Path) else list(stores)
        for folder in map(Path, folders):
            if folder.is_dir() and not (folder / MANIFEST).exists() and any(folder.rglob("*.cif")):
                raise ValueError(
                    f"{folder}: a folder of CIFs, no store; run `xxact prepare cif {folder} "
                    f"--output data/{folder.resolve().name}` and give that as the library"
                )
        self.collection = Collection(folders)
        for store in self.collection.stores:
            if store.manifest.layout != "peaks":
                raise ValueError(
                    f"{store.folder}: holds measured patterns, no diffraction lines; a library is "
                    "made of structures (`xxact prepare cif`, `csv`, …)"
                )
        self.model, self.quiet = model, quiet
        manifests = [store.manifest for store in self.collection.stores]
        targets = [target.name for manifest in manifests for target in manifest.targets]
        self.label_names = list(dict.fromkeys([*targets, *_OF_STRUCTURE]))
        self.units = {name: self.collection.units[name] for name in self.label_names}
        self.gatherer = Gatherer(
            self.collection.stores, self.label_names, self.collection.max_elements
        )
        self._index: VectorIndex | None = None
        if model is not None:
            self.collection.check_grid(model.grid)
            if index is not None:
                self._index = self._open(model, Path(index))

    def __len__(self) -> int:
        """N."""
        return len(self.collection)

    @cached_property
    def element_bits(self) -> np.ndarray:
        """The elements of each row as bits, (N, 2) uint64."""
        return np.concatenate([element_bits(store) for store in self.collection.stores])

    def rows(self, chosen: ElementFilter) -> np.ndarray | None:
        """Rows that satisfy a filter, ascending, int64; None for all of them."""
        if not chosen.is_on:
            return None
        return np.flatnonzero(chosen.accepts(self.element_bits))

    def nearest(
        self, vectors: Tensor, top: int = 10, chosen: ElementFilter | None = None
    ) -> list[list[Known]]:
        """The known materials that are most similar.

        Args:
            vectors: Of `AlignedModel.patterns` or `.compositions` (or the scaled sum of the two),
                shape (Q, W).
            top: Materials a query; fewer where there are fewer.
            chosen: Elements that they may have.

        Returns:
            For each query the materials, the most similar first.

        Raises:
            ValueError: if the library was made without a model.
        """
        similarity, rows = self.search(vectors, top, None if chosen is None else self.rows(chosen))
        flat = self.known(rows.flatten().tolist(), similarity.flatten().tolist())
        width = rows.shape[1]
        return [flat[start * width : (start + 1) * width] for start in range(len(rows))]

    def search(
        self, vectors: Tensor, top: int, rows: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Similarities and row numbers of the most similar rows: see `VectorIndex.search`.

        Raises:
            ValueError: if the library was made without a model.
        """
        if self.model is None:
            raise ValueError("the library was made without an aligned model; give it one")
        if self._index is None:
            self._index = self._open(self.model, None)
        return self._index.search(vectors, top, rows)

    def known(self, rows: Sequence[int], similarity: Sequence[float] | None = None) -> list[Known]:
        """What the library knows of some rows.

        Args:
            rows: Row numbers.
            similarity: Of each row with a query.
        """
        if not rows:
            return []
        labels = self.gatherer.gather(np.array(rows))[keys.TARGETS].tolist()
        found = []
        for i, row in enumerate(rows):
            identifier, formula = self._named(row)
            known = {
                name: None if value != value else value
                for name, value in zip(self.label_names, labels[i], strict=True)
            }
            found.append(
                Known(row, identifier, formula, similarity[i] if similarity else None, known)
            )
        return found

    def formula(self, row: int) -> str:
        """Reduced formula of a row."""
        return self._named(row)[1]

    def _named(self, row: int) -> tuple[str, str]:
        """Identifier and formula of a row."""
        for store in self.collection.stores:
            if row < len(store):
                shard = int(np.searchsorted(store.starts, row, side="right")) - 1
                batch, local = store.shard(shard), row - int(store.starts[shard])
                return batch.column("id")[local].as_py(), batch.column("formula")[local].as_py()
            row -= len(store)
        raise IndexError(row)

    def lines(self, rows: np.ndarray) -> Batch:
        """The batch of some rows, to be rendered, on the CPU."""
        arrays = self.gatherer.gather(rows) | {keys.INDEX: np.asarray(rows, np.int64)}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _open(self, model: AlignedModel, path: Path | None) -> VectorIndex:
        """The file of the vectors, made where there is none."""
        weights = {
            f"{part}.{name}": value
            for part, module in (("backbone", model.backbone), ("alignment", model.alignment))
            for name, value in module.state_dict().items()
            if isinstance(value, Tensor)
        }
        made_from = {
            "model": checksum({name: value.cpu() for name, value in weights.items()}),
            "library": " ".join(self.collection.fingerprints),
            "rendering": json.dumps([model.grid.to_dict(), asdict(model.peaks)]),
        }
        width = len(self._vectors(model, np.zeros(1, np.int64))[0])
        chosen = path or self._default_path(made_from["model"])
        if chosen.exists():
            try:
                return VectorIndex(chosen, made_from, len(self), width)
            except ValueError as error:
                if path is not None:
                    if isinstance(error, IndexMismatchError):
                        raise IndexMismatchError(
                            f"{error}; delete it, or name another file with --index"
                        ) from None
                    raise
                self._say(f"{error}: made again")
        self._say(f"{chosen}: vectors of {len(self)} materials are being made, once")
        build_index(chosen, made_from, len(self), width, lambda done: self._all(model, done))
        return VectorIndex(chosen, made_from, len(self), width)

    def _default_path(self, model: str) -> Path:
        """Beside the first store, or in the user's cache where nothing can be written there."""
        folder = self.collection.stores[0].folder.resolve()
        stores = "".join(self.collection.fingerprints).encode()
        digest = hashlib.blake2b(stores, digest_size=4).hexdigest()
        name = f"{folder.name}.vectors-{model[:8]}-{digest}{SUFFIX}"
        beside = folder.parent / name
        if beside.exists() or os.access(folder.parent, os.W_OK):
            return beside
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(home) / "xxact" / name

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(f"xxact: {text}", file=sys.stderr)

    def _all(self, model: AlignedModel, done: int) -> Iterator[np.ndarray]:
        """Vectors from a row on, with a bar."""
        silent = self.quiet or len(self) - done < _SILENT
        interval = 0.2 if sys.stderr.isatty() else 10.0
        with tqdm(
            total=len(self), initial=done, unit=" rows", mininterval=interval, disable=silent
        ) as bar:
            for start in range(done, len(self), _BATCH):
                rows = np.arange(start, min(start + _BATCH, len(self)))
                yield self._vectors(model, rows)
                bar.update(len(rows))

    def _vectors(self, model: AlignedModel, rows: np.ndarray) -> np.ndarray:
        """Unit vectors of some rows, (B, W) float16."""
        lines = {name: value.to(model.device) for name, value in self.lines(rows).items()}
        rendered = Renderer(model.grid, model.peaks)(lines, augment=False)
        patterns = model.patterns(rendered[keys.XRD], rendered[keys.MEASURED])
        compositions = model.compositions(rendered[keys.ELEMENTS], rendered[keys.FRACTIONS])
        summed = F.normalize(patterns + compositions, dim=1)
        array: np.ndarray = summed.cpu().numpy().astype(np.float16)
        return array
