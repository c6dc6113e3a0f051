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


class EqualConv2d(nn.Module):
    """StyleGAN's: a convolution with a weight of its own, scaled at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 0.1, padding=1)


class NamedOtherwise(EqualConv2d):
    """As torch's own, which is known by its class."""

    forward = EqualConv2d.forward


def test_a_home_made_convolution_that_says_so_makes_a_unit() -> None:
    net = nn.Sequential(EqualConv2d(), nn.LeakyReLU(), NamedOtherwise(), nn.LeakyReLU(), nn.Conv2d(8, 4, 1))
    (site,) = survey(net, X).sites
    assert (site.id, site.convolution, site.kernel_size, site.depthwise) == ("1:conv", "0", (3, 3), False)
    assert list(blocks_of(add_se(net, X, policy="conv"))) == ["1.se"]


class Chomp1d(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class Causal(nn.Module):
    """The cut of a causal convolution in the forward itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :-2].contiguous().relu()


def test_a_causal_convolution_is_cut_before_its_activation() -> None:
    net = nn.Sequential(nn.Conv1d(8, 8, 3, padding=2), Chomp1d(2), nn.ReLU(), Causal(), nn.Conv1d(8, 4, 1))
    signal = torch.randn(2, 8, 16)
    assert [site.id for site in survey(net, signal).sites] == ["2:conv", "3:conv"]
    assert list(blocks_of(add_se(net, signal, policy="conv"))) == ["2.se", "3.se"]


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
