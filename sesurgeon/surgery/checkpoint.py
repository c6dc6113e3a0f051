"""Our own file: where the model came from, the plan, the weights.

A checkpoint is a ``torch.save`` of plain data and tensors, readable with ``weights_only=True``:

    {"sesurgeon": {"format": 1, "version": …, "provenance": {…}, "plan": {…} or None},
     "state_dict": {…},
     "module": the original network without blocks, only where no name can rebuild it}

Loading rebuilds the source, applies the plan again, and then takes the weights.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.files import atomic_write
from sesurgeon.models import (
    CHECKPOINT_KEY,
    Provenance,
    Source,
    attach_provenance,
    detach_provenance,
    load_model,
    model_from,
    named_source,
    provenance_of,
    read,
    rebuild,
)
from sesurgeon.placement import plan_from_data, plan_to_data, survey_for
from sesurgeon.surgery.adapterfile import is_adapter
from sesurgeon.surgery.apply import insert_blocks, plan_of
from sesurgeon.surgery.bare import bare_view
from sesurgeon.surgery.rewrite import blocks_of

FORMAT = 1


def save(model: nn.Module, path: str | Path, *, force: bool = True) -> None:
    """Write ``model``, augmented or plain, to one file that :func:`load` reads; whole or not at all.

    Args:
        model: its provenance (source, classes, preprocessing, history) and plan go along. A model whose source is
            not known is embedded as a pickled module, which loads safely if its classes are torch's, torchvision's
            or timm's, and otherwise only with ``trust_pickle``.
        path: of the file, by custom ``NAME.se.pt``.
        force: replace a file of that name.

    Raises:
        UsageError: there are blocks in it but no plan, because only a network inside it was augmented.
        OutputError: it cannot be written; nothing was changed.
    """
    provenance, plan = provenance_of(model), plan_of(model)
    inside = blocks_of(model)
    if plan is None and inside:
        raise UsageError(
            f"This {type(model).__name__} cannot be saved: it has inserted blocks ({next(iter(inside))}…) but no plan "
            "of its own, as a network around one that was augmented.",
            hint="Save the augmented network inside it with sesurgeon.save, or keep the state dict of the whole.",
        )
    content: dict[str, Any] = {
        CHECKPOINT_KEY: {
            "format": FORMAT,
            "provenance": provenance.to_dict(),
            "plan": None if plan is None else plan_to_data(plan),
        },
        "state_dict": model.state_dict(),
    }
    if provenance.source.kind == "module":
        content["module"] = _without_blocks(model)
    with atomic_write(Path(path), force=force) as temporary:
        torch.save(content, temporary)


def load(
    model: str | Path | Source,
    *,
    arch: str | Source | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    trust_pickle: bool = False,
    mapped: bool = False,
) -> nn.Module:
    """Any model that sesurgeon knows how to get: a name, a file of somebody's, or a checkpoint of our own.

    The result is in eval mode, on the CPU, with its provenance attached.

    Args:
        model: a path, or ``timm:NAME``, ``torchvision:NAME``, ``factory:pkg.mod:function``.
        arch: the architecture (as such a name) of the weights in a file of weights.
        num_classes: outputs of the classifier; by default as in the file, or the architecture's own.
        pretrained: with a name: take the published weights.
        trust_pickle: run whatever code a file brings along.
        mapped: let the weights lie in the file, for a network that would fill the memory. It must not be written
            into as long as the model is used; :func:`save` may replace it.

    Raises:
        UsageError, UnreadableFileError, UnsafeFileError, SesurgeonError: see
            :func:`sesurgeon.models.load_model`.
    """
    source = Source.parse(arch) if isinstance(arch, str) else arch
    if named_source(model) is not None or pretrained:
        return load_model(model, arch=source, num_classes=num_classes, pretrained=pretrained)
    origin = str(model)
    if is_adapter(origin):
        raise UsageError(
            f"{origin} is an adapter: blocks and a head, without the network that they belong to.",
            hint=f"Give it back its base: sesurgeon adapter apply BASE {shlex.quote(origin)}",
        )
    content = read(origin, trust_pickle=trust_pickle, mapped=mapped)
    if isinstance(content, Mapping) and CHECKPOINT_KEY in content:
        return _from_checkpoint(content, origin, arch=source, trust_pickle=trust_pickle)
    return model_from(content, origin, arch=source, num_classes=num_classes)


def _from_checkpoint(content: Mapping[str, Any], origin: str, *, arch: Source | None, trust_pickle: bool) -> nn.Module:
    header = content[CHECKPOINT_KEY]
    if header.get("format") != FORMAT:
        raise UnreadableFileError(
            f"{origin} is a checkpoint of format {header.get('format')}; this sesurgeon reads format {FORMAT}.",
            hint="Update sesurgeon.",
        )
    provenance = Provenance.from_dict(header["provenance"])
    vouched = arch is not None and str(arch) == str(provenance.source)
    model = rebuild(provenance, content.get("module"), trust_code=trust_pickle or vouched)
    if header["plan"] is not None:
        plan = plan_from_data(header["plan"], origin=f"The plan in {origin}")
        model = insert_blocks(model, plan, survey_for(plan, model), inplace=True)
    try:
        model.load_state_dict(content["state_dict"], strict=True, assign=True)
    except RuntimeError as error:
        raise UnreadableFileError(
            f"The weights in {origin} do not fit the architecture that it names: {error}",
            hint="Was it written with other versions of timm or torchvision?",
        ) from error
    attach_provenance(model, provenance)
    return model.eval()


def _without_blocks(model: nn.Module) -> nn.Module:
    """The network before surgery, sharing all its tensors with ``model``: they are written once."""
    bare = bare_view(model)
    detach_provenance(bare)  # the header has it
    return bare
