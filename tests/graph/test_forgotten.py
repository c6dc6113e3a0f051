"""What a graph would forget, as it is no operation on tensors, is a reason to leave a module alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.random import fork_rng, manual_seed
from torch.utils.checkpoint import checkpoint

from sesurgeon.graph import survey

X = torch.randn(2, 3, 8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.counts: dict[str, Any] = {"all": {"n": 0}}
        self.meter, self.meters = SimpleNamespace(n=0), [nn.Identity()]

    def body(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def momentum(block: Block, x: Tensor) -> Tensor:
    block.bn.momentum = 0.5
    return block.body(x)


def flag(block: Block, x: Tensor) -> Tensor:
    block.frozen = True
    return block.body(x)


def frozen_norm(block: Block, x: Tensor) -> Tensor:
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return block.body(x)


def nested(block: Block, x: Tensor) -> Tensor:
    block.counts["all"]["n"] += 1
    return block.body(x)


def plain_object(block: Block, x: Tensor) -> Tensor:
    block.meter.n += 1
    return block.body(x)


def unregistered(block: Block, x: Tensor) -> Tensor:
    block.meters[0].n = 1
    return block.body(x)


def seed(block: Block, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return block.body(x) * torch.rand_like(x)


def fork(block: Block, x: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return block.body(x) * torch.rand_like(x)


def imported_fork(block: Block, x: Tensor) -> Tensor:
    with fork_rng():
        manual_seed(0)
        return block.body(x) * torch.rand_like(x)


def old_state(block: Block, x: Tensor) -> Tensor:
    state = torch.random.get_rng_state()
    noise = torch.rand_like(x)
    torch.random.set_rng_state(state)
    return block.body(x) * noise


def backend(block: Block, x: Tensor) -> Tensor:
    with torch.backends.cudnn.flags(enabled=False):
        return block.body(x)


def saved_on_cpu(block: Block, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return block.body(x)


def attention(block: Block, x: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return block.body(x)


def device(block: Block, x: Tensor) -> Tensor:
    with torch.device("cpu"):
        return block.body(x) * torch.ones(1)


def checkpointed(block: Block, x: Tensor) -> Tensor:
    return checkpoint(block.body, x, use_reentrant=False)


@pytest.mark.parametrize(("branch", "reason"), [
    (momentum, "sets attributes of its own (momentum)"),
    (flag, "sets attributes of its own (frozen)"),
    (frozen_norm, "sets attributes of its own (training)"),
    (nested, "sets attributes of its own (counts)"),
    (plain_object, "sets attributes of its own (meter)"),
    (unregistered, "sets attributes of its own (meters)"),
    (seed, "calls torch.manual_seed(), which a graph would forget"),
    (fork, "runs under torch.random.fork_rng"),
    (imported_fork, "runs under torch.random.fork_rng"),
    (old_state, "calls torch.set_rng_state()"),
    (backend, "runs under torch.backends.cudnn.flags"),
    (saved_on_cpu, "runs under saved_tensors_hooks"),
    (attention, "runs under torch.nn.attention.sdpa_kernel"),
    (device, "runs under DeviceContext"),
    (checkpointed, "uses activation checkpointing"),
])  # fmt: skip
def test_it_is_left_alone_with_the_reason_and_is_as_it_was(
    branch: Callable[[Block, Tensor], Tensor], reason: str
) -> None:
    class Residual(Block):
        def forward(self, x: Tensor) -> Tensor:
            return x + branch(self, x)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Residual())
    block = model[1]
    held = copy.deepcopy((block.counts, block.meter, list(vars(block.meters[0])), block.bn.momentum))
    found = survey(model, X)
    assert "1" not in [site.owner for site in found.sites]
    assert reason in next(left.reason for left in found.left_alone if left.path == "1")
    assert (block.counts, block.meter, list(vars(block.meters[0])), block.bn.momentum) == held
    assert "frozen" not in vars(block)


def test_a_block_of_code_that_is_only_watched_is_followed() -> None:
    class Watched(Block):
        def forward(self, x: Tensor) -> Tensor:
            with torch.profiler.record_function("branch"):
                return x + self.body(x)

    assert "1" in [site.owner for site in survey(nn.Sequential(nn.Conv2d(3, 8, 1), Watched()), X).sites]
