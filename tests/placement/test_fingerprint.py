"""Which networks are one architecture, and what is said of others."""

from __future__ import annotations

import pytest
import torchvision
from torch import nn

from sesurgeon.placement import Architecture, architecture_of


class Counting(nn.Conv2d):
    """Keeps something in the state dict that is no tensor."""

    def get_extra_state(self) -> object:
        return {"calls": 3}

    def set_extra_state(self, state: object) -> None:
        pass


def net(width: int) -> nn.Module:
    return nn.Sequential(Counting(3, width, 1), nn.Flatten(), nn.Linear(width, 2))


def resnet(*layers: int) -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, list(layers))


def test_extra_state_does_not_enter() -> None:
    assert "0._extra_state" in net(4).state_dict()
    assert architecture_of(net(4)) == architecture_of(net(4))
    assert architecture_of(net(4)) != architecture_of(net(5))


def test_the_number_of_classes_does_not_enter() -> None:
    wide, narrow = (torchvision.models.resnet18(num_classes=classes) for classes in (1000, 7))
    assert architecture_of(wide) == architecture_of(narrow)


def test_a_part_has_a_hash_of_what_is_below_it() -> None:
    one, other = architecture_of(resnet(1, 1, 1, 1)), architecture_of(resnet(1, 1, 2, 2))
    assert list(one.parts) == [
        "conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "relu", "maxpool", "avgpool", "fc"
    ]  # fmt: skip
    assert one.differences(one) == []
    assert one.differences(other) == ["parts that differ: layer3, layer4"]


def test_another_class_of_a_layer_makes_another_architecture() -> None:
    one, other = (nn.Sequential(nn.Conv2d(3, 4, 1), act) for act in (nn.ReLU(), nn.SiLU()))
    assert architecture_of(one).differences(architecture_of(other)) == ["parts that differ: 1"]


def test_a_tensor_of_the_model_itself_is_a_part() -> None:
    scaled = net(4)
    scaled.register_parameter("scale", nn.Parameter(nn.init.ones_(nn.Conv2d(1, 1, 1).weight)))
    assert architecture_of(net(4)).differences(architecture_of(scaled)) == ["parts only here: scale"]
    assert architecture_of(scaled).differences(architecture_of(net(4))) == ["parts missing here: scale"]


def test_another_class_is_named_first_and_long_lists_are_cut() -> None:
    plain, layers = architecture_of(nn.Sequential(nn.Conv2d(3, 4, 1))), resnet(1, 1, 1, 1)
    assert architecture_of(layers).differences(plain) == [
        "it was made for the class ResNet, this is Sequential",
        "parts missing here: conv1, bn1, layer1, layer2, layer3, layer4, relu, maxpool and 2 more",
        "parts only here: 0",
    ]


@pytest.mark.parametrize("class_name", ["", "Sequential"])
def test_where_only_the_fingerprint_is_known_it_is_told(class_name: str) -> None:
    here = architecture_of(net(4))
    told = Architecture(class_name, "0123456789abcdef").differences(here)
    assert told == [f"its fingerprint is 0123456789abcdef, this has {here.fingerprint}"]
