"""Walking from a block's site through the local graphs, from one graph to the next, and what would make it wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import fx, nn

from sesurgeon.graph import Survey, ops
from sesurgeon.graph.paths import join
from sesurgeon.graph.tracing.local import LocalGraphs
from sesurgeon.surgery.folding.tensor_uses import TensorUses


class NoTakerError(Exception):
    """No layer can take the factors of a tensor; the message says why, in words for the user."""


class Walk:
    """One site and what lies around it, in one mode.

    Args:
        found: of the network without blocks.
        training: the mode.
        occupied: ids of all sites that have a block.
        site_id: of the site.
    """

    def __init__(self, found: Survey, training: bool, occupied: Sequence[str], site_id: str) -> None:
        self.local: LocalGraphs = found.graphs[training]
        self.uses = TensorUses(self.local)
        self.site, self.training = found.site(site_id), training
        self.through = found.users[site_id][training]
        owners = {site: found.site(site).owner for site in occupied}
        self.node = found.nodes[site_id][training]
        self.nodes = Counter((owners[site], found.nodes[site][training]) for site in occupied)
        self.hosts = Counter(owners[site] for site in occupied if found.nodes[site][training] is None)

    def start(self) -> tuple[str, fx.Node]:
        """The graph and the node whose tensor the block gets."""
        owner = self.site.owner
        path, node = self.call_of(owner) if self.node is None else (owner, self.node)
        if self.blocks_after(path, node) > 1:
            raise NoTakerError("another block hangs at the same tensor")
        return path, node

    def blocks_after(self, path: str, node: fx.Node) -> int:
        """How many blocks read the value of ``node``; some hang at the output of the module that it calls."""
        at_module = self.hosts[join(path, node.target)] if node.op == "call_module" else 0
        return self.nodes[path, node] + at_module

    def call_of(self, path: str) -> tuple[str, fx.Node]:
        """The graph and the node that call the module of this path, where only one does."""
        callers = [
            (parent, node)
            for parent, graph in self.local.graphs.items()
            for node in graph.nodes
            if node.op == "call_module" and join(parent, node.target) == path
        ]
        if len(callers) != 1:
            raise NoTakerError(f"what calls {path or 'the model itself'} is not known")
        return callers[0]

    def check_weights(self, names: Iterable[str], where: str, reads: int) -> None:
        for name in names:
            if self.uses.tied(name) or self.uses.reads(name) != reads:
                raise NoTakerError(f"{name} {where} it is used by another layer too")
            if not self.uses.kept(name):
                raise NoTakerError(f"{name} {where} it is a buffer that no state dict keeps")

    def check_calls(self, called: str, where: str) -> None:
        if self.local.times_called[called] != self.site.calls:
            raise NoTakerError(f"{called or 'the model itself'} {where} it runs for other tensors too")

    def check_followed(self, called: str, where: str) -> None:
        module = self.local.model.get_submodule(called)
        parts = [module] if called in self.local.graphs else module.modules()
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            raise NoTakerError(f"a hook on {called} {where} it would see other values")
        if called in self.local.unfollowed:
            raise NoTakerError(f"{called} {where} it cannot be followed: {self.local.unfollowed[called]}")


def described(module: nn.Module | None, node: fx.Node) -> str:
    """What ``node`` does, in a word or two."""
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return str(node.target) if node.op in ("call_module", "placeholder", "get_attr") else ops.name_of(node)
