"""Inputs so small that maps shrink to a single place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import Permute

from sesurgeon import NoSiteError
from sesurgeon.graph import find_sites


def test_a_resnet_has_the_same_sites_on_the_smallest_images() -> None:
    net = torchvision.models.resnet18(num_classes=2)
    small, large = find_sites(net, torch.randn(2, 3, 8, 8)), find_sites(net, torch.randn(2, 3, 64, 64))
    assert small[-1].spatial == (1, 1)
    pointwise_in_one_place = {f"layer{stage}.0.downsample:conv" for stage in (2, 3, 4)}
    assert [site.id for site in small] == [site.id for site in large if site.id not in pointwise_in_one_place]


def pointwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())


def test_a_network_without_sites_on_small_images_wants_larger_ones() -> None:
    with pytest.raises(
        NoSiteError, match=r"no site on inputs of shape \(2, 3, 4, 4\).* maps of a single place"
    ) as caught:
        find_sites(pointwise(), torch.randn(2, 3, 4, 4))
    assert "--input-shape" in str(caught.value.hint)
    assert [site.id for site in find_sites(pointwise(), torch.randn(2, 3, 8, 8))] == ["3:conv"]


class ECALayer(nn.Module):
    """A gate that is known by its name: on a single place there is nothing to see of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.conv(x.mean((2, 3)).unsqueeze(1))
        return x * squeezed.sigmoid().transpose(1, 2).unsqueeze(-1)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), ECALayer())

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x


@pytest.mark.parametrize("side", [1, 4])
def test_a_gate_is_seen_at_any_size(side: int) -> None:
    sites = {site.kind: site for site in find_sites(Gated(), torch.randn(2, 8, side, side))}
    assert sites["residual"].attention == "branch.2"


class ChannelsLast(nn.Module):
    """A residual block of maps (N, H, W, C) that reads a statistic of fewer channels than the map is wide."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze, self.second = nn.Linear(32, 32), nn.Linear(32, 4), nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.norm(x)).relu()
        strength = self.squeeze(y.mean((1, 2), keepdim=True)).amax(-1, keepdim=True)
        return x + self.second(y * strength)


class Level(nn.Module):
    """A level of a U-Net whose maps are of a single channel, and of height 1 where they have one."""

    def __init__(self, down: nn.Module, mode: str, up: nn.Module) -> None:
        super().__init__()
        self.down, self.mode, self.up = down, mode, up

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.interpolate(self.down(x).relu(), x.shape[2:], mode=self.mode))


@pytest.mark.parametrize(
    ("level", "shape"),
    [
        (Level(nn.Conv1d(8, 1, 3, 2, 1), "linear", nn.Conv1d(1, 8, 3, padding=1)), (2, 8, 16)),
        (Level(nn.Conv2d(8, 1, (1, 3), 2, (0, 1)), "bilinear", nn.Conv2d(1, 8, 3, padding=1)), (2, 8, 2, 16)),
    ],
)
def test_a_map_of_one_channel_is_no_statistic(level: nn.Module, shape: tuple[int, ...]) -> None:
    assert [site.kind for site in find_sites(nn.Sequential(nn.Identity(), level), torch.randn(shape))] == ["conv"]


def test_a_statistic_of_maps_with_channels_last_is_no_smaller_map() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), Permute([0, 2, 3, 1]), ChannelsLast(), Permute([0, 3, 1, 2]))
    found = find_sites(net, torch.randn(2, 3, 16, 16))
    assert [(site.id, site.channel_dim) for site in found if site.kind == "residual"] == [("2:residual", -1)]


class GatedByLinear(nn.Module):
    """SE by a linear layer, on a mean whose channels were put last."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.gate, self.net = (
            nn.Conv2d(16, 16, 3, 1, 1),
            nn.BatchNorm2d(16),
            nn.Linear(16, 16),
            inner,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.norm(x).relu())
        gate = self.gate(y.mean((2, 3), keepdim=True).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).sigmoid()
        return self.net(y * gate) + x


class GatedAlongALine(nn.Module):
    """ECA on sequences, all in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv1d(16, 16, 3, padding=1), nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        gate = self.gate(y.mean(2, keepdim=True).transpose(1, 2)).transpose(1, 2).sigmoid()
        return x + y * gate


class Outer(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.stem, self.net = nn.Identity(), net

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(self.stem(x))
        return result


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("inner", [nn.Identity, nn.PReLU])
def test_a_gate_with_its_channels_last_is_no_smaller_map(side: int, inner: type[nn.Module]) -> None:
    found = find_sites(Outer(GatedByLinear(inner())), torch.randn(2, 16, side, side))
    assert "net:residual" in [site.id for site in found]


@pytest.mark.parametrize("length", [16, 64])
def test_nor_is_one_along_a_line(length: int) -> None:
    found = find_sites(Outer(GatedAlongALine()), torch.randn(2, 16, length))
    assert "net:residual" in [site.id for site in found]


class GatedInside(nn.Module):
    """A block with its channels last and a narrower gate, made of vectors."""

    def __init__(self, spread: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.spread = nn.LayerNorm(32), spread
        self.first, self.gate, self.last = nn.Linear(32, 16), nn.Linear(16, 16), nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.norm(x)).relu()
        return x + self.last(y * self.spread(self.gate(y.mean((1, 2))).sigmoid()))


@pytest.mark.parametrize(
    "spread",
    [
        lambda gate: gate[:, None, None, :],
        lambda gate: gate.unsqueeze(1).unsqueeze(1),
        lambda gate: gate.view(-1, 1, 1, 16),
        lambda gate: gate.reshape(gate.shape[0], 1, 1, -1),
    ],
)
def test_nor_is_a_vector_that_is_spread_over_a_map(spread: Callable[[Tensor], Tensor]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 1), Permute([0, 2, 3, 1]), GatedInside(spread), Permute([0, 3, 1, 2]))
    found = find_sites(net, torch.randn(2, 3, 80, 80))
    assert [(site.id, site.channel_dim) for site in found if site.kind == "residual"] == [("2:residual", -1)]
