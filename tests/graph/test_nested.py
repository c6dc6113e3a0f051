"""Residual branches within one another, and what else such a forward may read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sesurgeon

X = torch.randn(2, 8, 8, 8)


def conv(inputs: int = 8, outputs: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))


class Written(nn.Module):
    """``write`` is its forward, of an input, a second one, and the layers."""

    def __init__(self, write: Callable[[Written, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.f, self.g, self.h, self.wide, self.narrow = conv(), conv(), conv(), conv(4, 8), conv(8, 4)
        self.deep = nn.Sequential(*conv(), nn.ReLU(), *conv())
        self.mixed, self.pair, self.volume = conv(11, 8), Pair(), nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
        self.image, self.write = nn.Conv2d(8, 12, 3, padding=1), write

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.write(self, x, other)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.relu(), x.tanh()


class Network(nn.Module):
    """The block behind a stem, so that it starts from a map."""

    def __init__(self, write: Callable[[Written, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.block = conv(), Written(write)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.block(self.stem(x), other)


def residuals(write: Callable[[Written, Tensor, Tensor], Tensor], other: Tensor = X) -> list[str]:
    sites = sesurgeon.find_sites(Network(write), (X, other))
    return [site.follows for site in sites if site.kind == "residual"]


def shifted(net: Written, x: Tensor, _: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :, :-1] = x[:, :, 1:]
    return x + net.f(out)


def split(net: Written, x: Tensor, _: Tensor) -> Tensor:
    """Res2Net."""
    low, high = net.f(x).chunk(2, 1)
    high = net.narrow(net.wide(high)) + low
    return x + net.g(torch.cat([low, high], 1))


def body(net: Written, x: Tensor) -> Tensor:
    for part in (net.f, net.g):
        x = x + part(x)
    return x


@pytest.mark.parametrize(
    ("write", "ends"),
    [
        (shifted, ["f"]),
        (split, ["g"]),
        (lambda net, x, _: (y := x.relu()) + net.h(body(net, y)), ["f", "g"]),  # EDSR's long skip
        (lambda net, x, _: F.pixel_shuffle(net.image(body(net, x)), 2) + x[:, :3].repeat(1, 1, 2, 2), ["f", "g"]),
        (lambda net, x, _: (r := net.pair(x))[0] + net.f(r[0]), ["f"]),
        (lambda net, x, _: x + net.volume(x.unsqueeze(2))[:, :, 0], ["volume"]),
        (lambda net, x, _: (n := x.relu()) is not None and x + net.h(n) + net.deep(n), ["h", "deep"]),
    ],
    ids=["shift", "res2net", "long-skip", "super-resolution", "item", "volume", "pre-activation"],
)
def test_the_branch_is_found(write: Callable[[Written, Tensor, Tensor], Tensor], ends: list[str]) -> None:
    assert residuals(write) == ends


@pytest.mark.parametrize(
    ("write", "other"),
    [
        (lambda net, x, image: x + net.mixed(torch.cat([x, F.interpolate(image, x.shape[2:])], 1)), (2, 3, 16, 16)),
        (lambda net, x, low: x + net.g(net.f(x) + F.interpolate(net.h(low), scale_factor=2.0)), (2, 8, 4, 4)),
        (lambda net, _, skip: net.deep(skip[:, :, ::2, ::2]) + F.avg_pool2d(skip, 2), (2, 8, 16, 16)),
        (lambda net, x, extra: x + net.g(net.f(x) + extra), (2, 8, 8, 8)),
    ],
    ids=["image", "lower-level", "pooled-argument", "argument-within"],
)
def test_another_map_that_is_read_makes_no_other_branch(
    write: Callable[[Written, Tensor, Tensor], Tensor], other: tuple[int, ...]
) -> None:
    (end,) = residuals(write, torch.randn(other))
    assert end in ("mixed", "g", "deep")


def test_siblings_without_a_skip_end_before_no_difference() -> None:
    class Block(nn.Module):
        def __init__(self, stride: int) -> None:
            super().__init__()
            self.f, self.stride = nn.Conv2d(8, 8, 3, stride, 1), stride
            self.p = nn.Conv2d(8, 8, 1, 2) if stride == 2 else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.p(x) - self.f(x)

    sites = sesurgeon.find_sites(nn.Sequential(conv(), Block(1), Block(2)), X)
    assert [site.id for site in sites if site.kind == "residual"] == ["1:residual"]


def test_a_weight_that_a_hook_makes_is_there_only_while_it_runs() -> None:
    def equalized(layer: nn.Conv2d) -> nn.Conv2d:
        weight = layer._parameters.pop("weight")
        layer.register_parameter("weight_orig", weight)
        layer.register_forward_pre_hook(lambda self, _: setattr(self, "weight", self.weight_orig * 0.5))
        return layer

    net = nn.Sequential(equalized(nn.Conv2d(8, 8, 3, padding=1)), nn.ReLU(), nn.Conv2d(8, 4, 1))
    (site,) = sesurgeon.find_sites(net, X)
    assert (site.id, site.kernel_size) == ("1:conv", (3, 3))
