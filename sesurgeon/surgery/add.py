"""Plan, apply, prove: the whole surgery in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import SurgeryWarning
from sesurgeon.graph import Survey
from sesurgeon.graph.tracing.guards import goes_by_sizes
from sesurgeon.models import add_record
from sesurgeon.models.copies import AnyModule
from sesurgeon.placement import (
    Choices,
    Filters,
    Plan,
    check_policies,
    plan_from_survey,
    settle,
    survey_to_plan,
)
from sesurgeon.surgery.apply import insert_blocks, plan_of
from sesurgeon.surgery.bare import take_out
from sesurgeon.surgery.learnable import unreached_blocks
from sesurgeon.surgery.proof import Proof, prove_identity
from sesurgeon.words import counted, some

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Surgery:
    """An augmented network and how it came to be.

    Attributes:
        model: the augmented network.
        plan: what was inserted.
        survey: what was known of the network before.
        proof: that nothing changed.
        unreached: paths of the blocks that could never learn: see :func:`unreached_blocks`.
    """

    model: nn.Module
    plan: Plan
    survey: Survey
    proof: Proof
    unreached: tuple[str, ...] = ()

    @property
    def steered(self) -> tuple[str, ...]:
        """Paths of the modules with blocks that went by sizes of their input, and refuse what would go another way."""
        owners = sorted({self.survey.site(entry.site).owner for entry in self.plan.entries})
        graphs = [local.graphs for local in self.survey.graphs.values()]
        return tuple(path for path in owners if any(path in found and goes_by_sizes(found[path]) for found in graphs))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the augmented network, in sentences."""
        said, steered = list(self.plan.warnings), self.steered
        if steered:
            named = some([path or "the model itself" for path in steered])
            said.append(
                f"{named} went by sizes of the input. Inputs whose sizes lead another way are refused from now on: "
                "insert the blocks for them with other example inputs (--input-shape)."
            )
        if self.unreached:
            said.append(
                f"From what a pass in train mode gives, no gradient reaches {counted(len(self.unreached), 'block')} "
                f"({some(self.unreached, 3)}), which cannot learn then. Does the forward run that part under "
                "torch.no_grad(), or not use its result?"
            )
        return tuple(said)


def operate(
    model: nn.Module,
    config: BlockConfig | None = None,
    *,
    policies: Sequence[str] = ("standard",),
    filters: Filters | None = None,
    example_inputs: Any = None,
    verify: bool = True,
    inplace: bool = False,
    shared: bool = False,
) -> Surgery:
    """Insert blocks into ``model`` and prove that it still computes the same: see :func:`add_se`.

    With ``shared`` the result has the very parameters and buffers of ``model``: see :func:`insert_blocks`.
    """
    check_policies(policies)
    found = survey_to_plan(model, policies, example_inputs)
    plan = plan_from_survey(found, policies, config or BlockConfig(), filters or Filters())
    return operate_by(plan, found, verify=verify, inplace=inplace, shared=shared)


def operate_by(
    plan: Plan, found: Survey, *, verify: bool = True, inplace: bool = False, shared: bool = False
) -> Surgery:
    """Insert the blocks of ``plan`` into the network that was surveyed, and prove identity as far as possible."""
    augmented = insert_blocks(found.model, plan.unfolded(), found, inplace=inplace, shared=shared)
    plan = plan_of(augmented) or plan
    try:
        proof = _proof(augmented, plan, found, verify=verify)
        unreached = unreached_blocks(augmented, found) if verify else ()
    except BaseException:  # the caller's own code runs in there, and may raise anything; or Ctrl-C
        if inplace:
            take_out(augmented)
        raise
    if plan.entries:
        add_record(augmented, "add-se", policy=list(plan.policy), blocks=len(plan.entries), proof=str(proof))
    return Surgery(augmented, plan, found, proof, unreached)


def _proof(augmented: nn.Module, plan: Plan, found: Survey, *, verify: bool) -> Proof:
    by_design = [entry.config for entry in plan.entries if entry.config.init != "identity" or entry.config.plain]
    if by_design:
        reason = f"init={by_design[0].init}" if by_design[0].init != "identity" else "a plain gate"
        return Proof(None, None, f"{reason} changes them by design")
    return prove_identity(augmented, found) if verify else Proof(None, None, "not asked for")


def add_se(
    model: AnyModule,
    example_inputs: Any = None,
    *,
    verify: bool = True,
    inplace: bool = False,
    **choices: Unpack[Choices],
) -> AnyModule:
    """``model`` with channel attention in it and, proved by running it, the same outputs to the last bit.

    The result is an instance of the model's own class, with all its methods, attributes and state-dict keys. A
    :class:`SurgeryWarning` names modules that could not be followed and therefore got no blocks of their own, methods
    that skip blocks, and whatever else there is to know.

    Args:
        model: a convolutional network, in train or eval mode, on any device.
        example_inputs: a tensor, or a tuple of the positional arguments of forward; made from the model by default.
        verify: compare outputs before and after, ``torch.equal``, in eval and in train mode on the example inputs.
            With ``init="random"`` there is nothing to prove: the outputs change. A warning names blocks that no
            gradient reaches.
        inplace: change ``model`` itself; by default a deep copy is changed.
        choices: where blocks go and what they are: see :class:`sesurgeon.placement.Choices`.

    Raises:
        UsageError, NoSiteError, UntraceableError: as :func:`sesurgeon.make_plan`.
        VerificationError: the outputs changed, or blocks never run; ``model`` is as it was.
    """
    policies, config, filters = settle(choices)
    surgery = operate(
        model,
        config,
        policies=policies,
        filters=filters,
        example_inputs=example_inputs,
        verify=verify,
        inplace=inplace,
    )
    try:
        for said in (*_not_followed(surgery.survey), *surgery.warnings):
            warnings.warn(said, SurgeryWarning, stacklevel=2)
    except SurgeryWarning:  # the user wants warnings to be errors
        if inplace:
            take_out(surgery.model)
        raise
    return cast(AnyModule, surgery.model)


def _not_followed(found: Survey) -> Iterator[str]:
    if found.left_alone:
        named = [f"{left.path or 'the model itself'} ({left.reason})" for left in found.left_alone]
        yield f"Could not be followed, and got no blocks of their own: {some(named, 3)}."
