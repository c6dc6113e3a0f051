"""From candidates in many local graphs to the sites of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import fx, nn

from sesurgeon.blocks import Block
from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.describe import describe, network_of
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.joins import mark_joins
from sesurgeon.graph.paths import is_within, join
from sesurgeon.graph.patterns import (
    around,
    concatenations,
    conv_units,
    parallel_convolutions,
    residual_branches,
)
from sesurgeon.graph.site import LeftAlone, Site
from sesurgeon.graph.tracing.local import LocalGraphs
from sesurgeon.models.forwards import runs_class_forward


@dataclass(frozen=True)
class Place:
    """A site together with its nodes.

    Attributes:
        site: the site.
        nodes: mode -> the node that gives the tensor; None for the output of the owner as a whole.
        users: mode -> the nodes that would get the block's result instead; () for all.
    """

    site: Site
    nodes: Mapping[bool, fx.Node | None]
    users: Mapping[bool, tuple[fx.Node, ...]]

    @property
    def needs_graph(self) -> bool:
        """Whether the owner's forward has to be rewritten from its local graph."""
        return any(node is not None for node in self.nodes.values())


def find_places(graphs: Mapping[bool, LocalGraphs], image: tuple[int, ...]) -> tuple[list[Place], list[LeftAlone]]:
    """All places for blocks, in the order in which they run, and the modules that have to be left alone.

    Args:
        graphs: by mode (``training``).
        image: its sides, in pixels; () where not known.
    """
    flows = {mode: _flows(local) for mode, local in graphs.items()}
    candidates = {mode: _candidates(flows[mode], flows[False]) for mode in graphs}
    places: list[Place] = []
    left_alone = _unfollowed(graphs)
    network = network_of(graphs[False], flows[False], image)
    for path, in_eval in candidates[False].items():
        in_train = candidates[True].get(path, [])
        if [_looks(candidate) for candidate in in_eval] != [_looks(candidate) for candidate in in_train]:
            left_alone.append(LeftAlone(path, "its places for blocks differ between train and eval mode"))
            continue
        numbered: dict[tuple[str, str], int] = {}
        named: dict[Candidate, str] = {}
        for candidate, trained in zip(in_eval, in_train, strict=True):
            host = _host(graphs[False], path, candidate)
            site = describe(network, path, candidate, host)
            if site is None:
                continue
            if candidate.of is None:
                number = numbered[site.owner, site.kind] = numbered.get((site.owner, site.kind), 0) + 1
                site = site if number == 1 else replace(site, id=f"{site.id}#{number}")
                named[candidate] = site.id
            elif candidate.of in named:  # numbered as its branch
                residual = named[candidate.of]
                site = replace(site, id=residual.replace(":residual", f":{site.kind}"), residual=residual)
            else:
                continue
            nodes = {False: None, True: None} if host is not None else {False: candidate.node, True: trained.node}
            places.append(Place(site, nodes, {False: candidate.users, True: trained.users}))
    return places, left_alone


def _flows(local: LocalGraphs) -> dict[str, Flow]:
    for path, graph in local.graphs.items():
        mark_joins(local.model.get_submodule(path), graph)
    return {path: Flow(local.model.get_submodule(path), graph) for path, graph in local.graphs.items()}


def _candidates(flows: Mapping[str, Flow], in_eval: Mapping[str, Flow]) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    parallel = {path: parallel_convolutions(flows, path) for path in flows}
    taken = frozenset(node for units in parallel.values() for unit in units for node in unit.branch)
    branches = {path: residual_branches(flow, path, in_eval) for path, flow in flows.items()}
    levels = _classes(flows, branches, lambda branch: branch.narrows and not branch.summed)
    for path, flow in flows.items():
        residuals = [
            branch
            for branch in branches[path]
            if branch.join not in taken
            and not branch.narrows
            # the innermost level of a U-Net does not shrink, where the others do
            and (branch.summed or _class_name(flow.owner) not in levels)
        ]
        ends = _one_a_node(residuals)
        beside = [place for end in ends for place in around(flow, end)]
        units = [unit for unit in conv_units(flow) if unit.node not in taken] + parallel[path]
        found[path] = ends + _one_fork_a_user(beside) + _one_a_node(concatenations(flow, residuals) + units)
    summands = {join(path, node.target) for path in flows for unit in parallel[path] for node in unit.branch}
    for path in found:
        if any(is_within(path, summand) for summand in summands):
            found[path] = [candidate for candidate in found[path] if candidate.kind != "conv"]
    return _with_siblings(flows, found)


def _one_a_node(candidates: list[Candidate]) -> list[Candidate]:
    """The first candidate of each kind at a node: two sums may share the end of one branch."""
    kept: dict[tuple[str, fx.Node], Candidate] = {}
    for candidate in candidates:
        kept.setdefault((candidate.kind, candidate.node), candidate)
    return list(kept.values())


def _one_fork_a_user(places: list[Candidate]) -> list[Candidate]:
    """Without the forks of which a user is that of a fork before: its argument can be replaced once."""
    taken: set[fx.Node] = set()
    kept = []
    for place in places:
        if place.kind == "fork":
            if not taken.isdisjoint(place.users):
                continue
            taken.update(place.users)
        kept.append(place)
    return kept


def _with_siblings(flows: Mapping[str, Flow], found: dict[str, list[Candidate]]) -> dict[str, list[Candidate]]:
    """Add the branch ends of blocks that have no skip, where others of their class have one."""
    with_skip = _classes(flows, found, lambda candidate: candidate.kind == "residual" and candidate.summed)
    for path, flow in flows.items():
        result = flow.result()
        if _class_name(flow.owner) not in with_skip or result is None:
            continue
        if any(candidate.kind != "conv" for candidate in found[path]):
            continue
        end = flow.branch_end(result)
        branch = flow.upto(end)
        if flow.weight(branch) > 0 and ops.joins(end) != "add":
            found[path] = [Candidate("residual", end, branch), *found[path]]
    return found


def _classes(
    flows: Mapping[str, Flow], found: Mapping[str, list[Candidate]], wanted: Callable[[Candidate], bool]
) -> set[tuple[str, str]]:
    """The classes of which some module has a wanted candidate."""
    return {_class_name(flows[path].owner) for path, candidates in found.items() if any(map(wanted, candidates))}


def _class_name(module: nn.Module) -> tuple[str, str]:
    """The module's class by name: surgery gives each owner a subclass of its own, named as its class."""
    return type(module).__module__, type(module).__qualname__


def _looks(candidate: Candidate) -> tuple[object, ...]:
    tensor = ops.tensor_of(candidate.node)
    return candidate.kind, candidate.has_skip, candidate.host, None if tensor is None else tuple(tensor.shape)


def _host(local: LocalGraphs, path: str, candidate: Candidate) -> str | None:
    """Path of the module that can take the block of ``candidate`` at its own output; None: the owner's graph must.

    A module that runs several times, as a shared activation, would run the block as often. A batch norm may be
    swapped for another kind, as ``SyncBatchNorm.convert_sync_batchnorm`` does, and the block would be lost with it.
    """
    if candidate.host is None:
        return None
    host = join(path, candidate.host)
    unique = local.times_called.get(host) == 1
    module = local.model.get_submodule(host)
    return host if unique and not ops.is_norm(module) and runs_class_forward(module) else None


def _unfollowed(graphs: Mapping[bool, LocalGraphs]) -> list[LeftAlone]:
    """Modules of which there is no graph in some mode, and that have convolutions, or kernels of their own."""
    reasons: dict[str, str] = {}
    for local in graphs.values():
        for path, reason in local.unfollowed.items():
            module = local.model.get_submodule(path)
            if not isinstance(module, Block) and any(map(_convolves, module.modules())):
                reasons.setdefault(path, f"{type(module).__name__} cannot be followed: {reason}")
    return [LeftAlone(path, reason) for path, reason in reasons.items()]


def _convolves(module: nn.Module) -> bool:
    return ops.is_conv(module) or ops.holds_kernels(module)
