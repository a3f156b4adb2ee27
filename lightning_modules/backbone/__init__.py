"""The backbone in plain torch: composition encoder, XRD encoder and cross-attention fusion."""

from lightning_modules.backbone.backbone import Backbone, BackboneConfig, BackboneOutput
from lightning_modules.backbone.xrd import (
    VisiblePatches,
    all_measured,
    to_patches,
    wholly_measured,
)

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BackboneOutput",
    "VisiblePatches",
    "all_measured",
    "to_patches",
    "wholly_measured",
]
