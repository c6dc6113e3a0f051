"""One forward pass, written down: which module was called with what, gave what, and called whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from sesurgeon.graph import ops
from sesurgeon.interrupts import interrupts_held
from sesurgeon.models import fresh
from sesurgeon.models.isolation import autocasts


@dataclass
class ModuleCall:
    """One call of one module. Tensors in it are fakes: shape, dtype, strides and device, but no values.

    Attributes:
        module: the callee.
        args, kwargs: as given, before the call could change them; () and {} for a module whose forward is not traced.
        output: as returned.
        writes: it wrote into a tensor that it was given.
        autocast: the network itself called it under ``torch.autocast``.
        children: the calls that this module's forward made itself, in order.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    writes: bool = False
    autocast: bool = False
    children: list[ModuleCall] = field(default_factory=list)

    def __iter__(self) -> Iterator[ModuleCall]:
        """This call and all below it, outermost first."""
        yield self
        for child in self.children:
            yield from child


def record_calls(model: nn.Module, inputs: tuple[Any, ...], fakes: FakeTensorMode) -> tuple[ModuleCall, Any]:
    """Run ``model(*inputs)`` without gradients and write down every module call, and the true output.

    ``nn.Module.__call__`` is replaced while it runs rather than hooks being hung on the caller's modules.
    Whatever the model raises passes through.
    """
    top = ModuleCall(model, (), {})
    stack = [top]
    run, thread = nn.Module.__call__, threading.get_ident()

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return run(module, *args, **kwargs)
        given = (args, kwargs) if ops.is_composite(module) else ((), {})
        with interrupts_held():
            described, keywords = _described(given, fakes)
            entry = ModuleCall(module, described, keywords, autocast=bool(autocasts()))
        stack[-1].children.append(entry)
        stack.append(entry)
        versions = _versions(args, kwargs)
        try:
            output = run(module, *args, **kwargs)
        finally:
            stack.pop()
        with interrupts_held():
            entry.output = _described(output, fakes)
        entry.writes = versions != _versions(args, kwargs)
        return output

    with torch.no_grad(), mock.patch.object(nn.Module, "__call__", call):
        output = model(*fresh(inputs))
    return top.children[0], output


def _versions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """How often each of these tensors was written into; those of inference mode do not count that."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _described(value: Any, fakes: FakeTensorMode) -> Any:
    """``value`` with fakes for its tensors."""
    if isinstance(value, Tensor):
        return _fake(value, fakes)
    if type(value) in (tuple, list):  # almost all that is passed is one of these, and a general tree takes its time
        return type(value)(_described(item, fakes) for item in value)
    if type(value) is dict:
        return {key: _described(item, fakes) for key, item in value.items()}
    return tree_map(lambda leaf: _fake(leaf, fakes) if isinstance(leaf, Tensor) else leaf, value)


def _fake(tensor: Tensor, fakes: FakeTensorMode) -> Tensor:
    """What ``fakes.from_tensor`` gives. That takes ten times as long, for views fifty times: it looks into the base."""
    plain = type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_quantized
    if not plain or tensor.requires_grad or tensor.ndim == 0 or tensor.is_conj() or tensor.is_neg():
        return fakes.from_tensor(tensor)
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(fakes, meta, tensor.device)
