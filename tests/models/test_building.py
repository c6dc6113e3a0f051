"""Models by name."""

from __future__ import annotations

import sys
import urllib.error

import pytest
import timm
import torch
from torch import nn

import sesurgeon
from sesurgeon.errors import SesurgeonError, UnreadableFileError, UnsafeFileError, UsageError
from sesurgeon.models import (
    Preprocessing,
    Provenance,
    Source,
    build,
    num_outputs,
    provenance_of,
    rebuild,
)

FACTORY = """
import warnings

import torch
from torch import nn

import their_other_module

def make(width=3, classes=4):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Flatten(), nn.Linear(width, classes))

class Nested:
    @staticmethod
    def make():
        return nn.ReLU()

def fails():
    raise RuntimeError("no weights here")

def gives_a_list():
    return [nn.ReLU()]

def gives_torchscript():
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        return torch.jit.script(nn.ReLU())

model = nn.ReLU()
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with modules of the user's own, forgotten afterwards."""
    (tmp_path / "their_models.py").write_text(FACTORY)
    (tmp_path / "their_other_module.py").write_text("")
    (tmp_path / "their_broken_module.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "their_failing_module.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


def test_timm_gives_a_model_in_eval_mode_with_what_timm_knows_about_it():
    model = build(Source.parse("timm:test_resnet"))
    assert not model.training
    assert provenance_of(model) == Provenance(
        Source("timm", "test_resnet"),
        preprocessing=Preprocessing((3, 160, 160), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 0.95),
    )


def test_timm_takes_arguments_and_preprocessing_follows_the_channels():
    model = build(Source("timm", "test_resnet", {"in_chans": 1, "num_classes": 5}))
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 5)
    preprocessing = provenance_of(model).preprocessing
    assert preprocessing == Preprocessing((1, 160, 160), (0.5,), (0.5,), "bilinear", 0.95)


def test_a_whole_model_of_timm_is_asked_for_its_channels_too(tmp_path):
    torch.save(timm.create_model("test_resnet", in_chans=1), tmp_path / "grey.pt")
    assert provenance_of(sesurgeon.load(tmp_path / "grey.pt")).preprocessing.input_size == (1, 160, 160)


def test_a_stem_behind_a_rearrangement_of_the_image_does_not_tell_its_channels():
    assert provenance_of(build(Source("timm", "tresnet_m"))).preprocessing.input_size[0] == 3
    assert provenance_of(build(Source("timm", "tresnet_m", {"in_chans": 1}))).preprocessing.input_size[0] == 1


def test_timm_takes_the_name_of_weights_after_a_dot():
    assert provenance_of(build(Source.parse("timm:test_resnet.r160_in1k"))).source.name == "test_resnet.r160_in1k"


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("timm:test_resnt", "no model 'test_resnt'", "test_resnet"),
        ("timm:test_resnet.nonsense", "no weights 'nonsense'", "test_resnet.r160_in1k"),
        ("torchvision:resnet5", "no model 'resnet5'", "resnet50"),
        ("torchvision:quantized_resnet50", "quantised", "torchvision:resnet50"),
        ("torchvision:xyz", "no model 'xyz'", "list_models"),
        ("timm:zzzzzz", "no model 'zzzzzz'", "list_models"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(name, said, hint):
    with pytest.raises(UsageError, match=said) as caught:
        sesurgeon.load(name)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_an_argument_that_the_architecture_does_not_take(name):
    with pytest.raises(UsageError, match="nonsense"):
        build(Source.parse(name, {"nonsense": 1}))


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("timm:test_resnet", "pretrained"),
        ("timm:test_resnet", "checkpoint_path"),
        ("timm:test_resnet", "pretrained_cfg"),
        ("timm:test_resnet", "pretrained_cfg_overlay"),
        ("timm:test_resnet", "cache_dir"),
        ("torchvision:resnet18", "weights"),
        ("torchvision:fcn_resnet50", "weights_backbone"),
    ],
)
def test_weights_do_not_come_by_an_argument(name, argument):
    with pytest.raises(UsageError, match=rf"was given {argument}: weights are not an argument"):
        build(Source.parse(name, {argument: "x"}))


def test_torchvision_gives_a_model_with_what_its_default_weights_say():
    model = build(Source.parse("torchvision:mobilenet_v3_small"))
    assert not model.training
    provenance = provenance_of(model)
    assert provenance.classes is None, "the names belong to the weights"
    assert provenance.preprocessing == Preprocessing(
        (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 224 / 256
    )


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_warns_of_nothing(name):
    assert num_outputs(build(Source("torchvision", name))) == 1000


def test_torchvision_detectors_ask_the_network_for_nothing(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("asked the network"))
    model = build(Source("torchvision", "ssdlite320_mobilenet_v3_large"))
    assert provenance_of(model).preprocessing is None


def test_torchvision_alone_does_not_import_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it fails now
    assert num_outputs(sesurgeon.load("torchvision:shufflenet_v2_x0_5", num_classes=3)) == 3
    with pytest.raises(ImportError):
        sesurgeon.load("timm:test_resnet")


def unreachable(*_: object, **__: object) -> None:
    raise urllib.error.URLError("Name or service not known")


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:shufflenet_v2_x0_5"])
def test_weights_that_cannot_be_had_say_so_and_what_else_to_do(name, monkeypatch):
    import timm
    from torchvision import models

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(models, "get_model", unreachable)
    with pytest.raises(SesurgeonError, match=f"{name}.*Name or service not known") as caught:
        sesurgeon.load(name, pretrained=True)
    assert caught.value.exit_code == 1
    assert "local file" in caught.value.hint


def test_pretrained_torchvision_models_know_their_classes_and_are_rebuilt_alike(monkeypatch):
    from torchvision import models
    from torchvision.models import googlenet
    from torchvision.models.googlenet import GoogLeNet_Weights

    def without_network(name, *, weights, **arguments):
        assert weights == "DEFAULT"
        return googlenet(aux_logits=False, transform_input=True, init_weights=False, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(models, "get_model", without_network)
        model = build(Source("torchvision", "googlenet"), pretrained=True)
    assert provenance_of(model).classes == tuple(GoogLeNet_Weights.DEFAULT.meta["categories"])
    again = rebuild(provenance_of(model))
    assert again.transform_input
    again.load_state_dict(model.state_dict())


def test_a_factory_of_the_working_folder(folder):
    path_before = list(sys.path)
    model = sesurgeon.load(Source.parse("factory:their_models:make", {"width": 5}))
    assert model[0].out_channels == 5
    assert not model.training
    assert provenance_of(model) == Provenance(Source("factory", "their_models:make", {"width": 5}))
    assert sys.path == path_before


def test_a_factory_inside_of_a_class(folder):
    assert isinstance(sesurgeon.load("factory:their_models:Nested.make"), nn.ReLU)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("their_models", "names no function"),
        ("their_models:mke", "no 'mke' in their_models"),
        ("their_modls:make", "no module 'their_modls'"),
        ("no.such.package:make", "no module 'no'"),
        ("their_broken_module:make", "importing their_broken_module failed.*nothing_of_that_name"),
        ("their_failing_module:make", "ZeroDivisionError"),
        ("their_models:fails", "RuntimeError: no weights here"),
        ("their_models:gives_a_list", "gave a list"),
        ("their_models:gives_torchscript", "gave TorchScript: compiled code"),
        ("their_models:model", "is a ReLU, not a function"),
        ("their_models:number", "is a int, not a function"),
    ],
)
def test_a_factory_that_does_not_work_says_why(name, said, folder):
    with pytest.raises(UsageError, match=said):
        sesurgeon.load(f"factory:{name}")


def test_a_misspelt_factory_gets_the_nearest_name(folder):
    with pytest.raises(UsageError) as caught:
        sesurgeon.load("factory:their_models:mak")
    assert "make" in caught.value.hint


def test_a_factory_called_with_wrong_arguments(folder):
    with pytest.raises(UsageError, match="depth"):
        build(Source("factory", "their_models:make", {"depth": 5}))


def test_a_factory_has_no_pretrained_weights(folder):
    with pytest.raises(UsageError, match="no pretrained weights to download"):
        sesurgeon.load("factory:their_models:make", pretrained=True)


def test_rebuilding_replaces_the_head_and_keeps_the_provenance():
    provenance = Provenance(Source("timm", "test_resnet"), classes=("cat", "dog"), num_classes=2)
    model = rebuild(provenance)
    assert num_outputs(model) == 2
    assert provenance_of(model) == provenance
    assert not model.training


def test_rebuilding_takes_the_embedded_module():
    embedded = nn.Sequential(nn.Linear(2, 3))
    assert rebuild(Provenance(Source("module")), embedded) is embedded
    with pytest.raises(UnreadableFileError, match="none in it"):
        rebuild(Provenance(Source("module")))


def test_a_factory_named_in_a_file_is_not_imported_unless_trusted(folder):
    provenance = Provenance(Source("factory", "their_models:make"))
    with pytest.raises(UnsafeFileError, match="their_models:make") as caught:
        rebuild(provenance)
    assert "their_models" not in sys.modules
    assert "--arch factory:their_models:make" in caught.value.hint
    assert num_outputs(rebuild(provenance, trust_code=True)) == 4


def test_what_a_file_names_is_quoted_in_the_command_that_is_suggested():
    with pytest.raises(UnsafeFileError) as caught:
        rebuild(Provenance(Source("factory", "nets:make; echo mine")))
    assert "--arch 'factory:nets:make; echo mine'," in caught.value.hint


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/somewhere", "someone/model"])
def test_a_hub_named_in_a_file_is_not_asked(name, monkeypatch):
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was asked"))
    with pytest.raises(UnsafeFileError):
        rebuild(Provenance(Source("timm", name)))


def test_weights_named_in_a_file_are_not_fetched():
    with pytest.raises(UsageError, match="pretrained"):
        rebuild(Provenance(Source("timm", "test_resnet", {"pretrained": True})))
