"""None is asked for by ``is``, which no proxy can answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import UntraceableError
from sesurgeon.blocks import BlockConfig
from sesurgeon.surgery import operate


class Pair(nn.Module):
    """Hands on a mask, where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.conv(x), self.mask


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, mask = self.pair(x)
        if mask is not None:
            y = y * mask
        return x + self.conv(y)


class Indexed(Masked):
    def forward(self, x: Tensor) -> Tensor:
        both = self.pair(x)
        return x + self.conv(both[0] if both[1] is None else both[0] * both[1])


class Nothing(Pair):
    def forward(self, x: Tensor) -> None:  # type: ignore[override]
        self.conv(x)


class Given(Masked):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Nothing()

    def forward(self, x: Tensor) -> Tensor:
        mask = self.pair(x)
        return x + self.conv(x if mask is None else x * mask)


@pytest.mark.parametrize("make", [Masked, Indexed, Given])
def test_a_child_that_gives_none_is_followed_along_that_branch(make: type[nn.Module]) -> None:
    surgery = operate(nn.Sequential(nn.Conv2d(3, 8, 1), make()), BlockConfig(), example_inputs=torch.randn(2, 3, 8, 8))
    assert [entry.site for entry in surgery.plan.entries] == ["1:residual"]
    assert (surgery.proof.in_eval, surgery.proof.in_train) == (True, True)


def test_another_branch_later_is_refused_not_ignored() -> None:
    images = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Masked())
    augmented = operate(model, BlockConfig(), example_inputs=images).model
    augmented[1].pair.mask = torch.ones(8, 8)
    with pytest.raises(UntraceableError, match="something that the forward goes by was None when the blocks"):
        augmented(images)
