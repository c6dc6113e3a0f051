"""Norms, activations and sums that stand in child modules of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sesurgeon
from sesurgeon.surgery import blocks_of

X = torch.randn(2, 4, 8, 8)


class Finish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


def conv(size: int = 1) -> nn.Conv2d:
    return nn.Conv2d(4, 4, size, padding=size // 2)


@pytest.mark.parametrize(
    "rest",
    [
        [nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())],
        [Finish()],
        [nn.Sequential(nn.InstanceNorm2d(4), nn.Dropout(0.1), nn.PReLU())],
        [nn.Sequential(nn.Dropout(0.1), nn.ReLU())],
    ],
    ids=["row", "class", "with-dropout", "no-norm"],
)
def test_a_child_of_norm_and_activation_ends_a_unit(rest: list[nn.Module]) -> None:
    net = nn.Sequential(conv(3), *rest, conv()).eval()
    sites = sesurgeon.find_sites(net, X)
    assert [(site.id, site.convolution) for site in sites] == [("1:conv", "0")]
    assert torch.equal(sesurgeon.add_se(net, X)(X), net(X))


def test_a_norm_and_its_activation_in_two_children_are_in_one_unit() -> None:
    net = nn.Sequential(conv(3), nn.Sequential(nn.BatchNorm2d(4)), nn.Sequential(nn.ReLU()), conv())
    assert [site.id for site in sesurgeon.find_sites(net, X)] == ["2:conv"]


def test_a_child_with_more_than_norm_and_activation_ends_none() -> None:
    net = nn.Sequential(conv(3), nn.Sequential(nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU()), nn.BatchNorm2d(4))
    with pytest.raises(sesurgeon.NoSiteError):
        sesurgeon.make_plan(net, X)


class Add(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.shapes = 0, list[torch.Size]()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        self.calls += 1
        self.shapes.append(first.shape)
        return first + second


class AddTwice(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second * 2


class Concat(nn.Module):
    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors, dim=self.dim)


class ConcatTwo(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat((first, second), 1)


class Joins(nn.Module):
    def __init__(self, join: nn.Module, write: Callable[[Joins, Tensor], Tensor]) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(3), nn.ReLU(), conv(3))
        self.other = nn.Sequential(conv(), nn.ReLU(), conv())
        self.join, self.write = join, write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


@pytest.mark.parametrize(
    ("join", "write", "kinds"),
    [
        (Add(), lambda net, x: net.join(x, net.branch(x)), [("residual", "branch")]),
        (Add(), lambda net, x: net.join(net.branch(x), x), [("residual", "branch")]),
        (AddTwice(), lambda net, x: net.join(net.branch(x), x), []),
        (Concat(), lambda net, x: net.join([net.other(x), net.branch(x)]), [("concat", "join")]),
        (ConcatTwo(), lambda net, x: net.join(net.other(x), net.branch(x)), [("concat", "join")]),
        (Concat(0), lambda net, x: net.join([net.other(x), net.branch(x)]), []),
    ],
    ids=["branch-last", "branch-first", "scaled", "list", "two", "batch"],
)
def test_a_child_that_only_joins_is_the_sum_or_concatenation(
    join: nn.Module, write: Callable[[Joins, Tensor], Tensor], kinds: list[tuple[str, str]]
) -> None:
    net = nn.Sequential(Joins(join, write)).eval()
    sites = sesurgeon.find_sites(net, X)
    assert [(site.kind, site.follows) for site in sites if site.kind in ("residual", "concat")] == kinds
    assert (getattr(join, "calls", 0), getattr(join, "shapes", [])) == (0, [])
    if kinds:
        augmented = sesurgeon.add_se(net, X)
        assert len(blocks_of(augmented)) == 1
        assert torch.equal(augmented(X), net(X))
