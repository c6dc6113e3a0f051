"""What a block takes of a pass; by a clock that ticks when it is read."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sesurgeon.export import block_shares
from sesurgeon.export.cost import shares
from sesurgeon.export.cost.shares import BlockShare
from sesurgeon.surgery import add_se

IMAGES = torch.randn(2, 3, 8, 8)


class Repeating(nn.Module):
    """One residual block once, and one several times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.stem, self.once, self.often = nn.Conv2d(3, 8, 3), BasicBlock(8, 8), BasicBlock(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.once(self.stem(x))
        for _ in range(self.times):
            x = self.often(x)
        return x.mean((2, 3))


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by between two looks at the clock."""
    ticks = count()
    monkeypatch.setattr(shares, "clock_of", lambda model: lambda: float(next(ticks)))


@pytest.mark.usefixtures("ticking")
def test_all_calls_of_a_pass_count() -> None:
    model = add_se(Repeating(4), IMAGES)
    # the clock is read before and after each of 5 calls and of the pass: 11 seconds
    expected = [BlockShare("once.se", 2, 1000, 1 / 11), BlockShare("often.se", 2, 4000, 4 / 11)]
    assert block_shares(model, (IMAGES,), repeats=2) == expected


@pytest.mark.usefixtures("ticking")
def test_passes_of_the_warm_up_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model = add_se(Repeating(2), IMAGES)
    left = count(-shares._WARM_UP)
    model.register_forward_pre_hook(lambda *_: setattr(model, "times", 9 if next(left) < 0 else 2))
    assert [one.ms for one in block_shares(model, (IMAGES,), repeats=1)] == [1000, 2000]


@pytest.mark.usefixtures("ticking")
def test_a_block_that_a_pass_leaves_out_takes_nothing() -> None:
    model = add_se(Repeating(1), IMAGES)
    model.times = 0
    assert [one.ms for one in block_shares(model, (IMAGES,), repeats=2)] == [1000, 0]


def test_a_pass_has_as_many_images_as_are_asked_for() -> None:
    model = add_se(Repeating(1), IMAGES)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    assert [one.batch for one in block_shares(model, (IMAGES,), batch=5, repeats=2)] == [5, 5]
    assert set(seen) == {5}


def test_no_hook_stays_in_the_network() -> None:
    model = add_se(Repeating(1), IMAGES)
    block_shares(model, (IMAGES,), repeats=1)
    with pytest.raises(RuntimeError, match="channels"):
        block_shares(model, (torch.randn(2, 5, 8, 8),), repeats=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
