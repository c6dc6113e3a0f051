"""The phases of a run: which parameters train, when, and how fast."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.paths import is_within_any, join

_PARAMETERS_A_LAYER = 12  # as timm.optim.auto_group_layers


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same parameters train.

    Attributes:
        name: "blocks" trains what is new (inserted blocks, a new head) with the backbone and its BatchNorm statistics
            frozen; "all" trains everything.
        first_epoch: counted from 0 over the whole run.
        epochs: how many.
    """

    name: Literal["blocks", "all"]
    first_epoch: int
    epochs: int

    @property
    def end(self) -> int:
        """The epoch after its last."""
        return self.first_epoch + self.epochs

    @property
    def longest_warmup(self) -> float:
        """The longest warm-up in epochs, half of the phase: the other half is left for the rates to fall again."""
        return self.epochs / 2


def phases_of(config: FinetuneConfig, *, anything_new: bool) -> tuple[Phase, ...]:
    """The phases of a run. Without anything new, there is no phase that trains only that."""
    frozen = config.freeze_epochs if anything_new else 0
    if config.train == "blocks":
        frozen = config.epochs
    found = (Phase("blocks", 0, frozen), Phase("all", frozen, config.epochs - frozen))
    return tuple(phase for phase in found if phase.epochs > 0)


def set_trainable(model: nn.Module, phase: Phase, new: Collection[str], trainable: Collection[str]) -> None:
    """Set ``requires_grad``: what is new always trains, the rest of ``trainable`` only in the phase "all"."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_within_any(name, new) or (phase.name == "all" and name in trainable))


def set_train_mode(model: nn.Module, phase: Phase, new: Collection[str]) -> None:
    """Set train mode, except for frozen modules with buffers: BatchNorm statistics are part of what is frozen.

    In the phase "all" these are the modules whose own parameters all have ``requires_grad`` off: as the caller wants.
    """
    model.train()
    for name, module in model.named_modules():
        own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        frozen = phase.name == "blocks" or (own and not any(own))
        if frozen and not is_within_any(name, new) and any(True for _ in module.buffers(recurse=False)):
            module.training = False


def changing_buffers(model: nn.Module) -> list[str]:
    """Names of the buffers that training changes: those of the modules in train mode."""
    return [
        join(path, name)
        for path, module in model.named_modules()
        if module.training
        for name, _ in module.named_buffers(recurse=False)
    ]


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """Names of the buffers that are not finite, such as attention masks."""
    buffers = model.named_buffers(remove_duplicate=False)
    return frozenset(name for name, buffer in buffers if not bool(buffer.isfinite().all()))


def param_groups(model: nn.Module, new: Collection[str], config: FinetuneConfig) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by learning rate and weight decay for an optimiser.

    New parameters get ``lr * lr_block_mult`` in any layer; the others get ``lr * lr_backbone_mult``, which
    ``layer_decay`` lowers from layer to layer, because what lower layers have learned is general. Vectors and biases
    get no weight decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    scales = _layer_scales(model, new, config.layer_decay)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            mult = config.lr_block_mult if is_within_any(name, new) else config.lr_backbone_mult
            if mult is None:
                raise ValueError("The rates of this configuration are open: fill them in by FinetuneConfig.with_rates.")
            lr = config.lr * mult * scales.get(parameter, 1.0)
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            groups.setdefault((lr, config.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def _layer_scales(model: nn.Module, new: Collection[str], decay: float | None) -> dict[nn.Parameter, float]:
    """A factor for the rate of each parameter that is not new: ``decay`` to the power of the number of layers above."""
    if decay is None:
        return {}
    layers = _layers(model, new)
    top = max(layers.values())
    old = {name: parameter for name, parameter in model.named_parameters() if not is_within_any(name, new)}
    return {parameter: decay ** (top - layers.get(name, top)) for name, parameter in old.items()}


def _layers(model: nn.Module, new: Collection[str]) -> dict[str, int]:
    """The layer of each parameter by number, counted from the input.

    timm tells the layers of its own networks. In others every twelve parameters in a row make a layer, as in timm, and
    the head and whatever is new make the top one.
    """
    from timm.models import group_parameters

    from sesurgeon.models.head import heads_if_any

    matcher = getattr(model, "group_matcher", None)
    if callable(matcher):
        known: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
        return known
    above = (*heads_if_any(model), *new)
    body = [name for name, _ in model.named_parameters() if not is_within_any(name, above)]
    layers = {name: index // _PARAMETERS_A_LAYER for index, name in enumerate(body)}
    top = max(layers.values(), default=0) + 1
    return {name: layers.get(name, top) for name, _ in model.named_parameters()}
