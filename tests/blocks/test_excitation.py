"""SE's layers differentiated by hand: the gradients that autograd finds, and only where it is these layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import CHANNELS, scramble, tensor
from torch import Tensor, nn

from sesurgeon.blocks import SqueezeExcite
from sesurgeon.blocks.kernel.excitation import ByAutograd, Excitation, TwoLayers
from sesurgeon.blocks.kernel.parts import are_as_made


def block(*, identity: bool = True, spatial_dims: int = 2) -> SqueezeExcite:
    found = SqueezeExcite(CHANNELS, 4, identity=identity, spatial_dims=spatial_dims).double()
    scramble(found)
    return found


def way_of(se: SqueezeExcite, x: Tensor) -> Excitation | None:
    return se.by_hand(x, tuple(se.parameters())) if are_as_made(se.children()) else None


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
def test_both_ways_are_autograds(identity: bool, spatial_dims: int) -> None:
    se = block(identity=identity, spatial_dims=spatial_dims)
    x = tensor(spatial_dims, 1, torch.float64)
    parameters = tuple(se.parameters())
    by_hand = se.by_hand(x, parameters)
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


def test_what_is_kept_is_what_goes_in_the_hidden_units_and_the_factors() -> None:
    se, x = block(), tensor(dtype=torch.float64)
    by_hand = way_of(se, x)
    assert by_hand is not None
    factors, kept = by_hand.forth(se.layout.squeezed(x), tuple(se.parameters()))
    assert [tuple(one.shape) for one in kept] == [(len(x), CHANNELS), (len(x), 4), (len(x), CHANNELS)]
    assert kept[2].data_ptr() == factors.data_ptr()


def test_what_needs_no_gradient_gets_none() -> None:
    se, x = block(), tensor(dtype=torch.float64)
    parameters = tuple(se.parameters())
    by_hand = way_of(se, x)
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


def without_weight_norm(layer: nn.Module) -> None:
    """As :func:`torch.nn.utils.prune.remove` does, it leaves the weight registered behind the bias."""
    nn.utils.parametrizations.weight_norm(layer)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")


class Wrapped(nn.Module):
    """A layer with a weight that is not what it computes with."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.inner = layer
        self.weight = layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.inner(x)  # type: ignore[no-any-return]


def override(module: nn.Module, name: str) -> None:
    """As accelerate hooks on to modules."""
    before = getattr(module, name)
    setattr(module, name, lambda x: 3 * before(x))


OTHERWISE: dict[str, Callable[[SqueezeExcite], object]] = {
    "eval mode": lambda se: se.eval(),
    "a hook before": lambda se: se.fc1.register_forward_pre_hook(hook),
    "a hook behind": lambda se: se.gate.register_forward_hook(hook),
    "a hook on the way back": lambda se: se.fc2.register_full_backward_hook(hook),
    "another activation": lambda se: setattr(se, "act", nn.ReLU6()),
    "another gate": lambda se: setattr(se, "gate", nn.Hardsigmoid()),
    "weights by a parametrization": lambda se: nn.utils.parametrizations.weight_norm(se.fc1),
    "weights behind their biases": lambda se: without_weight_norm(se.fc1),
    "layers in another order": lambda se: setattr(se, "fc1", se._modules.pop("fc1")),
    "layers in another module": lambda se: setattr(se, "fc1", nn.Sequential(se.fc1)),
    "a layer that only looks like one": lambda se: setattr(se, "fc2", Wrapped(se.fc2)),  # type: ignore[arg-type]
    "one more parameter": lambda se: setattr(se, "more", nn.Parameter(torch.ones(()))),
    "a layer's forward of its own": lambda se: override(se.fc2, "forward"),
    "a gate's forward of its own": lambda se: override(se.gate, "forward"),
    "factors of its own": lambda se: override(se, "factors"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_otherwise_autograd_does_it(case: str) -> None:
    se, x = block(), tensor(dtype=torch.float64)
    OTHERWISE[case](se)
    assert way_of(se, x) is None
    torch.testing.assert_close(se(x), x * se.layout.restored(se.factors(se.layout.squeezed(x))))
    se(x).sum().backward()
    trained = se(x)
    torch.testing.assert_close(trained, se.eval()(x))


def test_hooks_on_all_modules_see_the_parts() -> None:
    se, seen = block(), list[type]()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        se(tensor(dtype=torch.float64))
    finally:
        handle.remove()
    assert seen == [type(se.fc1), type(se.act), type(se.fc2), type(se.gate), SqueezeExcite]


def test_a_parametrized_weight_is_computed_once() -> None:
    class Counting(nn.Module):
        count = 0

        def forward(self, weight: Tensor) -> Tensor:
            self.count += 1
            return 2 * weight

    se, counting = block(), Counting()
    nn.utils.parametrize.register_parametrization(se.fc1, "weight", counting)
    for training in (True, False):
        counting.count = 0
        se.train(training)(tensor(dtype=torch.float64))
        assert counting.count == 1


def test_nor_where_the_function_is_another() -> None:
    x = tensor(dtype=torch.float64)
    assert way_of(Subclass(CHANNELS, 4).double(), x) is None
    assert way_of(SqueezeExcite(CHANNELS, 4, bias=False).double(), x) is None
    assert way_of(block(), x[0]) is None  # no batch
    assert way_of(block().float(), x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert way_of(block(), x) is None
