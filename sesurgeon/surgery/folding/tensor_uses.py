"""Who uses a weight: one layer, or others too."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from sesurgeon.graph import ops
from sesurgeon.graph.paths import join
from sesurgeon.graph.tracing.local_graphs import LocalGraphs


@dataclass(frozen=True)
class TensorUses:
    """The uses of all parameters and buffers of a network, by their names.

    Attributes:
        local: the network's graphs, in one mode.
    """

    local: LocalGraphs

    def tied(self, name: str) -> bool:
        """Whether the tensor has other names too."""
        return self._names[id(self._tensors[name])] > 1

    def kept(self, name: str) -> bool:
        """Whether a state dict has it. False for buffers registered with persistent=False."""
        return name in self._kept

    def reads(self, name: str) -> int:
        """How many operations read it by its name, as in ``F.linear(x, self.weight)``: a layer's own does not count."""
        return self._reads[name]

    @cached_property
    def _tensors(self) -> dict[str, object]:
        model = self.local.model
        parameters = dict(model.named_parameters(remove_duplicate=False))
        return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}

    @cached_property
    def _kept(self) -> frozenset[str]:
        return frozenset(self.local.model.state_dict())

    @cached_property
    def _names(self) -> Counter[int]:
        return Counter(id(tensor) for tensor in self._tensors.values())

    @cached_property
    def _reads(self) -> Counter[str]:
        reads: Counter[str] = Counter()
        for path, graph in self.local.graphs.items():
            for node in graph.nodes:
                if node.op == "get_attr":
                    reads[join(path, node.target)] += len(ops.readers(node))
        return reads
