"""Classes of the crystal structure that a pattern should tell: they need no label.

Structures of one formula differ in them, and structures of one type share them.

Shapes: B batch, D width, C classes of a target.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.objectives.distributed import mean_over_ranks

#: Columns of a store that are classes, and the largest number; more sites are one class.
CLASSES = {"space_group": 230, "bravais_class": 14, "n_sites": 64}


class StructureClasses(nn.Module):
    """Classifies patterns by the columns of `CLASSES`.

    Args:
        names: Which of them, in the order of the labels.
        width: Width D of the pattern's vector.

    Raises:
        ValueError: if one is no column of `CLASSES`.
    """

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__()
        for name in names:
            if name not in CLASSES:
                raise ValueError(
                    f"target {name}: this task learns classes of the structure alone, "
                    f"{', '.join(CLASSES)}; name some of these in data.targets, or none"
                )
        self.names = list(names)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.logits = nn.ModuleList(nn.Linear(width, CLASSES[name] + 1) for name in names)

    def forward(self, xrd_BD: Tensor, labels_BT: Tensor) -> Tensor:
        """Cross-entropy, the mean over the labels that there are; over ranks it averages to one's.

        Args:
            xrd_BD: Vectors of the patterns.
            labels_BT: Their classes in the order of `names`; NaN where unknown.
        """
        hidden_BD = self.hidden(xrd_BD)
        known_BT = ~labels_BT.isnan()
        loss = xrd_BD.new_zeros((), dtype=torch.float32)
        for t, (name, head) in enumerate(zip(self.names, self.logits, strict=True)):
            class_B = labels_BT[:, t].nan_to_num(0.0).long().clamp(0, CLASSES[name])
            each_B = F.cross_entropy(head(hidden_BD).float(), class_B, reduction="none")
            loss = loss + (each_B * known_BT[:, t]).sum()
        return loss / mean_over_ranks(known_BT.float().sum()).clamp_min(1.0)
