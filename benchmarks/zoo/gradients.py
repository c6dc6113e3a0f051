"""Does a gradient reach every block? Two steps of training, with the backbone frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.ops import StochasticDepth

from sesurgeon.blocks import SqueezeExcite
from sesurgeon.blocks.block import zero_
from sesurgeon.models import fresh
from zoo.errors import CheckError

Blocks = Mapping[str, SqueezeExcite]
_STEP = 0.02
_TRIES = 4
_FARTHEST = 0.1


def without_gradient(augmented: nn.Module, blocks: Blocks, inputs: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """Blocks some of whose parameters get no finite gradient in the second step.

    All of a narrow block's hidden units may happen to be dead for these few images, and a network may leave a block out
    of either step by chance: what got no gradient gets other weights and another try. The others keep what they learnt.

    Returns:
        Those that get none though the network's outputs depend on them, and those on which no output depends: the
        network's own layers before them get no gradient either (what a last block computes beside its class token).
    """
    reached: set[str] = set()
    dead = dict(blocks)
    torch.manual_seed(2)
    with buffers_kept(augmented), _only_trainable(augmented, blocks), _watched(blocks, reached):
        _train_without_random_depth(augmented)
        for _ in range(_TRIES):
            _two_steps(augmented, dead, inputs)
            dead = {path: block for path, block in dead.items() if not all(map(_has_gradient, block.parameters()))}
            if not dead:
                break
            for block in dead.values():
                block.fc1.reset_parameters()
                zero_(block.fc2)
    return [path for path in dead if path in reached], [path for path in dead if path not in reached]


@torch.no_grad()
def temper(augmented: nn.Module, blocks: Blocks, inputs: tuple[Any, ...]) -> None:
    """Shrink what the blocks have learnt until no factor is farther than a tenth from one, in the mode that is on.

    Random weights give tensors of any size. A step that is right for one saturates the gate of another, which has no
    gradient then, and a factor of two in each of a hundred blocks overflows: the outputs would be no numbers any more.
    """

    def shrink(block: SqueezeExcite, args: tuple[Tensor]) -> None:
        while bool(((block.excitation(*args) - 1).abs() > _FARTHEST).any()):
            for parameter in block.fc2.parameters():
                parameter.mul_(0.1)

    handles = [block.register_forward_pre_hook(shrink) for block in blocks.values()]
    try:
        augmented(*fresh(inputs))
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the model is in eval mode, and its buffers are as before."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.eval()
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def _only_trainable(model: nn.Module, blocks: Blocks) -> Iterator[None]:
    """All other parameters frozen; afterwards as before, for torch adds up in another order in a frozen layer."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for block in blocks.values():
            block.requires_grad_(True)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _watched(blocks: Blocks, reached: set[str]) -> Iterator[None]:
    """Note in ``reached`` the blocks whose output gets a gradient where it is not zero: factors could change that."""

    def watch(path: str, output: Tensor) -> None:
        if output.requires_grad:
            scaled = output.detach()
            output.register_hook(lambda gradient: reached.add(path) if bool((gradient * scaled).any()) else None)

    handles = [
        block.register_forward_hook(lambda module, args, output, path=path: watch(path, output))
        for path, block in blocks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _train_without_random_depth(augmented: nn.Module) -> None:
    """Train mode; but the last blocks of deep networks are left out of every second step or so, for both images."""
    augmented.train()
    for module in augmented.modules():
        if isinstance(module, (DropPath, StochasticDepth)):
            module.eval()


def _two_steps(augmented: nn.Module, blocks: Blocks, inputs: tuple[Any, ...]) -> None:
    parameters = [parameter for block in blocks.values() for parameter in block.parameters()]
    _gradients(augmented, parameters, inputs)
    for parameter in parameters:
        if parameter.grad is not None:  # by sign: a loss on noise may have gradients of any size
            parameter.data.sub_(_STEP * parameter.grad.sign())
    temper(augmented, blocks, inputs)
    _gradients(augmented, parameters, inputs)


def _gradients(augmented: nn.Module, parameters: list[nn.Parameter], inputs: tuple[Any, ...]) -> None:
    for parameter in parameters:
        parameter.grad = None
    _noise_loss(augmented(*fresh(inputs))).backward()


def _has_gradient(parameter: nn.Parameter) -> bool:
    gradient = parameter.grad
    return gradient is not None and bool(gradient.any()) and bool(gradient.isfinite().all())


def _noise_loss(outputs: Any) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not leaves:
        raise CheckError("no output has a gradient")
    return torch.stack([(leaf * torch.randn_like(leaf)).sum() for leaf in leaves]).sum()
