"""BatchNorm over the images of all processes.

torch's SyncBatchNorm runs on accelerators only, and replaces modules of the network. This works wherever
torch.distributed does, for every module that calls ``torch.nn.functional.batch_norm``, timm's included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from sesurgeon.errors import UsageError


@contextlib.contextmanager
def synced_batch_norm(*, active: bool = True) -> Iterator[None]:
    """If ``active``, let BatchNorm work over the images of all processes, in a forward and backward pass.

    Raises:
        UsageError: the network recomputes activations in the backward pass (gradient checkpointing), where torch does
            not apply this mode.
    """
    try:
        with SyncBatchNorm() if active else contextlib.nullcontext():
            yield
    except CheckpointError as error:
        if not active:
            raise
        raise UsageError(
            "sync_bn does not work in a network with activation checkpointing.",
            hint="Leave --sync-bn out, or build the network without checkpointing (memory_efficient=false).",
        ) from error


class SyncBatchNorm(TorchFunctionMode):
    """While active, BatchNorm in training takes its mean and variance over the images of all processes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm`, over all processes if ``training``."""
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    others = [dim for dim in range(x.dim()) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    sums = x.sum(others)
    values = x.new_full((1,), x.numel() // x.shape[1])
    totals = _summed(torch.cat([sums, values]))
    mean, count = totals[:-1] / totals[-1], totals[-1]
    centred = x - mean.view(shape)
    variance = _summed(centred.square().sum(others)) / count
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps) if weight is None else torch.rsqrt(variance + eps) * weight
    normed = centred * scale.view(shape)
    if bias is not None:
        normed = normed + bias.view(shape)
    return normed.to(input.dtype)


def _summed(values: Tensor) -> Tensor:
    summed: Tensor = _SumOverAll.apply(values)
    return summed


class _SumOverAll(torch.autograd.Function):
    """The sum over all processes. The loss of each depends on it, so gradients are summed over them, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        summed = grad.clone()
        torch.distributed.all_reduce(summed)
        return summed
