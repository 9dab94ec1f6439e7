"""The layers of a model's towers: which of them are trained, and how."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ecgscan_ray.errors import ConfigError


def image_layers(model: nn.Module, setting: str) -> list[list[nn.Parameter]]:
    """Parameters of each layer of the image tower, from its input on, as timm groups them.

    Args:
        model: Holds a timm model.
        setting: Which asks for them, for the error.

    Raises:
        ConfigError: It holds none.
    """
    from timm.models import group_parameters  # takes seconds to import, and few runs need it

    backbones = [cast(Any, module) for module in model.modules() if hasattr(module, "group_matcher")]
    if not backbones:
        fix = "Leave it out, or embed pictures (model.input=image)."
        raise ConfigError("the model has no image tower", where=setting, fix=fix)
    backbone, parameters = backbones[0], dict(backbones[0].named_parameters())
    layers = group_parameters(backbone, backbone.group_matcher(coarse=False))
    return [[parameters[name] for name in layers[number]] for number in sorted(layers)]


def freeze_layers(model: nn.Module, count: int) -> None:
    """Keep the first ``count`` layers of the image tower as they are; their batch norms keep their statistics.

    Raises:
        ConfigError: There are not more layers than that, or no image tower.
    """
    if not count:
        return
    layers = image_layers(model, "training.frozen_layers")
    if count >= len(layers):
        raise ConfigError(f"{count} of {len(layers)} layers would be frozen", where="training.frozen_layers")
    for layer in layers[:count]:
        for parameter in layer:
            parameter.requires_grad_(False)


def train_mode(model: nn.Module) -> None:
    """Training mode, in which frozen batch norms go on with the statistics that they have."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()
