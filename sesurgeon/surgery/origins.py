"""The layers whose weights and biases a block's tensor is proportional to, found by walking back from its site."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Sequence

from torch import fx, nn

from sesurgeon.graph import Survey, ops
from sesurgeon.graph.local import LocalGraphs
from sesurgeon.surgery.homogeneous import function_weights, module_weights, ways_back
from sesurgeon.surgery.tensor_uses import TensorUses, join, readers
from sesurgeon.surgery.trials import input_passes, weights_pass


class NoOriginError(Exception):
    """There are no such layers; the message says why, in words for the user."""


def origin(found: Survey, site_id: str, occupied: Iterable[str], factor: float) -> tuple[str, ...]:
    """The tensors, by name, that can be multiplied by ``factor`` instead of the tensor of a site.

    They are weights and biases of the convolutions, linear layers and norms before it. Then that tensor is multiplied
    by ``factor``, bit for bit, in eval and in train mode, and nothing else is that the network computes.

    Args:
        found: of the network without blocks.
        site_id: of the site.
        occupied: ids of all sites that have a block.
        factor: a power of two.

    Raises:
        NoOriginError: there are none.
    """
    by_mode = [frozenset(_Walk(found, mode, tuple(occupied), site_id, factor).tensors()) for mode in found.graphs]
    if len(set(by_mode)) > 1:
        raise NoOriginError("the layers before it differ between train and eval mode")
    return tuple(sorted(by_mode[0]))


class _Walk:
    """One site's way back, in one mode."""

    def __init__(self, found: Survey, training: bool, occupied: Sequence[str], site_id: str, factor: float) -> None:
        self.local: LocalGraphs = found.graphs[training]
        self.uses = TensorUses(self.local)
        self.site, self.factor, self.training = found.site(site_id), factor, training
        self.through = found.users[site_id][training]
        owners = {site: found.site(site).owner for site in occupied}
        self.node = found.nodes[site_id][training]
        self.nodes = Counter((owners[site], found.nodes[site][training]) for site in occupied)
        self.hosts = Counter(owners[site] for site in occupied if found.nodes[site][training] is None)

    def tensors(self) -> frozenset[str]:
        """Names of the weights and biases behind the site's tensor."""
        owner = self.site.owner
        path, node = self._call_of(owner) if self.node is None else (owner, self.node)
        if self._blocks_after(path, node) > 1:
            raise NoOriginError("another block hangs at the same tensor")
        if self.through and set(self.through) != set(readers(node)):
            raise NoOriginError("its tensor is used without the block too")
        return self._made_by(path, node)

    def _before(self, path: str, node: fx.Node) -> frozenset[str]:
        """As :meth:`_made_by`, for a tensor on the way, which nothing else may see."""
        if len(readers(node)) != 1:
            raise NoOriginError(f"the tensor {_described(None, node)} before it is used elsewhere too")
        if self._blocks_after(path, node):
            raise NoOriginError(f"another block hangs before it, after {_described(None, node)}")
        return self._made_by(path, node)

    def _made_by(self, path: str, node: fx.Node) -> frozenset[str]:
        """Names of the weights and biases that the value of ``node``, in the graph of ``path``, is proportional to."""
        if node.op == "placeholder":
            return self._before(*self._argument(path, node))
        if node.op == "call_module":
            return self._by_module(path, node)
        weights = function_weights(node)
        if weights is not None:
            return self._by_function(path, node, weights)
        return self._behind(path, node)

    def _by_module(self, path: str, node: fx.Node) -> frozenset[str]:
        called = join(path, str(node.target))
        module = self.local.model.get_submodule(called)
        self._check_followed(called)
        if called in self.local.graphs:
            self._check_calls(called)
            return self._before(called, self._returned(called))
        weights = module_weights(module)
        if weights is None:
            return self._behind(path, node)
        self._check_calls(called)
        if "weight" not in weights:
            raise NoOriginError(f"{called} ({type(module).__name__}) before it has no weight")
        names = frozenset(join(called, name) for name in weights)
        self._check_weights(names, reads=0)
        if self.local.proven and not weights_pass(module, [*weights], node, self.factor, training=self.training):
            raise NoOriginError(
                f"{called} ({type(module).__name__}) before it is not exactly proportional to its weight and bias"
            )
        return names

    def _by_function(self, path: str, node: fx.Node, weights: Sequence[object]) -> frozenset[str]:
        given = [weight for weight in weights if weight is not None]
        read = [weight for weight in given if isinstance(weight, fx.Node) and weight.op == "get_attr"]
        names = frozenset(join(path, str(weight.target)) for weight in read)
        if weights[0] is None or len(names) < len(given):
            raise NoOriginError(f"the weight of {ops.name_of(node)} before it is no parameter")
        self._check_calls(path)
        self._check_weights(names, reads=1)
        return names

    def _behind(self, path: str, node: fx.Node) -> frozenset[str]:
        """What lies behind an operation that a factor passes."""
        owner = self.local.model.get_submodule(path)
        module, ways = ops.module_of(owner, node), ways_back(owner, node)
        passes = bool(ways)
        if passes and module is not None and self.local.proven:
            passes = input_passes(module, node, self.factor, training=self.training)
        if not passes:
            raise NoOriginError(f"no factor passes {_described(module, node)} before it")
        failures = []
        for way in ways:
            try:
                return frozenset[str]().union(*(self._before(path, operand) for operand in way))
            except NoOriginError as error:
                failures.append(error)
        raise failures[0]

    def _blocks_after(self, path: str, node: fx.Node) -> int:
        """How many blocks read the value of ``node``; some hang at the output of the module that it calls."""
        at_module = self.hosts[join(path, str(node.target))] if node.op == "call_module" else 0
        return self.nodes[path, node] + at_module

    # -- what would make it wrong ------------------------------------------------------------------------------------

    def _check_weights(self, names: Iterable[str], reads: int) -> None:
        for name in names:
            if self.uses.tied(name) or self.uses.reads(name) != reads:
                raise NoOriginError(f"{name} before it is used by another layer too")

    def _check_calls(self, called: str) -> None:
        if self.local.times_called[called] != self.site.calls:
            raise NoOriginError(f"{called or 'the model itself'} before it runs for other tensors too")

    def _check_followed(self, called: str) -> None:
        module = self.local.model.get_submodule(called)
        parts = [module] if called in self.local.graphs else module.modules()
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            raise NoOriginError(f"a hook on {called} before it would see other values")
        if called in self.local.unfollowed:
            raise NoOriginError(f"{called} before it cannot be followed: {self.local.unfollowed[called]}")

    # -- from graph to graph -----------------------------------------------------------------------------------------

    def _returned(self, path: str) -> fx.Node:
        returned = list(self.local.graphs[path].nodes)[-1].args[0]
        if not isinstance(returned, fx.Node):
            raise NoOriginError(f"{path} before it returns several tensors")
        return returned

    def _argument(self, path: str, placeholder: fx.Node) -> tuple[str, fx.Node]:
        """What the caller of ``path`` gave for one of its arguments."""
        parent, call = self._call_of(path)
        self._check_followed(path)
        self._check_calls(path)
        signature = inspect.signature(type(self.local.model.get_submodule(path)).forward)
        given = signature.bind(None, *call.args, **call.kwargs).arguments.get(str(placeholder.target))
        if not isinstance(given, fx.Node):
            raise NoOriginError(f"the argument {placeholder.target} of {path} before it is no single tensor")
        return parent, given

    def _call_of(self, path: str) -> tuple[str, fx.Node]:
        """The graph and the node that call the module of this path, where only one does."""
        callers = [
            (parent, node)
            for parent, graph in self.local.graphs.items()
            for node in graph.nodes
            if node.op == "call_module" and join(parent, str(node.target)) == path
        ]
        if len(callers) != 1:
            raise NoOriginError(f"what calls {path or 'the model itself'} is not known")
        return callers[0]


def _described(module: nn.Module | None, node: fx.Node) -> str:
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    return str(node.target) if node.op in ("call_module", "placeholder", "get_attr") else ops.name_of(node)
