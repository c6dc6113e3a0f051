"""A model from its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn
from torch.nn.parameter import is_lazy

from sesurgeon.errors import UnreadableFileError, UnsafeFileError, UsageError
from sesurgeon.models.new_head import set_num_classes
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.factory import build_from_factory
from sesurgeon.models.sources.source import Source, SourceKind
from sesurgeon.models.sources.timm_models import build_from_timm
from sesurgeon.models.sources.torchvision_models import build_from_torchvision
from sesurgeon.models.structure import structure_of

_Builder = Callable[[Source, bool], tuple[nn.Module, Provenance]]
_BUILDERS: dict[SourceKind, _Builder] = {
    "timm": build_from_timm,
    "torchvision": build_from_torchvision,
    "factory": build_from_factory,
}

# Weights come by --pretrained or in a file that is checked, never by the back door of a builder's argument.
_WEIGHT_ARGUMENTS = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "weights",
        "weights_backbone",
        "pretrained_backbone",
    }
)


def build(source: Source, *, pretrained: bool = False) -> nn.Module:
    """Build the model that ``source`` names, in eval mode, with its provenance attached.

    It does what the source says: imports the code of a ``factory:``, and downloads the weights of a pretrained model
    and what timm's ``hf-hub:`` names. A source that was found in a file goes through :func:`rebuild`.

    Raises:
        UsageError: nothing has that name, or it cannot be built with these arguments.
        SesurgeonError: the pretrained weights cannot be downloaded.
    """
    if source.kind == "module":
        raise UsageError("A model that is embedded in a file cannot be built by name.")
    if source.kind != "factory" and (found := sorted(_WEIGHT_ARGUMENTS & set(source.kwargs))):
        raise UsageError(
            f"{source} was given {', '.join(found)}: weights are not an argument of an architecture.",
            hint="Use --pretrained, or give the file with the weights as the model, and --arch.",
        )
    model, provenance = _BUILDERS[source.kind](source, pretrained)
    if lazy := [name for name, parameter in model.named_parameters() if is_lazy(parameter)]:
        raise UsageError(
            f"{source} has parameters whose shapes are not known yet: {', '.join(lazy)}.",
            hint="Let the factory run a forward pass, or give its lazy layers their sizes.",
        )
    attach_provenance(model, replace(provenance, built=structure_of(model)))
    return model.eval()


def rebuild(
    provenance: Provenance, embedded: nn.Module | None = None, *, trust_code: bool = False, origin: str = "The file"
) -> nn.Module:
    """The architecture that a checkpoint describes, in eval mode, ready for the checkpoint's weights.

    Args:
        provenance: as the checkpoint says; it is attached to the result.
        embedded: the module in the checkpoint, when the source is of kind "module". It is used, not copied.
        trust_code: the user vouches for the source, by ``--trust-pickle`` or by naming it with its arguments.
        origin: the file, for messages.

    Raises:
        UnsafeFileError: the source would import or download code, and ``trust_code`` is not set.
        UnreadableFileError: the module that should be embedded is missing.
        UsageError: see :func:`build`.
    """
    source = provenance.source
    if source.kind == "module":
        if embedded is None:
            raise UnreadableFileError("The checkpoint says that it embeds a model, but there is none in it.")
        model = embedded.eval()
    else:
        if not trust_code:
            _check_harmless(source, origin)
        model = build(source)
    attach_provenance(model, provenance)  # it says which layer the head is
    if source.kind != "module":  # which has its head
        built = structure_of(model)
        set_num_classes(model, provenance.num_classes)
        attach_provenance(model, replace(provenance, built=built))
    return model


def _check_harmless(source: Source, origin: str) -> None:
    """Refuse a source from inside a file that would run code of the file's choosing, or download something."""
    if source.kind == "factory":
        raise UnsafeFileError(
            f"{origin} asks to import and run {source.name} to build its architecture.",
            hint=f"If you trust that code, type it yourself with {source.options}, or give --trust-pickle.",
        )
    if source.kind == "timm" and not source.name.replace("_", "").replace(".", "").isalnum():
        raise UnsafeFileError(
            f"{origin} asks timm for '{source.name}', which is not one of timm's own architectures.",
            hint=f"If you trust that place, type it yourself with {source.options}, or give --trust-pickle.",
        )
