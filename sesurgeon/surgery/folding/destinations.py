"""The layer that reads a block's result and can be multiplied instead of it, found by walking on from its site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sesurgeon.graph import Survey, ops
from sesurgeon.paths import join
from sesurgeon.surgery.folding.channelwise import way_on
from sesurgeon.surgery.folding.scale import Scale
from sesurgeon.surgery.folding.trials import input_passes, reader_passes
from sesurgeon.surgery.folding.walk import NoTakerError, Walk, described


def destination(found: Survey, site_id: str, occupied: Sequence[str], scale: Scale) -> dict[str, Scale]:
    """The weight, by name, that can be multiplied instead of the result of a block, and its factors.

    It is that of the convolution or linear layer that alone reads the result, directly or behind operations that keep
    its channels apart. Up to rounding, nothing else that the network computes changes.

    Args:
        found: of the network without blocks.
        site_id: of the site.
        occupied: ids of all sites that have a block.
        scale: a factor for each channel, none of them negative.

    Raises:
        NoTakerError: there is none.
    """
    return _Onward.in_all_modes(found, site_id, occupied, scale)


class _Onward(Walk):
    """One site's way on, in one mode."""

    side = "after"

    def tensors(self, scale: Scale) -> dict[str, Scale]:
        path, node = self.start()
        return self._read(path, node, self.through or ops.readers(node), scale)

    def _after(self, path: str, node: fx.Node, scale: Scale) -> dict[str, Scale]:
        if self.blocks_after(path, node):
            raise NoTakerError(f"there is another block after it, at {described(None, node)}")
        return self._read(path, node, ops.readers(node), scale)

    def _read(self, path: str, node: fx.Node, users: Sequence[fx.Node], scale: Scale) -> dict[str, Scale]:
        if len(users) != 1:
            raise NoTakerError("several operations use its result")
        (user,) = users
        if user.op == "output":
            return self._beyond(path, user, node, scale)
        given = (*user.args, *user.kwargs.values())
        if user.op == "call_module" and user.args[:1] == (node,) and given.count(node) == 1:
            return self._by_module(path, user, node, scale)
        return self._through(path, user, node, scale)

    def _beyond(self, path: str, output: fx.Node, node: fx.Node, scale: Scale) -> dict[str, Scale]:
        """What comes after the module that returns the tensor."""
        if output.args[0] is not node:
            raise NoTakerError(f"{self.beside(path)} returns several tensors")
        parent, call = self.call_of(path)
        self.check_followed(path)
        self.check_calls(path)
        return self._after(parent, call, scale)

    def _by_module(self, path: str, call: fx.Node, node: fx.Node, scale: Scale) -> dict[str, Scale]:
        called = join(path, call.target)
        module = self.local.model.get_submodule(called)
        self.check_followed(called)
        if called in self.local.graphs:
            self.check_calls(called)
            first = next(iter(self.local.graphs[called].nodes))  # the argument that got the tensor
            return self._after(called, first, scale)
        by = _by_columns(module, scale)
        if by is None:
            return self._through(path, call, node, scale)
        self.check_calls(called)
        name = join(called, "weight")
        self.check_weights((name,), reads=0)
        trial = _by_columns(module, scale.exact())
        assert trial is not None  # there is one for the same channels
        if self.local.failure is None and not reader_passes(module, trial, call, scale.exact(), training=self.training):
            layer = self.beside(f"{called} ({type(module).__name__})")
            raise NoTakerError(f"{layer} is not exactly proportional to its weight")
        return {name: by}

    def _through(self, path: str, user: fx.Node, node: fx.Node, scale: Scale) -> dict[str, Scale]:
        """What comes after an operation that the factors pass."""
        owner = self.local.model.get_submodule(path)
        module = ops.module_of(owner, user)
        after = way_on(owner, user, node, scale)
        if after is not None and module is not None and self.local.failure is None:
            after = after if input_passes(module, user, scale, after, training=self.training) else None
        if after is None:
            raise NoTakerError(f"no factor passes through {described(module, user)} after the block")
        return self._after(path, user, after)


def _by_columns(module: nn.Module, scale: Scale) -> Scale | None:
    """The factors of a layer's input as those of its weight; None where its weight has no such channels."""
    if isinstance(module, nn.Linear):
        return scale if scale.dim == -1 and module.in_features == scale.channels else None
    if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
        return None
    fits = scale.dim == 1 - module.weight.ndim and module.in_channels == scale.channels
    return replace(scale, groups=module.groups) if fits else None
