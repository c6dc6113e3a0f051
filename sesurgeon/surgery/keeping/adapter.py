"""One backbone, many tasks: what a task added to a network, kept by itself and put back."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

import torch
from torch import nn

from sesurgeon.errors import UnreadableFileError, UsageError, VerificationError
from sesurgeon.files import StrPath
from sesurgeon.models import (
    Provenance,
    attach_provenance,
    head_of,
    heads_if_any,
    num_outputs,
    provenance_of,
    set_num_classes,
)
from sesurgeon.models.copies import AnyModule
from sesurgeon.models.provenance import digest_of
from sesurgeon.paths import is_within_any
from sesurgeon.placement import architecture_of, survey_for
from sesurgeon.surgery.apply import insert_blocks
from sesurgeon.surgery.below import renewed
from sesurgeon.surgery.folding.gate_scale import folded_factors
from sesurgeon.surgery.folding.scale import Scale, multiply
from sesurgeon.surgery.head import set_head
from sesurgeon.surgery.keeping.adapterfile import Adapter, read_adapter, write_adapter
from sesurgeon.surgery.keeping.backbone import changed_tensors, fingerprint_of, is_batchnorm_statistic, own_tensors
from sesurgeon.surgery.remove import remove_se
from sesurgeon.surgery.unchanged import check_blocks_unchanged, own_plan
from sesurgeon.words import some

_AGAIN = "Extract or copy it again."


def extract_adapter(model: nn.Module, path: StrPath, *, base: nn.Module | None = None, force: bool = True) -> Adapter:
    """Write the plan, the inserted blocks and the head of ``model`` to a file, without its backbone.

    :func:`apply_adapter` gives the whole network back, bit for bit, from the base that it was made of: the network
    before ``finetune``, which must have been told to train blocks and head alone.

    Args:
        model: with its plan and provenance, as :func:`sesurgeon.load` gives it. Without inserted blocks the head is
            all that is kept.
        path: of the file, by convention ``NAME.adapter.safetensors``.
        base: the network that it was made of, to compare the backbones: the history records no training loop other than
            ``finetune``, and in train mode even a frozen backbone gets other BatchNorm statistics.
        force: replace a file of that name.

    Raises:
        UsageError: the backbone was trained, too, or changed by pruning, as far as the history tells; there are blocks
            but no plan, because only a network inside was augmented, or others than the plan makes; or there is neither
            block nor head.
        VerificationError: the backbone is not that of ``base``.
        OutputError: the file cannot be written; nothing was changed.
    """
    provenance, plan = provenance_of(model), own_plan(model, "extracted")
    _check_backbone_untouched(provenance)
    check_blocks_unchanged(model, plan, "extracted")
    tensors = own_tensors(model)
    if not tensors:
        raise UsageError(f"This {type(model).__name__} has neither inserted blocks nor a head: nothing is its own.")
    bare, outputs = remove_se(model), num_outputs(model) if heads_if_any(model) else None
    if base is not None:
        _check_backbone_is_of(base, bare)
    adapter = Adapter(
        plan=None if plan is None else renewed(plan, model, bare),
        provenance=_to_pass_on(_of_outputs(provenance, outputs)),
        num_classes=outputs,
        architecture=architecture_of(bare),
        weights=fingerprint_of(bare),
        tensors=tensors,
    )
    write_adapter(adapter, path, force=force)
    return adapter


def apply_adapter(base: AnyModule, adapter: Adapter | StrPath) -> AnyModule:
    """The network of which ``adapter`` was extracted, every tensor bit for bit, in eval mode.

    Args:
        base: the network with the same backbone; it stays as it is. Its own blocks and head, if it has any, are
            replaced in the result.
        adapter: from :func:`extract_adapter`, or its file. No code in it is run.

    Raises:
        VerificationError: ``base`` is another network; the message says what differs.
        UnreadableFileError: the file is missing, torn, not an adapter, or holds other tensors than its plan asks for.
    """
    if not isinstance(adapter, Adapter):
        adapter = read_adapter(adapter)
    model = remove_se(base)
    # which layer the head is: it is no part of what must agree
    set_head(model, adapter.provenance.head)
    if problem := _problem_of_head(adapter, model):
        _check_base(adapter, model)  # which may be the reason
        raise UnreadableFileError(problem, hint=_AGAIN)
    set_num_classes(model, adapter.num_classes)
    _check_base(adapter, model)
    own = provenance_of(model)
    provenance = replace(adapter.provenance, source=own.source, built=own.built)
    if adapter.plan is not None:
        model = insert_blocks(model, adapter.plan, survey_for(adapter.plan, model), inplace=True)
        folded = {name: Scale.uniform(factor) for name, factor in folded_factors(model).items()}
        multiply(model, folded)  # as the layers before were then
    _take(model, adapter)
    if provenance.num_classes is None:  # unless the base had another head
        provenance = replace(provenance, num_classes=provenance_of(model).num_classes)
    attach_provenance(model, provenance)
    return model.eval()


def _check_backbone_untouched(provenance: Provenance) -> None:
    """Raise a UsageError if the backbone changed since the last training began: the base is the network before."""
    history = provenance.history
    runs = [index for index, record in enumerate(history) if record.get("command") == "finetune"]
    since = history[runs[-1] :] if runs else history
    if runs and since[0].get("phase") == "all":
        raise UsageError(
            "The network was trained as a whole, its backbone too: blocks and head alone cannot restore it.",
            hint="Train with finetune --train blocks, or ship the whole checkpoint.",
        )
    pruned = [block for record in since if record.get("command") == "prune" for block in record.get("blocks", ())]
    if any(block.get("folded") for block in pruned):
        raise UsageError(
            "The network was pruned: its backbone holds constants of its blocks and is no longer that of the base.",
            hint="Extract the adapter of the network before it was pruned, or ship the whole checkpoint.",
        )


def _check_backbone_is_of(base: nn.Module, bare: nn.Module) -> None:
    """Compare the two as :func:`apply_adapter` will."""
    given = remove_se(base)
    set_head(given, provenance_of(bare).head)
    if heads_if_any(given) and heads_if_any(bare):
        set_num_classes(given, num_outputs(bare))
    differences = architecture_of(bare).differences(architecture_of(given))
    if not differences and (changed := changed_tensors(bare, given)):
        what = "BatchNorm statistics" if all(map(is_batchnorm_statistic, changed)) else "weights"
        differences = [f"other {what}: {some(changed)}"]
    if differences:
        raise VerificationError(
            f"The network has not the backbone of the base: {'; '.join(differences)}.",
            hint="Train the blocks and the head alone, with all else frozen and in eval mode (as finetune does with "
            'train="blocks"), or keep the whole network with sesurgeon.save.',
        )


def _to_pass_on(provenance: Provenance) -> Provenance:
    """With digests of the data in its history, in the place of paths on this machine."""
    history = tuple(
        {**record, "data": digest_of(record["data"])} if isinstance(record.get("data"), str) else record
        for record in provenance.history
    )
    return replace(provenance, history=history)


def _of_outputs(provenance: Provenance, outputs: int | None) -> Provenance:
    """Without class names where the user put in a head of another number of outputs."""
    if outputs is None or provenance.classes is None or len(provenance.classes) == outputs:
        return provenance
    return replace(provenance, num_classes=outputs, classes=None)


def _check_base(adapter: Adapter, bare: nn.Module) -> None:
    differences = adapter.architecture.differences(architecture_of(bare))
    if not differences:
        parts = adapter.weights.differences(weights := fingerprint_of(bare))
        if parts or weights.whole != adapter.weights.whole:
            differences = [f"its weights differ in {some(parts)}" if parts else "its weights differ"]
    if differences:
        source = adapter.provenance.source
        named = "" if source.kind == "module" else f": {source}, with the weights that it had then"
        raise VerificationError(
            f"The adapter belongs to another base: {'; '.join(differences)}.",
            hint=f"Give the network that was fine-tuned{named}.",
        )


def _problem_of_head(adapter: Adapter, bare: nn.Module) -> str | None:
    """What the adapter says of its head and does not hold: to be known before a head of that width is built."""
    named, outputs, heads = adapter.provenance.head, adapter.num_classes, heads_if_any(bare)
    if named is not None and (not heads or named != head_of(bare)):
        return f"The adapter names a head that is none: {named}."
    if outputs is None or (heads and outputs == num_outputs(bare)):
        return None
    given = [tensor.shape for name, tensor in adapter.tensors.items() if is_within_any(name, heads)]
    if not heads or (outputs, *attrgetter(f"{head_of(bare)}.weight")(bare).shape[1:]) not in given:
        return f"The adapter does not hold a head of {outputs} outputs, as it says."
    return None


def _take(model: nn.Module, adapter: Adapter) -> None:
    own = own_tensors(model)
    wrong = [name for name in {**own, **adapter.tensors} if not _fits(name, own, adapter)]
    if wrong:
        raise UnreadableFileError(
            f"The adapter does not hold the tensors that its plan and its classes ask for: {some(wrong)}.",
            hint=_AGAIN,
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(adapter.tensors[name])


def _fits(name: str, own: dict[str, torch.Tensor], adapter: Adapter) -> bool:
    mine, given = own.get(name), adapter.tensors.get(name)
    return mine is not None and given is not None and (mine.shape, mine.dtype) == (given.shape, given.dtype)
