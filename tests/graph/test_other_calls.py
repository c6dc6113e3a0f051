"""What a graph took from one call and what another call brings: followed, or refused, never ignored."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sesurgeon.errors import UntraceableError
from sesurgeon.graph.tracing.codegen import compile_graph
from sesurgeon.graph.tracing.local_graphs import LocalGraphs, trace_local_graphs

X = torch.randn(2, 8, 4, 4)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)


class Around(nn.Module):
    def __init__(self, inner: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.inner, x)


def traced(
    inner: nn.Module, call: Callable[[nn.Module, Tensor], Tensor] = lambda f, x: f(x), training: bool = False
) -> LocalGraphs:
    return trace_local_graphs(Around(inner, call), (X,), training=training)


def test_the_length_of_a_tensor_is_its_batch_size_and_not_a_constant() -> None:
    class Flat(Inner):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).reshape(len(x), -1).softmax(1)

    module, images = Flat(), torch.randn(5, 8, 4, 4)
    forward = compile_graph(traced(module).graphs["inner"], "test")
    assert torch.equal(forward(module, images), module(images))


def test_a_loop_over_the_images_of_a_batch_is_guarded() -> None:
    class Loop(Inner):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([image.relu() for image in self.conv(x)])

    module = Loop()
    forward = compile_graph(traced(module).graphs["inner"], "test")
    assert torch.equal(forward(module, X), module(X))
    with pytest.raises(UntraceableError, match="was 2 when the blocks were inserted and is 5 now"):
        forward(module, torch.randn(5, 8, 4, 4))


class OfList(Inner):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return self.conv(torch.stack(xs).sum(0))


class OfMany(Inner):
    def forward(self, *xs: Tensor) -> Tensor:
        return self.conv(torch.stack(xs).sum(0))


class OfDict(Inner):
    def forward(self, xs: dict[str, Tensor]) -> Tensor:
        return self.conv(xs["a"] + xs["b"] if "b" in xs else xs["a"])


@pytest.mark.parametrize(("module", "seen", "other"), [
    (OfList(), ([X, X],), ([X, X, X],)),
    (OfMany(), (X, X), (X, X, X)),
    (OfDict(), ({"a": X},), ({"a": X, "b": X},)),
])  # fmt: skip
def test_more_in_a_container_than_was_seen_is_refused(
    module: nn.Module, seen: tuple[Any, ...], other: tuple[Any, ...]
) -> None:
    forward = compile_graph(traced(module, lambda f, x: f(*seen)).graphs["inner"], "test")
    assert torch.equal(forward(module, *seen), module(*seen))
    with pytest.raises(UntraceableError, match=r"the argument 'xs': (its length|the list of its keys) was"):
        forward(module, *other)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_random_depth_that_python_or_numpy_draws_is_no_constant(draw: Callable[[], float]) -> None:
    class RandomDepth(Inner):
        def forward(self, x: Tensor) -> Tensor:
            return x if self.training and draw() < 0.2 else x + self.conv(x)

    assert "inner" in traced(RandomDepth()).graphs
    graphs = traced(RandomDepth(), training=True)
    assert "draws random numbers" in graphs.unfollowed["inner"]
