"""Putting the blocks of a plan into a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sesurgeon.blocks import build_block
from sesurgeon.errors import UsageError
from sesurgeon.graph import Survey
from sesurgeon.graph.sequential import child_giving
from sesurgeon.models import add_record, check_is_network, copy_of, view_of
from sesurgeon.models.copies import AnyModule
from sesurgeon.models.isolation import undisturbed
from sesurgeon.placement import Entry, Plan, by_owner, check_not_augmented, completed, survey_for
from sesurgeon.surgery.rewrite import (
    Forward,
    forward_by_mode,
    forward_then_blocks,
    forward_with_blocks,
    rewrite,
)

_PLAN = "_sesurgeon_plan"


def apply_plan(model: AnyModule, plan: Plan, *, inplace: bool = False) -> AnyModule:
    """``model`` with the plan's blocks in it, as an instance of its own class.

    The blocks of a plan for a folded network are inserted as they were before folding: nothing was folded into these
    weights.

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
            f"Expected a Plan, not a {type(plan).__name__}.", hint="sesurgeon.read_plan reads one from a file."
        )
    augmented = insert_blocks(model, plan.unfolded(), survey_for(plan, model), inplace=inplace)
    if plan.entries:
        add_record(augmented, "add-se", policy=list(plan.policy), blocks=len(plan.entries))
    return augmented


@undisturbed()
def insert_blocks(model: AnyModule, plan: Plan, found: Survey, *, inplace: bool, shared: bool = False) -> AnyModule:
    """As :func:`apply_plan`, for a network that was surveyed already, and without a record in its history.

    Args:
        model, plan, inplace: as there, but nothing is unfolded.
        found: the survey.
        shared: the copy shares the parameters and buffers of ``model``: it takes no memory for weights, and a change to
            those of one changes the other.
    """
    check_not_augmented(model)
    plan = completed(plan, found)
    copied = view_of if shared else copy_of
    rewrites = []  # all are prepared before the first is done: an error leaves the model unchanged
    with torch.inference_mode(False):  # tensors made in inference mode cannot be trained
        target = model if inplace else copied(model)
        for path, entries in by_owner(plan.entries).items():
            owner = target.get_submodule(path)
            blocks = {entry.attribute: _block(owner, entry, found) for entry in entries}
            behind = _in_a_row(path, entries, found)
            forward = type(owner).forward if behind else _forward(owner, path, blocks, entries, found)
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
    """Note by which plan ``model`` was augmented, in a place that deep copies keep and no state dict shows."""
    model.__dict__[_PLAN] = plan


def forget_plan(model: nn.Module) -> None:
    """The inverse of :func:`remember_plan`, for a model whose blocks were taken out."""
    model.__dict__.pop(_PLAN, None)


def _block(owner: nn.Module, entry: Entry, found: Survey) -> nn.Module:
    site = found.site(entry.site)
    block = build_block(entry.config, site.channels, spatial_dims=len(site.spatial), channel_dim=site.channel_dim)
    return block.to(*_device_and_dtype(found, entry)).train(owner.training)


def _device_and_dtype(found: Survey, entry: Entry) -> tuple[torch.device, torch.dtype]:
    """Those of the tensor that the block gets, as the survey saw it.

    It did not see the output of an owner as a whole: then they are those of a parameter, of the owner if it has one.
    So is the dtype under the network's own autocast, where tensors have another dtype than all weights.
    """
    path, node = entry.owner, found.places[entry.site].nodes[False]
    seen = None if node is None else node.meta.get("value")
    parameters = (parameter for part in (path, "") for parameter in found.model.get_submodule(part).parameters())
    near = next((parameter for parameter in parameters if parameter.is_floating_point()), torch.empty(0))
    scaled = seen if isinstance(seen, Tensor) else near
    return scaled.device, near.dtype if path in found.graphs[False].autocast else scaled.dtype


def _in_a_row(path: str, entries: list[Entry], found: Survey) -> dict[str, str]:
    """The child after which each of these blocks goes in an ``nn.Sequential``, by the block's name; {} elsewhere.

    In an ``nn.Sequential`` a block is one more child, so that iterating and slicing do what the forward does.
    """
    local = found.graphs[False]
    before = {entry.attribute: child_giving(local, path, found.places[entry.site].nodes[False]) for entry in entries}
    known = {attribute: child for attribute, child in before.items() if child is not None}
    return known if len(known) == len(entries) else {}


def _forward(
    owner: nn.Module, path: str, blocks: Mapping[str, nn.Module], entries: list[Entry], found: Survey
) -> Forward:
    """The owner's forward with these blocks: from its local graphs, or around it as a whole."""
    original = type(owner).forward
    places = {entry.attribute: found.places[entry.site] for entry in entries}
    if not any(place.needs_graph for place in places.values()):
        return forward_then_blocks(original, list(places))
    by_mode = {}
    for training, local in found.graphs.items():
        anchors = {
            attribute: (node, place.users[training])
            for attribute, place in places.items()
            if (node := place.nodes[training]) is not None
        }
        graph = local.graphs[path]
        by_mode[training] = forward_with_blocks(original, graph, owner, blocks, anchors, path or "model")
    in_eval, in_train = by_mode[False], by_mode[True]
    return in_eval if _are_same(in_eval, in_train) else forward_by_mode(original, in_eval, in_train)


def _are_same(first: Forward, second: Forward) -> bool:
    """Whether they have the same code, with the same names in it, and the same objects behind its global names."""
    names = first.__code__.co_names
    return first.__code__ == second.__code__ and all(
        first.__globals__.get(name) is second.__globals__.get(name) for name in names
    )
