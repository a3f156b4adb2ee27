"""The networks that `peers.py` compares, and variants of ours that tell which part of it matters.

Shapes: N materials, E element slots, L grid points, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from plain_transformer import PlainTransformer
from torch import Tensor, nn

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid
from lightning_modules import Regression
from lightning_modules.backbone import Backbone, BackboneConfig, all_measured

try:  # here, since importing it sets the seed of torch and NumPy
    from crabnet.kingcrab import SubCrab  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    SubCrab = None

GRID = Grid(5.0, 90.0, 0.08)
PATCH, WIDTH = 21, 96


class Inputs(NamedTuple):
    """Elements and fractions (N, E) and patterns (N, L)."""

    elements: Tensor
    fractions: Tensor
    xrd: Tensor

    def at(self, rows: Tensor) -> Inputs:
        """Some rows."""
        return Inputs(*(part[rows] for part in self))


class Network(nn.Module):
    """Inputs to standardised values, (N,), trained by the absolute error."""

    def loss(self, x: Inputs, labels: Tensor, step: int) -> Tensor:
        """The loss of a batch with standardised labels (N,)."""
        error: Tensor = (self(x) - labels).abs().mean()
        return error


class SetTransformer(Network):
    """The composition alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PlainTransformer()

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        value: Tensor = self.encoder(x.elements, x.fractions)
        return value


class CrabNet(Network):
    """CrabNet's network as its package has it, trained by the package's loss.

    Wang et al., npj Comput. Mater. 7, 77 (2021). Beside the value it says how far off it may be,
    and learns both by the likelihood of a Laplace distribution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = SubCrab(compute_device="cpu")

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        value: Tensor = self.net(x.elements, x.fractions)[:, 0]
        return value

    def loss(self, x: Inputs, labels: Tensor, step: int) -> Tensor:
        """Negative logarithm of the Laplace density, up to a constant."""
        value, log_spread = self.net(x.elements, x.fractions).unbind(dim=1)
        loss: Tensor = (2**0.5 * (value - labels).abs() * (-log_spread).exp() + log_spread).mean()
        return loss


class Convolutions(nn.Module):
    """Strided convolutions with a global mean: (N, L) to (N, 192)."""

    out = 192

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width, kernel in ((32, 15), (64, 9), (96, 7), (128, 5), (self.out, 5)):
            layers += [nn.Conv1d(before, width, kernel, 2, kernel // 2)]
            layers += [nn.BatchNorm1d(width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers)

    def forward(self, xrd: Tensor) -> Tensor:
        """Vectors, (N, D)."""
        vector: Tensor = self.layers(xrd[:, None]).mean(dim=-1)
        return vector


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(before, width, 5, stride, 2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, 1, 2, bias=False),
            nn.BatchNorm1d(width),
        )
        self.beside = nn.Conv1d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, L) to (N, C', L')."""
        return torch.relu(self.body(x) + self.beside(x))


class OfPattern(Network):
    """A value of the pattern alone: an encoder (N, L) to (N, D), and a head."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        value: Tensor = self.head(self.encoder(x.xrd))[:, 0]
        return value


class ResNet(nn.Sequential):
    """A residual network of eight convolutions in four stages: (N, L) to (N, 192)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, -1)),
            nn.Conv1d(1, 32, 15, 4, 7),
            Residual(32, 32, 1),
            Residual(32, 64, 2),
            Residual(64, 128, 2),
            Residual(128, 192, 2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )


class Patches(nn.Module):
    """A transformer over patches of the pattern: (N, L) to (N, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.n = GRID.n_points // PATCH
        self.token = nn.Linear(PATCH, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(self.n, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 4, nn.LayerNorm(WIDTH), False)

    def forward(self, xrd: Tensor) -> Tensor:
        """Vectors, (N, D)."""
        patches = xrd[:, : self.n * PATCH].unflatten(1, (self.n, PATCH))
        vector: Tensor = self.encoder(self.token(patches) + self.place).mean(dim=1)
        return vector


class Concatenated(Network):
    """Both encoders' vectors side by side, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.composition, self.pattern = PlainTransformer(), Convolutions()
        width = self.composition.summary.shape[0]
        self.composition.head = nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(width + Convolutions.out, 128), nn.GELU(), nn.Linear(128, 1)
        )

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        vectors = (self.composition.vector(x.elements, x.fractions), self.pattern(x.xrd))
        value: Tensor = self.head(torch.cat(vectors, dim=1))[:, 0]
        return value


def tiny(patch: int = PATCH) -> tuple[BackboneConfig, Grid]:
    """The tiny backbone of configs/model/tiny.yaml, and as much of the grid as patches fill."""
    config = BackboneConfig(
        width=WIDTH, heads=4, composition_layers=2, xrd_layers=3, fusion_layers=1,
        patch_points=patch,
    )  # fmt: skip
    return config, Grid(5.0, 5.0 + GRID.step * patch * (GRID.n_points // patch), GRID.step)


def measured_part(x: Inputs, grid: Grid) -> tuple[Tensor, Tensor]:
    """The patterns on a shorter grid, and that all of it was measured; (N, L) each."""
    xrd = x.xrd[:, : grid.n_points]
    return xrd, torch.ones_like(xrd, dtype=torch.bool)


class Ours(Network):
    """The task Regression as configs/regression.yaml trains it: its head and its loss.

    Args:
        patch: Points a patch.
        alone: Whether it also learns to answer from one modality alone, as the recipe does.
        frozen: Whether the encoder of the pattern stays as it is.
    """

    def __init__(self, patch: int = PATCH, alone: bool = True, frozen: bool = False) -> None:
        super().__init__()
        off: dict[str, Any] = {} if alone else {"modality_dropout": 0.0, "composition_weight": 0.0}
        if frozen:
            off["freeze"] = ["backbone.xrd"]
        config, grid = tiny(patch)
        self.task = Regression(["value"], config, grid, **off)
        self.task.log = lambda *_, **__: None  # type: ignore[method-assign]

    def batch_of(self, x: Inputs, step: int = 0) -> Batch:
        """A batch as the task takes it, without labels."""
        xrd, measured = measured_part(x, self.task.grid)
        return {
            keys.ELEMENTS: x.elements, keys.FRACTIONS: x.fractions,
            keys.XRD: xrd, keys.MEASURED: measured, keys.INDEX: torch.arange(len(xrd)),
            keys.SEED: torch.tensor(torch.initial_seed()), keys.EPOCH: torch.tensor(step),
        }  # fmt: skip

    def loss(self, x: Inputs, labels: Tensor, step: int) -> Tensor:
        """The task's loss."""
        batch = self.batch_of(x, step) | {keys.TARGETS: labels[:, None]}
        return self.task.training_step(batch, step)

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values from both modalities, (N,)."""
        value: Tensor = self.task(self.batch_of(x))[0]
        return value[:, 0]


class Bare(Network):
    """The same backbone, a linear head on its fused vector, and the absolute error alone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(*tiny()), nn.Linear(WIDTH, 1)

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        seen = measured_part(x, self.backbone.grid)
        value: Tensor = self.head(self.backbone(x.elements, x.fractions, *seen).fused)[:, 0]
        return value


class SideBySide(Network):
    """Our two encoders' summaries side by side, and a perceptron: nothing is fused."""

    def __init__(self) -> None:
        super().__init__()
        config, self.grid = tiny()
        whole = Backbone(config, self.grid)
        self.composition, self.xrd = whole.composition, whole.xrd
        self.head = nn.Sequential(nn.Linear(2 * WIDTH, 128), nn.GELU(), nn.Linear(128, 1))

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        xrd, measured = measured_part(x, self.grid)
        everyone = torch.ones(len(xrd), dtype=torch.bool)
        tokens, _ = self.composition(x.elements, x.fractions, everyone)
        patterns = self.xrd(xrd, all_measured(measured, PATCH), everyone)
        value: Tensor = self.head(torch.cat((tokens[:, 0], patterns[:, 0]), dim=1))[:, 0]
        return value


NETWORKS: dict[str, tuple[Callable[[], Network], float]] = {
    "set": (SetTransformer, 1e-3),
    **({"crabnet": (CrabNet, 1e-3)} if SubCrab else {}),
    "convolutions": (lambda: OfPattern(Convolutions(), Convolutions.out), 1e-3),
    "resnet": (lambda: OfPattern(ResNet(), 192), 1e-3),
    "patches": (lambda: OfPattern(Patches(), WIDTH), 3e-4),
    "concatenated": (Concatenated, 1e-3),
    "ours": (Ours, 1e-3),
    "ours_both_only": (lambda: Ours(alone=False), 1e-3),
    "ours_bare": (Bare, 1e-3),
    "ours_coarse": (lambda: Ours(patch=2 * PATCH), 1e-3),
    "ours_unfused": (SideBySide, 1e-3),
    "ours_frozen": (lambda: Ours(frozen=True), 1e-3),
    "ours_coarse_frozen": (lambda: Ours(patch=2 * PATCH, frozen=True), 1e-3),
    "ours_coarse_both_only": (lambda: Ours(patch=2 * PATCH, alone=False), 1e-3),
}
"""Networks and the highest rates of their schedules."""
