"""Putting the blocks of a plan into a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sesurgeon.blocks import build_block
from sesurgeon.errors import UsageError
from sesurgeon.graph import Survey
from sesurgeon.graph.rows import child_giving
from sesurgeon.models import add_record, check_is_network, copy_of, view_of
from sesurgeon.models.copies import AnyModule
from sesurgeon.models.isolation import undisturbed
from sesurgeon.placement import Entry, Plan, check_not_augmented, completed, survey_for
from sesurgeon.surgery.rewrite import (
    Forward,
    forward_by_mode,
    forward_then_blocks,
    forward_with_blocks,
    rewrite,
)

_PLAN = "_sesurgeon_plan"


def apply_plan(model: AnyModule, plan: Plan, inplace: bool = False) -> AnyModule:
    """``model`` with the plan's blocks in it, as an instance of its own class.

    Of a plan for a folded network the blocks go in as they were before folding: nothing was folded into these weights.

    Args:
        model: the network that the plan was made for, with any weights.
        plan: from :func:`sesurgeon.make_plan`, or from a file.
        inplace: change ``model`` itself; by default a deep copy is changed.

    Raises:
        UsageError: the plan does not fit the model; all problems are named, and nothing was changed.
        UntraceableError: the model does not run on the plan's inputs.
    """
    if not isinstance(plan, Plan):
        raise UsageError(
            f"A plan is wanted, not a {type(plan).__name__}.", hint="sesurgeon.read_plan reads one from a file."
        )
    augmented = insert_blocks(model, plan.unfolded(), survey_for(plan, model), inplace=inplace)
    if plan.entries:
        add_record(augmented, "add-se", policy=list(plan.policy), blocks=len(plan.entries))
    return augmented


@undisturbed()
def insert_blocks(model: AnyModule, plan: Plan, found: Survey, *, inplace: bool, shared: bool = False) -> AnyModule:
    """As :func:`apply_plan`, for a network that was surveyed already, and without a word in its history.

    Args:
        model, plan, inplace: as there.
        found: the survey.
        shared: the copy has the very parameters and buffers of ``model``: no memory is spent, and a change of one is
            a change of both.
    """
    check_not_augmented(model)
    plan = completed(plan, found)
    copied = view_of if shared else copy_of
    by_owner: dict[str, list[Entry]] = {}
    for entry in plan.entries:
        by_owner.setdefault(found.site(entry.site).owner, []).append(entry)
    rewrites = []  # all of them before the first is made: what is refused leaves the model whole
    with torch.inference_mode(False):  # what is made in it cannot be trained
        target = model if inplace else copied(model)
        for path, entries in by_owner.items():
            owner = target.get_submodule(path)
            blocks = {entry.attribute: _block(owner, entry, found) for entry in entries}
            behind = _in_a_row(path, entries, found)
            forward = type(owner).forward if behind else _forward(owner, path, entries, found)
            rewrites.append((owner, forward, blocks, behind))
    for owner, forward, blocks, behind in rewrites:
        rewrite(owner, forward, blocks, behind)
    remember_plan(target, plan)
    return target


def plan_of(model: nn.Module) -> Plan | None:
    """The plan by which ``model`` was augmented; None for a plain model."""
    check_is_network(model)
    plan = model.__dict__.get(_PLAN)
    return plan if isinstance(plan, Plan) else None


def remember_plan(model: nn.Module, plan: Plan) -> None:
    """Note by which plan ``model`` was augmented, where deep copies keep it and no state dict shows it."""
    model.__dict__[_PLAN] = plan


def forget_plan(model: nn.Module) -> None:
    """The counterpart for a model whose blocks were taken out."""
    model.__dict__.pop(_PLAN, None)


def _block(owner: nn.Module, entry: Entry, found: Survey) -> nn.Module:
    site = found.site(entry.site)
    block = build_block(entry.config, site.channels, spatial_dims=len(site.spatial), channel_dim=site.channel_dim)
    return block.to(*_device_and_dtype(found, entry)).train(owner.training)


def _device_and_dtype(found: Survey, entry: Entry) -> tuple[torch.device, torch.dtype]:
    """Those of the tensor that the block gets, as it was seen.

    That of an owner as a whole was not: then those of a parameter, of the owner if it has one. Its dtype counts under
    the network's own autocast too, where tensors have another than all weights around them.
    """
    path, node = found.site(entry.site).owner, found.nodes[entry.site][False]
    seen = None if node is None else node.meta.get("value")
    parameters = (parameter for part in (path, "") for parameter in found.model.get_submodule(part).parameters())
    near = next((parameter for parameter in parameters if parameter.is_floating_point()), torch.empty(0))
    scaled = seen if isinstance(seen, Tensor) else near
    return scaled.device, near.dtype if path in found.graphs[False].autocast else scaled.dtype


def _in_a_row(path: str, entries: list[Entry], found: Survey) -> dict[str, str]:
    """The child behind which each of these blocks goes in an ``nn.Sequential``, by the block's name; {} elsewhere.

    There a block is one more child in the row, so that iterating and slicing do what the forward does.
    """
    local = found.graphs[False]
    before = {entry.attribute: child_giving(local, path, found.nodes[entry.site][False]) for entry in entries}
    known = {attribute: child for attribute, child in before.items() if child is not None}
    return known if len(known) == len(entries) else {}


def _forward(owner: nn.Module, path: str, entries: list[Entry], found: Survey) -> Forward:
    """The owner's forward with these blocks: from its local graphs, or around it as a whole."""
    original = type(owner).forward
    inside = [entry for entry in entries if found.nodes[entry.site][False] is not None]
    if not inside:
        return forward_then_blocks(original, [entry.attribute for entry in entries])
    by_mode = {}
    for training, local in found.graphs.items():
        anchors = {
            entry.attribute: (node, found.users[entry.site][training])
            for entry in inside
            if (node := found.nodes[entry.site][training]) is not None
        }
        by_mode[training] = forward_with_blocks(original, local.graphs[path], anchors, path or "model")
    return _one_for_both(original, by_mode)


def _one_for_both(original: Forward, by_mode: Mapping[bool, Forward]) -> Forward:
    in_eval, in_train = by_mode[False], by_mode[True]
    return in_eval if _are_one(in_eval, in_train) else forward_by_mode(original, in_eval, in_train)


def _are_one(first: Forward, second: Forward) -> bool:
    """Same code (the names of children and functions in it too), and the same objects behind its global names."""
    names = first.__code__.co_names
    return first.__code__ == second.__code__ and all(
        first.__globals__.get(name) is second.__globals__.get(name) for name in names
    )
