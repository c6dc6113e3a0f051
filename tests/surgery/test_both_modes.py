"""A forward that reads ``self.training``, and surgery in place that fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon import UsageError, add_se, apply_plan, make_plan
from sesurgeon.blocks import build_block
from sesurgeon.surgery import blocks_of

IMAGES = torch.randn(2, 3, 8, 8)


class Block(nn.Module):
    def __init__(self, choose: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.other, self.choose = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), choose

    def forward(self, x: Tensor) -> Tensor:
        return x + self.choose(self, x)


@pytest.mark.parametrize("choose", [
    lambda block, x: block.conv(x) if block.training else block.other(x),
    lambda block, x: F.silu(block.conv(x)) if block.training else F.gelu(block.conv(x)),
    lambda block, x: F.dropout(block.conv(x), 0.5, block.training),
])  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_graphs_that_differ_in_a_name_only_are_two(choose: Callable[[Block, Tensor], Tensor], training: bool) -> None:
    model = nn.Sequential(Block(choose))
    augmented = apply_plan(model, make_plan(model, example_inputs=IMAGES))
    outputs = []
    for network in (model, augmented):
        torch.manual_seed(0)
        outputs.append(copy.deepcopy(network).train(training)(IMAGES))
    assert torch.equal(*outputs)


def test_whatever_is_raised_during_the_proof_leaves_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    model = nn.Sequential(Block(lambda block, x: block.conv(x)))
    monkeypatch.setattr("sesurgeon.surgery.add.prove_identity", interrupt)
    with pytest.raises(KeyboardInterrupt):
        add_se(model, example_inputs=IMAGES, inplace=True)
    assert blocks_of(model) == {}


def test_a_block_that_cannot_be_made_leaves_the_model_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*of: Any, **more: Any) -> nn.Module:
        made.append(1)
        if len(made) == 2:
            raise UsageError("no memory")
        return build_block(*of, **more)

    made: list[int] = []
    model = nn.Sequential(*(Block(lambda block, x: block.conv(x)) for _ in range(2)))
    plan = make_plan(model, example_inputs=IMAGES)
    assert len(plan.entries) == 2
    monkeypatch.setattr("sesurgeon.surgery.apply.build_block", build)
    with pytest.raises(UsageError, match="no memory"):
        apply_plan(model, plan, inplace=True)
    assert blocks_of(model) == {}
