"""Notes on settings that have no effect in combination with the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.training.phases import Phase

_WITHOUT = {"amp_dtype": "amp", "kd_temperature": "distill", "model_ema_decay": "model_ema"}
_FOR_THE_BACKBONE = ("freeze_epochs", "lr_backbone_mult", "layer_decay")
_FOR_LABELS = ("smoothing", "class_weights")


def remarks_on(config: FinetuneConfig, phases: Sequence[Phase]) -> Iterator[str]:
    """A sentence for each setting that differs from its default and has no effect, or less than it says."""
    for name, needed in _WITHOUT.items():
        if not getattr(config, needed) and _differs(config, name):
            yield f"{name} (={getattr(config, name)}) has no effect without {needed}."
    for name in _FOR_LABELS:
        if config.distill == 1 and _differs(config, name):
            yield f"{name} (={getattr(config, name)}) has no effect with distill (=1), which looks at no labels."
    for name in _FOR_THE_BACKBONE:
        if config.train == "blocks" and _differs(config, name):
            yield f"{name} (={getattr(config, name)}) has no effect with train (=blocks), which leaves the rest alone."
    for phase in phases:
        if config.warmup_epochs > phase.longest_warmup:
            yield f"Warm-up is limited to half of the {phase.epochs} epochs from {phase.first_epoch} on."


def _differs(config: FinetuneConfig, name: str) -> bool:
    return bool(getattr(config, name) != FinetuneConfig.__dataclass_fields__[name].default)
