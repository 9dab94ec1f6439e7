"""The layers of a model's towers: which of them are trained, and how."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from torch import nn
from torch.utils.checkpoint import checkpoint

from ecgscan_ray.config import TrainingConfig
from ecgscan_ray.errors import ConfigError


def tower_layers(model: nn.Module, setting: str) -> list[list[nn.Parameter]]:
    """Parameters of each layer of the first tower, from its input on, as timm groups them.

    That is the image tower, or the signal tower of a model that embeds leads.

    Args:
        model: Holds a timm model, or a module with a ``group_matcher`` like theirs.
        setting: Which asks for them, for the error.

    Raises:
        ConfigError: It holds none.
    """
    from timm.models import group_parameters  # takes seconds to import, and few runs need it

    backbones = [cast(Any, module) for module in model.modules() if hasattr(module, "group_matcher")]
    if not backbones:
        raise ConfigError("the model has no tower with layers", where=setting, fix="Leave it out.")
    backbone, parameters = backbones[0], dict(backbones[0].named_parameters())
    layers = group_parameters(backbone, backbone.group_matcher(coarse=False))
    return [[parameters[name] for name in layers[number]] for number in sorted(layers)]


def prepare_towers(model: nn.Module, training: TrainingConfig) -> None:
    """Freeze, checkpoint and compile what the settings ask for.

    Raises:
        ConfigError: The model does not allow it.
    """
    freeze_layers(model, training.frozen_layers)
    if training.activation_checkpointing:
        checkpoint_activations(model)
    if training.compile:
        compile_blocks(model)


def freeze_layers(model: nn.Module, count: int) -> None:
    """Keep the first ``count`` layers of the first tower as they are; their batch norms keep their statistics.

    Raises:
        ConfigError: There are not more layers than that, or no such tower.
    """
    if not count:
        return
    layers = tower_layers(model, "training.frozen_layers")
    if count >= len(layers):
        raise ConfigError(f"{count} of {len(layers)} layers would be frozen", where="training.frozen_layers")
    for layer in layers[:count]:
        for parameter in layer:
            parameter.requires_grad_(False)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """What the trained towers are made of: a transformer's layers, a ResNet's residual blocks.

    These are the modules with parts of which a sequence holds several of one class, the innermost ones.
    """
    sequences = [module for module in model.modules() if isinstance(module, nn.Sequential | nn.ModuleList)]
    blocks = [block for sequence in sequences for block in sequence if _is_repeated(block, sequence)]
    return [block for block in blocks if not set(blocks) & (set(block.modules()) - {block})]


def _is_repeated(block: nn.Module, sequence: Iterable[nn.Module]) -> bool:
    trained = any(parameter.requires_grad for parameter in block.parameters())
    return trained and any(block.children()) and sum(type(other) is type(block) for other in sequence) > 1


def checkpoint_activations(model: nn.Module) -> None:
    """Keep the inputs of the towers' blocks alone for the backward pass, and compute their activations again in it.

    Raises:
        ConfigError: The model has batch norm, whose statistics would take each batch twice.
    """
    if has_batch_norm(model):
        fix = "Use a model with layer or group norm (e.g. convnext_atto), or leave it out."
        raise ConfigError("the model has batch norm", where="training.activation_checkpointing", fix=fix)
    for block in repeated_blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(model: nn.Module) -> None:
    """Compile the towers' blocks, each by itself: equal ones are compiled once."""
    for block in repeated_blocks(model):
        block.compile()


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the statistics of any layer are those of the rows that it sees at once."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def train_mode(model: nn.Module) -> None:
    """Training mode, in which frozen batch norms go on with the statistics that they have."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()
