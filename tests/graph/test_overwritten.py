"""Shortcuts and sums whose memory is written to later, so that a block there could not be trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sesurgeon.surgery import operate
from tests.networks import Residual, conv

X = torch.randn(2, 8, 8, 8)


class SumsIntoASlice(Residual):
    """As the first RexNet: the shortcut is narrower than the branch."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y[:, :8] += x
        return y.relu()


def test_a_sum_in_place_of_a_slice_is_no_place_for_post_since_the_block_could_not_be_trained() -> None:
    net = nn.Sequential(SumsIntoASlice(conv(8, 16), nn.BatchNorm2d(16)), Residual(conv(16, 16), nn.BatchNorm2d(16)))
    surgery = operate(net, policies=["post"], example_inputs=X)
    assert surgery.plan.sites == ["1:sum"]
    assert [left.path for left in surgery.plan.left_alone] == ["0"]
    surgery.model.train()(X).sum().backward()


def _adds(y: Tensor, half: Tensor) -> None:
    y[:, :8] += half


def _assigns(y: Tensor, half: Tensor) -> None:
    y[:, :8] = y[:, :8] + half


def _assigns_activated(y: Tensor, half: Tensor) -> None:
    y[:, :8] = (y[:, :8] + half).relu()


def _copies(y: Tensor, half: Tensor) -> None:
    y[:, :8].copy_(y[:, :8] + half)


def _adds_the_slice(y: Tensor, half: Tensor) -> None:
    half += y[:, :8]
    y[:, :8] = half


def _adds_to_a_narrow_view(y: Tensor, half: Tensor) -> None:
    y.narrow(1, 0, 8).add_(half)


@pytest.mark.parametrize(
    "write",
    [_adds, _assigns, _assigns_activated, _copies, _adds_the_slice, _adds_to_a_narrow_view],
)
def test_a_shortcut_that_is_written_over_is_no_place_for_identity(write: Callable[[Tensor, Tensor], None]) -> None:
    class AddsToHalf(Residual):
        """As partial convolutions do: only the first channels get a branch, and the sum is written over them."""

        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            write(y, self.branch(x))
            return y

    net = nn.Sequential(AddsToHalf(conv(16, 8), nn.BatchNorm2d(8)), Residual(conv(16, 16), nn.BatchNorm2d(16)))
    surgery = operate(net, policies=["identity"], example_inputs=torch.randn(2, 16, 8, 8))
    assert surgery.plan.sites == ["1:shortcut"]
    assert [left.path for left in surgery.plan.left_alone] == ["0"]
    surgery.model.train()(torch.randn(2, 16, 8, 8)).sum().backward()
    assert operate(net, example_inputs=torch.randn(2, 16, 8, 8)).plan.sites == ["0:residual", "1:residual"]
