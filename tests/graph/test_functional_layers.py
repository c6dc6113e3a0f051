"""Convolutions that are function calls on parameters of the module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon import add_se, remove_se
from sesurgeon.graph import survey
from sesurgeon.surgery import blocks_of

X = torch.randn(2, 8, 8, 8)


class FunctionalConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.norm = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(F.conv2d(x, self.kernel, padding=1)) + x)


class AllFunctional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.scale = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.Parameter(torch.ones(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.kernel, padding=1)
        return F.relu(F.batch_norm(y, self.mean, self.var, self.scale, training=self.training) + x)


class Kernels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.ParameterList([nn.Parameter(torch.randn(8, 8, 3, 3)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for kernel in self.kernels:
            y = F.relu(F.conv2d(y, kernel, padding=1))
        return y + x


@pytest.mark.parametrize("make", [FunctionalConv, AllFunctional, Kernels])
def test_a_residual_branch_of_function_calls_is_found(make: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), make())
    augmented = add_se(model, example_inputs=X)  # which proves that it computes the same
    assert list(blocks_of(augmented)) == ["1.se"]
    assert list(remove_se(augmented).state_dict()) == list(model.state_dict())


def test_kernels_in_a_module_that_cannot_be_followed_are_named() -> None:
    class Asks(AllFunctional):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.mean() < 1e9 else x

    found = survey(nn.Sequential(nn.Conv2d(8, 8, 1), Asks()), X)
    assert [left.path for left in found.left_alone] == ["1"]
    assert "depends on the values in a tensor" in found.left_alone[0].reason


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1, 1)])
def test_factors_of_channels_are_no_kernels(shape: tuple[int, ...]) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(shape))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma if x.mean() < 1e9 else x

    assert survey(nn.Sequential(nn.Conv2d(8, 8, 1), Scales()), X).left_alone == ()
