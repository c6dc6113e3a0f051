"""A plan that does not fit: what is told, and that nothing was changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from sesurgeon import UsageError, add_se, apply_plan, make_plan, read_plan
from sesurgeon.placement import Plan, survey_for
from tests.networks import FunctionalResNet, OddNet

SMALL = torch.randn(2, 3, 16, 16)


def resnet(*layers: int, width: int = 64) -> nn.Module:
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, list(layers))
    if width != 64:
        model.layer1[0].conv1 = nn.Conv2d(64, width, 3, padding=1, bias=False)
        model.layer1[0].bn1 = nn.BatchNorm2d(width)
        model.layer1[0].conv2 = nn.Conv2d(width, 64, 3, padding=1, bias=False)
    return model


def refusal(model: nn.Module, plan: Plan) -> UsageError:
    """That of ``apply_plan``, which leaves the model as it was."""
    before = (list(model.state_dict()), [type(module) for module in model.modules()])
    with pytest.raises(UsageError) as caught:
        apply_plan(model, plan, inplace=True)
    assert (list(model.state_dict()), [type(module) for module in model.modules()]) == before
    return caught.value


def test_all_that_does_not_fit_is_told_with_its_lines(tmp_path: Path) -> None:
    model = OddNet()
    model.last.gate = None
    model.last.taken = nn.Identity()
    file = tmp_path / "plan.yaml"
    file.write_text("""\
version: 2
inputs: [{shape: [2, 3, 16, 16], dtype: float32}]
blocks:
- {site: 'sharde:residual'}
- {site: 'blocks.0:residual', channels: 9}
- {site: 'last:residual', attribute: taken}
- {site: 'mixed:concat', attribute: gate, rd_channels: 4}
- {site: 'xyz', channels: 7}
- {site: 'shared:residual', attribute: forward, channels: 16}
""")
    error = refusal(model, read_plan(file))
    assert error.message.splitlines() == [
        "The plan does not fit this OddNet:",
        "  line 4: there is no site sharde:residual; nearest: shared:residual, last:residual, blocks.1:residual",
        "  line 5: blocks.0:residual has 8 channels, not 9",
        "  line 6: last has an attribute 'taken' already",
        "  line 8: there is no site xyz",
        "  line 9: shared:residual has 8 channels, not 16",
        "  line 9: shared has an attribute 'forward' already",
    ]
    assert error.hint is not None
    assert "inspect" in error.hint


def test_two_blocks_of_one_name_in_one_module_are_refused() -> None:
    plan = make_plan(OddNet(), SMALL, policy=["standard", "conv"])
    owners = [entry.site.split(":")[0] for entry in plan.entries]
    twice = next(owner for owner in owners if owners.count(owner) > 1)
    same = replace(plan, entries=tuple(replace(entry, attribute="block") for entry in plan.entries))
    assert f"would have its block at {twice}.block, as " in refusal(OddNet(), same).message


@pytest.mark.parametrize("attribute", ["se", "other", ""])
def test_a_site_that_is_there_twice_is_refused(attribute: str) -> None:
    plan = make_plan(OddNet(), SMALL)
    first = replace(plan.entries[0], line=7)
    again = replace(first, attribute=attribute, line=9)
    assert "is there twice" in refusal(OddNet(), replace(plan, entries=(first, first))).message
    message = refusal(OddNet(), replace(plan, entries=(first, *plan.entries[1:], again))).message
    assert message == f"The plan does not fit this OddNet: line 9: {first.site} is there twice, first on line 7"


@pytest.mark.parametrize("attribute", ["self", "class", "\ufb01ne", "se[0]"])
def test_an_attribute_that_code_cannot_say_is_refused(attribute: str) -> None:
    plan = make_plan(OddNet(), SMALL)
    wrong = replace(plan.entries[-1], attribute=attribute, line=9)
    message = refusal(OddNet(), replace(plan, entries=(*plan.entries[:-1], wrong))).message
    assert f"line 9: the attribute of {wrong.site} must be a name, not {attribute!a}" in message


def test_another_depth_says_which_parts_and_sites_differ() -> None:
    images = torch.randn(2, 3, 32, 32)
    plan = make_plan(resnet(2, 1, 1, 1), images)
    error = refusal(resnet(1, 1, 1, 1), plan)
    assert error.message.splitlines() == [
        "The plan was made for another architecture than this ResNet:",
        "  parts that differ: layer1",
        "  there is no site layer1.1:residual; nearest: layer1.0:residual, layer4.0:residual, layer3.0:residual",
    ]
    assert error.hint is not None
    assert "delete `architecture:` from the file" in error.hint


def test_without_its_architecture_a_plan_goes_wherever_its_sites_are() -> None:
    images = torch.randn(2, 3, 32, 32)
    plan = make_plan(resnet(1, 1, 1, 1), images)
    other = resnet(1, 1, 1, 1, width=32)
    assert refusal(other, plan).message.endswith("another architecture than this ResNet: parts that differ: layer1")
    augmented = apply_plan(other, replace(plan, architecture=None))
    assert torch.equal(augmented.eval()(images), other.eval()(images))


def test_of_many_sites_that_are_not_there_eight_are_told() -> None:
    plan = make_plan(OddNet(), SMALL, policy=["standard", "conv", "pre"])
    told = refusal(FunctionalResNet(), plan).message.splitlines()
    assert told[1] == "  it was made for the class OddNet, this is FunctionalResNet"
    assert told[-1] == f"  and {len(plan.entries) - 8} more entries that do not fit"


def test_a_network_that_does_not_run_on_the_inputs_is_told_apart_by_its_parts_alone() -> None:
    plan = make_plan(OddNet(), SMALL)
    grey = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    assert refusal(grey, plan).message.splitlines()[1:] == [
        "  it was made for the class OddNet, this is Sequential",
        "  parts missing here: stem, shared, blocks, mixed, last, fc",
        "  parts only here: 0, 1",
    ]


def test_an_augmented_network_is_refused() -> None:
    plan = make_plan(OddNet(), SMALL)
    assert "inserted blocks already" in refusal(add_se(OddNet(), SMALL), plan).message


def test_other_inputs_take_the_place_of_the_plans() -> None:
    plan = make_plan(OddNet(), SMALL)
    found = survey_for(plan, OddNet(), torch.randn(2, 3, 24, 24))
    assert [tuple(argument.shape) for argument in found.inputs] == [(2, 3, 24, 24)]
    assert [tuple(argument.shape) for argument in survey_for(plan, OddNet()).inputs] == [(2, 3, 16, 16)]
