"""Groups of parameters for the optimizer: layer-wise learning rates, and who decays."""

from typing import Any

from torch import nn

from lightning_modules.backbone import BackboneConfig


def depth(name: str, config: BackboneConfig) -> int:
    """How many layers lie between a parameter and the task's head, which has depth 0.

    Args:
        name: Name of the parameter in a task.
        config: The backbone's configuration.
    """
    words = name.split(".")
    if words[0] != "backbone":
        return 0
    module, part = words[1], words[2]
    if module == "fusion":
        return 1 + (config.fusion_layers - int(words[3]) if part == "blocks" else 0)
    layers = config.composition_layers if module == "composition" else config.xrd_layers
    above = 1 + config.fusion_layers
    if part == "norm":
        return above + 1
    return above + (layers - int(words[3]) if part == "blocks" else layers + 1)


def parameter_groups(
    task: nn.Module, config: BackboneConfig, learning_rate: float, layer_decay: float
) -> list[dict[str, Any]]:
    """The trained parameters, by learning rate and by whether weight decay applies.

    Args:
        task: The task, with the backbone as `backbone`.
        config: The backbone's configuration.
        learning_rate: Learning rate of the task's head.
        layer_decay: Factor on it for each layer further down; 1 gives all the same.

    Returns:
        Groups for an optimizer. Biases, norms and tokens (fewer than two axes) do not decay.

    Source: layer-wise decay as in Clark et al. (ELECTRA), arXiv 2003.10555, appendix.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            layer = depth(name, config) if layer_decay < 1 else 0
            groups.setdefault((layer, parameter.ndim < 2), []).append(parameter)
    return [
        {"params": groups[layer, vector], "lr": learning_rate * layer_decay**layer}
        | ({"weight_decay": 0.0} if vector else {})
        for layer, vector in sorted(groups)
    ]
