"""Blocks that do nothing cost nothing: constant gates become constants in the layers beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from sesurgeon.errors import UsageError, VerificationError
from sesurgeon.finetune import Data, Measured, open_held_out
from sesurgeon.finetune.data.heldout import identity_of
from sesurgeon.finetune.data.loader import check_loading
from sesurgeon.finetune.events import OnProgress, ignore
from sesurgeon.finetune.scoring.evaluation import Prepared, measure, prepared
from sesurgeon.finetune.scoring.gatewatch import CONSTANT, watching_gates
from sesurgeon.finetune.scoring.outputs import as_input
from sesurgeon.gates.candidates import Candidate, candidates
from sesurgeon.gates.study import check_blocks, check_finite
from sesurgeon.graph import LeftAlone, Survey
from sesurgeon.models import add_record
from sesurgeon.surgery import NoTakerError, Replacement, plan_of, replace_block, survey_below

Timing = Callable[[nn.Module, nn.Module, torch.Tensor], tuple[float, float]]
"""Milliseconds a pass that two networks take for a batch of images, timed in turn."""


@dataclass(frozen=True)
class PruningStep:
    """One step: a block that was taken out, or tried.

    Attributes:
        block: its path.
        spread: standard deviation of its factors over images and places, of the channel that varies most.
        tensors: names of the weights and biases that took its constants; none where all of them are 1.
        smallest, largest: of these constants.
        difference: between the outputs and those of a multiplication by the constants, as a share of the largest one;
            0 where none differ by a bit.
        before, after: the metric without the block's predecessors in the list, and without this one, too.
        ms_before, ms_after: milliseconds a pass, of the same two networks, timed in turn; None where it was not asked.
        accepted: the network goes on without the block; false for the step that cost more than was allowed.
    """

    block: str
    spread: float
    tensors: tuple[str, ...]
    smallest: float
    largest: float
    difference: float
    before: float
    after: float
    ms_before: float | None
    ms_after: float | None
    accepted: bool


@dataclass(frozen=True)
class Pruning:
    """A network without the blocks that did nothing.

    Attributes:
        model: it; the one that was given where nothing could be pruned.
        metric: the score by which it was judged: "top1", or "map" where images may have several labels; in per cent.
        images: how many it was measured on.
        before, after: the metric of the network that was given, and of ``model``.
        steps: in the order in which they were tried.
        untried: constant blocks that were not tried any more after a step that cost too much.
        live: blocks whose gates vary more than the tolerance, and how much.
        left: constant blocks that no layer could take the constants of, or that this could not be proved for, and why.
        ms_before, ms_after: milliseconds a pass of the network that was given, and of ``model``, timed in turn.
    """

    model: nn.Module
    metric: str
    images: int
    before: float
    after: float
    steps: tuple[PruningStep, ...]
    untried: tuple[str, ...]
    live: Mapping[str, float]
    left: tuple[LeftAlone, ...]
    ms_before: float | None
    ms_after: float | None

    @property
    def removed(self) -> tuple[str, ...]:
        """Paths of the blocks that are gone."""
        return tuple(step.block for step in self.steps if step.accepted)


@dataclass(frozen=True, eq=False)
class _State:
    """A network, what it scored, and what its blocks did meanwhile, the least varying first."""

    model: nn.Module
    score: float
    blocks: list[Candidate]

    @cached_property
    def survey(self) -> Survey | None:
        """Of the network below the blocks."""
        plan = plan_of(self.model)
        return None if plan is None else survey_below(self.model, plan)


def prune(
    model: nn.Module,
    data: Data | str | os.PathLike[str],
    *,
    max_drop: float = 0.1,
    tolerance: float = CONSTANT,
    timing: Timing | None = None,
    split: str = "val",
    batch_size: int = 64,
    workers: int = 4,
    img_size: int | None = None,
    device: str | None = None,
    on_progress: OnProgress = ignore,
    on_step: Callable[[PruningStep], object] = lambda _: None,
) -> Pruning:
    """Replace blocks whose gates are constants by these, folded into a layer beside them, one by one.

    The block that varies least is tried first, and after each the network is measured anew. The step after which the
    metric is more than ``max_drop`` below that of the network as it came is not made, and ends the pruning. A block
    whose gate is always 1 is taken out; so is one that no layer can take the constants of, if none of its factors is
    further from 1 than the tolerance.

    Constants are seldom powers of two, so that weights are rounded once more; the outputs are compared with those of
    a multiplication by the constants. A gate that is exactly 1 leaves as it came: no bit of an output changes.

    Args:
        model: a classifier with inserted blocks. It stays as it is, but for its device.
        data: opened data, or what :func:`sesurgeon.finetune.open_held_out` takes.
        max_drop: percentage points of top-1; of mAP where images may have several labels.
        tolerance: the largest spread over images and places (see :class:`PruningStep`) of a gate that is taken for a
            constant.
        timing: how two networks are timed; None for not at all.
        split, batch_size, workers, img_size, device, on_progress: see :func:`sesurgeon.evaluate`.
        on_step: gets each step when it is done.

    Raises:
        UsageError: there are no inserted blocks, a limit is negative, there is a single image, for which every gate is
            constant; or whatever :func:`sesurgeon.evaluate` raises.
        SesurgeonError: a gate gives factors that are not finite.
        VerificationError: a network without a block whose gate is 1 gives other outputs.
    """
    for name, value in (("max_drop", max_drop), ("tolerance", tolerance)):
        if not value >= 0:
            raise UsageError(f"{name} (={value}) must be at least 0.")
    check_loading(batch_size, workers)
    check_blocks(model)
    data = data if isinstance(data, Data) else open_held_out(model, data, on_progress=on_progress)
    if len(data.split(split)) < 2:
        raise UsageError(f"{data.name} has one image, for which every gate is constant.", hint="Give some hundreds.")
    given = prepared(model, data, split=split, batch_size=batch_size, workers=workers, img_size=img_size, device=device)
    metric = "map" if data.multi_label else "top1"
    look = _Look(given, data.multi_label, metric, on_progress)
    first, images = look.at(model)
    image = as_input(torch.zeros(1, *given.input_size), model)
    state, steps, left = first, [], dict[str, str]()
    while (found := _next(state, tolerance, left)) is not None:
        candidate, replacement = found
        after, _ = look.at(replacement.model)
        ms_before, ms_after = (None, None) if timing is None else timing(state.model, replacement.model, image)
        step = PruningStep(
            block=candidate.block,
            spread=candidate.spread,
            tensors=replacement.tensors,
            smallest=float(candidate.constants.min()),
            largest=float(candidate.constants.max()),
            difference=replacement.difference,
            before=state.score,
            after=after.score,
            ms_before=ms_before,
            ms_after=ms_after,
            accepted=first.score - after.score <= max_drop + 1e-9,  # scores are sums of many shares
        )
        steps.append(step)
        on_step(step)
        if not step.accepted:
            break
        state = after
        left.clear()  # what stood in their way may be gone
    tried = {step.block for step in steps} | set(left)
    rest = [one for one in state.blocks if one.block not in tried]
    removed = [step for step in steps if step.accepted]
    whole = (None, None) if timing is None or not removed else timing(model, state.model, image)
    if removed:
        add_record(
            state.model, "prune", data=identity_of(data.name), metric=metric, before=first.score, after=state.score,
            blocks=[_recorded(step) for step in removed],
        )  # fmt: skip
    return Pruning(
        model=state.model,
        metric=metric,
        images=images,
        before=first.score,
        after=state.score,
        steps=tuple(steps),
        untried=tuple(one.block for one in rest if one.spread <= tolerance),
        live={one.block: one.spread for one in rest if one.spread > tolerance},
        left=tuple(LeftAlone(path, reason) for path, reason in left.items()),
        ms_before=whole[0],
        ms_after=whole[1],
    )


class _Look:
    """Measures networks on the same images, and watches their gates meanwhile."""

    def __init__(self, given: Prepared, multi_label: bool, metric: str, on_progress: OnProgress) -> None:
        self.given, self.multi_label, self.metric, self.on_progress = given, multi_label, metric, on_progress

    def at(self, model: nn.Module) -> tuple[_State, int]:
        """What there is to know of ``model``, and the number of images."""
        with watching_gates(model) as watch:
            found: Measured = measure(
                model, self.given.batches, self.given.classes, self.on_progress, multi_label=self.multi_label
            )
        check_finite(watch.sums())
        blocks = candidates(model, watch.sums())
        return _State(model, found.scores()[self.metric], blocks), found.images


def _next(state: _State, tolerance: float, left: dict[str, str]) -> tuple[Candidate, Replacement] | None:
    """The block that can go next; those that cannot are put down in ``left``, with the reason."""
    for candidate in state.blocks:
        if candidate.spread > tolerance:
            return None
        if candidate.block in left:
            continue
        try:
            return _replaced(state, candidate, tolerance)
        except NoTakerError as error:
            left[candidate.block] = str(error)
        except VerificationError as error:
            if candidate.is_open:
                raise  # nothing was multiplied: that is a defect of ours
            left[candidate.block] = error.message
    return None


def _replaced(state: _State, candidate: Candidate, tolerance: float) -> tuple[Candidate, Replacement]:
    candidate = candidate.opened() if candidate.is_open else candidate
    try:
        return candidate, replace_block(state.model, candidate.block, candidate.constants, state.survey)
    except (NoTakerError, VerificationError):
        if candidate.distance > tolerance:
            raise
        opened = candidate.opened()
        return opened, replace_block(state.model, opened.block, opened.constants, state.survey)


def _recorded(step: PruningStep) -> dict[str, Any]:
    """What a history keeps of it."""
    return {
        "block": step.block,
        "spread": step.spread,
        "folded": list(step.tensors),
        "constants": [step.smallest, step.largest],
    }
