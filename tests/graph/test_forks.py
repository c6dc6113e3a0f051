"""Where branch and shortcut come from: up-sampling blocks, differences, several branches, and what is no residual."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sesurgeon

X = torch.randn(2, 8, 8, 8)


def conv(size: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 8, size, padding=size // 2), nn.BatchNorm2d(8))


class Parts(nn.Module):
    """Layers to write a forward with."""

    def __init__(self, write: Callable[[Parts, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.first, self.second, self.shortcut = nn.BatchNorm2d(8), conv(), conv(), conv(1)
        self.f, self.g = nn.Sequential(*conv(), nn.ReLU(), *conv()), nn.Sequential(*conv(), nn.ReLU(), *conv())
        self.grow, self.grown = nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


def up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


def residuals(net: nn.Module, *inputs: Tensor) -> list[str]:
    return [site.follows for site in sesurgeon.find_sites(net, inputs or X) if site.kind == "residual"]


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net.second(net.first(up(net.norm(x).relu())).relu()) + up(net.shortcut(x)),
        lambda net, x: net.second(net.first(up(net.norm(x).relu())).relu()) + up(x),
        lambda net, x: net.second(up(net.first(x)).relu()) + up(x),
        lambda net, x: net.second(net.grow(net.first(x).relu())) + net.grown(x),
    ],
    ids=["biggan", "diffusion", "biggan-deep", "decoder"],
)
def test_an_up_sampling_block_is_residual(write: Callable[[Parts, Tensor], Tensor]) -> None:
    assert residuals(nn.Sequential(conv(), Parts(write))) == ["second"]


@pytest.mark.parametrize(
    "write",
    [lambda net, x: x - net.f(x), lambda net, x: torch.sub(x, net.f(x)), lambda net, x: net.f(x).sub_(x)],
    ids=["-", "sub", "sub_"],
)
def test_a_difference_is_residual(write: Callable[[Parts, Tensor], Tensor]) -> None:
    net = nn.Sequential(conv(), Parts(write))
    assert residuals(net) == ["f"]
    augmented = sesurgeon.add_se(net, X)
    augmented(X).square().sum().backward()
    assert all(parameter.grad is not None for name, parameter in augmented.named_parameters() if ".se." in name)


@pytest.mark.parametrize(
    ("write", "ends"),
    [
        (lambda net, x: x + net.f(x) + net.g(x), ["f", "g"]),
        (lambda net, x: net.f(x) + x + net.g(x), ["f", "g"]),
        (lambda net, x: net.g(x) + (x + net.f(x)), ["f", "g"]),
        (lambda net, x: x - net.f(x) - net.g(x), ["f", "g"]),
        (lambda net, x: net.f(x) + net.g(x) + x, ["add"]),
        (lambda net, x: x + (net.f(x) + net.g(x)), ["add"]),
        (lambda net, x: net.f(x) + net.g(x) + net.f(net.first(x)), []),
    ],
)
def test_several_branches(write: Callable[[Parts, Tensor], Tensor], ends: list[str]) -> None:
    assert residuals(nn.Sequential(conv(), Parts(write))) == ends


class WaveNet(nn.Module):
    """What each layer skips is added up, beside the residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv1d(8, 16, 3, padding=1) for _ in range(3))
        self.residuals = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.head = nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.zeros_like(x)
        for gate, residual, skipped in zip(self.gates, self.residuals, self.skips, strict=True):
            a, b = gate(x).chunk(2, 1)
            z = a.tanh() * b.sigmoid()
            skip = skip + skipped(z)
            x = residual(z) + x
        return self.head((skip + x).relu())


def test_what_wavenet_adds_up_is_no_residual_but_its_blocks_are() -> None:
    assert residuals(WaveNet(), torch.randn(2, 8, 16)) == ["residuals.0", "residuals.1", "residuals.2"]


class Separator(nn.Module):
    """Conv-TasNet: a block returns its residual and its skip."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv1d(8, 8, 1), nn.PReLU(), nn.Conv1d(8, 8, 3, padding=1), nn.PReLU())
            self.residual, self.skip = nn.Conv1d(8, 8, 1), nn.Conv1d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.body(x)
            return self.residual(y), self.skip(y)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | int = 0
        for block in self.blocks:
            residual, skip = block(x)
            x, total = x + residual, total + skip
        return torch.cat([x, total], 1)


def test_a_blocks_skip_is_no_residual_of_the_next_but_its_residual_is() -> None:
    sites = [site for site in sesurgeon.find_sites(Separator(), torch.randn(2, 8, 16)) if site.kind == "residual"]
    assert [site.channels for site in sites] == [8, 8, 8]


class Pyramid(nn.Module):
    """Each level in a module of its own (as in segmentation_models_pytorch)."""

    class Level(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lateral = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor, skip: Tensor) -> Tensor:
            return up(x) + self.lateral(skip)

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()) for _ in range(3))
        self.levels = nn.ModuleList(self.Level() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        large, middle, small = (x := down(x) for down in self.down)
        return self.levels[1](self.levels[0](small, middle), large)


def test_a_pyramids_levels_are_no_residuals() -> None:
    net = Pyramid()
    assert residuals(net, torch.randn(2, 8, 32, 32)) == []
    assert sesurgeon.make_plan(net, torch.randn(2, 8, 32, 32)).sites == [f"down.{level}.1:conv" for level in range(3)]


class Gated(nn.Module):
    """A level of an attention U-Net: what comes from below gates what is skipped, and is put beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.low, self.out = nn.Conv2d(8, 8, 2, 2), conv(), conv()
        self.gate = nn.ModuleDict({"below": nn.Conv2d(8, 8, 1), "skip": nn.Conv2d(8, 8, 1), "map": nn.Conv2d(8, 1, 1)})
        self.fuse = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(x).relu()
        below = up(self.low(self.down(x)).relu())
        mask = self.gate["map"]((self.gate["below"](below) + self.gate["skip"](x)).relu()).sigmoid()
        return self.fuse(torch.cat([x * mask, below], 1))


class Fusion(nn.Module):
    """BiFPN: maps of two sizes, each weighted with the other, resized; the weights are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.positive = nn.Parameter(torch.ones(5)), nn.ReLU()
        self.large, self.small = nn.Sequential(conv(), conv()), conv()

    def forward(self, maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        large, small = maps
        weights = self.positive(self.weights)
        fused = self.large(F.silu(weights[0] * large + weights[1] * up(small)))
        return fused, self.small(F.silu(weights[2] * small + weights[3] * small + weights[4] * F.max_pool2d(fused, 2)))


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.fuse = conv(), nn.Conv2d(8, 8, 2, 2), nn.Sequential(Fusion(), Fusion())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        large, small = self.fuse((x, self.down(x)))
        return large + up(small)


def test_a_fusion_of_scales_is_no_residual_block() -> None:
    assert residuals(Fused()) == []


class Weighted(nn.Module):
    """The branch is scaled by what a module makes of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.scale, self.positive = conv(), nn.Parameter(torch.ones(1)), nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positive(self.scale) * self.f(x)


def test_a_branch_ends_before_a_parameter_that_scales_it() -> None:
    assert residuals(nn.Sequential(conv(), Weighted())) == ["f"]


class Decoder(nn.Module):
    """A U-Net whose long skips are added, in modules of their own."""

    class Level(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor, skip: Tensor) -> Tensor:
            return self.conv(up(x)) + skip

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(), nn.Sequential(nn.Conv2d(8, 8, 2, 2), nn.ReLU())
        self.levels = nn.ModuleList(self.Level() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        middle = self.down(x)
        return self.levels[1](self.levels[0](self.down(middle), middle), x)


def test_a_decoder_that_adds_what_it_skipped_is_no_residual_block() -> None:
    assert residuals(Decoder()) == []


def test_what_an_attention_unet_puts_beside_each_other_is_no_residual() -> None:
    assert residuals(Gated(), torch.randn(2, 8, 16, 16)) == []
