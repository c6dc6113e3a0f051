"""Blocks in the middle of an ``nn.Sequential``, whose children users iterate over; and other ways past blocks."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from sesurgeon import add_se, apply_adapter, apply_plan, extract_adapter, load, make_plan, remove_se, save
from sesurgeon.surgery import blocks_of, plan_of

X = torch.randn(2, 3, 8, 8)


class Backbone(nn.Module):
    """As DenseNet: a unit that ends in a norm, which hosts no block, and an activation that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.features = nn.Sequential(
            OrderedDict(conv0=nn.Conv2d(3, 8, 3, padding=1), norm0=nn.BatchNorm2d(8), pool0=nn.MaxPool2d(2),
                        conv1=nn.Conv2d(8, 4, 1), act1=act, conv2=nn.Conv2d(4, 6, 1), act2=act, pool2=nn.MaxPool2d(2))
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


@pytest.fixture
def augmented() -> nn.Module:
    return add_se(Backbone().eval(), X, policy="conv", init="random")


def test_a_row_of_children_computes_the_same_however_it_is_run(augmented: nn.Module) -> None:
    row = augmented.features
    assert list(blocks_of(augmented)) == ["features.se", "features.se2", "features.se3"]
    assert list(dict(row.named_children())) == [
        "conv0", "norm0", "se", "pool0", "conv1", "act1", "se2", "conv2", "se3", "pool2",
    ]  # fmt: skip
    stepwise = X
    for child in row:
        stepwise = child(stepwise)
    expected = row(X)
    assert torch.equal(stepwise, expected)
    assert torch.equal(row[4:](row[:4](X)), expected)
    assert [len(blocks_of(part)) for part in (row[:4], row[4:])] == [1, 2]
    assert torch.equal(copy.deepcopy(augmented)(X), expected)


def test_the_row_scales_what_its_activation_gave_at_both_of_its_places() -> None:
    model = Backbone().eval()
    plan = make_plan(model, X, policy="conv", init="random", gate="tanh")
    torch.manual_seed(0)
    augmented = apply_plan(model, plan).eval()
    seen = {}
    for name, block in blocks_of(augmented).items():
        block.register_forward_hook(lambda _, args, __, name=name: seen.update({name: args[0]}))
    augmented(X)
    rows = list(model.features)
    assert torch.equal(seen["features.se"], nn.Sequential(*rows[:2])(X))
    assert [tuple(seen[f"features.{name}"].shape[1:]) for name in ("se2", "se3")] == [(4, 4, 4), (6, 4, 4)]


def test_the_row_comes_back_in_its_order_from_removal_files_and_adapters(augmented: nn.Module, tmp_path: Path) -> None:
    keys = list(augmented.state_dict())
    assert list(remove_se(augmented).state_dict()) == list(Backbone().state_dict())
    assert type(remove_se(augmented).features) is nn.Sequential
    base = nn.Sequential(*Backbone().features)
    whole = add_se(base.eval(), X, policy="conv", init="random")
    save(base, tmp_path / "base.pt")
    save(whole, tmp_path / "whole.pt")
    extract_adapter(whole, tmp_path / "a.safetensors")
    for again in (load(tmp_path / "whole.pt"), apply_adapter(load(tmp_path / "base.pt"), tmp_path / "a.safetensors")):
        assert list(again.state_dict()) == list(whole.state_dict())
        assert torch.equal(again.eval()(X), whole(X))
    assert keys.index("features.se.fc1.weight") < keys.index("features.conv1.weight")


class ByNumber(nn.Module):
    """Runs a row as a whole, and reaches for its children by number."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        last = self.body[3](self.body[2](self.body[1](self.body[0](x))))
        return self.body(x) * self.body[2].weight.mean() + last


class Reversed(nn.Sequential):
    """Runs from its end to its beginning."""

    def __iter__(self) -> Iterator[nn.Module]:
        return reversed(list(self._modules.values()))


def test_a_row_whose_network_knows_its_numbers_keeps_them() -> None:
    model = ByNumber().eval()
    whole = add_se(model, X, policy="conv", include="body:*")
    assert torch.equal(whole(X), model(X))
    assert list(dict(whole.body.named_children()))[:4] == ["0", "1", "2", "3"]
    assert plan_of(whole).warnings == ()


def test_a_row_that_runs_in_another_order_is_no_row() -> None:
    model = nn.Sequential(Reversed(nn.BatchNorm2d(8), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(4), nn.Conv2d(3, 4, 1)))
    whole = add_se(model.eval(), X, policy="conv")
    assert len(blocks_of(whole)) == 2
    assert torch.equal(whole(X), model(X))


def test_a_plan_warns_of_children_that_move_up(augmented: nn.Module) -> None:
    plan = plan_of(augmented)
    assert plan is not None
    (warning,) = plan.warnings
    assert warning.startswith(
        "Blocks were inserted between the children of features: code that finds later children by number"
    )
    several = make_plan(torchvision.models.shufflenet_v2_x0_5(), torch.randn(2, 3, 64, 64), policy="conv")
    (warning,) = several.warnings
    assert "the children of stage2.0.branch1, stage2.0.branch2, stage2.1.branch2 and 16 more: code" in warning
    unit = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), nn.Flatten())
    assert make_plan(unit, X, policy="conv").warnings == ()  # it is the last child


class WithFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.inner = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.inner(self.bn(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean((2, 3))


def test_a_plan_warns_of_feature_extraction_that_goes_without_blocks() -> None:
    plan = make_plan(WithFeatures(), X, policy="conv")
    words = "forward_features of the model skips the blocks at .:conv: they are only in its forward."
    assert plan.sites == [".:conv"]
    assert plan.warnings == (words,)
    in_a_part = nn.Sequential(WithFeatures())
    assert make_plan(in_a_part, X, policy="conv").warnings == (words.replace("the model", "0").replace(".:c", "0:c"),)
