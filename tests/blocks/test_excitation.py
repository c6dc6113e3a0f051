"""SE's layers differentiated by hand: the gradients that autograd finds, and only where it is these layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import CHANNELS, scramble, tensor
from torch import Tensor, nn

from sesurgeon.blocks import SqueezeExcite
from sesurgeon.blocks.excitation import ByAutograd, TwoLayers


def block(*, identity: bool = True, spatial_dims: int = 2) -> SqueezeExcite:
    found = SqueezeExcite(CHANNELS, 4, identity=identity, spatial_dims=spatial_dims).double()
    scramble(found)
    return found


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
def test_both_ways_are_autograds(identity: bool, spatial_dims: int) -> None:
    se = block(identity=identity, spatial_dims=spatial_dims)
    x = tensor(spatial_dims, 1, torch.float64)
    by_hand, parameters = se.by_hand(x), tuple(se.parameters())
    assert by_hand == TwoLayers(2.0 if identity else 1.0)
    mean, needed = se.layout.squeezed(x), (True,) * 5
    factors, kept = by_hand.forth(mean, parameters)
    expected, kept_by_autograd = ByAutograd(se.factors).forth(mean, parameters)
    assert torch.equal(factors, expected)
    seen = torch.randn_like(factors)
    found = by_hand.back(kept, parameters, seen, needed)
    usual = ByAutograd(se.factors).back(kept_by_autograd, parameters, seen, needed)
    assert torch.equal(found.factors, factors)
    torch.testing.assert_close([found.of_mean, *found.of_parameters], [usual.of_mean, *usual.of_parameters])


def test_the_second_layers_output_is_not_kept() -> None:
    se, x = block(), tensor(dtype=torch.float64)
    by_hand = se.by_hand(x)
    assert by_hand is not None
    _, kept = by_hand.forth(se.layout.squeezed(x), tuple(se.parameters()))
    assert [tuple(one.shape) for one in kept] == [(len(x), CHANNELS), (len(x), 4)]


def test_what_needs_no_gradient_gets_none() -> None:
    se, x = block(), tensor(dtype=torch.float64)
    parameters = tuple(se.parameters())
    by_hand = se.by_hand(x)
    assert by_hand is not None
    factors, kept = by_hand.forth(se.layout.squeezed(x), parameters)
    for index in range(5):
        needed = [index == other for other in range(5)]
        found = by_hand.back(kept, parameters, torch.ones_like(factors), needed)
        assert [one is not None for one in (found.of_mean, *found.of_parameters)] == needed


class Subclass(SqueezeExcite):
    def factors(self, squeezed: Tensor) -> Tensor:
        return 2 * super().factors(squeezed)


def hook(*_: object) -> None: ...


OTHERWISE: dict[str, Callable[[SqueezeExcite], object]] = {
    "eval mode": lambda se: se.eval(),
    "a hook before": lambda se: se.fc1.register_forward_pre_hook(hook),
    "a hook behind": lambda se: se.gate.register_forward_hook(hook),
    "a hook on the way back": lambda se: se.act.register_full_backward_hook(hook),
    "another activation": lambda se: setattr(se, "act", nn.ReLU6()),
    "another gate": lambda se: setattr(se, "gate", nn.Hardsigmoid()),
    "another type": lambda se: se.fc2.float(),
    "weights by a parametrization": lambda se: nn.utils.parametrizations.weight_norm(se.fc1),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_otherwise_autograd_does_it(case: str) -> None:
    se = block()
    OTHERWISE[case](se)
    assert se.by_hand(tensor(dtype=torch.float64)) is None


def test_nor_where_the_function_is_another() -> None:
    x = tensor(dtype=torch.float64)
    assert Subclass(CHANNELS, 4).double().by_hand(x) is None
    assert SqueezeExcite(CHANNELS, 4, bias=False).double().by_hand(x) is None
    assert block().by_hand(x[0]) is None  # no batch
    with torch.autocast("cpu", torch.bfloat16):
        assert block().by_hand(x) is None
