"""The model in a file that is not a checkpoint of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.models.files.quantised import refuse_quantised_module
from sesurgeon.models.files.state_dicts import find_weights
from sesurgeon.models.fit import fit
from sesurgeon.models.new_head import check_num_classes
from sesurgeon.models.provenance import attach_provenance, provenance_of
from sesurgeon.models.sources.guess import looks_like, named_in
from sesurgeon.models.sources.source import Source
from sesurgeon.models.sources.timm_models import timm_preprocessing


def model_from(
    content: object, origin: str, *, arch: Source | None = None, num_classes: int | None = None
) -> nn.Module:
    """The model in a file that is no checkpoint of ours; in eval mode, on the CPU, with provenance attached.

    Args:
        content: what :func:`sesurgeon.models.files.pickles.read` gave.
        origin: the file.
        arch: the architecture of the weights in it; needed for state dicts.
        num_classes: outputs of its classifier; by default as in the file.

    Raises:
        UsageError: weights without or of another architecture, a network with another number of classes.
        UnreadableFileError: there is no model in it, or a quantised one.
    """
    found = find_weights(_unwrapped(content), origin)
    if isinstance(found.weights, nn.Module):
        return _whole_model(_unwrapped(found.weights), origin, arch, num_classes)
    if arch is None:
        raise UsageError(
            f"{origin} holds {len(found.weights)} weights{f' under {found.place}' if found.place else ''}, "
            "but not the architecture that they belong to.",
            hint="Give it with --arch timm:NAME, torchvision:NAME or factory:pkg.mod:function."
            + f" {_said_or_guessed(content, found.weights)}".rstrip(),
        )
    return fit(arch, found.weights, num_classes=num_classes, origin=origin)


def _said_or_guessed(content: object, weights: Mapping[str, object]) -> str:
    """Which architecture a file may be of, as a sentence; or nothing."""
    said = named_in(content)
    return f"The file says that it is {' or '.join(said)}." if said else looks_like(weights)


def _whole_model(model: object, origin: str, arch: Source | None, num_classes: int | None) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UnreadableFileError(f"{origin} holds a wrapper around a {type(model).__name__}, not a model.")
    if arch is not None:
        raise UsageError(
            f"{origin} holds a whole model, a {type(model).__name__}, with its architecture.",
            hint="Leave out --arch.",
        )
    refuse_quantised_module(model, origin)
    provenance = replace(provenance_of(model), source=Source("module"), built=None)
    if provenance.preprocessing is None and isinstance(getattr(model, "pretrained_cfg", None), dict):
        try:
            provenance = replace(provenance, preprocessing=timm_preprocessing(model))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnreadableFileError(f"The pretrained_cfg of the model in {origin} is damaged: {error!r}.") from error
    attach_provenance(model, provenance)
    check_num_classes(model, num_classes, origin)
    return model.eval()


def _unwrapped(content: object) -> object:
    """The model inside of DataParallel, DDP, an averaged model, or ``torch.compile``."""
    while type(content).__name__ in (
        "DataParallel",
        "DistributedDataParallel",
        "AveragedModel",
        "OptimizedModule",
    ):
        content = getattr(content, "_orig_mod", None) or getattr(content, "module", None)
    return content
