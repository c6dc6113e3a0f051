"""Folding a gate's factor into the layer before the block: ``x * 2 sigmoid(z)`` is ``(2 x) * sigmoid(z)``.

Doubling is exact in floating point, and so is halving the block's own weights that read x. The result is a standard
network with plain gates, to the last bit: how a network leaves us for timm's ``seresnet50``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from sesurgeon.blocks import Block, build_block
from sesurgeon.errors import SurgeryWarning, UsageError, VerificationError
from sesurgeon.graph import LeftAlone, Survey, same
from sesurgeon.models import copy_of, witnesses
from sesurgeon.models.copies import AnyModule
from sesurgeon.paths import join
from sesurgeon.placement import Entry, Plan
from sesurgeon.surgery.apply import plan_of, remember_plan
from sesurgeon.surgery.below import outputs_of, survey_below
from sesurgeon.surgery.folding.origins import origin
from sesurgeon.surgery.folding.scale import Scale, multiply
from sesurgeon.surgery.folding.walk import NoTakerError
from sesurgeon.surgery.proof import Proof, is_blind
from sesurgeon.surgery.unchanged import is_as_made, own_plan
from sesurgeon.words import mode_name


@dataclass(frozen=True)
class Folding:
    """A network whose gates were made plain where possible, and which were.

    Attributes:
        model: the network.
        folded: paths of the blocks whose factor went into the layer before.
        left: those whose factor stays, and why. A network with such a block is no standard one.
        proof: that the outputs are the same; None where nothing was folded.
    """

    model: nn.Module
    folded: tuple[str, ...]
    left: tuple[LeftAlone, ...]
    proof: Proof | None


@dataclass(frozen=True)
class _Step:
    """What folding the block at ``path`` multiplies: the weights and biases of these names, by this factor."""

    path: str
    entry: Entry
    tensors: tuple[str, ...]
    factor: float


def fold_gate_scale(model: AnyModule, *, inplace: bool = False) -> AnyModule:
    """``model`` with plain gates (``sigmoid`` for ``2 * sigmoid``) and the same outputs to the last bit.

    Warns of blocks that could not be folded, and names them. State dicts keep their keys; ``load_state_dict`` refuses
    those of the other kind, where they are as ``state_dict`` gave them. See :func:`fold`.
    """
    folding = fold(model, inplace=inplace)
    if folding.left:
        left = "; ".join(f"{one.path}: {one.reason}" for one in folding.left)
        warnings.warn(f"Blocks keep the factor of their gates: {left}", SurgeryWarning, stacklevel=2)
    return cast(AnyModule, folding.model)


def fold(model: nn.Module, *, inplace: bool = False) -> Folding:
    """Move the factor of each inserted block's gate into the weight and bias of the layer before it, exactly.

    A block is left as it is where no layer can take the factor: another operation stands between (a SiLU, a sum with
    a shortcut), the layer's output or its weights are used elsewhere too, a hook would see other values, the block
    itself was changed, or the gate is ``1 + tanh``, which has none. Blocks with plain gates have none either and are
    not counted.

    Args:
        model: from :func:`sesurgeon.add_se`, :func:`sesurgeon.apply_plan` or :func:`sesurgeon.load`. Without blocks
            it comes back unchanged.
        inplace: change ``model`` itself; by default a deep copy is changed.

    Raises:
        UsageError: there are blocks in it but no plan, because only a network inside it was augmented; or its layers
            were changed since.
        VerificationError: the outputs are not the same on the plan's inputs; ``model`` is as it was.
    """
    plan = own_plan(model, "folded")
    if plan is None:
        return Folding(model if inplace else copy_of(model), (), (), None)
    found = survey_below(model, plan)
    steps, left = _steps(model, plan, found)
    target, proof = copy_of(model), None
    if steps:
        _perform(target, plan, steps)
        proof = _prove(target, model, found)
    if inplace:
        target = model
        _perform(target, plan, steps)
    return Folding(target, tuple(step.path for step in steps), tuple(left), proof)


def folded_factors(model: nn.Module) -> dict[str, float]:
    """Names of the weights and biases of ``model`` that took a factor when it was folded, and the factors.

    Those of the networks within it, too, which may have been folded before they were put there.

    Raises:
        UsageError: one of them is not there any more.
    """
    found = {
        join(path, name): _factor(entry)
        for path, module in model.named_modules()
        if (plan := plan_of(module)) is not None
        for entry in plan.entries
        for name in entry.folded
    }
    known = {*dict(model.named_parameters()), *dict(model.named_buffers())}
    missing = [name for name in found if name not in known]
    if missing:
        raise UsageError(
            f"The network was folded into {', '.join(missing)}, which is not there any more.",
            hint="Undo what was changed after folding.",
        )
    return found


def _steps(model: nn.Module, plan: Plan, found: Survey) -> tuple[list[_Step], list[LeftAlone]]:
    steps, left = [], []
    for entry in plan.entries:
        try:
            step = _step(model, plan, entry, found)
        except NoTakerError as error:
            left.append(LeftAlone(entry.path, str(error)))
        else:
            steps += [] if step is None else [step]
    return steps, left


def _step(model: nn.Module, plan: Plan, entry: Entry, found: Survey) -> _Step | None:
    """How to fold the block of an entry; None where its gate is plain. Raises NoTakerError where it cannot be done."""
    block = _block(model, entry.path)
    if not is_as_made(block, entry) and getattr(block, "gate_scale", None) != 1:
        raise NoTakerError("a hook is on it, or its layers are others than when it was inserted")
    factor = copy.deepcopy(block).fold()
    if factor is None:
        raise NoTakerError("its gate has no factor that its weights could take exactly")
    if factor == 1:
        return None
    tensors = tuple(origin(found, entry.site, plan.sites, Scale.uniform(factor)))
    if not all(_takes(attrgetter(name)(model), factor) for name in tensors):
        raise NoTakerError(f"{tensors[0]}, of the layer before the block, is too large for a factor of {factor:g}")
    return _Step(entry.path, entry, tensors, factor)


def _perform(target: nn.Module, plan: Plan, steps: Iterable[_Step]) -> None:
    by_site = {step.entry.site: step for step in steps}
    for step in by_site.values():
        _block(target, step.path).fold()
        multiply(target, dict.fromkeys(step.tensors, Scale.uniform(step.factor)))
    entries = (
        replace(entry, config=replace(entry.config, plain=True), folded=by_site[entry.site].tensors)
        if entry.site in by_site
        else entry
        for entry in plan.entries
    )
    remember_plan(target, replace(plan, entries=tuple(entries)))


def _prove(folded: nn.Module, model: nn.Module, found: Survey) -> Proof:
    """Compare outputs as :func:`sesurgeon.surgery.prove_identity` does, but with those of ``model``.

    Raises:
        VerificationError: they differ, or equality would prove nothing.
    """
    tried = [training for training, local in found.graphs.items() if local.failure is None]
    given = {training: _given(model, found, training) for training in tried}
    differ = [training for training in tried if not same(_given(folded, found, training), given[training])]
    if differ:
        raise VerificationError(
            f"After folding the gates' factors the outputs of this {type(model).__name__} are not the ones before "
            f"({', '.join(map(mode_name, differ))} mode).",
            hint="Nothing was changed. Please report it.",
        )
    return Proof.of(tried, [training for training in tried if is_blind(given[training])], found)


def _given(model: nn.Module, found: Survey, training: bool) -> Any:
    """Its outputs and, of a detector, what the parts give that no folding reaches: it stays within graphs."""
    with witnesses(model, followed=found.graphs[training].graphs) as seen:
        return outputs_of(model, found, training), seen


def _takes(tensor: Tensor, factor: float) -> bool:
    """Whether the multiplication can be undone, which it cannot where it overflows."""
    return torch.equal(tensor * factor / factor, tensor)


def _block(model: nn.Module, path: str) -> Block:
    return cast(Block, model.get_submodule(path))


def _factor(entry: Entry) -> float:
    """The factor that was folded away from the gate of an entry."""
    with torch.device("meta"):
        return build_block(replace(entry.config, plain=False), entry.channels).gate_scale
