"""What the user named, as a model in eval mode with a note of where it came from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sesurgeon
from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.models import Preprocessing, Provenance, Source, num_outputs, provenance_of

SHUFFLENET = Source("torchvision", "shufflenet_v2_x0_5")


def test_a_name_with_a_number_of_classes():
    model = sesurgeon.load("timm:test_resnet", num_classes=3)
    assert num_outputs(model) == 3
    assert provenance_of(model).num_classes == 3


@pytest.mark.parametrize("as_type", [str, lambda path: path], ids=["str", "Path"])
def test_a_whole_model(as_type, saved, tiny):
    model = sesurgeon.load(as_type(saved(tiny)))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), tiny(x))
    assert provenance_of(model) == Provenance(Source("module"))


def test_a_whole_model_in_train_mode_comes_in_eval_mode(saved):
    assert not sesurgeon.load(saved(nn.Sequential(nn.Linear(1, 1)).train())).training


def test_a_whole_model_of_timm_keeps_its_preprocessing(saved):
    import timm

    model = sesurgeon.load(saved(timm.create_model("test_resnet")))
    assert provenance_of(model).source == Source("module")
    assert provenance_of(model).preprocessing.input_size == (3, 160, 160)


def test_a_whole_model_is_no_longer_what_its_name_builds(saved):
    model = sesurgeon.load("timm:test_resnet")
    model.maxpool = nn.Identity()
    provenance = provenance_of(sesurgeon.load(saved(model)))
    assert (provenance.source, provenance.preprocessing.input_size) == (Source("module"), (3, 160, 160))


def test_a_whole_model_keeps_its_trained_classifier(saved, tiny):
    assert torch.equal(sesurgeon.load(saved(tiny), num_classes=7).fc.weight, tiny.fc.weight)
    with pytest.raises(UsageError, match=r"--num-classes 3 does not match .*model\.pt: its network has 7 outputs"):
        sesurgeon.load(saved(tiny), num_classes=3)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin"])
def test_a_state_dict_with_its_architecture(name, saved, tiny):
    model = sesurgeon.load(saved({"model": tiny.state_dict()}, name), arch=SHUFFLENET)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), tiny(x))


def test_safetensors_with_their_architecture(tmp_path, tiny):
    from safetensors.torch import save_file

    save_file(tiny.state_dict(), tmp_path / "model.safetensors")
    model = sesurgeon.load(tmp_path / "model.safetensors", arch=SHUFFLENET)
    assert torch.equal(model.fc.weight, tiny.fc.weight)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda model: {"model": nn.DataParallel(model)}],
    ids=["bare", "in a checkpoint"],
)
def test_data_parallel_is_unwrapped(wrap, saved, tiny):
    assert type(sesurgeon.load(saved(wrap(tiny)))) is type(tiny)


def test_a_compiled_and_averaged_model_is_unwrapped_when_trusted(saved):
    model = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(2, 1)))
    again = sesurgeon.load(saved(model), trust_pickle=True)
    assert isinstance(again, nn.Sequential)
    assert torch.equal(again[0].weight, model.module[0].weight)


def test_a_wrapper_around_nothing(saved):
    wrapper = nn.DataParallel(nn.Linear(1, 1))
    del wrapper.module
    with pytest.raises(UnreadableFileError, match="NoneType"):
        sesurgeon.load(saved(wrapper))


def test_pretrained_does_not_go_with_a_file(saved, tiny):
    with pytest.raises(UsageError, match="--pretrained"):
        sesurgeon.load(saved(tiny), pretrained=True)


def test_an_architecture_does_not_go_with_a_name_or_a_whole_model(saved, tiny):
    with pytest.raises(UsageError, match="--arch"):
        sesurgeon.load("timm:test_resnet", arch=SHUFFLENET)
    with pytest.raises(UsageError, match="whole model, a ShuffleNetV2"):
        sesurgeon.load(saved(tiny), arch=SHUFFLENET)


def test_provenance_sources_and_preprocessing_go_through_plain_data():
    provenance = Provenance(
        Source("timm", "test_resnet", {"in_chans": 1}),
        classes=("cat", "dog"),
        num_classes=2,
        head="fc",
        preprocessing=Preprocessing((1, 32, 32), (0.5,), (0.25,), "bilinear", 0.875),
        history=({"command": "add-se", "blocks": 3},),
    )
    assert Provenance.from_dict(provenance.to_dict()) == provenance
    assert Provenance.from_dict(Provenance(Source("module")).to_dict()) == Provenance(Source("module"))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"source": None},
        {"source": {"kind": "unknown"}},
        {"source": {"kind": "timm", "name": 3}},
        {"source": {"kind": "timm", "name": "x", "kwargs": [1]}},
        {"source": {"kind": "module"}, "num_classes": "many"},
        {"source": {"kind": "module"}, "classes": 3},
        {"source": {"kind": "module"}, "preprocessing": {"input_size": [1]}},
        {"source": {"kind": "module"}, "history": [1]},
    ],
)
def test_a_damaged_provenance_is_an_unreadable_file(data):
    with pytest.raises(UnreadableFileError):
        Provenance.from_dict(data)


@pytest.mark.parametrize("text", ["resnet50", "keras:resnet50", "module:", "timm:", ":x", ""])
def test_a_text_that_names_no_architecture(text):
    with pytest.raises(UsageError):
        Source.parse(text)
