"""How values flow through one local graph: which node depends on which, and how many layers lie between."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx, nn

from sesurgeon.graph import ops


class Flow:
    """The dependencies in one local graph. Reading a tensor's shape does not count as one.

    Args:
        owner: the module whose forward ``graph`` is.
        graph: its local graph, with values.
    """

    def __init__(self, owner: nn.Module, graph: fx.Graph) -> None:
        self.owner = owner
        self.graph = graph
        self.nodes = list(graph.nodes)
        self._above: dict[fx.Node, frozenset[fx.Node]] = {}
        self._of_parameters: set[fx.Node] = set()
        self._on_data: set[fx.Node] = set()
        for node in self.nodes:
            parents = self.parents(node)
            self._above[node] = frozenset(parents).union(*(self._above[parent] for parent in parents))
            if node.op == "get_attr" or (parents and self._of_parameters.issuperset(parents)):
                self._of_parameters.add(node)
            elif _brings_data(node) or not self._on_data.isdisjoint(parents):
                self._on_data.add(node)

    def parents(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose values ``node`` reads directly."""
        return [] if ops.is_shape_access(node) else list(node.all_input_nodes)

    def upto(self, node: fx.Node) -> frozenset[fx.Node]:
        """``node`` and all nodes whose values it depends on."""
        return self._above[node] | {node}

    def behind(self, nodes: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """All of ``nodes``, and all nodes whose values any of them depends on."""
        return frozenset[fx.Node]().union(*map(self.upto, nodes))

    def shared(self, nodes: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """The nodes that all of ``nodes`` depend on, or are; there must be at least one of these."""
        return frozenset.intersection(*map(self.upto, nodes))

    def arguments(self, call: fx.Node, nodes: frozenset[fx.Node]) -> list[fx.Node]:
        """What ``call``, the call of this module in another graph, passes for the placeholders among ``nodes``."""
        parameters = [node for node in self.nodes if node.op == "placeholder"]
        given = dict(zip(parameters, call.args, strict=False))
        given |= {node: call.kwargs[str(node.target)] for node in parameters if node.target in call.kwargs}
        return [value for node, value in given.items() if node in nodes and isinstance(value, fx.Node)]

    def private(self, node: fx.Node, other: fx.Node) -> frozenset[fx.Node]:
        """``node`` and what it depends on, without what ``other`` depends on too: a branch, from its fork on."""
        return self.upto(node) - self.upto(other)

    def share_a_fork(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether some tensor feeds both."""
        return any(ops.tensor_of(shared) is not None for shared in self.upto(node) & self.upto(other))

    def weight(self, nodes: frozenset[fx.Node]) -> int:
        """Convolutions and linear layers among ``nodes``."""
        return sum(ops.weight(self.owner, node) for node in nodes)

    def ends_in_norm(self, node: fx.Node) -> bool:
        """Whether ``node`` is a norm, or a child that holds one and nothing else but activations and dropout.

        Such children are monai's ``ADN`` (activation, dropout, norm) and those that bundle a batch norm with its ReLU.
        """
        module = ops.module_of(self.owner, node)
        if module is None:
            return ops.name_of(node) in ("batch_norm", "group_norm")
        parts = list(ops.parts_of(module))
        return any(map(ops.is_norm, parts)) and all(map(_is_finish, parts))

    def ends_in_activation(self, node: fx.Node) -> bool:
        """Whether ``node`` is an activation (GLU, too), or a child that holds one and nothing else but dropout."""
        module = ops.module_of(self.owner, node)
        if isinstance(module, nn.GLU) or ops.name_of(node) == "glu":
            return True
        if module is None:
            return ops.is_activation(self.owner, node)
        parts = list(ops.parts_of(module))
        return any(map(ops.activates, parts)) and all(map(_is_finish, parts)) and not any(map(ops.is_norm, parts))

    def depends_on_data(self, node: fx.Node) -> bool:
        """Whether the input's values reach ``node``. False for random masks, parameters and what is made of these."""
        return node in self._on_data

    def branch_end(self, node: fx.Node) -> fx.Node:
        """The end of the branch's own computation, behind which only drop-path, dropout, layer scale or slices follow.

        timm's SE-ResNets have their block there, before drop-path (``timm/models/resnet.py``, ``Bottleneck.forward``).
        """
        while True:
            if ops.is_noise_or_scale(self.owner, node) or ops.is_slice(node):
                source = ops.operand(node)
            elif ops.name_of(node) in ("mul", "div"):
                source = self._scaled(node)
            else:
                return node
            if not isinstance(source, fx.Node):
                return node
            node = source

    def _scaled(self, node: fx.Node) -> fx.Node | None:
        """The operand of a product whose other factor does not depend on the input: a mask, a parameter, a number."""
        data = [arg for arg in ops.operands(node) if isinstance(arg, fx.Node) and self.depends_on_data(arg)]
        return data[0] if len(data) == 1 and ops.tensor_of(data[0]) is not None else None

    def result(self) -> fx.Node | None:
        """The one tensor that the module returns; None where it returns something else."""
        returned = self.nodes[-1].args[0]
        return returned if isinstance(returned, fx.Node) and ops.tensor_of(returned) is not None else None


def _brings_data(node: fx.Node) -> bool:
    """An argument; or a child's result: it may get the input in an object that is not looked into."""
    if node.op == "placeholder":
        return isinstance(node.meta["value"], (Tensor, list, tuple, dict))
    return node.op == "call_module"


def _is_finish(module: nn.Module) -> bool:
    return ops.is_norm(module) or ops.activates(module) or ops.is_noise(module)
