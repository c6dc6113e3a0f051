"""How values flow through one local graph: who depends on whom, and how many layers lie between."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx, nn

from sesurgeon.graph import ops


class Flow:
    """The dependencies of one local graph. Reading a tensor's shape is no dependency on its values.

    Args:
        owner: the module whose forward ``graph`` is.
        graph: its local graph, with values.
    """

    def __init__(self, owner: nn.Module, graph: fx.Graph) -> None:
        self.owner = owner
        self.graph = graph
        self.nodes = list(graph.nodes)
        self._above: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in self.nodes:
            parents = self.parents(node)
            self._above[node] = frozenset(parents).union(*(self._above[parent] for parent in parents))

    def parents(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose values ``node`` reads directly."""
        return [] if ops.is_shape_access(node) else list(node.all_input_nodes)

    def upto(self, node: fx.Node) -> frozenset[fx.Node]:
        """``node`` and all nodes whose values it depends on."""
        return self._above[node] | {node}

    def behind(self, nodes: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """All of ``nodes``, and all nodes whose values they depend on."""
        return frozenset[fx.Node]().union(*map(self.upto, nodes))

    def arguments(self, call: fx.Node, nodes: frozenset[fx.Node]) -> list[fx.Node]:
        """What ``call``, a node of another graph that calls this module, gives for the arguments among ``nodes``."""
        parameters = [node for node in self.nodes if node.op == "placeholder"]
        given = dict(zip(parameters, call.args, strict=False))
        given |= {node: call.kwargs[str(node.target)] for node in parameters if node.target in call.kwargs}
        return [value for node, value in given.items() if node in nodes and isinstance(value, fx.Node)]

    def private(self, node: fx.Node, other: fx.Node) -> frozenset[fx.Node]:
        """What ``node`` depends on and ``other`` does not: a branch, once the fork is taken away."""
        return self.upto(node) - self.upto(other)

    def share_a_fork(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether some tensor feeds both."""
        return any(ops.tensor_of(shared) is not None for shared in self.upto(node) & self.upto(other))

    def weight(self, nodes: frozenset[fx.Node]) -> int:
        """Convolutions and linear layers among ``nodes``."""
        return sum(ops.weight(self.owner, node) for node in nodes)

    def is_norm(self, node: fx.Node) -> bool:
        """Whether ``node`` is a norm, as a module or a function; or calls a child with one, at most, and activations.

        Such are monai's ``ADN`` (activation, dropout, norm) and all that bundle a batch norm with its ReLU.
        """
        module = ops.module_of(self.owner, node)
        if module is None:
            return ops.name_of(node) in ("batch_norm", "group_norm")
        parts = list(ops.parts_of(module))
        return any(map(ops.is_norm, parts)) and all(map(_is_finish, parts))

    def is_activation(self, node: fx.Node) -> bool:
        """Whether ``node`` is an elementwise activation, or calls a child with nothing else but dropout."""
        module = ops.module_of(self.owner, node)
        if module is None:
            return ops.is_activation(self.owner, node)
        parts = list(ops.parts_of(module))
        return any(map(ops.activates, parts)) and all(map(_is_finish, parts)) and not any(map(ops.is_norm, parts))

    def depends_on_data(self, node: fx.Node) -> bool:
        """Whether the input's values reach ``node``; a random mask, a parameter or a number does not hang on them."""
        return any(
            above.op == "call_module"
            or (above.op == "placeholder" and isinstance(above.meta["value"], (Tensor, list, tuple, dict)))
            for above in self.upto(node)
        )

    def branch_end(self, node: fx.Node) -> fx.Node:
        """Walk back from ``node`` over drop-path, dropout, layer scale and partial slices.

        What is left is the end of the branch's own computation. timm's SE-ResNets have their block there, before
        drop-path (``timm/models/resnet.py``, ``Bottleneck.forward``).
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
        """The operand of a product whose other factor is no data: a mask, a parameter, a number."""
        data = [arg for arg in ops.operands(node) if isinstance(arg, fx.Node) and self.depends_on_data(arg)]
        return data[0] if len(data) == 1 and ops.tensor_of(data[0]) is not None else None

    def result(self) -> fx.Node | None:
        """The one tensor that the module returns; None where it returns something else."""
        returned = self.nodes[-1].args[0]
        return returned if isinstance(returned, fx.Node) and ops.tensor_of(returned) is not None else None


def _is_finish(module: nn.Module) -> bool:
    return ops.is_norm(module) or ops.activates(module) or ops.is_noise(module)
