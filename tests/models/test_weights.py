"""State dicts: found in checkpoints, freed of prefixes, fitted to an architecture."""

from __future__ import annotations

import argparse
import re

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import sesurgeon
from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.models import (
    Source,
    build,
    find_weights,
    fit,
    guess_architectures,
    provenance_of,
    read_weights,
    take_weights,
)
from tests.networks import assert_same_weights

SHUFFLENET = Source("torchvision", "shufflenet_v2_x0_5")


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda state: state, ""),
        (lambda state: {"state_dict": state, "epoch": 3}, "state_dict"),
        (lambda state: {"model": state, "optimizer": {"state": {}}}, "model"),
        (lambda state: {"model_state_dict": state}, "model_state_dict"),
        (lambda state: {"net": state}, "net"),
        (lambda state: {"model_ema": state}, "model_ema"),
        (lambda state: {"model": {"state_dict": state}}, "model.state_dict"),
        (lambda state: {"model": None, "ema": state}, "ema"),
        (lambda state: {"model_ema": {"w": torch.ones(1)}, "model": state}, "model"),
        (lambda state: {"state_dict_ema": {"w": torch.ones(1)}, "state_dict": state}, "state_dict"),
        (
            lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
            "state_dict",
        ),
    ],
)
def test_weights_are_found_where_training_scripts_put_them(wrap, place, tiny):
    found = find_weights(wrap(tiny.state_dict()), "model.pt")
    assert found.place == place
    assert_same_weights(fit(SHUFFLENET, found.weights), tiny)


def test_a_model_inside_of_a_checkpoint_is_found(tiny):
    found = find_weights({"epoch": 1, "ema": None, "model": tiny}, "model.pt")
    assert (found.weights, found.place) == (tiny, "model")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module.module.", "module._orig_mod.", "_orig_mod.module._orig_mod."]
)
def test_prefixes_of_wrappers_are_taken_off(prefix, tiny):
    state = {f"{prefix}{name}": tensor for name, tensor in tiny.state_dict().items()}
    assert list(find_weights(state, "model.pt").weights) == list(tiny.state_dict())


def test_prefixes_inside_of_names_and_counters_of_wrappers_are_taken_off():
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Sequential()))
    averaged.module[0]._orig_mod = nn.Linear(1, 1)  # as torch.compile names it
    assert set(averaged.state_dict()) == {
        "n_averaged",
        "module.0._orig_mod.weight",
        "module.0._orig_mod.bias",
    }
    assert list(find_weights(averaged.state_dict(), "model.pt").weights) == ["0.weight", "0.bias"]


def test_two_names_that_become_one_without_their_prefixes_are_refused():
    state = {"fc.bias": torch.zeros(1), "_orig_mod.fc.bias": torch.ones(1)}
    with pytest.raises(UnreadableFileError, match=r"two tensors for fc\.bias: fc\.bias and _orig_mod\.fc\.bias"):
        find_weights(state, "model.pt")


def test_weights_are_taken_by_a_network_that_asks_for_the_versions_of_its_modules(tmp_path):
    model = build(Source("torchvision", "mnasnet0_5", {"num_classes": 2}))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "net.pt")
    weights = read_weights(tmp_path / "net.pt")
    with torch.no_grad():
        model.classifier[1].bias += 1
    take_weights(model, weights, "net.pt")
    assert torch.equal(model.classifier[1].bias, weights["classifier.1.bias"])


@pytest.mark.parametrize("names", [["weight"], ["weight", "bias", "more"]])
def test_weights_that_are_not_all_there_or_too_many_are_not_taken(names):
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    with pytest.raises(UnreadableFileError, match=r"best\.pt holds the weights of another network: 1 names differ"):
        take_weights(layer, {name: torch.zeros_like(layer.state_dict().get(name, before)) for name in names}, "best.pt")
    assert torch.equal(layer.weight, before)


def test_a_part_that_is_really_called_module_is_kept():
    state = {"module.weight": torch.ones(1), "other.weight": torch.ones(1)}
    assert list(find_weights(state, "model.pt").weights) == list(state)


def test_nothing_found_says_where_was_looked():
    with pytest.raises(UnreadableFileError, match="'epoch', 'optimizer'") as caught:
        find_weights({"epoch": 1, "optimizer": {"param_groups": []}}, "model.pt")
    assert "model_state_dict" in caught.value.hint


def test_a_state_dict_is_fitted_with_the_classes_of_its_head(tiny):
    model = fit(SHUFFLENET, tiny.state_dict())
    assert_same_weights(model, tiny)
    assert not model.training
    assert provenance_of(model).num_classes == 7
    assert provenance_of(model).source == SHUFFLENET
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), tiny(x))


def test_the_head_of_timms_models_is_found_too():
    from sesurgeon.models import build

    expected = build(Source("timm", "test_byobnet", {"num_classes": 3}))
    assert_same_weights(fit(Source("timm", "test_byobnet"), expected.state_dict()), expected)


def test_the_original_number_of_classes_leaves_the_head_alone():
    from sesurgeon.models import build

    expected = build(SHUFFLENET)
    assert provenance_of(fit(SHUFFLENET, expected.state_dict())).num_classes is None


def test_given_classes_win_over_the_file_and_disagree_with_it(tiny):
    with pytest.raises(UsageError, match=re.escape("fc.weight (7, 1024) instead of (9, 1024)")):
        fit(SHUFFLENET, tiny.state_dict(), num_classes=9)


def test_the_prefix_of_a_training_framework_is_taken_off(tiny):
    state = {f"model.{name}": tensor for name, tensor in tiny.state_dict().items()}
    assert_same_weights(fit(SHUFFLENET, state), tiny)


def test_weights_from_before_the_batch_counters(tiny):
    state = {name: value for name, value in tiny.state_dict().items() if not name.endswith("num_batches_tracked")}
    model = fit(SHUFFLENET, state)
    assert torch.equal(model.conv1[1].running_mean, tiny.conv1[1].running_mean)


def test_weights_without_versions_fit_an_architecture_that_asks_for_them():
    from torchvision.models import mnasnet0_5

    expected = mnasnet0_5(num_classes=3)
    assert_same_weights(fit(Source("torchvision", "mnasnet0_5"), dict(expected.state_dict())), expected)


def test_googlenet_comes_with_or_without_its_auxiliary_heads():
    from torchvision.models import googlenet

    for auxiliary in (True, False):
        expected = googlenet(aux_logits=auxiliary, init_weights=False, num_classes=3)
        model = fit(Source("torchvision", "googlenet", {"transform_input": False}), expected.state_dict())
        assert_same_weights(model, expected)
        assert provenance_of(model).source.kwargs.get("aux_logits", True) is auxiliary


def test_disagreements_are_counted_and_shown(tiny):
    state = dict(tiny.state_dict())
    state["surplus"] = torch.ones(1)
    state["conv1.0.weight"] = torch.ones(1, 2)
    del state["conv5.0.weight"]
    with pytest.raises(UsageError) as caught:
        fit(SHUFFLENET, state, origin="net.pt")
    assert caught.value.message == (
        "The weights in net.pt are not those of torchvision:shufflenet_v2_x0_5: 1 missing (conv5.0.weight); "
        "1 unexpected (surplus); 1 of another shape (conv1.0.weight (1, 2) instead of (24, 3, 3, 3))."
    )
    assert caught.value.exit_code == 2


def test_many_disagreements_are_cut_short_and_the_right_architecture_is_named():
    from torchvision.models import resnet18

    with pytest.raises(UsageError, match=r"\d+ missing \([^,]+, [^,]+, [^,]+ and [\d,]+ more\)") as caught:
        fit(Source("torchvision", "resnet34"), resnet18().state_dict())
    assert caught.value.hint == "They look like torchvision:resnet18 or timm:resnet18."


def test_another_head_alone_is_told(tiny):
    state = {name: tensor for name, tensor in tiny.state_dict().items() if not name.startswith("fc.")}
    own_head = {"fc.0.weight": torch.ones(64, 1024), "fc.2.weight": torch.ones(5, 64)}
    with pytest.raises(UsageError, match=r"2 missing \(fc\.weight, fc\.bias\); 2 unexpected") as caught:
        fit(SHUFFLENET, state | own_head)
    assert caught.value.hint.startswith("Only the head (fc) is another: build the network with the one that it has")
    with pytest.raises(UsageError) as caught:
        fit(SHUFFLENET, state | own_head | {"surplus": torch.ones(1)})
    assert "Only the head" not in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet152",
        "wide_resnet50_2",
        "resnext50_32x4d",
        "resnext101_64x4d",
        "densenet121",
        "densenet201",
        "vgg11",
        "vgg16_bn",
        "mobilenet_v2",
        "inception_v3",
        "googlenet",
        "shufflenet_v2_x1_0",
        "convnext_tiny",
        "efficientnet_b0",
        "squeezenet1_0",
    ],
)
def test_well_known_architectures_are_recognised(name):
    from torchvision.models import get_model

    arguments = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    with torch.device("meta"):
        state = get_model(name, **arguments).state_dict()
    assert f"torchvision:{name}" in guess_architectures(state)


def test_others_are_not_guessed(tiny):
    assert guess_architectures({"0.weight": torch.ones(1)}) == []
    assert guess_architectures(nn.Linear(1, 1).state_dict()) == []


def test_a_state_dict_needs_an_architecture(saved, tiny):
    with pytest.raises(UsageError, match=f"{len(tiny.state_dict())} weights under state_dict") as caught:
        sesurgeon.load(saved({"state_dict": tiny.state_dict()}))
    assert "--arch" in caught.value.hint


def test_the_architecture_of_a_state_dict_is_guessed_in_the_message(saved):
    from torchvision.models import mobilenet_v2

    with pytest.raises(UsageError) as caught:
        sesurgeon.load(saved(mobilenet_v2(width_mult=0.25).state_dict()))
    assert "They look like torchvision:mobilenet_v2 or another of its family." in caught.value.hint
    state = {f"model.{name}": tensor for name, tensor in mobilenet_v2(width_mult=0.25).state_dict().items()}
    with pytest.raises(UsageError) as caught:
        sesurgeon.load(saved({**state, "criterion.weight": torch.ones(3)}))
    assert "They look like torchvision:mobilenet_v2 or another of its family." in caught.value.hint


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"arch": "regnety_002"}, "timm:regnety_002"),
        ({"args": argparse.Namespace(model="regnet_y_400mf", lr=0.1)}, "torchvision:regnet_y_400mf"),
        ({"arch": "resnet34", "args": argparse.Namespace(model="resnet50")}, "timm:resnet34 or torchvision:resnet34"),
        ({"arch": "mine", "args": {"model": "regnety_002.pycls_in1k"}}, "timm:regnety_002.pycls_in1k"),
    ],
)
def test_an_architecture_that_the_file_names_is_told(saved, beside, said):
    with pytest.raises(UsageError) as caught:
        sesurgeon.load(saved({**beside, "state_dict": torchvision.models.resnet18().state_dict()}))
    assert caught.value.hint.endswith(f"The file says that it is {said}.")


@pytest.mark.parametrize("named", [{"arch": "of mine"}, {"arch": 3}, {"arch": "quantized_resnet18"}])
def test_a_name_that_no_library_has_is_not(saved, named):
    with pytest.raises(UsageError) as caught:
        sesurgeon.load(saved({**named, "state_dict": torchvision.models.resnet18().state_dict()}))
    assert caught.value.hint.endswith("They look like torchvision:resnet18 or timm:resnet18.")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_weights_that_do_not_tell_what_their_input_is_want_to_be_told(name):
    state = torchvision.models.get_model(name, weights=None, init_weights=False).state_dict()
    with pytest.raises(UsageError, match="do not show whether") as refusal:
        fit(Source("torchvision", name), state)
    assert "--model-kwargs transform_input=true" in str(refusal.value.hint)
    for said in (True, False):
        assert fit(Source("torchvision", name, {"transform_input": said}), state).transform_input is said


def test_a_detector_with_frozen_norms_is_not_taken_for_one_with_others():
    """torchvision builds its detectors with frozen norms where they get weights."""
    detector = torchvision.models.get_model("fasterrcnn_resnet50_fpn", weights=None, weights_backbone=None)
    source, state = Source("torchvision", "fasterrcnn_resnet50_fpn"), detector.state_dict()
    assert_same_weights(fit(source, dict(state)), detector)
    frozen = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    with pytest.raises(UsageError, match="with frozen BatchNorms"):
        fit(source, frozen)


class Wrapping(nn.Module):
    """Its one child has the name that is DDP's prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        self.module(torch.zeros(1, 3, 8, 8))


def test_a_child_called_module_is_no_prefix():
    torch.manual_seed(0)
    expected = Wrapping()
    found = find_weights(expected.state_dict(), "model.pt")
    assert_same_weights(fit(Source("factory", f"{__name__}:Wrapping"), found.weights), expected)


def lazy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))


def test_layers_without_shapes_are_refused_by_name():
    with pytest.raises(UsageError, match=r"shapes are not known yet: 2\.weight, 2\.bias"):
        build(Source("factory", f"{__name__}:lazy"))


def parametrized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), spectral_norm(nn.Linear(36, 2)))


def test_a_parametrized_head_is_fitted():
    torch.manual_seed(0)
    expected = parametrized()
    assert_same_weights(fit(Source("factory", f"{__name__}:parametrized"), expected.state_dict()), expected)


def test_res2net_is_no_resnet():
    assert guess_architectures(timm.create_model("res2net50_26w_4s").state_dict()) == []


def test_weights_with_inserted_blocks_are_told_how_they_come_back(tiny):
    state = {**tiny.state_dict(), "stage2.0.se.fc1.weight": torch.ones(8, 24, 1, 1)}
    with pytest.raises(UsageError, match=r"1 unexpected \(stage2\.0\.se\.fc1\.weight\)") as caught:
        fit(SHUFFLENET, state)
    assert caught.value.hint is not None
    assert "sesurgeon.apply_plan" in caught.value.hint
    assert "load_state_dict" in caught.value.hint
