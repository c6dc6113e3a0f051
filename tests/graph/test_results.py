"""What a network returns as it is gets no gate; feature maps do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sesurgeon
from sesurgeon.errors import NoSiteError

X = torch.randn(2, 3, 8, 8)


def trunk() -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]


class Views(nn.Module):
    """Returns other views of what its last unit gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*trunk()), nn.Sequential(nn.Conv2d(8, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.head(self.body(x))
        return {"scores": y.flatten(2).permute(0, 2, 1).log_softmax(-1)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Sequential(*trunk()), nn.Sequential(nn.Conv2d(8, 1, 1), nn.Sigmoid())),
        lambda: nn.Sequential(nn.Sequential(*trunk()), nn.Sequential(nn.Conv2d(8, 1, 1), nn.BatchNorm2d(1), nn.Tanh())),
        Views,
        lambda: nn.Sequential(nn.Sequential(*trunk()), nn.Sequential(nn.Conv2d(8, 1, 1), nn.Softplus())),
        lambda: nn.Sequential(nn.Sequential(*trunk()), nn.Sequential(nn.Conv2d(8, 3, 1), nn.ReLU6())),
    ],
    ids=["sigmoid", "norm-and-tanh", "views", "depth", "image"],
)
@pytest.mark.parametrize("policy", ["standard", "conv"])
def test_the_networks_result_gets_no_gate_and_the_plan_says_so(make: Callable[[], nn.Module], policy: str) -> None:
    plan = sesurgeon.make_plan(make(), X, policy=policy)
    assert len(plan.entries) == 1
    assert [place.reason for place in plan.left_alone] == [f"{policy}: its result is an output of the network"]


class Splits(nn.Module):
    """Takes its last tensor apart and puts it together again, so often that to follow every way would take years."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*trunk()), nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.body(x))
        for _ in range(60):
            y = torch.cat([y[:, :4], y[:, 4:]], 1)
        return y


def test_a_result_is_followed_once_wherever_it_goes() -> None:
    assert len(sesurgeon.make_plan(Splits(), X).entries) == 1


@pytest.mark.parametrize(
    "last",
    [[nn.ReLU(), nn.AvgPool2d(2)], [nn.BatchNorm2d(4), nn.ReLU()], [nn.ReLU()]],
    ids=["pooled", "norm", "activation"],
)
def test_a_feature_map_at_the_end_gets_one(last: list[nn.Module]) -> None:
    plan = sesurgeon.make_plan(nn.Sequential(*trunk(), nn.Conv2d(8, 4, 1), *last), X)
    assert len(plan.entries) == 2
    assert plan.left_alone == ()


class Restores(nn.Module):
    """Corrects its input, by a branch that is all of it (VDSR)."""

    def __init__(self, units: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(*trunk()) if units else nn.Conv2d(3, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.body(x))


def test_what_corrects_the_networks_own_input_is_no_block_where_there_are_units() -> None:
    plan = sesurgeon.make_plan(Restores(), X)
    assert plan.sites == ["body.2:conv"]
    assert [place.reason for place in plan.left_alone] == ["standard: its result is an output of the network"]
    assert sesurgeon.make_plan(Restores(units=False), X).sites == [".:residual"]


def test_a_network_of_its_result_alone_is_refused_with_the_reason() -> None:
    with pytest.raises(NoSiteError, match=r"policy 'standard': 1: its result is an output of the network\."):
        sesurgeon.make_plan(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid()), X)
