"""``sesurgeon export --plain``: what leaves for code that knows plain gates."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
from torch import nn

import sesurgeon
from tests.cli.commands import export
from tests.networks import OddNet, PlainNet
from tests.surgery.trained import augmented

SMALL = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_augmented_resnet18_leaves_as_timms_seresnet18(folder: Path) -> None:
    ours = augmented(sesurgeon.load("timm:resnet18"), SMALL).eval()
    sesurgeon.save(ours, folder / "net.se.pt")
    result = export("--plain", "net.se.pt")
    assert result.exit_code == 0, result.stderr
    assert "Folded: 8 of 8 blocks." in result.stdout
    assert "outputs in eval mode bit-identical, in train mode bit-identical" in result.stdout
    assert "Warning" not in result.stderr
    network = timm.create_model("seresnet18").eval()
    network.load_state_dict(torch.load(folder / "net.plain.pth", weights_only=True), strict=True)
    assert torch.equal(network(SMALL), ours(SMALL))


def test_the_newest_model_is_taken_and_the_onnx_file_has_plain_gates(folder: Path) -> None:
    ours = augmented(nn.Sequential(*PlainNet())).eval()
    sesurgeon.save(ours, folder / "net.se.pt")
    result = export("--plain", "--onnx", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["model"], report["path"]) == ("net.se.pt", "net.plain.onnx")
    assert report["folded"] == ["2.se", "5.se"]
    assert report["proof"] == {"in_eval": True, "in_train": True, "note": ""}
    session = onnxruntime.InferenceSession(folder / "net.plain.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(3, *report["inputs"]["input"])
    (logits,) = session.run(["logits"], {"input": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), ours(images), atol=1e-5)


def test_what_keeps_its_factor_is_named_and_warned_of(folder: Path) -> None:
    sesurgeon.save(augmented(OddNet()), folder / "odd.se.pt")
    for arguments in ([], ["--json", "--force"]):
        result = export("--plain", "odd.se.pt", "--trust-pickle", "-o", "odd.safetensors", *arguments)
        assert result.exit_code == 0, result.stderr
        assert "this is not a standard network: 1 of its gates keep their factor" in result.stderr
        if not arguments:
            assert "Folded: 4 of 5 blocks." in result.stdout
            assert "Left alone: mixed.se: the tensor x, before the block, is also used elsewhere." in result.stdout
    report = json.loads(result.stdout)
    assert report["left"] == [{"path": "mixed.se", "reason": "the tensor x, before the block, is also used elsewhere"}]
    assert (report["tensors"], report["path"]) == (len(augmented(OddNet()).state_dict()), "odd.safetensors")
    assert report["size"] == (folder / "odd.safetensors").stat().st_size


def test_a_network_without_blocks_has_nothing_to_fold(folder: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sesurgeon.save(net, folder / "net.pt")
    result = export("--plain", "net.pt")
    assert result.exit_code == 0, result.stderr
    assert "Nothing had to be folded: no gate in it has a factor." in result.stdout
    content = torch.load(folder / "net.plain.pth", weights_only=True)
    assert torch.equal(content["0.weight"], net[0].weight)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--opset", "18"], 2, "--opset is for ONNX files."),
        (["-o", "net.bin"], 2, "net.bin does not say in which format"),
        (["-o", "no/such/net.pth"], 1, "does not exist"),
    ],
)
def test_bad_input_is_told_before_anything_is_read(arguments: list[str], code: int, message: str, folder: Path) -> None:
    (folder / "torn.se.pt").write_text("Reading this would be told.")
    result = export("torn.se.pt", "--plain", *arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert result.stdout == ""
    assert [path.name for path in folder.iterdir()] == ["torn.se.pt"]


def test_a_failed_proof_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sesurgeon.save(augmented(nn.Sequential(*PlainNet())), folder / "net.se.pt")
    monkeypatch.setattr("sesurgeon.surgery.folding.gate_scale.same", lambda *_: False)
    result = export("--plain", "net.se.pt")
    assert result.exit_code == 5
    assert "are not the ones before" in result.stderr
    assert [file.name for file in folder.iterdir()] == ["net.se.pt"]
