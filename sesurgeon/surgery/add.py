"""Plan, apply, prove: the whole surgery in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sesurgeon.blocks import BlockConfig
from sesurgeon.blocks.config import BlockName, Init
from sesurgeon.graph import Survey, survey
from sesurgeon.placement import Filters, Plan, check_policy, plan_from_survey
from sesurgeon.surgery.apply import insert_blocks
from sesurgeon.surgery.proof import Proof, prove_identity
from sesurgeon.surgery.remove import remove_se


@dataclass(frozen=True)
class Surgery:
    """An augmented network and how it came to be.

    Attributes:
        model: the augmented network.
        plan: what was inserted.
        survey: what was known of the network before.
        proof: that nothing changed.
    """

    model: nn.Module
    plan: Plan
    survey: Survey
    proof: Proof


def operate(
    model: nn.Module,
    config: BlockConfig,
    *,
    policy: str = "standard",
    filters: Filters | None = None,
    example_inputs: Any = None,
    verify: bool = True,
    inplace: bool = False,
) -> Surgery:
    """Insert blocks into ``model`` and prove that it still computes the same: see :func:`add_se`."""
    check_policy(policy)
    found = survey(model, example_inputs)
    plan = plan_from_survey(found, policy, config, filters or Filters())
    augmented = insert_blocks(model, plan, found, inplace=inplace)
    if config.init != "identity":
        return Surgery(augmented, plan, found, Proof(None, None, f"init={config.init} changes them by design"))
    if not verify:
        return Surgery(augmented, plan, found, Proof(None, None, "not asked for"))
    try:
        return Surgery(augmented, plan, found, prove_identity(augmented, found))
    except BaseException:  # the caller's own code runs in there, and may raise anything; or Ctrl-C
        if inplace:
            remove_se(model, inplace=True)
        raise


def add_se(
    model: nn.Module,
    verify: bool = True,
    inplace: bool = False,
    *,
    policy: str = "standard",
    block: BlockName = "se",
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    init: Init = "identity",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    stages: Sequence[int] | None = None,
    min_channels: int = 1,
    example_inputs: Any = None,
) -> nn.Module:
    """``model`` with channel attention in it and, proved by running it, the same outputs to the last bit.

    The result is an instance of the model's own class, with all its methods, attributes and state-dict keys.

    Args:
        model: a convolutional network, in train or eval mode, on any device.
        verify: compare outputs before and after, ``torch.equal``, in eval and in train mode on the example inputs.
            With ``init="random"`` there is nothing to prove: the outputs change.
        inplace: change ``model`` itself; by default a deep copy is changed.
        policy, block, rd_ratio, rd_channels, rd_divisor, init, include, exclude, stages, min_channels,
        example_inputs: see :func:`sesurgeon.make_plan`.

    Raises:
        UsageError, NoSiteError, UntraceableError: as :func:`sesurgeon.make_plan`.
        VerificationError: the outputs changed; ``model`` is as it was.
    """
    config = BlockConfig(block, rd_ratio, rd_channels, rd_divisor, init)
    filters = Filters(tuple(include), tuple(exclude), None if stages is None else tuple(stages), min_channels)
    return operate(
        model,
        config,
        policy=policy,
        filters=filters,
        example_inputs=example_inputs,
        verify=verify,
        inplace=inplace,
    ).model
