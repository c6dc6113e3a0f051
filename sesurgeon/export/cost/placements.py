"""How much time each placement of blocks costs on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import NoSiteError
from sesurgeon.export.cost.latency import LatencyRatio, Progress, measure_latency
from sesurgeon.export.cost.runtimes import Runtime
from sesurgeon.files import StrPath
from sesurgeon.graph import Survey, survey
from sesurgeon.modules import parameter_count
from sesurgeon.placement import Filters, Plan, images_in, plan_from_survey
from sesurgeon.surgery import blocks_of
from sesurgeon.surgery.apply import insert_blocks
from sesurgeon.words import counted

_POLICIES = ("standard", "inner")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass(frozen=True)
class PlacementCost:
    """One placement.

    Attributes:
        policy: by which the blocks were placed.
        stage: the only one with blocks; None for all stages.
        blocks: how many.
        parameters: of all blocks.
        latency: in each runtime, compared with the network without blocks.
    """

    policy: str
    stage: int | None
    blocks: int
    parameters: int
    latency: tuple[LatencyRatio, ...]

    @property
    def name(self) -> str:
        """``standard``, or ``standard, stage 3``."""
        return _name(self.policy, self.stage)


def measure_placements(
    model: nn.Module,
    images: Any = None,
    *,
    batch: int | None = None,
    repeats: int = 20,
    runtimes: Sequence[Runtime] = ("torch", "onnxruntime"),
    progress: Progress | None = None,
) -> list[PlacementCost]:
    """Time ``model`` with blocks placed by the policies `standard` and `inner`, in all stages and in each stage alone.

    Each of these networks runs in turn with the one without blocks.

    Args:
        model: without blocks.
        images: a batch, or the tuple of the positional arguments of forward; by default made for the model.
        batch: images per batch; by default as many as in ``images``.
        repeats, runtimes, progress: see :func:`measure_latency`.

    Raises:
        NoSiteError: no policy selects a site.
        UsageError, UntraceableError: as :func:`sesurgeon.make_plan`, :func:`measure_latency`.
    """
    found = survey(model, images)
    plans = list(_plans(found))
    if not plans:
        raise NoSiteError(f"{type(model).__name__} has no place for a block.", hint="`sesurgeon inspect` says why.")
    size = batch or images_in(found.inputs)
    costs = []
    for policy, stage, plan in plans:
        augmented = insert_blocks(model, plan, found, inplace=False)

        def tell(title: str, done: int, of: int, name: str = _name(policy, stage)) -> None:
            if progress is not None:
                progress(f"{name}: {title}", done, of)

        latency = measure_latency(
            model, augmented, found.inputs, batches=(size,), repeats=repeats, runtimes=runtimes, progress=tell
        )
        blocks = blocks_of(augmented).values()
        parameters = sum(map(parameter_count, blocks))
        costs.append(PlacementCost(policy, stage, len(blocks), parameters, tuple(latency)))
    return costs


def draw_placements(costs: Sequence[PlacementCost], path: StrPath) -> None:
    """Write a PNG with a row for each placement: the time that it adds in each runtime, with quartiles as bars.

    Runtimes that ran none of the networks are left out.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    from sesurgeon.finetune.keeping.figures import GREY, new_figure, save_figure, without_box

    figure = new_figure(8, 1.6 + 0.36 * len(costs))
    axes = figure.subplots()
    runtimes = list(dict.fromkeys(one.runtime for cost in costs for one in cost.latency if one.quartiles))
    for index, (runtime, colour) in enumerate(zip(runtimes, _COLOURS, strict=False)):
        shift = 0.16 * (index - (len(runtimes) - 1) / 2)
        rows = [
            (row + shift, _added(one.ratio), [_added(value) for value in one.quartiles])
            for row, cost in enumerate(costs)
            for one in cost.latency
            if one.runtime == runtime and one.ratio is not None and one.quartiles is not None
        ]
        axes.hlines([y for y, _, _ in rows], *zip(*(ends for _, _, ends in rows), strict=True), colour, linewidth=2)
        axes.plot([x for _, x, _ in rows], [y for y, _, _ in rows], "o", color=colour, label=runtime)
    axes.axvline(0, color=GREY, linewidth=1)
    sizes = [f"{counted(cost.blocks, 'block')}, {cost.parameters:,} parameters" for cost in costs]
    axes.set_yticks(range(len(costs)), [f"{cost.name} ({size})" for cost, size in zip(costs, sizes, strict=True)])
    axes.invert_yaxis()
    (batch,) = {one.batch for cost in costs for one in cost.latency}
    axes.set_xlabel(f"time added, %, at batch {batch}")
    axes.grid(axis="x", alpha=0.3)
    if runtimes:
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(runtimes), fontsize="small")
    without_box(axes)
    save_figure(figure, Path(path))


def _name(policy: str, stage: int | None) -> str:
    return policy if stage is None else f"{policy}, stage {stage}"


def _plans(found: Survey) -> Iterator[tuple[str, int | None, Plan]]:
    """Policy, stage and plan: first of all stages (None), then of each stage, if there are several."""
    for policy in _POLICIES:
        try:
            whole = plan_from_survey(found, (policy,), BlockConfig(), Filters())
        except NoSiteError:
            continue
        yield policy, None, whole
        stages = sorted({found.site(entry.site).stage for entry in whole.entries})
        if len(stages) > 1:
            for stage in stages:
                yield policy, stage, plan_from_survey(found, (policy,), BlockConfig(), Filters(stages=(stage,)))


def _added(ratio: float) -> float:
    return 100 * (ratio - 1)
