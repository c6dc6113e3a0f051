"""From candidates in many local graphs to the sites of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import fx, nn

from sesurgeon.blocks import Block
from sesurgeon.graph import ops
from sesurgeon.graph.candidates import Candidate
from sesurgeon.graph.describe import Network, describe, network_of
from sesurgeon.graph.flow import Flow
from sesurgeon.graph.joins import mark_joins
from sesurgeon.graph.patterns import (
    around,
    concatenations,
    conv_units,
    parallel_convolutions,
    residual_branches,
)
from sesurgeon.graph.site import LeftAlone, Site
from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.models.forwards import runs_class_forward
from sesurgeon.paths import is_within_any, join

Candidates = dict[str, list[Candidate]]
"""Module path -> the candidates in that module's graph."""


@dataclass(frozen=True)
class Place:
    """A site together with its nodes.

    Attributes:
        site: the site.
        nodes: mode -> the node that gives the tensor; None for the output of the owner as a whole.
        users: mode -> the nodes rewired to read the block's output; () means every user of the tensor.
    """

    site: Site
    nodes: Mapping[bool, fx.Node | None]
    users: Mapping[bool, tuple[fx.Node, ...]]

    @property
    def needs_graph(self) -> bool:
        """Whether the owner's forward has to be rewritten from its local graph."""
        return any(node is not None for node in self.nodes.values())


def find_places(graphs: Mapping[bool, LocalGraphs]) -> tuple[list[Place], list[LeftAlone]]:
    """All places for blocks, in the order in which they run, and the modules that have to be left alone.

    Args:
        graphs: by mode (``training``).
    """
    flows = {mode: _flows(local) for mode, local in graphs.items()}
    candidates = {mode: _candidates(flows[mode], flows[False]) for mode in graphs}
    network = network_of(graphs[False], flows[False])
    places: list[Place] = []
    left_alone = _unfollowed(graphs)
    for path, in_eval in candidates[False].items():
        in_train = candidates[True].get(path, [])
        if list(map(_looks, in_eval)) == list(map(_looks, in_train)):
            places += _places_in(network, path, zip(in_eval, in_train, strict=True))
        elif path not in {unfollowed.path for unfollowed in left_alone}:
            left_alone.append(LeftAlone(path, "its places for blocks differ between train and eval mode"))
    return places, left_alone


def _places_in(network: Network, path: str, pairs: Iterable[tuple[Candidate, Candidate]]) -> Iterator[Place]:
    """The places in the graph of the module at ``path``, their sites numbered.

    Args:
        network: in eval mode.
        path: of the module.
        pairs: each candidate in eval mode, and the same one in train mode.
    """
    numbers: Counter[tuple[str, str]] = Counter()
    named: dict[Candidate, str] = {}
    for candidate, trained in pairs:
        host = _host(network.local, path, candidate)
        site = describe(network, path, candidate, host)
        if site is None:
            continue
        if candidate.of is None:
            numbers[site.owner, site.kind] += 1
            number = numbers[site.owner, site.kind]
            site = site if number == 1 else replace(site, id=f"{site.id}#{number}")
            named[candidate] = site.id
        elif candidate.of in named:  # numbered as its branch
            residual = named[candidate.of]
            site = replace(site, id=residual.replace(":residual", f":{site.kind}"), residual=residual)
        else:
            continue
        nodes = {False: None, True: None} if host is not None else {False: candidate.node, True: trained.node}
        yield Place(site, nodes, {False: candidate.users, True: trained.users})


def _flows(local: LocalGraphs) -> dict[str, Flow]:
    for path, graph in local.graphs.items():
        mark_joins(local.model.get_submodule(path), graph)
    return {path: Flow(local.model.get_submodule(path), graph) for path, graph in local.graphs.items()}


def _candidates(flows: Mapping[str, Flow], in_eval: Mapping[str, Flow]) -> Candidates:
    """The candidates in each graph of one mode.

    Args:
        flows: module path -> the flow in that module's graph.
        in_eval: those of eval mode, which decides what narrows.
    """
    parallel = {path: parallel_convolutions(flows, path) for path in flows}
    found = _without_summands(_per_graph(flows, in_eval, parallel), parallel)
    return _with_siblings(flows, found)


def _per_graph(flows: Mapping[str, Flow], in_eval: Mapping[str, Flow], parallel: Candidates) -> Candidates:
    """What the patterns find in each graph by itself, with the sums in ``parallel`` as units."""
    found: Candidates = {}
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
    return found


def _without_summands(found: Candidates, parallel: Candidates) -> Candidates:
    """``found`` without the units inside the summands of ``parallel`` sums, which are units as a whole."""
    summands = {
        join(path, node.target)
        for path, units in parallel.items()
        for unit in units
        for node in unit.branch
        if node.op == "call_module"
    }

    return {
        path: [candidate for candidate in candidates if candidate.kind != "conv" or not is_within_any(path, summands)]
        for path, candidates in found.items()
    }


def _one_a_node(candidates: list[Candidate]) -> list[Candidate]:
    """Only the first candidate of each kind at a node: two sums may share the end of one branch."""
    kept: dict[tuple[str, fx.Node], Candidate] = {}
    for candidate in candidates:
        kept.setdefault((candidate.kind, candidate.node), candidate)
    return list(kept.values())


def _one_fork_a_user(places: list[Candidate]) -> list[Candidate]:
    """Without any fork that shares a user with a fork before it: an argument can be replaced only once."""
    taken: set[fx.Node] = set()
    kept = []
    for place in places:
        if place.kind == "fork":
            if not taken.isdisjoint(place.users):
                continue
            taken.update(place.users)
        kept.append(place)
    return kept


def _with_siblings(flows: Mapping[str, Flow], found: Candidates) -> Candidates:
    """Add the branch ends of blocks without a skip, where others of their class have one (MobileNetV2's stride 2)."""
    with_skip = _classes(flows, found, lambda candidate: candidate.kind == "residual" and candidate.summed)
    for path, flow in flows.items():
        result = flow.result()
        if _class_name(flow.owner) not in with_skip or result is None:
            continue
        if any(candidate.kind != "conv" for candidate in found[path]):
            continue
        end = flow.branch_end(result)
        branch = flow.upto(end)
        if flow.weight(branch) > 0 and not ops.is_sum(end):
            found[path] = [Candidate("residual", end, branch), *found[path]]
    return found


def _classes(
    flows: Mapping[str, Flow], found: Mapping[str, list[Candidate]], wanted: Callable[[Candidate], bool]
) -> set[tuple[str, str]]:
    """The classes some of whose modules have a wanted candidate."""
    return {_class_name(flows[path].owner) for path, candidates in found.items() if any(map(wanted, candidates))}


def _class_name(module: nn.Module) -> tuple[str, str]:
    """The module's class by name: surgery gives each owner its own subclass, of the same name."""
    return type(module).__module__, type(module).__qualname__


def _looks(candidate: Candidate) -> tuple[object, ...]:
    tensor = ops.tensor_of(candidate.node)
    return candidate.kind, candidate.has_skip, candidate.host, None if tensor is None else tuple(tensor.shape)


def _host(local: LocalGraphs, path: str, candidate: Candidate) -> str | None:
    """Path of the module that can run the block of ``candidate`` on its own output; None where the owner's graph must.

    A module that runs several times, as a shared activation, would run the block as often. A batch norm may be
    replaced by one of another kind (``SyncBatchNorm.convert_sync_batchnorm``), and the block would be lost with it.
    """
    if candidate.host is None:
        return None
    host = join(path, candidate.host)
    unique = local.times_called.get(host) == 1
    module = local.model.get_submodule(host)
    return host if unique and not ops.is_norm(module) and runs_class_forward(module) else None


def _unfollowed(graphs: Mapping[bool, LocalGraphs]) -> list[LeftAlone]:
    """Modules with convolutions, or kernels of their own, that could not be followed in some mode."""
    reasons: dict[str, str] = {}
    for local in graphs.values():
        for path, reason in local.unfollowed.items():
            module = local.model.get_submodule(path)
            if not isinstance(module, Block) and any(map(_convolves, module.modules())):
                reasons.setdefault(path, f"{type(module).__name__} cannot be followed: {reason}")
    return [LeftAlone(path, reason) for path, reason in reasons.items()]


def _convolves(module: nn.Module) -> bool:
    return ops.is_conv(module) or ops.holds_kernels(module)
