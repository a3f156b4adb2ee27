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


def decays(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Whether weight decay applies to a parameter: to the matrices that layers multiply by.

    Not to biases, norms, tokens, queries and embeddings, which are inputs rather than maps of them.

    Args:
        name: Its name in the task.
        parameter: The parameter.
        owner: The module that holds it.
    """
    is_weight = name.rpartition(".")[2].endswith("weight")
    return parameter.ndim > 1 and is_weight and not isinstance(owner, nn.Embedding)


def _grouped(
    task: nn.Module, config: BackboneConfig, layer_decay: float, by_axes: bool = False
) -> dict[tuple[int, bool], dict[str, nn.Parameter]]:
    """The trained parameters by depth and by whether they do not decay, in the groups' order.

    Args:
        task: The task.
        config: The backbone's configuration.
        layer_decay: Below 1 each depth has groups of its own.
        by_axes: As the first versions had it: whatever has two axes decays.
    """
    groups: dict[tuple[int, bool], dict[str, nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            layer = depth(name, config) if layer_decay < 1 else 0
            owner = task.get_submodule(name.rpartition(".")[0])
            does = parameter.ndim > 1 if by_axes else decays(name, parameter, owner)
            groups.setdefault((layer, not does), {})[name] = parameter
    return dict(sorted(groups.items()))


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
        Groups for an optimizer; see `decays` for what does not decay.

    Source: layer-wise decay as in Clark et al. (ELECTRA), arXiv 2003.10555, appendix.
    """
    return [
        {"params": list(members.values()), "lr": learning_rate * layer_decay**layer}
        | ({"weight_decay": 0.0} if spared else {})
        for (layer, spared), members in _grouped(task, config, layer_decay).items()
    ]


def regrouped(
    state: dict[str, Any], task: nn.Module, config: BackboneConfig, layer_decay: float
) -> dict[str, Any]:
    """An optimizer's state in today's groups; of the first versions embeddings and queries decayed.

    Args:
        state: The optimizer's `state_dict`, of any version.
        task: The task that it belongs to.
        config: The backbone's configuration.
        layer_decay: Of the optimizer.

    Returns:
        The state itself, if its groups are today's, or if it is not ours at all.
    """
    now = _grouped(task, config, layer_decay)
    then = _grouped(task, config, layer_decay, by_axes=True)
    sizes = [len(group["params"]) for group in state["param_groups"]]
    if sizes == [len(members) for members in now.values()] or list(now) != list(then):
        return state
    if sizes != [len(members) for members in then.values()]:
        return state
    old = {name: i for i, name in enumerate(n for members in then.values() for n in members)}
    new = {name: i for i, name in enumerate(n for members in now.values() for n in members)}
    groups = zip(state["param_groups"], now.values(), strict=True)
    return {
        "state": {new[n]: state["state"][i] for n, i in old.items() if i in state["state"]},
        "param_groups": [group | {"params": [new[n] for n in names]} for group, names in groups],
    }
