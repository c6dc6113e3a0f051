"""A network to a file of our own, and back.

Loading rebuilds the source, applies the plan again, and then takes the weights.
"""

from __future__ import annotations

import pickle
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sesurgeon.errors import UnreadableFileError, UnsafeFileError, UsageError
from sesurgeon.files import StrPath, atomic_write
from sesurgeon.models import (
    CHECKPOINT_KEY,
    Preprocessing,
    Source,
    attach_provenance,
    build,
    check_num_classes,
    detach_provenance,
    model_from,
    named_source,
    outputs_in,
    provenance_of,
    read,
    read_parts,
    rebuild,
    set_num_classes,
    state_preprocessing,
    structure_of,
)
from sesurgeon.models.forwards import forget_own_forwards
from sesurgeon.models.preprocessing import check_stated
from sesurgeon.placement import Plan, survey_for
from sesurgeon.surgery.apply import insert_blocks
from sesurgeon.surgery.bare import bare_view
from sesurgeon.surgery.below import renewed
from sesurgeon.surgery.keeping.adapterfile import is_adapter
from sesurgeon.surgery.keeping.checkpointfile import Checkpoint, check_checkpoint_path, from_content, to_content
from sesurgeon.surgery.keeping.ties import tie
from sesurgeon.surgery.unchanged import check_blocks_unchanged, own_plan

_HOW_TO_REBUILD = (
    "It is a checkpoint of a network that no name builds, which is in it as a pickle. Name a function of yours that "
    "makes this network, --arch factory:pkg.mod:function; or, if you trust whoever made the file: --trust-pickle."
)


def save(model: nn.Module, path: StrPath, *, force: bool = True) -> None:
    """Write ``model``, augmented or plain, to one file that :func:`load` reads; whole or not at all.

    Args:
        model: its provenance (source, classes, preprocessing, history) and plan go along. A model whose source is
            not known, or that is no longer what its source builds, is embedded as a pickled module, which loads safely
            if its classes are torch's, torchvision's or timm's, and otherwise with ``trust_pickle``, or with an
            ``arch`` that builds it. Hooks outside of blocks, the values of buffers that no state dict holds
            (``persistent=False``) and ``requires_grad`` are kept only if the model is embedded; otherwise they are as
            its source makes them.
        path: of the file, by convention ``NAME.se.pt``.
        force: replace a file of that name.

    Raises:
        UsageError: there are blocks in it but no plan, because only a network inside it was augmented; or they are not
            those that the plan makes, or it has no place for them any more; or it would have to be embedded and cannot
            be pickled; or the name says that the file is of another format.
        UntraceableError: its layers were changed, and it does not run on the plan's inputs any more.
        OutputError: it cannot be written; nothing was changed.
    """
    path = Path(path)
    check_checkpoint_path(path, force=force)
    plan = own_plan(model, "saved")
    check_blocks_unchanged(model, plan, "saved")
    content = to_content(_checkpoint_of(model, plan))
    for name, module in content.get("module", nn.Module()).named_modules():
        if parametrize.is_parametrized(module):
            raise _cannot_be_embedded(model, "modules with parametrizations never can")
        if _has_foreign_method(module):
            raise _cannot_be_embedded(model, f"{name or 'the model'} has a forward that its class does not know")
    with atomic_write(path, force=force) as temporary:
        try:
            torch.save(content, temporary)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if "module" not in content:
                raise
            raise _cannot_be_embedded(model, error) from error


def load(
    model: StrPath | Source,
    *,
    arch: str | Source | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    trust_pickle: bool = False,
    mapped: bool = False,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> nn.Module:
    """Any model that sesurgeon can load: one with a name, a file of others, or a checkpoint of our own.

    The result is in eval mode, on the CPU, with its provenance attached.

    Args:
        model: a path, or ``timm:NAME``, ``torchvision:NAME``, ``factory:pkg.mod:function``.
        arch: the architecture (as such a name) of the weights in a file of weights. A checkpoint of ours knows its
            own; where building it would run code, it must be given all the same, with its arguments. It may also be
            given for a checkpoint with an embedded network that is not trusted.
        num_classes: outputs of the classifier of an architecture; by default its own, or as in the file.
        pretrained: with a name: take the published weights.
        trust_pickle: run whatever code a file brings along.
        mapped: leave the weights in the file, mapped, for a network that would fill the memory. The file must not be
            written into as long as the model is used; :func:`save` may replace it.
        preprocessing: how images are prepared for the model: a :class:`sesurgeon.models.Preprocessing`, or some of its
            values by name, in place of what the file says. Files that are written from this model record it.

    Raises:
        UsageError: arguments that do not go together, an unknown name, weights without or of another architecture, a
            file of a network with another number of classes, an adapter, or no such preprocessing.
        UnreadableFileError: the file cannot be read, or there is no model in it.
        UnsafeFileError: reading the file would run code, and ``trust_pickle`` is not set.
        SesurgeonError: the pretrained weights cannot be downloaded.
    """
    if preprocessing:
        check_stated(preprocessing)
    of_weights = Source.parse(arch) if isinstance(arch, str) else arch
    source = named_source(model)
    if source is not None:
        if of_weights is not None:
            raise UsageError(
                f"--arch names the architecture of the weights in a file; {source} is an architecture already.",
                hint="Give a file as the model, or leave out --arch.",
            )
        loaded = build(source, pretrained=pretrained)
        set_num_classes(loaded, num_classes)
    elif pretrained:
        raise UsageError(f"--pretrained needs a model name such as timm:resnet50; {model} is a file.")
    else:
        content = _read(str(model), of_weights, trust_pickle=trust_pickle, mapped=mapped)
        loaded = _loaded(content, str(model), of_weights, num_classes, trust_pickle=trust_pickle)
    if preprocessing:
        state_preprocessing(loaded, preprocessing)
    return loaded


def _read(origin: str, arch: Source | None, *, trust_pickle: bool, mapped: bool) -> object:
    """The content of a file; of a checkpoint whose embedded module is not trusted, what ``arch`` needs."""
    if is_adapter(origin):
        raise UsageError(
            f"{origin} is an adapter: blocks and a head, without the network that they belong to.",
            hint=f"Give it back its base: sesurgeon adapter apply BASE {shlex.quote(origin)}",
        )
    try:
        return read(origin, trust_pickle=trust_pickle, mapped=mapped)
    except UnsafeFileError as error:
        parts = read_parts(origin, mapped=mapped or arch is None)  # mapped, it costs nothing to look
        if parts is None or from_content(parts, origin).provenance.source.kind != "module":
            raise
        if arch is None:
            raise UnsafeFileError(error.message, hint=_HOW_TO_REBUILD) from error
        return parts


def _loaded(
    content: object, origin: str, arch: Source | None, num_classes: int | None, *, trust_pickle: bool
) -> nn.Module:
    if isinstance(content, Mapping) and CHECKPOINT_KEY in content:
        ours = _rebuilt(from_content(content, origin), origin, arch=arch, trust_pickle=trust_pickle)
        check_num_classes(ours, num_classes, origin)
        return ours
    return model_from(content, origin, arch=arch, num_classes=num_classes)


def _checkpoint_of(model: nn.Module, plan: Plan | None) -> Checkpoint:
    provenance, weights = provenance_of(model), model.state_dict()
    built = provenance.built
    bare = bare_view(model)  # shares all its tensors with the model: they are written once
    plan = None if plan is None else renewed(plan, model, bare)
    structure = structure_of(bare)
    if provenance.source.kind != "module" and built is not None and structure.body != built.body:
        provenance = replace(provenance, source=Source("module"))
    known = provenance.num_classes or (None if built is None else built.outputs)
    if known is not None and structure.outputs != known:  # the user put in another head
        provenance = replace(provenance, num_classes=structure.outputs, classes=None)
    if provenance.source.kind != "module":
        return Checkpoint(provenance, plan, weights)
    detach_provenance(bare)  # the header has it
    forget_own_forwards(bare)
    return Checkpoint(provenance, plan, weights, bare)


def _has_foreign_method(module: nn.Module) -> bool:
    """Whether its forward was bound to it by hand and is none of its class, where a pickle would look for it."""
    forward = vars(module).get("forward")
    if not isinstance(forward, MethodType):
        return False
    return getattr(type(forward.__self__), forward.__name__, None) is not forward.__func__


def _cannot_be_embedded(model: nn.Module, reason: object) -> UsageError:
    return UsageError(
        f"This {type(model).__name__} has no name that could rebuild it, and cannot be pickled: {reason}",
        hint="Let a function of yours build it, and load it by factory:pkg.mod:function. (Classes alone are enough to "
        "embed it if they lie in a module that can be imported, and nothing in it is parametrized.)",
    )


def _rebuilt(checkpoint: Checkpoint, origin: str, *, arch: Source | None, trust_pickle: bool) -> nn.Module:
    source = checkpoint.provenance.source
    if arch is not None and source.kind == "module" and checkpoint.module is None:
        model, source = _built_by(arch, checkpoint), arch
    else:
        named = arch is not None and arch.typed == source.typed
        if arch is not None and not named and (str(arch) != str(source) or arch.kwargs):
            own = "embeds its architecture" if source.kind == "module" else f"is to be loaded with {source.options}"
            hint = f"Give {source.options}." if source.kind == "factory" else "Leave out --arch and --model-kwargs."
            raise UsageError(f"{origin} {own}, not with {arch.options}.", hint=hint)
        model = rebuild(checkpoint.provenance, checkpoint.module, trust_code=trust_pickle or named, origin=origin)
    provenance = provenance_of(model)
    dtype = _common_dtype(checkpoint.weights)
    if dtype is not None and dtype != _common_dtype(model.state_dict()):  # of what is in no state dict, too
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    if checkpoint.plan is not None:
        model = insert_blocks(model, checkpoint.plan, survey_for(checkpoint.plan, model), inplace=True)
    try:
        model.load_state_dict(checkpoint.weights, strict=True, assign=True)
    except RuntimeError as error:
        raise UnreadableFileError(
            f"The weights in {origin} do not fit its architecture, {source}: {error}",
            hint="Was it written with other arguments, or other versions of timm or torchvision?",
        ) from error
    tie(model)
    attach_provenance(model, provenance)
    return model.eval()


def _built_by(arch: Source, checkpoint: Checkpoint) -> nn.Module:
    """The network that was embedded in a checkpoint, built anew, with the head that its weights want."""
    said = replace(checkpoint.provenance, source=arch, num_classes=None)
    model = rebuild(said, trust_code=True)  # the user typed it
    set_num_classes(model, outputs_in(checkpoint.weights, model))
    now = provenance_of(model)
    attach_provenance(model, replace(said, num_classes=now.num_classes, built=now.built))
    return model


def _common_dtype(weights: Mapping[str, object]) -> torch.dtype | None:
    """The type of all floating-point tensors; None where they differ."""
    dtypes = {one.dtype for one in weights.values() if isinstance(one, Tensor) and one.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None
