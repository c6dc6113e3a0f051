"""Architectures and weights of timm (https://github.com/huggingface/pytorch-image-models)."""

from __future__ import annotations

from torch import nn

from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.models.inputs import input_channels
from sesurgeon.models.preprocessing import INTERPOLATIONS, Preprocessing, per_channel
from sesurgeon.models.provenance import Provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.words import nearest


def build_from_timm(source: Source, pretrained: bool) -> tuple[nn.Module, Provenance]:
    """``timm.create_model`` and what timm says about the input of the model.

    Raises:
        UsageError: timm has no model or tag of that name, or does not take these arguments.
        SesurgeonError: the pretrained weights cannot be downloaded.
    """
    import timm

    at_hub = ":" in source.name
    if not at_hub:
        _check_name(source.name)
    try:
        model = timm.create_model(source.name, pretrained=pretrained, **source.kwargs)
    except Exception as error:
        if (pretrained or at_hub) and not isinstance(error, TypeError):
            raise SesurgeonError(
                f"The weights of {source} could not be downloaded from the Hugging Face Hub: {error}",
                hint="Offline, give a local file with --arch, or leave out --pretrained.",
            ) from error
        raise UsageError(f"timm cannot build {source} with {dict(source.kwargs)}: {error}") from error
    try:
        preprocessing = timm_preprocessing(model)
    except ValueError as error:  # of a model of the hub, which brings a record of its own
        raise UsageError(f"What {source} says of its images makes no sense: {error}") from error
    if preprocessing is not None and "in_chans" in source.kwargs:
        preprocessing = preprocessing.for_channels(int(source.kwargs["in_chans"]))
    # a model of the hub brings arguments of its own along, which its name alone does not give again
    return model, Provenance(Source("module") if at_hub else source, preprocessing=preprocessing)


_OF_IMAGES = (1, 2, 3, 4)  # grey, colour, and these with transparency


def timm_preprocessing(model: nn.Module) -> Preprocessing | None:
    """What timm says that an image goes through before ``model``; None when it carries no such record."""
    import timm.data

    if not getattr(model, "pretrained_cfg", None):
        return None
    config = timm.data.resolve_model_data_config(model)
    interpolation, crop_mode, size = config["interpolation"], config["crop_mode"], tuple(config["input_size"])
    found = Preprocessing(
        input_size=size,
        mean=per_channel(tuple(config["mean"]), size[0]),  # a record of one's own may have the size alone
        std=per_channel(tuple(config["std"]), size[0]),
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
        crop_pct=float(config["crop_pct"]),
        crop_mode=crop_mode if crop_mode in ("squash", "border") else "center",  # as timm takes any other
    )
    # The record stays that of the RGB weights when a model is made with another `in_chans`. A stem of more channels
    # than images have takes what the model made of them, as TResNet's, of space folded into channels.
    channels = input_channels(model)
    return found.for_channels(channels) if channels in _OF_IMAGES else found


def _check_name(name: str) -> None:
    import timm

    if not timm.is_model(name):
        raise UsageError(
            f"timm has no model '{name}'.",
            hint=nearest(name, timm.list_models()) or "timm.list_models() names them all.",
        )
    _, _, tag = name.partition(".")
    tagged = timm.list_models(f"{name.partition('.')[0]}.*", include_tags=True)
    if tag and name not in tagged:
        raise UsageError(
            f"timm has no weights '{tag}' for {name.partition('.')[0]}.",
            hint=f"There are: {', '.join(tagged)}." if tagged else "Leave the part after the dot out.",
        )
