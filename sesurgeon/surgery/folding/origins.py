"""The layers whose weights and biases a block's tensor is proportional to, found by walking back from its site."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from operator import attrgetter

from torch import Tensor, fx

from sesurgeon.graph import Survey, ops
from sesurgeon.paths import join
from sesurgeon.surgery.folding.channelwise import ways_back
from sesurgeon.surgery.folding.homogeneous import function_weights, module_weights, output_channels
from sesurgeon.surgery.folding.scale import Scale
from sesurgeon.surgery.folding.trials import input_passes, weights_pass
from sesurgeon.surgery.folding.walk import NoTakerError, Walk, described


def origin(found: Survey, site_id: str, occupied: Sequence[str], scale: Scale) -> dict[str, Scale]:
    """The weights and biases, by name, that can be multiplied instead of the tensor of a site, and the factors of each.

    They are those of the convolutions, linear layers and norms before it. Multiplying them multiplies that tensor by
    ``scale``, in eval and in train mode, and changes nothing else that the network computes: bit for bit if all
    factors are powers of two, otherwise up to rounding.

    Args:
        found: of the network without blocks.
        site_id: of the site.
        occupied: ids of all sites that have a block.
        scale: a power of two; or a factor for each channel, none of them negative.

    Raises:
        NoTakerError: there are none.
    """
    return _Back.in_all_modes(found, site_id, occupied, scale)


class _Back(Walk):
    """One site's way back, in one mode."""

    side = "before"

    def tensors(self, scale: Scale) -> Mapping[str, Scale]:
        path, node = self.start()
        if self.through and set(self.through) != set(ops.readers(node)):
            raise NoTakerError("its tensor is also used without the block")
        return self._made_by(path, node, scale)

    def _before(self, path: str, node: fx.Node, scale: Scale) -> Mapping[str, Scale]:
        """As :meth:`_made_by`, for a tensor on the way, which nothing else may see."""
        if len(ops.readers(node)) != 1:
            raise NoTakerError(f"the tensor {self.beside(described(None, node))} is also used elsewhere")
        if self.blocks_after(path, node):
            raise NoTakerError(f"there is another block before it, after {described(None, node)}")
        return self._made_by(path, node, scale)

    def _made_by(self, path: str, node: fx.Node, scale: Scale) -> Mapping[str, Scale]:
        """The weights and biases that the value of ``node``, in the graph of ``path``, is proportional to."""
        if node.op == "placeholder":
            return self._before(*self._argument(path, node), scale)
        if node.op == "call_module":
            return self._by_module(path, node, scale)
        weights = function_weights(node)
        if weights is not None:
            return self._by_function(path, node, weights, scale)
        return self._behind(path, node, scale)

    def _by_module(self, path: str, node: fx.Node, scale: Scale) -> Mapping[str, Scale]:
        called = join(path, node.target)
        module = self.local.model.get_submodule(called)
        self.check_followed(called)
        if called in self.local.graphs:
            self.check_calls(called)
            return self._before(called, self._returned(called), scale)
        weights = module_weights(module)
        if weights is None:
            return self._behind(path, node, scale)
        self.check_calls(called)
        layer = self.beside(f"{called} ({type(module).__name__})")
        if "weight" not in weights:
            raise NoTakerError(f"{layer} has no weight")
        scales = {name: _by_rows(tensor, scale) for name, tensor in weights.items()}
        self.check_weights((join(called, name) for name in weights), reads=0)
        proportional = scale.fits(ops.tensor_of(node))
        proportional &= all(scales[name].fits(tensor) for name, tensor in weights.items())
        if proportional and self.local.failure is None:
            proportional = weights_pass(module, scales, node, scale, training=self.training)
        if not proportional:
            raise NoTakerError(f"{layer} is not exactly proportional to its weight and bias")
        return {join(called, name): by for name, by in scales.items()}

    def _by_function(self, path: str, node: fx.Node, weights: Sequence[object], scale: Scale) -> Mapping[str, Scale]:
        given = [weight for weight in weights if weight is not None]
        read = [weight for weight in given if isinstance(weight, fx.Node) and weight.op == "get_attr"]
        names = {join(path, weight.target) for weight in read}
        layer = self.beside(ops.name_of(node))
        if weights[0] is None or len(names) < len(given):
            raise NoTakerError(f"the weight of {layer} is not a parameter")
        self.check_calls(path)
        self.check_weights(sorted(names), reads=1)
        tensors = {name: attrgetter(name)(self.local.model) for name in names}
        scales = {name: _by_rows(tensor, scale) for name, tensor in tensors.items()}
        along = scale.dim is None or scale.dim == output_channels(node)
        if not (along and all(scales[name].fits(tensor) for name, tensor in tensors.items())):
            raise NoTakerError(f"the weight of {layer} has other channels")
        return scales

    def _behind(self, path: str, node: fx.Node, scale: Scale) -> Mapping[str, Scale]:
        """As :meth:`_made_by`, for an operation that a factor passes through."""
        owner = self.local.model.get_submodule(path)
        module, ways = ops.module_of(owner, node), ways_back(owner, node, scale)
        passes = bool(ways)
        if passes and module is not None and self.local.failure is None:
            ((_, before),) = ways[0]
            passes = input_passes(module, node, before, scale, training=self.training)
        if not passes:
            raise NoTakerError(f"no factor passes through {described(module, node)} before the block")
        failures = []
        for way in ways:
            try:
                found: dict[str, Scale] = {}
                for operand, by in way:
                    found |= self._before(path, operand, by)
                return found
            except NoTakerError as error:
                failures.append(error)
        raise failures[0]

    # -- from graph to graph -----------------------------------------------------------------------------------------

    def _returned(self, path: str) -> fx.Node:
        returned = list(self.local.graphs[path].nodes)[-1].args[0]
        if not isinstance(returned, fx.Node):
            raise NoTakerError(f"{self.beside(path)} returns several tensors")
        return returned

    def _argument(self, path: str, placeholder: fx.Node) -> tuple[str, fx.Node]:
        """What the caller of ``path`` gave for one of its arguments."""
        parent, call = self.call_of(path)
        self.check_followed(path)
        self.check_calls(path)
        signature = inspect.signature(type(self.local.model.get_submodule(path)).forward)
        given = signature.bind(None, *call.args, **call.kwargs).arguments.get(str(placeholder.target))
        if not isinstance(given, fx.Node):
            raise NoTakerError(f"the argument {placeholder.target} of {self.beside(path)} is not a single tensor")
        return parent, given


def _by_rows(weight: Tensor, scale: Scale) -> Scale:
    """The factors of a layer's output as those of its weight or bias, whose first dimension holds the channels."""
    return scale if scale.dim is None else scale.along(-weight.ndim)
