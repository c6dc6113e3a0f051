"""Constants in place of a block, one for each channel, that a layer beside it takes into its weights.

The network loses the block and its cost. Constants are seldom powers of two, so the weights are rounded once more:
outputs are those of a multiplication by the constants up to rounding, which is checked. Where all constants are 1 no
weight changes, and outputs are the same bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sesurgeon.blocks import Layout
from sesurgeon.errors import UsageError, VerificationError
from sesurgeon.graph import Survey, same
from sesurgeon.models import copy_of
from sesurgeon.placement import Entry, Plan
from sesurgeon.surgery.apply import insert_blocks
from sesurgeon.surgery.bare import take_out
from sesurgeon.surgery.below import outputs_of, survey_below
from sesurgeon.surgery.folding.destinations import destination
from sesurgeon.surgery.folding.differences import relative_difference
from sesurgeon.surgery.folding.origins import origin
from sesurgeon.surgery.folding.scale import Scale, multiply
from sesurgeon.surgery.folding.walk import NoTakerError
from sesurgeon.surgery.rewrite import blocks_of
from sesurgeon.surgery.unchanged import own_plan
from sesurgeon.words import mode_name

_ROUNDINGS = 30  # of the constants: as much as the roundings of all weights and sums may come to


@dataclass(frozen=True)
class Replacement:
    """A network in which constants replaced one block.

    Attributes:
        model: the network without the block.
        site: where the block was.
        tensors: names of the weights and biases that took the constants; none where all of them are 1.
        difference: the largest one between its outputs and those of a multiplication by the constants in the block's
            place, as a share of the largest output, on the plan's inputs; 0 where they are equal bit for bit.
    """

    model: nn.Module
    site: str
    tensors: tuple[str, ...]
    difference: float


def replace_block(model: nn.Module, path: str, constants: Tensor, found: Survey | None = None) -> Replacement:
    """A copy of ``model`` in which constants replace one of its blocks, taken into the weights of a layer beside it.

    That is the layer before the block (a norm, convolution or linear layer, with nothing between but operations on
    each channel alone, such as a ReLU), or else the one layer that reads its result, which may be the classifier.

    Args:
        model: from :func:`sesurgeon.add_se`, :func:`sesurgeon.apply_plan` or :func:`sesurgeon.load`. It stays as it is.
        path: of the block.
        constants: what it is replaced by, one for each channel of its tensor.
        found: the survey of the network below its blocks (:func:`survey_below`); made where it is not given.

    Raises:
        NoTakerError: no layer can take the constants.
        UsageError: there is no such block, or another number of constants; the model has no plan of its own, or its
            layers were changed since.
        VerificationError: the outputs are not those of a multiplication by the constants.
    """
    plan = own_plan(model, "pruned")
    if plan is None or path not in blocks_of(model):
        raise UsageError(f"There is no inserted block {path} in this {type(model).__name__}.")
    found = found or survey_below(model, plan)
    (entry,) = (entry for entry in plan.entries if entry.path == path)
    if constants.shape != (entry.channels,):
        raise UsageError(f"{path} scales {entry.channels} channels, not {tuple(constants.shape)}.")
    scale = _scale(constants, entry, found)
    by = {} if _are_ones(scale) else _takers(found, entry.site, plan, scale)
    target = _without(model, path, plan, entry, found)
    multiply(target, by)
    return Replacement(target, entry.site, tuple(by), _difference(target, model, path, scale, found))


def _scale(constants: Tensor, entry: Entry, found: Survey) -> Scale:
    site = found.site(entry.site)
    return Scale(tuple(constants.tolist()), Layout(len(site.spatial), site.channel_dim).channels)


def _are_ones(scale: Scale) -> bool:
    return all(value == 1 for value in scale.values)


def _takers(found: Survey, site: str, plan: Plan, scale: Scale) -> dict[str, Scale]:
    if min(scale.values) < 0:
        raise NoTakerError("some of its constants are negative")
    try:
        return origin(found, site, plan.sites, scale)
    except NoTakerError as before:
        try:
            return destination(found, site, plan.sites, scale)
        except NoTakerError as after:
            raise NoTakerError(f"{before}, and {after}") from after


def _without(model: nn.Module, path: str, plan: Plan, gone: Entry, found: Survey) -> nn.Module:
    """A copy of ``model`` with all blocks but that one."""
    target = copy_of(model)
    kept = {name: block for name, block in blocks_of(target).items() if name != path}
    take_out(target)
    if kept:
        entries = tuple(entry for entry in plan.entries if entry != gone)
        insert_blocks(target, replace(plan, entries=entries), found, inplace=True)
    for name, block in kept.items():
        target.set_submodule(name, block)
    return target


class _Constants(nn.Module):
    """A multiplication by the constants, as the reference in the block's place."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale.times(x)


def _difference(target: nn.Module, model: nn.Module, path: str, scale: Scale, found: Survey) -> float:
    """The largest difference over both modes.

    Raises:
        VerificationError: it is larger than rounding explains, or there is one where all constants are 1.
    """
    reference = _with_constants(model, path, scale)
    largest = 0.0
    for training, local in found.graphs.items():
        if local.failure is not None:
            continue
        ours, theirs = (outputs_of(network, found, training) for network in (target, reference))
        if same(ours, theirs):
            continue
        difference, allowed = relative_difference(ours, theirs)
        if difference > allowed and not _are_ones(scale):
            # where a norm divides by the deviation of a few values, a rounding may grow to anything
            rounded = outputs_of(_with_constants(model, path, _an_ulp_off(scale, model)), found, training)
            allowed = _ROUNDINGS * relative_difference(rounded, theirs)[0]
        if _are_ones(scale) or not difference <= allowed:
            raise VerificationError(
                f"Without the block {path} the outputs in {mode_name(training)} mode are not those with its constants: "
                f"they differ by {difference:.2g} of the largest one.",
                hint="Nothing was written. Please report it.",
            )
        largest = max(largest, difference)
    return largest


def _with_constants(model: nn.Module, path: str, scale: Scale) -> nn.Module:
    target = copy_of(model)
    target.set_submodule(path, _Constants(scale))
    return target


def _an_ulp_off(scale: Scale, model: nn.Module) -> Scale:
    """Its factors a rounding up and down in turn: the next norm would undo a change that all have in common."""
    step = max((torch.finfo(one.dtype).eps for one in model.parameters() if one.is_floating_point()), default=0.0)
    return scale.with_values([value * (1 + step * (-1) ** number) for number, value in enumerate(scale.values)])
