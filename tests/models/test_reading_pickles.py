"""What is read without a flag, and that it is read right."""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import pathlib
import struct
import types

import numpy as np
import pytest
import torch
from torch import nn

import sesurgeon
from sesurgeon.errors import UnreadableFileError, UnsafeFileError
from sesurgeon.models import read
from sesurgeon.models.files.numpy_data import NumpyType, numpy_scalar

SMALL = (
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:mobilenet_v3_small",
    "torchvision:squeezenet1_1",
    "torchvision:mnasnet0_5",
    "timm:test_resnet",
    "timm:test_efficientnet",
    "timm:test_convnext",
    "timm:test_byobnet",
    "timm:test_nfnet",
    "timm:test_vit",
)
LARGE = (
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:mobilenet_v2",
    "torchvision:vgg16_bn",
    "torchvision:inception_v3",
    "torchvision:densenet121",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:googlenet",
    "torchvision:efficientnet_b0",
    "torchvision:convnext_tiny",
    "torchvision:regnet_y_400mf",
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "timm:resnet50",
    "timm:regnetx_002",
    "timm:convnext_tiny",
    "timm:dla34",
    "timm:hrnet_w18_small",
    "timm:rexnet_100",
    "timm:ghostnet_100",
    "timm:efficientnet_lite0",
    "timm:mobilenetv3_large_100",
    "timm:dm_nfnet_f0",
    "timm:vit_small_resnet26d_224",
)


def assert_same_model(given: nn.Module, expected: nn.Module) -> None:
    assert type(given) is type(expected)
    assert repr(given) == repr(expected)
    own, others = given.state_dict(), expected.state_dict()
    assert list(own) == list(others)
    assert all(torch.equal(own[name], others[name]) for name in own)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_a_whole_model_of_torchvision_or_timm_needs_no_flag(name, saved):
    from sesurgeon.models import Source, build

    model = build(Source.parse(name))
    path = saved(model)
    assert_same_model(read(path), model)


def test_a_whole_model_of_torch_nn_computes_the_same(saved):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    again = read(saved(model))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), model(x))


def test_a_model_in_data_parallel_is_read(saved):
    model = nn.DataParallel(nn.Sequential(nn.Linear(2, 2)))
    assert_same_model(read(saved(model)), model)


def test_a_loaded_model_that_was_saved_whole_keeps_its_provenance(saved):
    from sesurgeon.models import Source, build, provenance_of

    model = build(Source("timm", "test_resnet"))
    assert provenance_of(read(saved(model))) == provenance_of(model)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_a_state_dict_is_read_exactly(name, options, saved, tiny):
    state = read(saved(tiny.state_dict(), name, **options))
    assert list(state) == list(tiny.state_dict())
    assert all(torch.equal(state[key], value) for key, value in tiny.state_dict().items())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors_are_told_by_name_or_content(name, tmp_path, tiny):
    from safetensors.torch import save_file

    save_file(tiny.state_dict(), tmp_path / name)
    state = read(tmp_path / name)
    assert set(state) == set(tiny.state_dict())
    assert torch.equal(state["fc.weight"], tiny.fc.weight)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("array", [
    np.array([0.3, 0.7]),
    np.arange(6, dtype=">i4").reshape(2, 3).T,
    np.array(2.5, np.float16),
    np.zeros((0, 3)),
    np.array(["cat", "horse"]),
    np.array([["cat", None], [1, 2.5]], object),
], ids=str)  # fmt: skip
def test_arrays_of_numpy_are_read_and_written_as_numpys_own(array, options, saved):
    found = read(saved({"array": array, "type": array.dtype}, **options))
    assert isinstance(found["array"], np.ndarray)
    assert found["array"].tolist() == array.tolist()
    assert np.zeros(1).astype(found["type"]).dtype == array.dtype
    again = torch.load(saved(copy.deepcopy(found)), weights_only=False)
    assert (type(again["array"]), again["type"]) == (np.ndarray, array.dtype)
    assert again["array"].tolist() == array.tolist()


@pytest.mark.parametrize("array", [np.zeros(1, "M8[s]"), np.zeros(1, [("x", "f4")])], ids=["date", "record"])
def test_other_arrays_are_refused_by_their_type(array, saved):
    with pytest.raises(UnsafeFileError, match=r"It asks for: a NumPy value of type '(M8|V4)'"):
        read(saved({"array": array}))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_the_plain_data_of_training_checkpoints_is_read(options, saved):
    checkpoint = {
        "state_dict": {"weight": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("runs/1"), names=("a", "b")),
        "more": types.SimpleNamespace(epochs=3),
        "best": np.float64(71.5),
        "seen": np.int64(12),
        "right": np.bool_(True),
        "big": np.dtype(">f4").type(2.5),
        "random": np.arange(3),
        "when": datetime.datetime(2024, 5, 17, 12),
        "counts": collections.defaultdict(int, {"cat": 3}),
        "torch": torch.__version__,
        "size": torch.Size((1, 2)),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
    }
    read_back = read(saved(checkpoint, **options))
    assert torch.equal(read_back["state_dict"]["weight"], torch.ones(2))
    assert read_back["args"] == checkpoint["args"]
    assert read_back["more"].epochs == 3
    assert (read_back["best"], read_back["seen"], read_back["right"], read_back["big"]) == (
        71.5,
        12,
        True,
        2.5,
    )
    assert read_back["when"] == checkpoint["when"]
    assert read_back["counts"] == {"cat": 3}
    assert read_back["torch"] == torch.__version__
    assert (read_back["size"], read_back["dtype"], read_back["device"]) == (
        (1, 2),
        torch.float16,
        torch.device("cpu"),
    )


def test_a_number_of_numpy_has_the_byte_order_that_the_file_says():
    kind = NumpyType("f4", False, True)
    kind.__setstate__((3, ">", None, None, None, -1, -1, 0))
    assert numpy_scalar(kind, struct.pack(">f", 2.5)) == 2.5


class Own(nn.Linear):
    """A class of the user's own."""


def test_a_class_of_the_users_own_is_refused_by_name_and_read_when_trusted(saved):
    model = Own(2, 3)
    path = saved(nn.Sequential(model, nn.ReLU()))
    with pytest.raises(UnsafeFileError, match=rf"{__name__}\.Own") as caught:
        read(path)
    assert "--trust-pickle" in caught.value.hint
    assert "--arch" in caught.value.hint
    assert caught.value.exit_code == 3
    assert torch.equal(read(path, trust_pickle=True)[0].weight, model.weight)


def test_a_trusted_file_may_use_code_of_the_working_folder(saved, tmp_path, monkeypatch):
    (tmp_path / "their_layers.py").write_text("from torch import nn\nclass Layer(nn.ReLU):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import their_layers

    path = saved(their_layers.Layer())
    monkeypatch.undo()
    monkeypatch.delitem(__import__("sys").modules, "their_layers")
    with pytest.raises(UnreadableFileError, match="their_layers"):
        read(path, trust_pickle=True)
    monkeypatch.chdir(tmp_path)
    assert type(read(path, trust_pickle=True)).__name__ == "Layer"


def test_weights_do_not_depend_on_the_file_being_left_alone_once_they_are_in_a_model(saved, tiny):
    from sesurgeon.models import Source

    path = saved(tiny.state_dict())
    model = sesurgeon.load(path, arch=Source("torchvision", "shufflenet_v2_x0_5"))
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(model.fc.weight, tiny.fc.weight)
