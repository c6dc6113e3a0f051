"""What a plan says, held against a network."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sesurgeon.blocks import build_block
from sesurgeon.errors import SesurgeonError, UsageError
from sesurgeon.graph import Site, Survey, survey
from sesurgeon.models.lazy import refuse_lazy_layers
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
    refuse_lazy_layers(model)
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
    """Refuse a plan that could be read in part only, and say what else is wrong with it for ``model``.

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
    except SesurgeonError:  # which is to be mended after what cannot be read
        others = []
    refuse(f"{origin} cannot be used", sorted((*problems, *others), key=lambda problem: problem.line))


def completed(plan: Plan, found: Survey) -> Plan:
    """``plan`` with nothing left open, for the network that was surveyed.

    Its entries are in the order in which their sites run, wherever they stand in a file, so that the same plan gives
    the same state-dict keys in the same order. An attribute that is open becomes ``se``, or where that name is taken
    the first free one of ``se2``, ``se3``…

    Raises:
        UsageError: sites that are not there, other channels, attributes that are taken, blocks that cannot be built;
            all of them, with the lines of the file.
    """
    kind = type(found.model).__name__
    refuse(f"The plan does not fit this {kind}", _problems(plan, found), "`sesurgeon inspect MODEL --all` lists sites.")
    order = {site.id: number for number, site in enumerate(found.sites)}
    entries = sorted(plan.entries, key=lambda entry: order[entry.site])
    taken = {(found.site(entry.site).owner, entry.attribute) for entry in entries if entry.attribute}
    filled = []
    for entry in entries:
        site = found.site(entry.site)
        attribute = entry.attribute or free_attribute(found.model.get_submodule(site.owner), site.owner, taken)
        taken.add((site.owner, attribute))
        filled.append(replace(entry, attribute=attribute, channels=site.channels))
    return replace(
        plan,
        architecture=plan.architecture or architecture_of(found.model),
        inputs=[describe_arguments(argument) for argument in found.inputs],
        entries=tuple(filled),
        left_alone=plan.left_alone or found.left_alone,
        warnings=tuple(dict.fromkeys((*plan.warnings, *_warnings(filled, found)))),
    )


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
    shown = [*(Problem("", text) for text in differences), *wrong[:_MOST_SITES]]
    if len(wrong) > _MOST_SITES:
        shown.append(Problem("", f"and {len(wrong) - _MOST_SITES} more entries that do not fit"))
    refuse(
        f"The plan was made for another architecture than this {type(model).__name__}",
        shown,
        "Make a plan for this model with `sesurgeon plan MODEL -o plan.yaml`; or, if the difference is meant, "
        "take `architecture:` out of the file.",
    )


def _problems(plan: Plan, found: Survey) -> Iterator[Problem]:
    sites = {site.id: site for site in found.sites}
    first: dict[str, Entry] = {}
    named: dict[tuple[str, str], Entry] = {}
    for entry in plan.entries:
        where = "" if entry.line is None else f"line {entry.line}"
        site = sites.get(entry.site)
        if site is None:
            yield Problem(where, f"there is no site {entry.site}{_near(entry.site, sites)}")
            continue
        if entry.site in first:
            yield Problem(where, twice(entry.site, first[entry.site].line))
            continue
        first[entry.site] = entry
        if entry.channels not in (0, site.channels):
            yield Problem(where, f"{entry.site} has {site.channels} channels, not {entry.channels}")
        name = (site.owner, entry.attribute)
        if entry.attribute and not is_attribute(entry.attribute):
            yield Problem(where, f"the attribute of {entry.site} must be a name, not {entry.attribute!a}")
        elif entry.attribute and before(found.model.get_submodule(site.owner), entry.attribute) is None:
            yield Problem(where, f"{site.owner or 'the model'} has an attribute '{entry.attribute}' already")
        elif entry.attribute and name in named:
            path = ".".join(filter(None, name))
            yield Problem(where, f"{entry.site} would have its block at {path}, as {named[name].site}")
        named.setdefault(name, entry)
        wrong = _unbuildable(entry, site)
        if wrong is not None:
            yield Problem(where, f"{entry.site}: {wrong}")


def _warnings(entries: Sequence[Entry], found: Survey) -> Iterator[str]:
    for entry in entries:
        attention = found.site(entry.site).attention
        if attention is not None:
            yield f"{entry.site} has attention already: {attention}. It gets a block beside it, as the plan says."
    yield from bypasses(entries, found)


def _unbuildable(entry: Entry, site: Site) -> str | None:
    """Why there can be no such block there; None where there can."""
    try:
        with torch.device("meta"):
            build_block(entry.config, site.channels, spatial_dims=len(site.spatial), channel_dim=site.channel_dim)
    except UsageError as error:
        return error.message
    return None


def _near(given: str, known: dict[str, Site]) -> str:
    close = difflib.get_close_matches(given, known, n=3)
    return f"; nearest: {', '.join(close)}" if close else ""
