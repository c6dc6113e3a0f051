from __future__ import annotations

import pytest
import torch
import torchvision
import yaml
from torch import nn

from sesurgeon import NoSiteError, UsageError, make_plan
from sesurgeon.graph import find_sites
from sesurgeon.placement import Entry, Plan, block_cost, plan_from_data, plan_to_yaml
from sesurgeon.placement.architecture import architecture_of
from tests.networks import Inception, OddNet, PlainNet

IMAGES = torch.randn(2, 3, 64, 64)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision.models.resnet18()


def ids(plan: Plan) -> list[str]:
    return [entry.site for entry in plan.entries]


def test_standard_takes_the_residual_branches_of_a_resnet(resnet: nn.Module) -> None:
    plan = make_plan(resnet, example_inputs=IMAGES)
    assert ids(plan) == [f"layer{s}.{b}:residual" for s in (1, 2, 3, 4) for b in (0, 1)]
    assert {entry.attribute for entry in plan.entries} == {"se"}


def test_standard_takes_every_unit_of_a_plain_network() -> None:
    assert ids(make_plan(PlainNet(), example_inputs=torch.randn(2, 3, 16, 16))) == ["2:conv", "5:conv"]
    vgg = torchvision.models.vgg11_bn()
    assert len(make_plan(vgg, example_inputs=torch.randn(2, 3, 32, 32)).entries) == 8


def test_standard_takes_the_pointwise_units_of_a_separable_network() -> None:
    def separable(channels: int, out: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        return [
            depthwise,
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, out, 1),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]

    stem = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(*stem, *separable(8, 12), *separable(12, 16))
    assert ids(make_plan(net, example_inputs=IMAGES)) == ["8:conv", "14:conv"]


def test_blocks_win_over_stages_and_over_what_lies_inside_them() -> None:
    plan = make_plan(OddNet(), example_inputs=torch.randn(2, 3, 16, 16))
    assert ids(plan) == ["shared:residual", "blocks.0:residual", "blocks.1:residual", "mixed:concat", "last:residual"]


def test_a_concatenation_inside_a_residual_branch_does_not_count() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixed, self.project = Inception(3), nn.Conv2d(17, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.project(self.mixed(x))

    net = nn.Sequential(nn.Conv2d(3, 3, 1), Residual())
    assert ids(make_plan(net, example_inputs=IMAGES)) == ["1:residual"]


@pytest.mark.parametrize(("options", "expected"), [
    ({"include": ["layer3.*"]}, ["layer3.0:residual", "layer3.1:residual"]),
    ({"include": ["layer3.0"]}, ["layer3.0:residual"]),
    ({"exclude": ["*.1:*", "layer1*"]}, ["layer2.0:residual", "layer3.0:residual", "layer4.0:residual"]),
    ({"stages": [2, 5]}, ["layer1.0:residual", "layer1.1:residual", "layer4.0:residual", "layer4.1:residual"]),
    ({"min_channels": 256, "stages": [4]}, ["layer3.0:residual", "layer3.1:residual"]),
])  # fmt: skip
def test_filters(resnet: nn.Module, options: dict[str, object], expected: list[str]) -> None:
    assert ids(make_plan(resnet, example_inputs=IMAGES, **options)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "words"), [
    ({"include": ["layer9.0"]}, ["--include layer9.0", "layer1.0:residual"]),
    ({"exclude": ["*"]}, ["--exclude *"]),
    ({"stages": [7]}, ["--stages 7", "2, 3, 4, 5"]),
    ({"min_channels": 4096}, ["--min-channels 4096", "512 channels"]),
])  # fmt: skip
def test_an_empty_selection_says_which_filter_did_it(
    resnet: nn.Module, options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(NoSiteError) as caught:
        make_plan(resnet, example_inputs=IMAGES, **options)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


def test_an_unused_pattern_is_a_warning(resnet: nn.Module) -> None:
    plan = make_plan(resnet, example_inputs=IMAGES, exclude=["layer9.*"])
    assert plan.warnings == ("The pattern 'layer9.*' matches no site of the policy.",)


def test_attention_that_is_there_is_not_doubled() -> None:
    with pytest.raises(NoSiteError, match="all 16 have attention already"):
        make_plan(torchvision.models.efficientnet_b0(), example_inputs=IMAGES)
    plan = make_plan(torchvision.models.mobilenet_v3_small(), example_inputs=IMAGES)
    assert len(plan.entries) == 2
    assert len(plan.left_alone) == 9
    assert plan.left_alone[0].reason.startswith("has attention already")


def test_unknown_names_are_usage_errors(resnet: nn.Module) -> None:
    with pytest.raises(UsageError, match="Known policies: standard"):
        make_plan(resnet, policy="everywhere")
    with pytest.raises(UsageError, match="must be one of: se"):
        make_plan(resnet, block="sea")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "vgg11_bn"])
def test_the_id_of_a_site_tells_its_owner(name: str) -> None:
    for site in find_sites(torchvision.models.get_model(name), torch.randn(2, 3, 64, 64)):
        assert Entry(site.id).owner == site.owner


def test_a_plan_survives_yaml(resnet: nn.Module) -> None:
    plan = make_plan(resnet, example_inputs=IMAGES, rd_channels=4, init="random")
    assert plan_from_data(yaml.safe_load(plan_to_yaml(plan))) == plan


@pytest.mark.parametrize("data", [{"version": 2}, {"version": 1, "blocks": [{"site": "layer1.0:residual"}]}])
def test_a_plan_that_cannot_be_read_is_a_usage_error(data: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        plan_from_data(data)


def test_se_resnet50_adds_the_papers_parameters() -> None:
    model = torchvision.models.resnet50()
    plan = make_plan(model, example_inputs=IMAGES)
    sites = {site.id: site for site in find_sites(model, IMAGES)}
    assert sum(block_cost(entry.config, sites[entry.site]).parameters for entry in plan.entries) == 2_530_992


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_1"])
def test_a_plan_does_not_hang_on_the_number_of_classes(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    wide, narrow = (torchvision.models.get_model(name, num_classes=classes, **options) for classes in (1000, 7))
    assert architecture_of(wide) == architecture_of(narrow)
    assert architecture_of(wide) != architecture_of(torchvision.models.resnet34())
