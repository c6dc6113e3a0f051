"""A forward that asks for shapes, types or ranks in ways that no operation shows raises where the answer is another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import UntraceableError, add_se
from sesurgeon.surgery import blocks_of

X = torch.randn(2, 3, 8, 8)
LARGER, UNBATCHED, DOUBLE = torch.randn(2, 3, 9, 9), torch.randn(3, 8, 8), X.double()


class Steered(nn.Module):
    """``factor`` gives the factor of the branch."""

    def __init__(self, factor: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.factor = nn.Conv2d(8, 8, 3, padding=1), factor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) * self.factor(x)


@functools.lru_cache
def looked_up(height: int) -> int:
    return {9: 2}.get(height, 1)


@functools.lru_cache(maxsize=1)
def ramp(length: int) -> Tensor:
    return torch.arange(length).sum()


def network(factor: Callable[[Tensor], Any]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Steered(factor)).eval()


@pytest.mark.parametrize(("factor", "other"), [
    (lambda x: 2 if 9 in x.shape else 1, LARGER),
    (lambda x: 2 if x.shape[2] in {7, 9} else 1, LARGER),
    (lambda x: {7: 3.0, 9: 5.0}.get(x.shape[2], 1.0), LARGER),
    (lambda x: {8: 3.0}.get(x.shape[2], 1.0), LARGER),  # found on the example
    (lambda x: {(9, 9): 2.0}.get(tuple(x.shape[-2:]), 1.0), LARGER),
    (lambda x: {(8, 8): 2.0}.get(x.shape[-2:], 1.0), LARGER),
    (lambda x: len({x.shape[2], x.shape[3]}), torch.randn(2, 3, 8, 9)),
    (lambda x: 2 if str(x.shape[2]) == "9" else 1, LARGER),
    (lambda x: looked_up(x.shape[2]), LARGER),
    (lambda x: 2 if x.dtype in {torch.float64} else 1, DOUBLE),
    (lambda x: 2 if x.dtype is torch.float64 else 1, DOUBLE),
    (lambda x: 2 if torch.float64 is x.dtype else 1, DOUBLE),
    (lambda x: 2 if str(x.dtype) == "torch.float64" else 1, DOUBLE),
    (lambda x: 2 if x.ndim == 3 else 1, UNBATCHED),
    (lambda x: 2 if x.dim() == 3 else 1, UNBATCHED),
    (lambda x: 2 if len(x.shape) == 3 else 1, UNBATCHED),
    (lambda x: functools.reduce(int.__mul__, [int(side > 0) for side in x.shape]), UNBATCHED),
])  # fmt: skip
def test_what_is_asked_is_asked_again_by_the_graph(factor: Callable[[Tensor], Any], other: Tensor) -> None:
    model = network(factor)
    augmented = add_se(model, example_inputs=X)
    assert list(blocks_of(augmented)) == ["1.se"]
    assert torch.equal(augmented(X), model(X))
    with pytest.raises(UntraceableError, match=r"Steered: .* when the blocks were inserted"):
        augmented.to(other.dtype)(other)


def says_sizes(x: Tensor) -> int:
    torch._assert(x.shape[1] == 8, f"got {x.shape[1]} channels in {x.shape}")  # whose message is made each time
    return 1


def knows_its_mind(x: Tensor, flag: object = True) -> Tensor:
    return torch.ones((), dtype=x.dtype) if flag is True else x


@pytest.mark.parametrize(("factor", "other"), [(says_sizes, torch.randn(3, 3, 9, 9)), (knows_its_mind, DOUBLE)])
def test_what_steers_nothing_may_be_another(factor: Callable[[Tensor], Any], other: Tensor) -> None:
    model = network(factor)
    augmented = add_se(model, example_inputs=X)
    assert torch.equal(augmented.to(other.dtype)(other), model.to(other.dtype)(other))


def test_torch_fx_traces_a_network_that_asks_for_ranks() -> None:
    augmented = add_se(network(lambda x: 1 / x.dim()), example_inputs=X)
    assert torch.equal(torch.fx.symbolic_trace(augmented)(LARGER), augmented(LARGER))


@pytest.mark.parametrize("factor", [
    lambda x: torch.ones(1, dtype=x.dtype, device=x.device),
    lambda x: round(x.shape[2] * 0.5) + divmod(x.shape[3], 3)[1],
    lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:]),
    lambda x: torch.as_tensor([x.shape[2], 2]).sum(),
    lambda x: print(x.shape) or 1,
])  # fmt: skip
def test_what_is_handed_on_steers_nothing(factor: Callable[[Tensor], Any]) -> None:
    model = network(factor)
    augmented = add_se(model, example_inputs=X)
    assert list(blocks_of(augmented)) == ["1.se"]
    for other in (LARGER, X[:1], DOUBLE):
        assert torch.equal(augmented.to(other.dtype)(other), model.to(other.dtype)(other))


def test_a_cache_of_the_forward_gives_nothing_of_ours_to_others() -> None:
    add_se(network(lambda x: ramp(x.shape[2]) + ramp(3)), example_inputs=X)
    assert type(ramp(8)) is type(ramp(3)) is Tensor


def test_a_tensor_without_gradients_is_nothing_to_hang_on() -> None:
    with pytest.raises(Exception, match="asks whether a tensor needs gradients"):
        add_se(network(lambda x: 2 if x.grad_fn is None else 1), example_inputs=X)
