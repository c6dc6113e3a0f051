"""Architectures and weights of torchvision. timm is not imported."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torch import nn

from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.models.detection import detects
from sesurgeon.models.nearest import nearest
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance
from sesurgeon.models.sources.source import Source

INCEPTIONS = ("googlenet", "inception_v3")
"""Those with auxiliary heads, and with an input that is or is not transformed, as their weights want it."""


def build_from_torchvision(source: Source, pretrained: bool) -> tuple[nn.Module, Provenance]:
    """``torchvision.models.get_model`` and what the metadata of its default weights say.

    Raises:
        UsageError: torchvision has no model of that name, does not take these arguments, or it is quantised.
        SesurgeonError: the pretrained weights cannot be had.
    """
    from torchvision import models

    if source.name.startswith("quantized_"):
        raise UsageError(
            f"{source} is a quantised model: its layers cannot be trained or extended.",
            hint=f"Take torchvision:{source.name.removeprefix('quantized_')}, and quantise the result.",
        )
    if source.name not in models.list_models():
        raise UsageError(
            f"torchvision has no model '{source.name}'.",
            hint=nearest(source.name, models.list_models()) or "torchvision.models.list_models() names them all.",
        )
    defaults = {"weights": "DEFAULT"} if pretrained else _arguments_without_weights(source.name)
    try:
        model = models.get_model(source.name, **{**defaults, **source.kwargs})
    except Exception as error:
        if pretrained and not isinstance(error, TypeError):
            raise SesurgeonError(
                f"The weights of {source} could not be had from download.pytorch.org: {error}",
                hint="Without a network give a local file, with --arch, or leave out --pretrained.",
            ) from error
        raise UsageError(f"torchvision cannot build {source} with {dict(source.kwargs)}: {error}") from error
    weights = models.get_model_weights(source.name).DEFAULT
    categories = weights.meta.get("categories") if pretrained else None
    return model, Provenance(
        _source_of_pretrained(source, model) if pretrained else source,
        classes=None if categories is None else tuple(categories),
        preprocessing=_preprocessing(weights.transforms()),
    )


def _arguments_without_weights(name: str) -> dict[str, Any]:
    """No backbone weights from the network, and no warning from the builders that announce a new default."""
    from torchvision import models

    arguments: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        arguments["weights_backbone"] = None
    if name in INCEPTIONS:
        arguments["init_weights"] = True  # what they do anyway, with a FutureWarning
    return arguments


def _source_of_pretrained(source: Source, model: nn.Module) -> Source:
    """The source of a pretrained model, which is not always built as one without weights is."""
    if source.name in INCEPTIONS:
        own = {name: getattr(model, name) for name in ("aux_logits", "transform_input")}
        return replace(source, kwargs={**source.kwargs, **own})
    if detects(model) or type(model).__module__.startswith("torchvision.models.segmentation"):
        return Source("module")
    return source


def _preprocessing(transforms: Any) -> Preprocessing | None:
    """None for what is no image classifier: detectors and video networks have no one square crop."""
    crop_size = getattr(transforms, "crop_size", None)
    if not isinstance(crop_size, list) or len(crop_size) != 1:
        return None
    return Preprocessing(
        input_size=(len(transforms.mean), crop_size[0], crop_size[0]),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=str(transforms.interpolation.value),
        crop_pct=crop_size[0] / transforms.resize_size[0],
    )
