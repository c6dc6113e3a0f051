"""A plan within a limit on latency: measure, drop the most expensive blocks, measure again."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sesurgeon.errors import NoSiteError, UntraceableError
from sesurgeon.export.cost.latency import LatencyRatio, measure_latency
from sesurgeon.export.cost.shares import block_shares
from sesurgeon.graph import LeftAlone, Survey
from sesurgeon.modules import parameter_count
from sesurgeon.placement import Plan, images_in
from sesurgeon.surgery import blocks_of
from sesurgeon.surgery.apply import insert_blocks
from sesurgeon.words import in_per_cent


def fit_latency(model: nn.Module, plan: Plan, found: Survey, most: float) -> tuple[Plan, LatencyRatio]:
    """``plan`` without the blocks that take the most time per parameter, as many as must go to keep to the limit.

    The network is timed in eager PyTorch, with and without blocks, and so is each block in it. Blocks cost more than
    the time within them (they separate operations that a runtime would fuse), so the time that all of them add is
    divided among them in proportion to that time. If the ratio is too high, blocks are dropped whose shares add up to
    the excess, those with the most milliseconds per parameter first; then the network is timed again.

    Args:
        model: without blocks.
        plan: for it.
        found: its survey.
        most: how much longer it may take: 0.05 for 5 %.

    Returns:
        The plan, with the dropped blocks in its ``left_alone``, and the times of the network with it.

    Raises:
        NoSiteError: not a single block fits.
        UntraceableError: the network cannot be timed.
    """
    dropped: list[LeftAlone] = []
    batches = (images_in(found.inputs),)
    while plan.entries:
        augmented = insert_blocks(model, plan, found, inplace=False)
        (ratio,) = measure_latency(model, augmented, found.inputs, batches=batches, runtimes=("torch",))
        if ratio.ratio is None or ratio.base_ms is None:
            raise UntraceableError(f"It cannot be timed: {ratio.failure}")
        if ratio.ratio <= 1 + most:
            return replace(plan, left_alone=(*plan.left_alone, *dropped)), ratio
        within = {one.block: one.ms for one in block_shares(augmented, found.inputs)}
        times = _shared_out((ratio.ratio - 1) * ratio.base_ms, within)
        sizes = {path: parameter_count(block) for path, block in blocks_of(augmented).items()}
        paths = {entry.path: entry for entry in plan.entries}
        # from the ratio that is compared with the limit: by the medians, which may differ less, this might never end
        excess, gone = (ratio.ratio - 1 - most) * ratio.base_ms, set[str]()
        dearest = sorted(paths, key=lambda path: times[path] / sizes[path], reverse=True)
        for path in dearest[:-1] or dearest:  # the last block is timed by itself before it goes, too
            if excess <= 0:
                break
            excess -= times[path]
            gone.add(paths[path].site)
            reason = f"dropped to keep to the bound on time: {times[path]:.3g} ms for {sizes[path]:,} parameters"
            dropped.append(LeftAlone(path, reason))
        plan = replace(plan, entries=tuple(entry for entry in plan.entries if entry.site not in gone))
    raise NoSiteError(
        f"Even a single block takes more than {in_per_cent(most, '.1f')} extra time on this machine.",
        hint="Allow more, or place them where tensors are small: --policy inner, --stages.",
    )


def _shared_out(added: float, within: dict[str, float]) -> dict[str, float]:
    """Divide the milliseconds that all blocks add in proportion to the milliseconds within each."""
    whole = sum(within.values())
    return {path: added * ms / whole if whole else added / len(within) for path, ms in within.items()}
