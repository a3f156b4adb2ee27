"""What a potential must tell about a crystal, and CHGNet, which tells it.

The potential is an extra (`pip install -e '.[potential]'`): nothing else of the project imports it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import Crystal
from datamodules.prepare.crystals.substitution import to_structure
from datamodules.prepare.sources.source import SourceError

BATCH = 16
"""Crystals whose energies are computed at once; more is no faster on a CPU."""
GPA = 160.21766208
"""1 eV/Å³ in GPa."""
_HEAVIEST = 94
"""Atomic number up to which CHGNet was trained."""


@dataclass(frozen=True)
class Derivatives:
    """Energy of a crystal and its derivatives.

    Attributes:
        energy: eV/atom.
        forces: On the atoms, shape (n, 3), eV/Å.
        stress: Shape (3, 3), eV/Å³; positive where the cell wants to shrink.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


class Potential(Protocol):
    """A universal potential: small and picklable; it loads its weights where it is first used.

    Equal calls must give equal numbers, in every process and with any number of threads.

    Attributes:
        name: In small letters; ends the names of the labels.
        licence: Of its weights.
        citation: Of its paper.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def licence(self) -> str: ...  # noqa: D102

    @property
    def citation(self) -> str: ...  # noqa: D102

    def check(self) -> str:
        """The version of the potential.

        Raises:
            SourceError: if it is not installed.
        """

    def energies(self, crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Energies in eV/atom, shape (n,); NaN where the potential has none."""

    def derivatives(self, crystal: Crystal) -> Derivatives:
        """Energy, forces and stress of one crystal; NaN where the potential has none."""


@dataclass(frozen=True)
class Chgnet:
    """CHGNet with the weights that its package carries.

    Its energies are those of the Materials Project's mixing scheme (GGA and GGA+U, corrected).
    Source: B. Deng et al., Nat. Mach. Intell. 5, 1031–1041 (2023).
    """

    name: ClassVar[str] = "chgnet"
    licence: ClassVar[str] = "CHGNet: modified BSD"
    citation: ClassVar[str] = (
        "B. Deng et al., CHGNet as a pretrained universal neural network potential for "
        "charge-informed atomistic modelling, Nat. Mach. Intell. 5, 1031–1041 (2023), "
        "doi:10.1038/s42256-023-00716-3"
    )

    def check(self) -> str:
        """The version of the package.

        Raises:
            SourceError: if it is not installed.
        """
        try:
            return f"chgnet {version('chgnet')}"
        except PackageNotFoundError:
            raise SourceError(
                "hypothetical: CHGNet is not installed; install the extra: "
                "pip install -e '.[potential]'"
            ) from None

    def energies(self, crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Energies in eV/atom, shape (n,); NaN where the potential has none."""
        energies = np.full(len(crystals), np.nan)
        import torch

        with _one_thread(), torch.no_grad():
            graphs = [_graph(crystal) for crystal in crystals]
            known = [i for i, graph in enumerate(graphs) if graph is not None]
            for start in range(0, len(known), BATCH):
                some = known[start : start + BATCH]
                predicted = _model().forward([graphs[i] for i in some], task="e")
                energies[some] = [float(energy) for energy in predicted["e"]]
        return energies

    def derivatives(self, crystal: Crystal) -> Derivatives:
        """Energy, forces and stress of one crystal; NaN where the potential has none."""
        with _one_thread():
            graph = _graph(crystal)
            if graph is None:
                n = len(crystal.numbers)
                return Derivatives(np.nan, np.full((n, 3), np.nan), np.full((3, 3), np.nan))
            predicted = _model().predict_graph(graph, task="efs")
        return Derivatives(
            float(predicted["e"]),
            np.asarray(predicted["f"], np.float64),
            np.asarray(predicted["s"], np.float64) / GPA,
        )


@cache
def _model() -> Any:
    # It says on the standard output that it was made, also when asked not to.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from chgnet.model import CHGNet

        return CHGNet.load(use_device="cpu", verbose=False).eval()


def _graph(crystal: Crystal) -> Any:
    """CHGNet's graph, or None for elements it does not know and atoms without neighbours in 6 Å."""
    if crystal.numbers.max() > _HEAVIEST:
        return None
    try:
        return _model().graph_converter(to_structure(crystal))
    except (ValueError, RuntimeError):  # an atom without neighbours; a graph that cannot be built
        return None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Lets torch use one thread: sums of several differ in the last bit with their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
