"""The names that blocks take, and what comes back to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import UsageError, add_se, apply_plan, make_plan, remove_se
from sesurgeon.blocks import SqueezeExcite
from sesurgeon.placement import plan_from_data, plan_to_data
from tests.networks import FunctionalResNet

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class WithClassAttribute(FunctionalResNet):
    se = None


class WithProperty(FunctionalResNet):
    @property
    def se(self) -> None:
        return None


class WithRegisteredNone(FunctionalResNet):
    def __init__(self) -> None:
        super().__init__()
        self.register_module("se", None)


class WithBufferNone(FunctionalResNet):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("se", None)


class WithAttributeNone(FunctionalResNet):
    def __init__(self) -> None:
        super().__init__()
        self.se: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.se is None else self.se(x))


@pytest.mark.parametrize("make", [WithClassAttribute, WithProperty, WithBufferNone])
def test_a_name_of_the_class_or_of_a_buffer_is_not_taken(make: type[nn.Module]) -> None:
    plan = make_plan(make(), example_inputs=SMALL)
    assert [entry.attribute for entry in plan.entries] == ["se2", "se3"]
    augmented = apply_plan(make(), plan)
    assert isinstance(augmented.get_submodule("se2"), SqueezeExcite)
    assert augmented.se is None
    assert make().se is None


@pytest.mark.parametrize("make", [WithClassAttribute, WithProperty, WithBufferNone])
def test_a_plan_that_wants_such_a_name_is_refused(make: type[nn.Module]) -> None:
    data = plan_to_data(make_plan(make(), example_inputs=SMALL))
    data["blocks"][0]["attribute"] = "se"
    with pytest.raises(UsageError, match="has an attribute 'se' already"):
        apply_plan(make(), plan_from_data(data))


@pytest.mark.parametrize(("make", "where"), [(WithRegisteredNone, "_modules"), (WithAttributeNone, "__dict__")])
def test_a_none_comes_back_where_it_was(make: type[nn.Module], where: str) -> None:
    model = make()
    children, attributes = list(model._modules), set(vars(model))
    augmented = add_se(model, example_inputs=SMALL)
    assert isinstance(augmented.get_submodule("se"), SqueezeExcite)
    back = remove_se(augmented)
    assert getattr(back, where)["se"] is None
    assert (list(back._modules), set(vars(back))) == (children, attributes)
