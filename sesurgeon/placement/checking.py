"""Does a plan fit a network? What does not, and what the plan leaves open."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sesurgeon.blocks import build_block
from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.graph import Site, Survey, survey
from sesurgeon.models.unfit import refuse_unfit
from sesurgeon.placement.architecture import architecture_of
from sesurgeon.placement.arguments import describe_arguments
from sesurgeon.placement.attributes import before, free_attribute, inserted, is_attribute
from sesurgeon.placement.bypasses import bypasses
from sesurgeon.placement.inputs import inputs_of
from sesurgeon.placement.plan import Entry, Plan
from sesurgeon.placement.problems import Problem, refuse, twice

_MOST_SITES = 8


def survey_for(plan: Plan, model: nn.Module, example_inputs: Any = None) -> Survey:
    """The survey of ``model`` on ``example_inputs``, or else on the plan's, for the plan's sites.

    Raises:
        UsageError: the plan is for another architecture, and the message says what differs; or the model is one that
            :func:`sesurgeon.graph.survey` refuses.
        UntraceableError: the model does not run on the plan's inputs.
    """
    check_not_augmented(model)
    refuse_unfit(model)
    if example_inputs is None:
        example_inputs = inputs_of(plan, model)
    _check_architecture(plan, model, example_inputs)
    wanted = set(plan.sites)
    return survey(model, example_inputs, wanted=lambda sites: [site for site in sites if site.id in wanted])


def check_not_augmented(model: nn.Module) -> None:
    """Raise a UsageError if there are inserted blocks in ``model``."""
    if any(inserted(module) for module in model.modules()):
        undo = "sesurgeon remove-se, or sesurgeon.remove_se"
        raise UsageError(f"The model has inserted blocks already; take them out first ({undo}).")


def refuse_all(
    problems: Sequence[Problem], plan: Plan, model: nn.Module, example_inputs: Any = None, origin: str = "The plan"
) -> None:
    """Refuse a plan of which only a part could be read, and say also what of that does not fit ``model``.

    Args:
        problems: found in reading; without any, nothing is done.
        plan: what could be read.
        model, example_inputs: as for :func:`survey_for`.
        origin: what the plan is called in messages.

    Raises:
        UsageError: there are problems; all are listed, by line.
    """
    if not problems:
        return
    try:
        others = list(_problems(plan, survey_for(plan, model, example_inputs)))
    except SesurgeonError:  # its turn comes once the file can be read
        others = []
    refuse(f"{origin} cannot be used", sorted((*problems, *others), key=lambda problem: problem.line or 0))


def completed(plan: Plan, found: Survey) -> Plan:
    """``plan`` with nothing left open, for the network that was surveyed.

    Its entries are in the order in which their sites run, wherever they are in a file, so that the same plan gives
    the same state-dict keys in the same order. Open attributes are given in that order: see :func:`with_attributes`.

    Raises:
        UsageError: sites that are not there, other channels, attributes that are taken, blocks that cannot be built;
            all of them, with the lines of the file.
    """
    kind = type(found.model).__name__
    refuse(f"The plan does not fit this {kind}", _problems(plan, found), "`sesurgeon inspect MODEL --all` lists sites.")
    order = {site: number for number, site in enumerate(found.places)}
    entries = tuple(
        replace(entry, channels=found.site(entry.site).channels)
        for entry in with_attributes(sorted(plan.entries, key=lambda entry: order[entry.site]), found)
    )
    return replace(
        plan,
        architecture=plan.architecture or architecture_of(found.model),
        inputs=[describe_arguments(argument) for argument in found.inputs],
        entries=entries,
        left_alone=plan.left_alone or found.left_alone,
        warnings=tuple(dict.fromkeys((*plan.warnings, *_warnings(entries, found)))),
    )


def with_attributes(entries: Iterable[Entry], found: Survey) -> list[Entry]:
    """``entries`` with the attributes that are open, given in their order.

    Each becomes ``se``, or where that name is taken in its owner the first free one of ``se2``, ``se3``…
    """
    entries = list(entries)
    taken = {(entry.owner, entry.attribute) for entry in entries if entry.attribute}
    filled = []
    for entry in entries:
        owner = found.model.get_submodule(entry.owner)
        attribute = entry.attribute or free_attribute(owner, entry.owner, taken)
        taken.add((entry.owner, attribute))
        filled.append(replace(entry, attribute=attribute))
    return filled


def _check_architecture(plan: Plan, model: nn.Module, example_inputs: Any) -> None:
    if plan.architecture is None:
        return
    differences = plan.architecture.differences(architecture_of(model))
    if not differences:
        return
    try:
        wrong = list(_problems(plan, survey(model, example_inputs)))
    except SesurgeonError:  # it need not run on the inputs of another network
        wrong = []
    shown = [*map(Problem, differences), *wrong[:_MOST_SITES]]
    if len(wrong) > _MOST_SITES:
        shown.append(Problem(f"and {len(wrong) - _MOST_SITES} more entries that do not fit"))
    refuse(
        f"The plan was made for another architecture than this {type(model).__name__}",
        shown,
        "Make a plan for this model with `sesurgeon plan MODEL -o plan.yaml`; or, if the difference is intended, "
        "delete `architecture:` from the file.",
    )


def _problems(plan: Plan, found: Survey) -> Iterator[Problem]:
    first: dict[str, Entry] = {}
    at_path: dict[str, Entry] = {}
    for entry in plan.entries:
        if entry.site not in found.places:
            yield Problem(f"there is no site {entry.site}{_near(entry.site, found.places)}", entry.line)
        elif entry.site in first:
            yield Problem(twice(entry.site, first[entry.site].line), entry.line)
        else:
            first[entry.site] = entry
            texts = _misfits(entry, at_path.setdefault(entry.path, entry), found)
            yield from (Problem(text, entry.line) for text in texts)


def _misfits(entry: Entry, other: Entry, found: Survey) -> Iterator[str]:
    """What is wrong with an entry whose site exists; ``other`` is the first with a block of its path."""
    site, attribute = found.site(entry.site), entry.attribute
    if entry.channels not in (0, site.channels):
        yield f"{site.id} has {site.channels} channels, not {entry.channels}"
    if attribute and not is_attribute(attribute):
        yield f"the attribute of {site.id} must be a name, not {attribute!a}"
    elif attribute and before(found.model.get_submodule(site.owner), attribute) is None:
        yield f"{site.owner or 'the model'} has an attribute '{attribute}' already"
    elif attribute and other is not entry:
        yield f"{site.id} would have its block at {entry.path}, as {other.site}"
    wrong = _unbuildable(entry, site)
    if wrong is not None:
        yield f"{site.id}: {wrong}"


def _warnings(entries: Sequence[Entry], found: Survey) -> Iterator[str]:
    for entry in entries:
        attention = found.site(entry.site).attention
        if attention is not None:
            named = attention or "the model itself"
            yield f"{entry.site} has attention already: {named}. It gets a block beside it, as the plan says."
    yield from bypasses(entries, found)


def _unbuildable(entry: Entry, site: Site) -> str | None:
    """Why such a block cannot be built for that site; None where it can."""
    try:
        with torch.device("meta"):
            build_block(entry.config, site.channels, spatial_dims=len(site.spatial), channel_dim=site.channel_dim)
    except UsageError as error:
        return error.message
    return None


def _near(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""
