"""Where the classifier is, and putting another in its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN

from sesurgeon.blocks import SqueezeExcite
from sesurgeon.errors import UsageError
from sesurgeon.models import (
    Provenance,
    Source,
    attach_provenance,
    build,
    head_of,
    heads_of,
    num_outputs,
    provenance_of,
    replace_head,
    set_num_classes,
)
from sesurgeon.paths import is_within_any
from tests.detectors import detector
from tests.networks import trained_like


def backbone(*behind: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), *behind]


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (nn.Sequential(*backbone(nn.Flatten(), nn.Linear(16, 10), nn.BatchNorm1d(10))), "6"),
        (nn.Sequential(*backbone(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10), nn.LayerNorm(10))), "8"),
        (nn.ModuleDict({"head": nn.Conv2d(16, 3, 1), "body": nn.Sequential(*backbone()[:2])}), "head"),
    ],
    ids=["a norm behind it", "two layers and a norm", "declared first, as wide as images"],
)
def test_odd_heads_are_found(model: nn.Module, head: str) -> None:
    assert head_of(model) == head


class OwnDetector(FasterRCNN):
    """A class of the user's."""


def own_detector() -> nn.Module:
    model = detector("faster")
    model.__class__ = OwnDetector
    return model


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("torchvision:shufflenet_v2_x0_5", "fc"),
        ("torchvision:mobilenet_v3_small", "classifier.3"),
        ("torchvision:squeezenet1_1", "classifier.1"),
        ("torchvision:mnasnet0_5", "classifier.1"),
        ("torchvision:densenet121", "classifier"),
        ("timm:test_resnet", "fc"),
        ("timm:test_efficientnet", "classifier"),
        ("timm:test_byobnet", "head.fc"),
        ("timm:test_convnext", "head.fc"),
        ("timm:dla46_c", "fc"),
    ],
)
def test_a_new_head_gives_as_many_scores_as_there_are_classes(name, path):
    model = build(Source.parse(name))
    assert head_of(model) == path
    assert num_outputs(model) == 1000
    keys = list(model.state_dict())
    replace_head(model, 7)
    assert head_of(model) == path
    assert list(model.state_dict()) == keys
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert provenance_of(model).num_classes == 7
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["test_resnet", "deit_tiny_distilled_patch16_224", "levit_128s"])
def test_all_that_is_new_has_the_models_dtype_and_mode(name: str) -> None:
    model = build(Source.parse(f"timm:{name}")).to(torch.bfloat16)
    modes = {path: module.training for path, module in model.named_modules()}
    replace_head(model, 7)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert {path: module.training for path, module in model.named_modules()} == modes


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("repvit_m0_9", ["head"]),  # whose second head is gone when the first is made anew
        ("swiftformer_xs", ["head", "head_dist"]),
        ("levit_128s", ["head", "head_dist"]),
        ("efficientvim_m1_dist", ["heads", "heads_dist"]),
        ("convformer_s18", ["head.fc"]),  # two layers and a norm
        ("shvit_s1", ["head.l"]),  # behind a norm that timm makes anew, too
        ("efficientvit_m0", ["head.linear"]),
    ],
)
def test_what_timm_calls_the_classifier_is_the_head_and_all_else_keeps_its_weights(name: str, heads: list[str]) -> None:
    model = trained_like(build(Source.parse(f"timm:{name}")))
    assert heads_of(model) == heads
    before = {key: value.clone() for key, value in model.state_dict().items() if not is_within_any(key, heads)}
    replace_head(model, 7)
    assert heads_of(model) == heads
    after = {key: value for key, value in model.state_dict().items() if not is_within_any(key, heads)}
    assert list(after) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert model.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 7)


def test_auxiliary_heads_follow_and_are_not_taken_for_the_head():
    model = build(Source("torchvision", "googlenet"))
    assert head_of(model) == "fc"
    replace_head(model, 7)
    outputs = model.train()(torch.zeros(2, 3, 224, 224))
    assert [scores.shape for scores in outputs] == [(2, 7)] * 3


def test_our_own_blocks_are_not_taken_for_the_head():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model.se = SqueezeExcite(8, 2)
    assert head_of(model) == "3"


def test_a_convolution_of_size_1_is_a_head_and_a_larger_or_grouped_one_is_not():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=8), nn.Conv2d(8, 8, 3))
    assert head_of(model) == "0"
    replace_head(model, 5)
    assert model[0].weight.shape == (5, 3, 1, 1)


def test_a_head_that_is_declared_first_is_found_by_its_width_or_by_what_the_provenance_says():
    model = nn.ModuleDict({"fc": nn.Linear(8, 5), "stem": nn.Conv2d(3, 8, 3), "mix": nn.Conv2d(8, 8, 1)})
    assert [head_of(model), head_of(model, 8), head_of(model, 5)] == ["mix", "mix", "fc"]
    with pytest.raises(UsageError, match="at its end that gives its 7 outputs"):
        head_of(model, 7)
    attach_provenance(model, Provenance(Source("module"), head="fc"))
    assert head_of(model) == "fc"
    replace_head(model, 2)
    assert (model["fc"].out_features, model["mix"].out_channels, head_of(model)) == (2, 8, "fc")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("resnet50", "fc"),
        ("densenet121", "classifier"),
        ("mobilenet_v2", "classifier"),
        ("mobilenet_v3_small", "classifier"),
        ("efficientnet_b0", "classifier"),
        ("googlenet", "fc"),
    ],
)
def test_no_layer_of_a_backbone_is_its_head(name, head):
    with torch.device("meta"):
        model = get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
    setattr(model, head, nn.Identity())
    with pytest.raises(UsageError, match="no classifier"):
        head_of(model)


def test_a_convolution_that_is_declared_before_the_backbone_may_be_the_head():
    model = nn.ModuleDict({"fc": nn.Conv2d(8, 5, 1), "stem": nn.Conv2d(3, 8, 1), "norm": nn.BatchNorm2d(8)})
    assert head_of(model) == "fc"


def test_a_layer_that_the_provenance_calls_the_head_is_the_head():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    attach_provenance(model, Provenance(Source("module"), head="0"))
    assert head_of(model) == "0"


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_heads_of_segmentation_are_found(name):
    with torch.device("meta"):
        model = get_model(name, weights=None, weights_backbone=None, num_classes=4)
    assert head_of(model).startswith("classifier.")
    assert num_outputs(model) == 4


def test_type_device_and_bias_stay_as_they_were():
    model = nn.Sequential(nn.Linear(3, 4, bias=False)).to(torch.bfloat16)
    replace_head(model, 2)
    assert model[0].bias is None
    assert model[0].weight.dtype == torch.bfloat16
    model = build(Source("timm", "test_resnet")).to(torch.float64)
    replace_head(model, 2)
    assert model.fc.weight.dtype == torch.float64


def test_methods_that_are_only_called_like_timms_are_not_asked():
    class Own(nn.Sequential):
        def get_classifier(self, index: int) -> nn.Module:
            return self[index]

        def reset_classifier(self) -> None:
            raise AssertionError

    model = Own(*backbone(nn.Flatten(), nn.Linear(16, 10)))
    set_num_classes(model, 3)
    assert (head_of(model), num_outputs(model)) == ("6", 3)


def test_the_names_of_the_old_classes_are_forgotten():
    model = nn.Sequential(nn.Linear(3, 2))
    attach_provenance(model, Provenance(Source("module"), classes=("cat", "dog"), multi_label=True))
    model.num_classes = 2
    set_num_classes(model, 2)
    assert (provenance_of(model).classes, provenance_of(model).multi_label) == (("cat", "dog"), True)
    set_num_classes(model, 3)
    assert (provenance_of(model).classes, provenance_of(model).multi_label) == (None, False)
    assert model.num_classes == 3


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        nn.Sequential(),
        build(Source("timm", "test_resnet", {"num_classes": 0})),
        build(Source("torchvision", "ssdlite320_mobilenet_v3_large")),
        own_detector(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_without_a_classifier(model):
    with pytest.raises(UsageError, match="no classifier"):
        replace_head(model, 3)


@pytest.mark.parametrize("classes", [0, -1])
def test_a_number_of_classes_that_makes_no_sense_changes_nothing(classes):
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(UsageError, match=str(classes)):
        replace_head(model, classes)
    assert num_outputs(model) == 2
