"""Networks that nobody can trace as a whole, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.graph import same
from sesurgeon.models import isolated
from sesurgeon.surgery import blocks_of

IDENTICAL = "outputs in eval mode bit-identical, in train mode bit-identical"
# name -> blocks of the standard policy
NETWORKS = {
    "fasterrcnn_resnet50_fpn": 16,
    "fasterrcnn_resnet50_fpn_v2": 16,
    "fasterrcnn_mobilenet_v3_large_fpn": 7,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 7,
    "maskrcnn_resnet50_fpn": 16,
    "maskrcnn_resnet50_fpn_v2": 16,
    "keypointrcnn_resnet50_fpn": 16,
    "retinanet_resnet50_fpn": 16,
    "retinanet_resnet50_fpn_v2": 16,
    "fcos_resnet50_fpn": 16,
    "ssd300_vgg16": 22,
    "fcn_resnet50": 16,
    "deeplabv3_resnet50": 17,
    "deeplabv3_mobilenet_v3_large": 8,
    "lraspp_mobilenet_v3_large": 7,
    "r3d_18": 8,
    "mc3_18": 8,
    "r2plus1d_18": 8,
    "s3d": 9,
    "raft_small": 14,
    "raft_large": 15,
    "swin3d_t": 24,
    "maxvit_t": 44,
}


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def data_of(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


def test_a_detector_by_name_is_operated_on_and_comes_back_in_both_modes(here: Path) -> None:
    run("add-se", "torchvision:ssdlite320_mobilenet_v3_large", "--every", "3", "-o", "net.se.pt")
    augmented = sesurgeon.load(here / "net.se.pt")
    assert sesurgeon.models.provenance_of(augmented).history[-1]["proof"] == IDENTICAL
    assert len(blocks_of(augmented)) == 3
    base = sesurgeon.remove_se(augmented)
    images = [torch.rand(3, 64, 80), torch.rand(3, 32, 32)]
    targets = [{"boxes": torch.tensor([[2.0, 2.0, 30.0, 20.0]]), "labels": torch.tensor([7])} for _ in images]
    for inputs, training in (((images,), False), ((images, targets), True)):
        outputs = []
        for model in (base, augmented):
            with isolated(model, training=training):
                outputs.append(model(*inputs))
        assert same(*outputs)


def test_inspect_says_on_which_images_a_detector_was_looked_at(here: Path) -> None:
    words = ("inspect", "factory:tests.detectors:detector", "--model-kwargs", "kind=faster")
    assert "MACs per image of 3x64x64" in run(*words).stdout
    found = data_of(*words)
    assert found["train_failure"] is None
    assert found["input_shapes"] == [[[3, 64, 64], [3, 64, 64]]]
    assert {site["stage"] for site in found["sites"] if site["owner"].startswith("backbone")} == {2}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("add-se", "torchvision:vit_b_16", "--model-kwargs", "image_size=32"), 4, "it is a transformer"),
        (("inspect", "torchvision:quantized_mobilenet_v2"), 2, "torchvision:quantized_mobilenet_v2 is a quantised"),
    ],
)
def test_what_has_no_site_is_told_so(here: Path, words: tuple[str, ...], code: int, message: str) -> None:
    printed = " ".join(run(*words, code=code).output.split())
    assert message in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_operating_on(here: Path, name: str) -> None:
    result = data_of("add-se", f"torchvision:{name}", "--dry-run")
    assert (result["proof"]["in_eval"], result["proof"]["in_train"]) == (True, True)
    assert len(result["blocks"]) == NETWORKS[name]


@pytest.mark.slow
def test_faster_rcnn_of_resnet_50(here: Path) -> None:
    printed = run("inspect", "torchvision:fasterrcnn_resnet50_fpn").stdout
    assert "an image of 3x64x1333" in printed
    assert "Train mode" not in printed  # there is nothing to say
    run("add-se", "torchvision:fasterrcnn_resnet50_fpn")
    augmented = sesurgeon.load(here / "fasterrcnn_resnet50_fpn.se.pt")
    assert sesurgeon.models.provenance_of(augmented).history[-1]["proof"] == IDENTICAL
    assert len(blocks_of(augmented)) == 16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32"])
def test_a_transformer_has_no_site(here: Path, name: str) -> None:
    printed = " ".join(run("add-se", f"torchvision:{name}", code=4).output.split())
    assert "no convolutional site: it is a transformer" in printed
