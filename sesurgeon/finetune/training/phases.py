"""Which parameters train, when, and how fast."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.graph.paths import join

_PARAMETERS_A_LAYER = 12  # as timm.optim.auto_group_layers


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs in which the same parameters train.

    Attributes:
        name: "blocks" trains what is new (inserted blocks, a new head) with the backbone frozen, its statistics too;
            "all" trains all.
        first_epoch: counted from 0 over the whole run.
        epochs: how many.
    """

    name: Literal["blocks", "all"]
    first_epoch: int
    epochs: int

    @property
    def longest_warmup(self) -> float:
        """In epochs: a schedule needs some of its phase to come down again."""
        return self.epochs / 2


def phases_of(config: FinetuneConfig, *, anything_new: bool) -> tuple[Phase, ...]:
    """The phases of a run. With nothing new to train alone, all epochs train everything, where they may."""
    frozen = config.freeze_epochs if anything_new else 0
    if config.train == "blocks":
        frozen = config.epochs
    found = (Phase("blocks", 0, frozen), Phase("all", frozen, config.epochs - frozen))
    return tuple(phase for phase in found if phase.epochs > 0)


def is_new(name: str, new: Iterable[str]) -> bool:
    """Is the parameter or module ``name`` one of the modules ``new`` (dotted paths), or inside one?"""
    return any(name == path or name.startswith(f"{path}.") for path in new)


def enter(model: nn.Module, phase: Phase, new: Collection[str], trainable: Collection[str]) -> None:
    """Set ``requires_grad``: what is new trains, the rest of ``trainable`` in the phase "all" only."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_new(name, new) or (phase.name == "all" and name in trainable))


def set_train_mode(model: nn.Module, phase: Phase, new: Collection[str]) -> None:
    """Train mode, but for frozen modules with buffers: a BatchNorm's statistics belong to the backbone."""
    model.train()
    if phase.name == "blocks":
        for name, module in model.named_modules():
            if not is_new(name, new) and any(True for _ in module.buffers(recurse=False)):
                module.training = False


def changing_buffers(model: nn.Module) -> list[str]:
    """Names of the buffers that training changes: those of modules that are in train mode."""
    return [
        join(path, name)
        for path, module in model.named_modules()
        if module.training
        for name, _ in module.named_buffers(recurse=False)
    ]


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """Names of the buffers that are not finite, as a mask of attention is."""
    buffers = model.named_buffers(remove_duplicate=False)
    return frozenset(name for name, buffer in buffers if not bool(buffer.isfinite().all()))


def param_groups(model: nn.Module, new: Collection[str], config: FinetuneConfig) -> list[dict[str, Any]]:
    """The trainable parameters by learning rate and weight decay, as optimisers take them.

    New parameters get ``lr * lr_block_mult`` wherever they are, the others ``lr * lr_backbone_mult``, less in lower
    layers where ``layer_decay`` says so: what those have learned is general, and what is new there has learned nothing.
    Vectors and biases get no decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    scales = _layer_scales(model, new, config.layer_decay)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            mult = config.lr_block_mult if is_new(name, new) else config.lr_backbone_mult
            if mult is None:
                raise ValueError("The rates of this configuration are open: FinetuneConfig.settled says what they are.")
            lr = config.lr * mult * scales.get(parameter, 1.0)
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            groups.setdefault((lr, config.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def _layer_scales(model: nn.Module, new: Collection[str], decay: float | None) -> dict[nn.Parameter, float]:
    """The scale of the rate of each parameter that is not new: ``decay`` to the power of the layers above it."""
    if decay is None:
        return {}
    layers = _layers(model, new)
    top = max(layers.values())
    old = {name: parameter for name, parameter in model.named_parameters() if not is_new(name, new)}
    return {parameter: decay ** (top - layers.get(name, top)) for name, parameter in old.items()}


def _layers(model: nn.Module, new: Collection[str]) -> dict[str, int]:
    """The layer of each parameter, from the input on: timm's own where it knows the network, else a dozen in a row.

    Without knowing a network timm takes a dozen parameters for a layer, too; the head, and what else is new, is one
    above all.
    """
    from timm.models import group_parameters

    from sesurgeon.models.head import head_of

    matcher = getattr(model, "group_matcher", None)
    if callable(matcher):
        known: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
        return known
    above = (head_of(model), *new)
    body = [name for name, _ in model.named_parameters() if not is_new(name, above)]
    layers = {name: index // _PARAMETERS_A_LAYER for index, name in enumerate(body)}
    top = max(layers.values(), default=0) + 1
    return {name: layers.get(name, top) for name, _ in model.named_parameters()}
