"""Parallel convolutions whose sum is one convolution in training clothes: a unit as a whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import sesurgeon


def convolution(size: int, inputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 4, size, padding=size // 2, bias=False), nn.BatchNorm2d(4))


class Parallel(nn.Module):
    """Two convolutions and a norm beside each other, joined as ``write`` says."""

    def __init__(self, write: Callable[[Parallel, Tensor], Tensor]) -> None:
        super().__init__()
        self.large, self.small, self.norm = convolution(3), convolution(1), nn.BatchNorm2d(4)
        self.deep = nn.Sequential(*convolution(1), *convolution(3))
        self.bent = nn.Sequential(*convolution(3), nn.ReLU())
        self.drop_path, self.act = nn.Identity(), nn.ReLU()
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


def sites_of(write: Callable[[Parallel, Tensor], Tensor]) -> list[tuple[str, str, str | None]]:
    found = sesurgeon.find_sites(nn.Sequential(Parallel(write)), torch.randn(2, 4, 8, 8))
    return [(site.id, site.follows, site.convolution) for site in found]


def in_a_loop(net: Parallel, x: Tensor) -> Tensor:
    total: Tensor | int = 0
    for part in (net.small, net.large):
        total += part(x)
    total = net.drop_path(total)
    total += net.norm(x)
    return net.act(total)


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net.act(net.small(x) + net.large(x) + net.norm(x)),
        lambda net, x: net.act(torch.add(net.norm(x), net.large(x).add_(net.small(x)))),
        lambda net, x: net.act(net.large(x) + net.small(x) + x),
        lambda net, x: net.act(net.norm(x) + net.large(x)),
        in_a_loop,
    ],
    ids=["sum", "sums-in-place", "with-the-tensor-itself", "norm-alone", "loop"],
)
def test_a_sum_of_parallel_convolutions_is_one_unit(write: Callable[[Parallel, Tensor], Tensor]) -> None:
    assert sites_of(write) == [("0:conv", "act", "0.large.0")]


@pytest.mark.parametrize(
    "write",
    [lambda net, x: net.act(x + net.large(x)), lambda net, x: net.act(net.large(x) + net.drop_path(x))],
    ids=["itself", "through-identity"],
)
def test_a_tensor_and_its_convolution_are_a_residual_block(write: Callable[[Parallel, Tensor], Tensor]) -> None:
    assert sites_of(write)[0] == ("0:residual", "large", None)


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net.act(net.small(x) + net.bent(x)),
        lambda net, x: net.act(net.small(x) + net.deep(x)),
        lambda net, x: net.act(net.small(x) + net.large(x.relu())),
        lambda net, x: net.act(net.small(y := x.relu()) + net.large(x + y)),
        lambda net, x: net.small(x) * net.large(x),
    ],
    ids=["activation", "one-after-another", "from-two-tensors", "one-from-both", "product"],
)
def test_what_is_no_single_convolution_is_none(write: Callable[[Parallel, Tensor], Tensor]) -> None:
    assert "0.small:conv" in [site for site, _, _ in sites_of(write)]


def test_an_inner_sum_that_something_else_reads_stays_apart() -> None:
    def write(net: Parallel, x: Tensor) -> Tensor:
        inner = net.small(x) + net.large(x)
        return net.act(inner + net.norm(x)) * inner.mean()

    assert [site for site, _, _ in sites_of(write)] == ["0:conv"]


@pytest.mark.parametrize(("name", "count"), [("repvgg_a0", 22), ("mobileone_s0", 21)])
def test_the_networks_that_are_made_of_them(name: str, count: int) -> None:
    """One block a module, as timm's own stand; in MobileOne, as in MobileNet, behind the pointwise ones alone."""
    model = timm.create_model(name).eval()
    images = torch.randn(2, 3, 64, 64)
    augmented = sesurgeon.add_se(model, example_inputs=images)
    plan = sesurgeon.make_plan(model, example_inputs=images)
    assert len(plan.entries) == count
    assert all(":conv" in entry.site and "conv_" not in entry.site for entry in plan.entries)
    before, after = (sesurgeon.find_sites(network, images) for network in (model, augmented))
    assert [site.id for site in after] == [site.id for site in before]
    assert sum(site.attention is not None for site in after) == count
