"""Multiply-adds of what runs, counted below the modules, where every operation is one of PyTorch's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten


@dataclass(frozen=True)
class Counted:
    """What ran.

    Attributes:
        layers: multiply-adds of convolutions, linear layers and matrix products.
        pooling: elements that the blocks' pooling read.
        scaling: elements that the blocks' gates multiplied.
        uncounted: names of operations that compute such things too, or may, and are in none of these numbers.
    """

    layers: int
    pooling: int
    scaling: int
    uncounted: tuple[str, ...]


def count_operations(run: Callable[[], object], blocks: Iterable[nn.Module] = ()) -> Counted:
    """Count while ``run()`` runs.

    Layers are counted everywhere, by ``torch.utils.flop_counter`` (1 multiply-add = 2 of its FLOP); pooling and
    scaling within ``blocks`` alone. Tensors may be on the meta device.
    """
    counter = _Counter()
    with _watched(blocks, counter), _attention_in_steps(), FlopCounterMode(display=False) as flops, counter:
        run()
    layers = flops.get_total_flops() // 2
    return Counted(layers, counter.pooling, counter.scaling, tuple(sorted(counter.uncounted)))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation before the FLOP counter beneath it does."""

    supports_higher_order_operators = True  # they pass: the FLOP counter looks into them

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pooling = self.scaling = 0
        self.uncounted: set[str] = set()
        self.sizes: list[int] = []  # elements of the inputs of the blocks that are running, the innermost last

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        operation = getattr(func, "overloadpacket", func)
        if operation in _UNCOUNTED or getattr(func, "namespace", "aten") not in _TORCH:
            self.uncounted.add(str(operation))
        if self.sizes and operation in _POOLING:
            self.pooling += _POOLING[operation](args, output)
        if self.sizes and operation in _PRODUCTS and _scales(args, self.sizes[-1]):
            self.scaling += output.numel()
        return output


def _elements_read(args: tuple[Any, ...], output: Any) -> int:
    return int(args[0].numel())


def _windows_read(args: tuple[Any, ...], output: Any) -> int:
    """Windows that overlap read twice, and padding is read as well, as convolutions are counted."""
    pooled = output[0] if isinstance(output, tuple) else output  # a maximum comes with its index
    window: int = prod(args[1])
    return int(pooled.numel()) * window


def _scales(args: tuple[Any, ...], size: int) -> bool:
    """Whether the block's whole input is multiplied, by a tensor: a gate's own factors are few, or numbers."""
    factors = [arg for arg in args[:2] if isinstance(arg, Tensor) and arg.ndim]
    return len(factors) == 2 and max(factor.numel() for factor in factors) >= size


_POOLING: Mapping[Any, Callable[[tuple[Any, ...], Any], int]] = MappingProxyType(
    {
        _aten.mean: _elements_read,
        _aten.sum: _elements_read,
        _aten.amax: _elements_read,
        _aten._adaptive_avg_pool2d: _elements_read,
        _aten._adaptive_avg_pool3d: _elements_read,
        _aten.avg_pool2d: _windows_read,
        _aten.avg_pool3d: _windows_read,
        _aten.max_pool2d_with_indices: _windows_read,
        _aten.max_pool3d_with_indices: _windows_read,
    }
)
_PRODUCTS = frozenset({_aten.mul, _aten.mul_})

_TORCH = frozenset({"aten", "prim", "prims", "profiler", "higher_order"})
# Matrix products and convolutions inside that the FLOP counter has no formula for.
_UNCOUNTED = frozenset(
    {
        _aten._cdist_forward,
        _aten._cudnn_rnn,
        _aten._fft_c2c,
        _aten._fft_c2r,
        _aten._fft_r2c,
        _aten._trilinear,
        _aten.dot,
        _aten.miopen_rnn,
        _aten.mkldnn_rnn_layer,
        _aten.mv,
    }
)


@contextlib.contextmanager
def _watched(blocks: Iterable[nn.Module], counter: _Counter) -> Iterator[None]:
    """Tell the counter when a block runs, and how large its input is."""

    def enter(block: nn.Module, args: tuple[Tensor, ...]) -> None:
        counter.sizes.append(args[0].numel())

    def leave(block: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        counter.sizes.pop()

    with contextlib.ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(enter).remove)
            hooks.callback(block.register_forward_hook(leave).remove)
        yield


@contextlib.contextmanager
def _attention_in_steps() -> Iterator[None]:
    """Run attention as separate matrix products: not every torch knows the cost of the fused operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
