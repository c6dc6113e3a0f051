"""Walking from a block's site through the local graphs, from one graph to the next, and what forbids it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from torch import fx, nn

from sesurgeon.graph import Survey, ops
from sesurgeon.graph.tracing.local_graphs import LocalGraphs
from sesurgeon.paths import join
from sesurgeon.surgery.folding.scale import Scale


class NoTakerError(Exception):
    """No layer can take the factors of a tensor; the message says why, in words for the user."""


class Walk(ABC):
    """One site and what lies around it, in one mode.

    Args:
        found: of the network without blocks.
        training: the mode.
        occupied: ids of all sites that have a block.
        site_id: of the site.

    Attributes:
        side: of the block on which it walks.
    """

    side: ClassVar[Literal["before", "after"]]

    @classmethod
    def in_all_modes(cls, found: Survey, site_id: str, occupied: Sequence[str], scale: Scale) -> dict[str, Scale]:
        """The weights and biases to multiply, by name, where they are the same in all modes.

        Raises:
            NoTakerError: they are not, or there are none.
        """
        by_mode = [cls(found, mode, occupied, site_id).tensors(scale) for mode in found.graphs]
        if any(tensors != by_mode[0] for tensors in by_mode):
            raise NoTakerError(f"the layers {cls.side} the block differ between train and eval mode")
        return dict(sorted(by_mode[0].items()))

    def __init__(self, found: Survey, training: bool, occupied: Sequence[str], site_id: str) -> None:
        place, others = found.places[site_id], [found.places[other] for other in occupied]
        self.local: LocalGraphs = found.graphs[training]
        self.site, self.training = place.site, training
        self.node, self.through = place.nodes[training], place.users[training]
        self.nodes = Counter((other.site.owner, other.nodes[training]) for other in others)
        self.hosts = Counter(other.site.owner for other in others if other.nodes[training] is None)

    @abstractmethod
    def tensors(self, scale: Scale) -> Mapping[str, Scale]:
        """The weights and biases, by name, whose multiplication multiplies the site's tensor by ``scale``."""

    def start(self) -> tuple[str, fx.Node]:
        """The graph and the node whose tensor the block gets."""
        owner = self.site.owner
        path, node = self.call_of(owner) if self.node is None else (owner, self.node)
        if self.blocks_after(path, node) > 1:
            raise NoTakerError("another block scales the same tensor")
        return path, node

    def blocks_after(self, path: str, node: fx.Node) -> int:
        """How many blocks scale the value of ``node``, those behind the whole module that it calls included."""
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

    def check_weights(self, names: Iterable[str], reads: int) -> None:
        """Raise NoTakerError unless these weights belong to one layer alone, and files keep them.

        Args:
            names: of parameters and buffers.
            reads: how many operations of that layer read each by its name.
        """
        for name in names:
            if name in self.local.tied or self.local.reads[name] != reads:
                raise NoTakerError(f"{name}, of the layer {self.side} the block, is also used by another layer")
            if name not in self.local.kept:
                raise NoTakerError(f"{name}, of the layer {self.side} the block, is a buffer that no state dict keeps")

    def check_calls(self, called: str) -> None:
        """Raise NoTakerError unless the module at this path runs once for each call of the block."""
        if self.local.times_called[called] != self.site.calls:
            raise NoTakerError(f"{self.beside(called)} also runs for other tensors")

    def check_followed(self, called: str) -> None:
        """Raise NoTakerError unless all that the module at this path does is known, and no hook sees its tensors."""
        module = self.local.model.get_submodule(called)
        parts = [module] if called in self.local.graphs else module.modules()
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            raise NoTakerError(f"a hook on {self.beside(called)} would see other values")
        if called in self.local.unfollowed:
            raise NoTakerError(f"{self.beside(called)} cannot be followed: {self.local.unfollowed[called]}")

    def beside(self, what: str) -> str:
        """``what``, or the path of a module, and on which side of the block it is: the subject of a message."""
        return f"{what or 'the model itself'}, {self.side} the block,"


def described(module: nn.Module | None, node: fx.Node) -> str:
    """What ``node`` does, in a word or two."""
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return str(node.target) if node.op in ("call_module", "placeholder", "get_attr") else ops.name_of(node)
