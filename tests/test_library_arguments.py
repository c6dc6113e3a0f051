"""The library's functions with the name of a file in the place of what is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import sesurgeon
from sesurgeon import UsageError
from sesurgeon.finetune import Data, FinetuneConfig
from tests.networks import PlainNet


@pytest.mark.parametrize(
    ("function", "others"),
    [
        ("find_sites", ()),
        ("make_plan", ()),
        ("add_se", ()),
        ("remove_se", ()),
        ("fold_gate_scale", ()),
        ("save", ("out.pt",)),
        ("extract_adapter", ("out.safetensors",)),
        ("export_onnx", ("out.onnx",)),
        ("export_pt2", ("out.pt2",)),
        ("finetune", ("data",)),
        ("evaluate", ("data",)),
        ("study_gates", ("data",)),
        ("prune", ("data",)),
    ],
)
@pytest.mark.parametrize("given", ["model.pt", None, {"fc.weight": 1}])
def test_a_network_is_wanted(
    function: str, others: tuple[str, ...], given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"Expected a network, not a {type(given).__name__}\.") as caught:
        getattr(sesurgeon, function)(given, *others)
    assert "sesurgeon.load" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", ["finetune", "evaluate", "study_gates", "prune"])
@pytest.mark.parametrize("data", [None, TensorDataset(torch.zeros(1))], ids=["None", "a dataset"])
def test_data_are_wanted(function: str, data: Any) -> None:
    net = sesurgeon.add_se(PlainNet(), torch.randn(2, 3, 16, 16), policy="conv")
    with pytest.raises(UsageError, match=rf"not as a {type(data).__name__}\.\n.*Data\(name, classes, val=dataset\)"):
        getattr(sesurgeon, function)(net, data)


@pytest.mark.parametrize("images", [None, 3, torch.zeros(1, 3, 8, 8), Image.new("RGB", (8, 8))])
def test_paths_of_images_are_wanted(images: Any) -> None:
    with pytest.raises(UsageError, match=f"by their paths, not as a {type(images).__name__}"):
        sesurgeon.predict(PlainNet(), images)
    with pytest.raises(UsageError, match=f"by their paths, not as a {type(images).__name__}"):
        sesurgeon.predict(PlainNet(), [images])


def test_a_configuration_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="config must be a FinetuneConfig, not a dict") as caught:
        sesurgeon.finetune(PlainNet(), tmp_path, {"epochs": 1})  # type: ignore[arg-type]
    said: dict[str, Any] = {}
    exec(str(caught.value.hint), said)
    assert said["config"] == FinetuneConfig(epochs=3, lr=1e-3)


def test_a_dataset_is_made_into_data_as_the_hint_says() -> None:
    images = [(Image.new("RGB", (16, 16)), 0)]
    with pytest.raises(UsageError, match="not as a list") as caught:
        sesurgeon.evaluate(PlainNet(), images)  # type: ignore[arg-type]
    said: dict[str, Any] = {"name": "squares", "classes": ("black",), "dataset": images}
    exec(str(caught.value.hint).partition(": ")[2], said)
    assert said["data"] == Data("squares", ("black",), val=images)


def test_a_dataset_of_images_is_measured_as_data() -> None:
    images = [(Image.new("RGB", (16, 16), colour), number) for number, colour in enumerate(("red", "blue"))]
    data = Data("colours", ("red", "blue", "green", "white", "black"), images)
    assert sesurgeon.evaluate(PlainNet(), data, workers=0).images == 2


@pytest.mark.parametrize(
    ("function", "network"),
    [
        ("add_se", "model"),
        ("apply_plan", "model"),
        ("remove_se", "model"),
        ("fold_gate_scale", "model"),
        ("apply_adapter", "base"),
    ],
)
def test_a_type_checker_knows_the_class_of_the_result(function: str, network: str) -> None:
    said = getattr(sesurgeon, function).__annotations__
    assert said["return"] == said[network] == "AnyModule"  # a variable for any class of network


@pytest.mark.parametrize("classes", ["5", 5.0, True])
def test_a_number_of_classes_is_a_whole_number(classes: Any) -> None:
    with pytest.raises(UsageError, match=rf"num_classes \(={re.escape(repr(classes))}\) must be a whole number"):
        sesurgeon.load("torchvision:shufflenet_v2_x0_5", num_classes=classes)


def test_a_number_of_classes_may_be_one_of_numpy(tmp_path: Path) -> None:
    net = sesurgeon.load("torchvision:shufflenet_v2_x0_5", num_classes=np.int64(4))
    sesurgeon.save(net, tmp_path / "net.pt")
    assert sesurgeon.load(tmp_path / "net.pt", num_classes=np.int64(4)).get_parameter("fc.bias").shape == (4,)


def test_a_plan_is_wanted() -> None:
    with pytest.raises(UsageError, match="Expected a Plan, not a str") as caught:
        sesurgeon.apply_plan(nn.Conv2d(1, 1, 1), "plan.yaml")  # type: ignore[arg-type]
    assert "sesurgeon.read_plan" in str(caught.value.hint)


def test_what_is_a_network_already_is_not_loaded() -> None:
    with pytest.raises(UsageError, match="A Conv2d is neither a file nor a name"):
        sesurgeon.load(nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
