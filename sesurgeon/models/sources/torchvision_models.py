"""Architectures and weights of torchvision. timm is not imported."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.models.detection import detects
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.words import nearest

# with auxiliary heads, and with an input that is transformed or not, as their weights want it
_INCEPTIONS = ("googlenet", "inception_v3")


def build_from_torchvision(source: Source, pretrained: bool) -> tuple[nn.Module, Provenance]:
    """``torchvision.models.get_model`` and what the metadata of its default weights say.

    Raises:
        UsageError: torchvision has no model of that name, does not take these arguments, or it is quantised.
        SesurgeonError: the pretrained weights cannot be downloaded.
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
                f"The weights of {source} could not be downloaded from download.pytorch.org: {error}",
                hint="Offline, give a local file with --arch, or leave out --pretrained.",
            ) from error
        raise UsageError(f"torchvision cannot build {source} with {dict(source.kwargs)}: {error}") from error
    weights = models.get_model_weights(source.name).DEFAULT
    categories = weights.meta.get("categories") if pretrained else None
    return model, Provenance(
        _source_of_pretrained(source, model) if pretrained else source,
        classes=None if categories is None else tuple(categories),
        preprocessing=_preprocessing(weights.transforms()),
    )


def check_input_is_described(source: Source) -> None:
    """Raise a UsageError for an Inception that does not say whether it transforms its input: weights do not show it.

    torchvision's own weights for GoogLeNet and Inception v3 want images in another range.
    """
    if _is_inception(source) and "transform_input" not in source.kwargs:
        raise UsageError(
            f"Weights do not show whether their {source} was built with transform_input, which changes its input.",
            hint="If they began as torchvision's (weights=…) it was: give --model-kwargs transform_input=true; "
            "otherwise =false.",
        )


def with_auxiliary_heads_as_in(state: Mapping[str, Tensor], source: Source) -> Source:
    """``source`` without auxiliary heads where ``state`` has none: torchvision's own weights of GoogLeNet do not."""
    has_some = any(name.lower().startswith(("aux", "module.aux")) for name in state)
    if not _is_inception(source) or has_some:
        return source
    return replace(source, kwargs={"aux_logits": False, **source.kwargs})


def check_norms_were_trained(model: nn.Module, state: Mapping[str, Tensor], source: Source) -> None:
    """Raise a UsageError for weights of a detector with frozen norms, which ``source`` does not build.

    torchvision builds these where it is given weights, of the detector or of its backbone. Their names are the same
    but for the counters; they learn nothing, and those of torchvision's own weights have another epsilon.
    """
    counters = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    frozen = bool(counters) and not any(name in state for name in counters)
    if frozen and detects(model):
        raise UsageError(
            f"These are weights of a {source} with frozen BatchNorms, which is not what that name builds.",
            hint="Save it as a whole: torch.save(model, 'model.pt'). Published weights come by --pretrained.",
        )


def _is_inception(source: Source) -> bool:
    return source.kind == "torchvision" and source.name in _INCEPTIONS


def _arguments_without_weights(name: str) -> dict[str, Any]:
    """Arguments against downloading backbone weights, and against warnings of builders about a new default."""
    from torchvision import models

    arguments: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        arguments["weights_backbone"] = None
    if name in _INCEPTIONS:
        arguments["init_weights"] = True  # what they do anyway, with a FutureWarning
    return arguments


def _source_of_pretrained(source: Source, model: nn.Module) -> Source:
    """The source of a pretrained model, which is not always what its name alone builds."""
    if source.name in _INCEPTIONS:
        own = {name: getattr(model, name) for name in ("aux_logits", "transform_input")}
        return replace(source, kwargs={**source.kwargs, **own})
    if detects(model) or type(model).__module__.startswith("torchvision.models.segmentation"):
        return Source("module")
    return source


def _preprocessing(transforms: Any) -> Preprocessing | None:
    """None for what is not an image classifier: detectors and video networks have no single square crop."""
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
