"""Replacing constant gates by constants in the weights of neighbouring layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import nn

from sesurgeon.errors import UsageError, VerificationError
from sesurgeon.files import StrPath
from sesurgeon.finetune import Data
from sesurgeon.finetune.data.heldout import identity_of
from sesurgeon.finetune.data.loader import check_loading
from sesurgeon.finetune.data.readers import readers_ended
from sesurgeon.finetune.events import OnProgress, ignore
from sesurgeon.finetune.scoring.evaluate import Prepared, check_outputs, ensure_open, measure, prepared
from sesurgeon.finetune.scoring.forward import as_input
from sesurgeon.finetune.scoring.gatestatistics import CONSTANT
from sesurgeon.finetune.scoring.gatewatch import watching_gates
from sesurgeon.gates.prunable import PrunableBlock, prunable_blocks
from sesurgeon.gates.study import check_finite, require_blocks
from sesurgeon.graph import LeftAlone, Survey
from sesurgeon.models import add_record
from sesurgeon.surgery import NoTakerError, Replacement, plan_of, replace_block, survey_below

Times: TypeAlias = tuple[float, float] | tuple[None, None]
"""Milliseconds per pass of two networks; None if they are not timed."""

Timing: TypeAlias = Callable[[nn.Module, nn.Module, torch.Tensor], Times]
"""Times two networks on a batch of images, in turn."""


@dataclass(frozen=True)
class PruningStep:
    """A block that was removed, or tried.

    Attributes:
        block: its path.
        spread: standard deviation of its factors over images and places, of the channel that varies most.
        tensors: names of the weights and biases that were multiplied by its constants; none if all constants are 1.
        smallest, largest: of these constants.
        difference: between the outputs and those of a multiplication by the constants, relative to the largest output;
            0 if all are equal, bit for bit.
        before, after: the metric without the earlier blocks in the list, and without this one, too.
        ms_before, ms_after: milliseconds per pass of these two networks, timed in turn; None if not timed.
        accepted: the block was removed; false for the step that cost more than was allowed.
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
        model: the network; the one that was given if nothing could be pruned.
        metric: the score that decides: "top1", or "map" if images may have several labels; in per cent.
        images: the number of images that it was measured on.
        before, after: the metric of the network that was given, and of ``model``.
        steps: in the order in which they were tried.
        untried: constant blocks that were not tried after a step that cost too much.
        live: blocks whose gates vary more than the tolerance, and their spread.
        left: constant blocks whose constants no layer could take, or for which equal outputs could not be proved, and
            why.
        ms_before, ms_after: milliseconds per pass of the network that was given, and of ``model``, timed in turn.
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
        """Paths of the blocks that were removed."""
        return tuple(step.block for step in self.steps if step.accepted)


@dataclass(frozen=True, eq=False)
class _State:
    """A network, its score on so many images, and what its blocks did, those that vary least first."""

    model: nn.Module
    score: float
    images: int
    blocks: list[PrunableBlock]

    @cached_property
    def survey(self) -> Survey | None:
        """The survey of the network below the blocks."""
        plan = plan_of(self.model)
        return None if plan is None else survey_below(self.model, plan)


def prune(
    model: nn.Module,
    data: Data | StrPath,
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
    """Replace blocks with constant gates by these constants, folded into a neighbouring layer, one by one.

    The block that varies least is tried first, and the network is measured after each. A step that takes the metric
    more than ``max_drop`` below that of the given network is not made, and ends the pruning. A block whose gate is
    always 1 is removed; so is one whose constants no layer can take, if all its factors are within the tolerance of 1.

    Constants are seldom powers of two, so weights are rounded once more; the outputs are compared with those of a
    multiplication by the constants. Removing a gate that is exactly 1 changes no output, bit for bit.

    Args:
        model: a classifier with inserted blocks. It stays as it is, except for its device.
        data: opened data, or what :func:`sesurgeon.finetune.open_held_out` takes.
        max_drop: percentage points of top-1, or of mAP if images may have several labels.
        tolerance: the largest spread over images and places (see :class:`PruningStep`) of a constant gate.
        timing: times two networks; None does not.
        split, batch_size, workers, img_size, device, on_progress: see :func:`sesurgeon.evaluate`.
        on_step: gets each step when it is done.

    Raises:
        UsageError: there are no inserted blocks, a limit is negative, or there is a single image, for which every gate
            is constant; or as :func:`sesurgeon.evaluate` raises it.
        SesurgeonError: a gate gives factors, or the model outputs, that are not finite.
        VerificationError: the outputs change without a block whose gate is exactly 1.
    """
    for name, value in (("max_drop", max_drop), ("tolerance", tolerance)):
        if not value >= 0:
            raise UsageError(f"{name} (={value}) must be at least 0.")
    check_loading(batch_size, workers)
    require_blocks(model)
    timing = timing or (lambda *_: (None, None))
    data = ensure_open(model, data, split=split, workers=workers, on_progress=on_progress)
    if len(data.split(split)) < 2:
        raise UsageError(f"{data.name} has one image, for which every gate is constant.", hint="Give some hundreds.")
    given = prepared(model, data, split=split, batch_size=batch_size, workers=workers, img_size=img_size, device=device)
    metric = "map" if data.multi_label else "top1"
    look = partial(_look, given=given, multi_label=data.multi_label, metric=metric, on_progress=on_progress)
    image = as_input(torch.zeros(1, *given.input_size), model)
    steps: list[PruningStep] = []
    with readers_ended(given.batches):
        state = first = look(model)
        while True:
            found, left = _next(state, tolerance)
            if found is None:
                break
            candidate, replacement = found
            after = look(replacement.model)
            accepted = first.score - after.score <= max_drop + 1e-9  # scores are sums of many shares
            steps.append(_step(candidate, replacement, state, after, timing(state.model, after.model, image), accepted))
            on_step(steps[-1])
            if not accepted:
                break
            state = after
    removed = [step for step in steps if step.accepted]
    if removed:
        add_record(
            state.model, "prune", data=identity_of(data.name), metric=metric, before=first.score, after=state.score,
            blocks=[_recorded(step) for step in removed],
        )  # fmt: skip
    ms_before, ms_after = timing(model, state.model, image) if removed else (None, None)
    tried = {step.block for step in steps} | set(left)
    rest = [one for one in state.blocks if one.block not in tried]
    return Pruning(
        model=state.model,
        metric=metric,
        images=first.images,
        before=first.score,
        after=state.score,
        steps=tuple(steps),
        untried=tuple(one.block for one in rest if one.spread <= tolerance),
        live={one.block: one.spread for one in rest if one.spread > tolerance},
        left=tuple(LeftAlone(path, reason) for path, reason in left.items()),
        ms_before=ms_before,
        ms_after=ms_after,
    )


def _look(model: nn.Module, given: Prepared, multi_label: bool, metric: str, on_progress: OnProgress) -> _State:
    """Measure a network, and watch its gates meanwhile."""
    with watching_gates(model) as watch:
        found = measure(model, given.batches, given.classes, on_progress, multi_label=multi_label)
    check_finite(watch.sums())
    check_outputs(found)
    return _State(model, found.scores()[metric], found.images, prunable_blocks(model, watch.sums()))


def _next(state: _State, tolerance: float) -> tuple[tuple[PrunableBlock, Replacement] | None, dict[str, str]]:
    """The block that can go next; and those before it that cannot, with the reason."""
    left: dict[str, str] = {}
    for candidate in state.blocks:
        if candidate.spread > tolerance:
            break
        try:
            return _replaced(state, candidate, tolerance), left
        except NoTakerError as error:
            left[candidate.block] = str(error)
        except VerificationError as error:
            if candidate.is_open:
                raise  # nothing was multiplied: that is a defect of ours
            left[candidate.block] = error.message
    return None, left


def _replaced(state: _State, candidate: PrunableBlock, tolerance: float) -> tuple[PrunableBlock, Replacement]:
    try:
        return candidate, replace_block(state.model, candidate.block, candidate.constants, state.survey)
    except (NoTakerError, VerificationError):
        if candidate.distance > tolerance:
            raise
        opened = candidate.opened()
        return opened, replace_block(state.model, opened.block, opened.constants, state.survey)


def _step(
    candidate: PrunableBlock, replacement: Replacement, before: _State, after: _State, times: Times, accepted: bool
) -> PruningStep:
    return PruningStep(
        block=candidate.block,
        spread=candidate.spread,
        tensors=replacement.tensors,
        smallest=float(candidate.constants.min()),
        largest=float(candidate.constants.max()),
        difference=replacement.difference,
        before=before.score,
        after=after.score,
        ms_before=times[0],
        ms_after=times[1],
        accepted=accepted,
    )


def _recorded(step: PruningStep) -> dict[str, Any]:
    """What a history records of a step."""
    return {
        "block": step.block,
        "spread": step.spread,
        "folded": list(step.tensors),
        "constants": [step.smallest, step.largest],
    }
