"""One backbone, many tasks: what a task added to a network, kept by itself and put back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sesurgeon.errors import UnreadableFileError, UsageError, VerificationError
from sesurgeon.models import Provenance, attach_provenance, heads_if_any, num_outputs, provenance_of, set_num_classes
from sesurgeon.placement import architecture_of, survey_for
from sesurgeon.surgery.apply import insert_blocks
from sesurgeon.surgery.below import check_blocks, own_plan
from sesurgeon.surgery.folding.gates import takers
from sesurgeon.surgery.folding.scale import Scale, multiply
from sesurgeon.surgery.head import set_head
from sesurgeon.surgery.keeping.adapterfile import Adapter, read_adapter, write_adapter
from sesurgeon.surgery.keeping.backbone import fingerprint_of, listed, own_tensors
from sesurgeon.surgery.remove import remove_se


def extract_adapter(model: nn.Module, path: str | Path, *, force: bool = True) -> Adapter:
    """Write the plan, the inserted blocks and the head of ``model`` to a file, without its backbone.

    :func:`apply_adapter` gives the whole network back, bit for bit, from the base that it was made of: the network
    before ``finetune``, which must have been told to train blocks and head alone.

    Args:
        model: with its plan and provenance, as :func:`sesurgeon.load` gives it. Without inserted blocks the head is
            all that is kept.
        path: of the file, by custom ``NAME.adapter.safetensors``.
        force: replace a file of that name.

    Raises:
        UsageError: the backbone was trained, too, or changed by pruning, as far as the history tells; there are blocks
            but no plan, because only a network inside was augmented, or other tensors in them than the plan makes; or
            there is neither block nor head.
        OutputError: the file cannot be written; nothing was changed.
    """
    provenance, plan = provenance_of(model), own_plan(model, "extracted")
    _check_backbone_untouched(provenance)
    check_blocks(model, plan, "extracted")
    tensors = own_tensors(model)
    if not tensors:
        raise UsageError(f"This {type(model).__name__} has neither inserted blocks nor a head: nothing is its own.")
    base = remove_se(model)
    adapter = Adapter(
        plan=plan,
        provenance=provenance,
        num_classes=num_outputs(model) if heads_if_any(model) else None,
        architecture=architecture_of(base),
        weights=fingerprint_of(base),
        tensors=tensors,
    )
    write_adapter(adapter, path, force=force)
    return adapter


def apply_adapter(base: nn.Module, adapter: Adapter | str | Path) -> nn.Module:
    """The network of which ``adapter`` was extracted, every tensor bit for bit, in eval mode.

    Args:
        base: the network whose backbone that one has; it stays as it is. Its own blocks and head, if it has any, are
            replaced in the result.
        adapter: from :func:`extract_adapter`, or its file. No code in it is run.

    Raises:
        VerificationError: ``base`` is another network; the message says what differs.
        UnreadableFileError: the file is missing, torn, no adapter, or holds other tensors than its plan asks for.
    """
    if not isinstance(adapter, Adapter):
        adapter = read_adapter(adapter)
    model = remove_se(base)
    # which layer the head is: it is no part of what must agree
    set_head(model, adapter.provenance.head)
    _check_base(adapter, model)
    set_num_classes(model, adapter.num_classes)
    own = provenance_of(model)
    provenance = replace(adapter.provenance, source=own.source, built=own.built)
    if adapter.plan is not None:
        model = insert_blocks(model, adapter.plan, survey_for(adapter.plan, model), inplace=True)
        folded = {name: Scale.uniform(factor) for name, factor in takers(model).items()}
        multiply(model, folded)  # as the layers before were then
    _take(model, adapter)
    if provenance.num_classes is None:  # unless the base had another head
        provenance = replace(provenance, num_classes=provenance_of(model).num_classes)
    attach_provenance(model, provenance)
    return model.eval()


def _check_backbone_untouched(provenance: Provenance) -> None:
    """Nothing since its last training began may have changed the backbone: the base is the network before that."""
    history = provenance.history
    runs = [index for index, record in enumerate(history) if record.get("command") == "finetune"]
    since = history[runs[-1] :] if runs else history
    if runs and since[0].get("phase") == "all":
        raise UsageError(
            "The network was trained as a whole, its backbone too: blocks and head alone would not give it back.",
            hint="Train with finetune --train blocks, or ship the whole checkpoint.",
        )
    pruned = [block for record in since if record.get("command") == "prune" for block in record.get("blocks", ())]
    if any(block.get("folded") for block in pruned):
        raise UsageError(
            "The network was pruned: constants of its blocks went into its backbone, which is the base's no more.",
            hint="Extract the adapter of the network before it was pruned, or ship the whole checkpoint.",
        )


def _check_base(adapter: Adapter, bare: nn.Module) -> None:
    differences = adapter.architecture.differences(architecture_of(bare))
    if not differences:
        parts = adapter.weights.differences(weights := fingerprint_of(bare))
        if parts or weights.whole != adapter.weights.whole:
            differences = [f"its weights differ in {listed(parts)}"]
    if differences:
        source = adapter.provenance.source
        named = "" if source.kind == "module" else f": {source}, with the weights that it had then"
        raise VerificationError(
            f"The adapter belongs to another base: {'; '.join(differences)}.",
            hint=f"Give the network that was fine-tuned{named}.",
        )


def _take(model: nn.Module, adapter: Adapter) -> None:
    own = own_tensors(model)
    wrong = [name for name in {**own, **adapter.tensors} if not _fits(name, own, adapter)]
    if wrong:
        raise UnreadableFileError(
            f"The adapter does not hold the tensors that its plan and its classes ask for: {listed(wrong)}.",
            hint="Extract or copy it again.",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(adapter.tensors[name])


def _fits(name: str, own: dict[str, torch.Tensor], adapter: Adapter) -> bool:
    mine, given = own.get(name), adapter.tensors.get(name)
    return mine is not None and given is not None and (mine.shape, mine.dtype) == (given.shape, given.dtype)
