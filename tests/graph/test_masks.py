"""Products of tensors: gates between 0 and 1 get no block, conditional norms are no attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sesurgeon

X = torch.randn(2, 8, 8, 8)


def sites_of(net: nn.Module, *inputs: Tensor, policy: str = "conv") -> list[str]:
    return sesurgeon.make_plan(net, inputs or (X,), policy=policy).sites


class Swish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(x)


class Masked(nn.Module):
    """A convolution beside one that says how much of it is let through (DeepFill's gated convolution)."""

    def __init__(self, write: Callable[[Masked, Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.mask = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Sequential(nn.Conv2d(8, 1, 3, padding=1), nn.Sigmoid())
        self.swish, self.write = Swish(), write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net.features(x).relu() * net.mask(x).sigmoid(),
        lambda net, x: F.hardsigmoid(net.mask(x)) * F.relu(net.features(x)),
        lambda net, x: net.gate(x).expand_as(x) * net.features(x).relu(),
        lambda net, x: (g := net.mask(x).sigmoid()) * net.features(x).relu() + (1 - g) * x,
        lambda net, x: net.features(x).tanh() * net.mask(x).sigmoid(),
    ],
    ids=["sigmoid", "hard", "child", "highway", "wavenet"],
)
def test_a_mask_that_only_scales_another_tensor_gets_no_block(write: Callable[[Masked, Tensor], Tensor]) -> None:
    net = nn.Sequential(Masked(write), nn.Conv2d(8, 8, 1))
    assert [site.convolution for site in sesurgeon.find_sites(net, X) if site.kind == "conv"] == ["0.features"]


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net.features(net.mask(x).sigmoid()),
        lambda net, x: net.mask(x).sigmoid() * net.mask.bias[:, None, None],
        lambda net, x: net.mask(x).sigmoid() * net.features(x).sigmoid(),
        lambda net, x: net.swish(net.mask(x)) * net.features(x),
    ],
    ids=["read-otherwise", "scaled-by-a-parameter", "two", "swish"],
)
def test_what_is_no_mask_gets_one(write: Callable[[Masked, Tensor], Tensor]) -> None:
    net = nn.Sequential(Masked(write), nn.Conv2d(8, 8, 1))
    convolutions = [site.convolution for site in sesurgeon.find_sites(net, X) if site.kind == "conv"]
    assert "0.mask" in convolutions


class Conditional(nn.Module):
    """A residual block with a norm whose factors and shifts are computed from a vector, as ``write`` says."""

    def __init__(self, write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.Conv2d(8, 8, 1)
        self.condition, self.write = nn.Linear(4, 16), write

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.condition(vector)[:, :, None, None].chunk(2, 1)
        return x + self.second(self.write(self.norm(self.first(x)), scale, shift).relu())


class Network(nn.Module):
    def __init__(self, write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(8, 8, 1), Conditional(write)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.block(self.stem(x), vector)


@pytest.mark.parametrize(
    "write",
    [
        lambda x, scale, shift: x * (1 + scale) + shift,
        lambda x, scale, shift: shift + scale * x,
        lambda x, scale, shift: torch.add(torch.mul(x, scale), shift),
        lambda x, scale, shift: (x * scale.expand_as(x)).add_(shift),
    ],
    ids=["diffusion", "biggan", "functions", "in-place"],
)
def test_a_conditional_norm_is_no_attention(write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    assert sites_of(Network(write), X, torch.randn(2, 4), policy="standard") == ["block:residual"]


def test_a_branch_that_a_vector_conditions_starts_from_its_map() -> None:
    net = Network(lambda x, scale, shift: x + shift)
    assert sites_of(net, X, torch.randn(2, 4), policy="pre") == ["block:fork"]


@pytest.mark.parametrize(
    "write",
    [
        lambda x, scale, shift: x * scale.sigmoid() + shift,
        lambda x, scale, shift: x * scale,
        lambda x, scale, shift: x * scale + x,
    ],
    ids=["squashed", "alone", "to-itself"],
)
def test_a_factor_alone_or_a_squashed_one_is(write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(sesurgeon.NoSiteError, match="attention already"):
        sites_of(Network(write), X, torch.randn(2, 4), policy="standard")


@pytest.mark.parametrize("unit", [nn.GLU(1), lambda x: F.glu(x, 1)], ids=["module", "function"])
def test_a_gated_linear_unit_ends_a_unit_and_halves_its_channels(unit: Callable[[Tensor], Tensor]) -> None:
    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.unit = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), unit

        def forward(self, x: Tensor) -> Tensor:
            return self.unit(self.norm(self.conv(x)))

    net = nn.Sequential(Unit(), nn.Conv2d(8, 4, 1))
    (site,) = [site for site in sesurgeon.find_sites(net, X) if site.kind == "conv"]
    assert site.channels == 8
    augmented = sesurgeon.add_se(net, X, policy="conv")
    assert torch.equal(augmented.eval()(X), net.eval()(X))
    with pytest.warns(sesurgeon.SurgeryWarning, match="keep the factor"):
        plain = sesurgeon.fold_gate_scale(augmented)
    assert torch.equal(plain(X), net(X))
