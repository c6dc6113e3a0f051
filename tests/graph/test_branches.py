"""Which tensors are the start and the end of a residual branch, and which are levels of a U-Net."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sesurgeon

X = torch.randn(2, 8, 16, 16)


def conv(inputs: int = 8, outputs: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))


def residuals(net: nn.Module) -> list[str]:
    return [site.follows for site in sesurgeon.find_sites(net, X) if site.kind == "residual"]


class Written(nn.Module):
    """``write`` says how the branch's result is joined with the tensor that it starts from."""

    def __init__(self, write: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.write = conv(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), write

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.write(x, self.norm(self.conv(F.pad(x, (1, 1, 1, 1)))))  # which keeps no x for its backward


def into_a_view(x: Tensor, y: Tensor) -> Tensor:
    view = x[:, :]
    view += y
    return x.relu()


def by_assignment(x: Tensor, y: Tensor) -> Tensor:
    x[:] = x + y
    return x.relu()


def halved(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    x /= 2
    return total


def less(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    x -= 1
    return total


class Adds(nn.Module):
    """In a child."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.add_(y)


@pytest.mark.parametrize(
    "write",
    [lambda x, y: x.add_(y), lambda x, y: F.relu_(x.add_(y)), into_a_view, by_assignment, halved, less, Adds()],
    ids=["add_", "relu_", "view", "assignment", "division", "subtraction", "child"],
)
def test_no_block_before_a_branch_where_the_sum_is_written_over_its_start(
    write: Callable[[Tensor, Tensor], Tensor],
) -> None:
    net = nn.Sequential(Written(write), Written(lambda x, y: x + y))
    plan = sesurgeon.make_plan(net, X, policy="pre")
    assert plan.sites == ["1:fork"]
    assert [(place.path, "writes into it" in place.reason) for place in plan.left_alone] == [("0", True)]
    sesurgeon.apply_plan(net, plan).train()(X).sum().backward()


class Adapted(nn.Module):
    """A block with a second branch beside the first, which is heavier."""

    def __init__(self, write: Callable[[Adapted, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.adapter, self.write = nn.Sequential(*conv(), nn.ReLU(), *conv()), nn.Conv2d(8, 8, 1), write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: x + net.body(x) + net.adapter(x),
        lambda net, x: (net.body(x) + x).add_(net.adapter(x)),
        lambda net, x: F.dropout(x + net.body(x), training=net.training) + net.adapter(x),
        lambda net, x: (x + net.body(x) + x) + net.adapter(x),
        lambda net, x: x + net.body(x) + net.adapter(x) + net.adapter(x),
    ],
    ids=["sum", "in-place", "dropout", "twice", "three"],
)
def test_no_branch_holds_the_shortcut(write: Callable[[Adapted, Tensor], Tensor]) -> None:
    assert residuals(Adapted(write)) == ["body"]


class Level(nn.Module):
    """A U-Net's: what is below lies in a child, joined with the level's own tensor."""

    def __init__(self, below: nn.Module, concatenates: bool) -> None:
        super().__init__()
        self.below, self.concatenates = below, concatenates

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.below(x)], 1) if self.concatenates else x + self.below(x)


def lower(inside: nn.Module, width: int) -> nn.Sequential:
    down = nn.Sequential(nn.Conv2d(8, 8, 2, 2), nn.ReLU())
    return nn.Sequential(down, inside, nn.ConvTranspose2d(width, 8, 2, 2), nn.BatchNorm2d(8))


def test_the_levels_of_a_unet_are_no_residual_blocks_nor_is_its_bottom() -> None:
    bottom = Level(nn.Sequential(conv(), nn.ReLU()), concatenates=True)
    net = nn.Sequential(Level(lower(Level(lower(bottom, 16), concatenates=True), 16), concatenates=True))
    assert residuals(net) == []
    assert len(sesurgeon.make_plan(net, X).entries) == 5


def test_residual_blocks_within_a_unet_are_some() -> None:
    net = nn.Sequential(Level(lower(Adapted(lambda net, x: x + net.body(x)), 8), concatenates=False))
    assert sesurgeon.make_plan(net, X).sites == ["0.below.1:residual"]


class Gate(nn.Module):
    """A narrow way beside a wide one, as in GhostNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) * F.interpolate(self.narrow(F.avg_pool2d(x, 2)), scale_factor=2).sigmoid()


def test_a_narrow_way_beside_a_wide_one_makes_no_level() -> None:
    assert residuals(nn.Sequential(Level(Gate(), concatenates=False))) == ["below"]


class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()


class Project(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, shortcut: Tensor, hidden: Tensor) -> Tensor:
        return self.conv(hidden) + shortcut


class Mobile(nn.Module):
    """The sum is in a child, to which branch and shortcut are handed (Hugging Face's EfficientNet)."""

    def __init__(self, squeeze: nn.Module, keywords: bool) -> None:
        super().__init__()
        self.expand, self.squeeze, self.project, self.keywords = conv(), squeeze, Project(), keywords

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.squeeze(self.expand(x))
        return self.project(shortcut=x, hidden=hidden) if self.keywords else self.project(x, hidden)


@pytest.mark.parametrize("keywords", [False, True])
def test_attention_before_an_argument_of_the_module_with_the_sum_is_seen(keywords: bool) -> None:
    for squeeze, attention in ((Squeeze(), "0.squeeze"), (nn.Identity(), None)):
        sites = sesurgeon.find_sites(nn.Sequential(Mobile(squeeze, keywords)), X)
        assert [site.attention for site in sites if site.kind == "residual"] == [attention]


def test_attention_on_the_shortcut_alone_is_none_of_the_branch() -> None:
    class Before(Mobile):
        def forward(self, x: Tensor) -> Tensor:
            return self.project(self.squeeze(x), self.expand(x))

    sites = sesurgeon.find_sites(nn.Sequential(Before(Squeeze(), False)), X)
    assert [site.attention for site in sites if site.kind == "residual"] == [None]


class GlobalFeature(nn.Module):
    """A feature of all points, put beside each of them (PointNet's segmentation)."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
        self.all = nn.Sequential(nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.out = nn.Conv1d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        points = self.points(x)
        of_all = self.all(points).max(2, keepdim=True)[0].repeat(1, 1, x.shape[2])
        return self.out(torch.cat([of_all, points], 1))


def test_what_is_the_same_at_all_places_is_no_residual_branch() -> None:
    sites = sesurgeon.find_sites(GlobalFeature(), torch.randn(2, 3, 10))
    assert {site.id for site in sites} == {"points.2:conv", "all.2:conv"}
