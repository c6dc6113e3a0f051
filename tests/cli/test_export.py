"""``sesurgeon export`` from end to end, on a tiny network of the user's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from typer.testing import CliRunner

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.cli.asked.calibrating import calibration_images
from sesurgeon.cli.asked.options import Talking
from sesurgeon.cli.shown.console import reporting
from sesurgeon.finetune import open_data, preprocessing_for
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.models import Provenance, Source, attach_provenance
from tests.cli.commands import export

NETWORKS = """
import signal
import time

import torch
from torch import nn


def tiny(width=4, out=3):
    squeeze = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), *squeeze, nn.Linear(width, out))


class Volumes(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny()

    def forward(self, left, right):
        return self.net(left) - self.net(right)


class Odd(nn.Sequential):
    def __init__(self):
        super().__init__(*tiny())

    def forward(self, x):
        assert x.shape[2:] == (40, 24)
        return super().forward(x)


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny()

    def forward(self, x):
        scores = self.net(x)
        return {"classes": scores, "doubt": scores.amax(1), "more": scores}


class Different(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny()

    def forward(self, x):
        return self.net(x) + (1 if torch.compiler.is_exporting() else 0)


def slow():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    print("building", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the user's own code in it."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_network_becomes_a_checked_file(folder: Path) -> None:
    result = export("factory:own_networks:tiny", "--model-kwargs", "out=5", "--onnx", "-o", "net.onnx", "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["path"] == "net.onnx"
    assert report["model"] == "factory:own_networks:tiny"
    assert report["outputs"] == {"logits": [5]}
    assert report["parity"]["batch_sizes"] == [1, 4]
    assert report["parity"]["top1_agreement"] == 1.0
    session = onnxruntime.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["batch", 5]


def test_a_file_without_a_preprocessing_is_told(folder: Path) -> None:
    said = "The model does not say how its images are prepared, so the file does not, either"
    size = ("--preprocessing", "input_size=[3,32,32]")
    assert said in export("factory:own_networks:tiny").stderr
    assert said not in export("factory:own_networks:tiny", *size, "--force").stderr
    assert said not in export("factory:own_networks:Volumes").stderr


def test_the_newest_model_is_taken_and_the_proof_printed(folder: Path) -> None:
    from torch import nn

    sesurgeon.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2)), folder / "tiny.se.pt")
    result = export()
    assert result.exit_code == 0, result.stderr
    assert "taking tiny.se.pt" in result.stderr
    assert (folder / "tiny.onnx").is_file()
    assert "tiny.onnx" in result.stdout
    assert "at batch 1 and 4" in result.stdout
    assert "100.0 %" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "No MODEL given"),
        (["missing.pt"], 3, "missing.pt"),
        (["factory:own_networks:tiny", "--model-kwargs", "out"], 2, "'out' is not KEY=VALUE"),
        (["own_networks.py", "--model-kwargs", "out=4"], 2, "own_networks.py is a file"),
        (["factory:own_networks:Different"], 5, "off PyTorch's"),
        (["factory:own_networks:tiny", "-o", "no/such/folder.onnx"], 1, "does not exist"),
        (["factory:own_networks:tiny", "-o", "tiny.pt"], 2, "An ONNX file cannot be called tiny.pt"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(arguments: list[str], code: int, message: str, folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = export(*arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert [file for file in sorted(folder.iterdir()) if file.name != "__pycache__"] == before


def test_a_file_that_exists_is_replaced_by_force_alone(folder: Path) -> None:
    (folder / "tiny.onnx").write_bytes(b"mine")
    result = export("factory:own_networks:tiny")
    assert (result.exit_code, (folder / "tiny.onnx").read_bytes()) == (1, b"mine")
    assert "--force" in result.stderr
    assert export("factory:own_networks:tiny", "--force").exit_code == 0
    assert (folder / "tiny.onnx").stat().st_size > 4


def test_above_the_limit_a_pair_is_replaced_by_force_alone_and_as_a_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits() -> list[float]:
        session = onnxruntime.InferenceSession(folder / "tiny.onnx", providers=["CPUExecutionProvider"])
        found: list[float] = session.run(None, {"input": torch.ones(1, 3, 224, 224).numpy()})[0].tolist()
        return found

    monkeypatch.setattr("sesurgeon.export.onnx._ONE_FILE_LIMIT", 1000)
    tiny = ("factory:own_networks:tiny", "--model-kwargs", "width=64")
    shown = export(*tiny)
    assert shown.exit_code == 0, shown.stderr
    assert "tiny.onnx.data" in shown.stdout
    first = logits()

    (folder / "tiny.onnx").rename(folder / "tiny.kept")
    with monkeypatch.context() as patch:
        patch.setattr("sesurgeon.cli.verbs.export.load_model", lambda *_, **__: pytest.fail("nothing is to be done"))
        refused = export(*tiny)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "tiny.onnx.data exists already" in refused.stderr
    (folder / "tiny.kept").rename(folder / "tiny.onnx")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        failed = export(*tiny, "--force")
    assert failed.exit_code == 1
    assert "Nothing was changed" in failed.stderr
    assert logits() == first

    again = json.loads(export(*tiny, "--force", "--json").stdout)
    assert again["data"] == "tiny.onnx.2.data"
    assert logits() != first  # other random weights
    monkeypatch.setattr("sesurgeon.export.onnx._ONE_FILE_LIMIT", 10**6)
    assert json.loads(export(*tiny, "--force", "--json").stdout)["data"] is None
    assert [file.name for file in folder.glob("tiny*")] == ["tiny.onnx"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_leaves_nothing_and_exits_with_130(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1])}
    command = [sys.executable, "-m", "sesurgeon", "export", "factory:own_networks:slow"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "building\n"  # --json or not, what a library prints goes there
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "Interrupted.\n")
    assert not list(folder.glob("*.onnx"))


@pytest.mark.parametrize(
    ("arguments", "name", "precision"),
    [
        (["--half"], "net.half.onnx", "float16"),
        (["--simplify"], "net.onnx", "float32"),
        (["--for-cpu"], "net.cpu.onnx", "float32"),
    ],
)
def test_formats_of_onnx(folder: Path, arguments: list[str], name: str, precision: str) -> None:
    make_net(folder)
    result = export("net.se.pt", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["path"], report["precision"]) == (name, precision)
    assert (folder / name).stat().st_size == report["size"]


def test_int8_is_calibrated_on_training_and_compared_on_validation_images(
    folder: Path, images: Callable[[Path, Sequence[str], int], Path]
) -> None:
    make_net(folder)
    images(folder / "data" / "train", ("a", "b", "c"), 3)
    images(folder / "data" / "val", ("a", "b", "c"), 2)
    (folder / "data" / "val" / "a" / "torn.png").write_text("no image")
    result = export("net.se.pt", "--int8", "--calib", "data", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["path"], report["parity"]["batch_sizes"]) == ("net.int8.onnx", [6])
    assert [image["path"] for image in report["skipped"]] == ["data/val/a/torn.png"]
    shown = export("net.se.pt", "--int8", "--calib", "data", "--force")
    assert "top-1 agreement" in shown.stdout
    assert "on 6 images" in shown.stdout
    assert "the ranges of activations come from 9 images" in shown.stderr
    assert "the agreement of labels comes from 6 images" in shown.stderr


@pytest.mark.parametrize(("name", "why"), [("Volumes", "input of shape"), ("Pair", "argument: 'right'")])
def test_int8_is_for_networks_that_take_images_alone(
    name: str, why: str, folder: Path, images: Callable[[Path, Sequence[str], int], Path]
) -> None:
    images(folder / "data" / "train", ("a", "b"), 3)
    images(folder / "data" / "val", ("a", "b"), 1)
    result = export(f"factory:own_networks:{name}", "--int8", "--calib", "data")
    assert result.exit_code == 2, result.stderr
    assert "--int8 is calibrated on single images, which the network does not take. The network fails" in result.stderr
    assert why in result.stderr
    assert "--input-shape" not in result.stderr


def test_as_many_images_as_are_told_are_calibrated_on(
    folder: Path, images: Callable[[Path, Sequence[str], int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images(folder / "data" / "train", ("a", "b"), 3)
    images(folder / "data" / "val", ("a", "b"), 1)
    monkeypatch.setattr("sesurgeon.cli.asked.calibrating._CALIBRATED_ON", 5)
    with reporting(Talking()) as out:
        given, compared, _ = calibration_images(nn.Conv2d(1, 2, 3), "data", "data", out)
    assert [sum(map(len, batches)) for batches in (given, compared)] == [5, 2]


def test_what_the_network_gives_beside_is_named(folder: Path) -> None:
    for name, *options in (("net.onnx", "--onnx"), ("plain.onnx", "--plain", "--onnx"), ("net.pt2", "--pt2")):
        result = export("factory:own_networks:Several", *options, "-o", name)
        assert result.exit_code == 0, result.stderr
        assert "the file does not hold all of them. Left out: doubt, more. --all-outputs writes" in " ".join(
            result.stderr.split()
        )
    result = export("factory:own_networks:Several", "--json", "--force")
    assert json.loads(result.stdout)["left_out"] == ["doubt", "more"]
    for name, kind in (("all.onnx", "--onnx"), ("all.pt2", "--pt2")):
        result = export("factory:own_networks:Several", kind, "--all-outputs", "-o", name, "--json")
        assert result.exit_code == 0, result.stderr
        assert list(json.loads(result.stdout)["outputs"]) == ["classes", "doubt", "more"], result.stdout
        assert "Left out" not in result.stderr
    assert "--all-outputs is for ONNX" in export("factory:own_networks:Several", "--plain", "--all-outputs").stderr
    assert "Left out" not in export("factory:own_networks:tiny").stderr


@pytest.mark.parametrize("kind", ["--onnx", "--pt2"])
def test_a_network_for_one_size_of_images_is_exported_at_that_size(folder: Path, kind: str) -> None:
    guessed = export("factory:own_networks:Odd", kind)
    assert guessed.exit_code == 4
    assert "--input-shape" in guessed.stderr
    told = export("factory:own_networks:Odd", kind, "--input-shape", "2,3,40,24", "--json")
    assert json.loads(told.stdout)["inputs"] == {"input": [3, 40, 24]}, told.stderr
    options = ["--input-shape", "3,40,24", "--policy", "conv", "-o", "odd.se.pt"]
    added = CliRunner().invoke(app, ["add-se", "factory:own_networks:Odd", *options])
    assert added.exit_code == 0, added.stderr
    remembered = export("odd.se.pt", kind, "--trust-pickle", "--json")
    assert remembered.exit_code == 0, remembered.stderr
    assert json.loads(remembered.stdout)["inputs"] == {"input": [3, 40, 24]}


def test_a_checkpoint_is_not_replaced_by_its_export(folder: Path) -> None:
    make_net(folder)
    before = (folder / "net.se.pt").read_bytes()
    assert export("net.se.pt", "-o", "net.se.pt", "--force").exit_code == 2
    assert export("net.se.pt", "--plain", "-o", "net.se.pt", "--force").exit_code == 2
    assert (folder / "net.se.pt").read_bytes() == before


def test_pt2(folder: Path) -> None:
    make_net(folder)
    result = export("net.se.pt", "--pt2")
    assert result.exit_code == 0, result.stderr
    assert "the file against the model" in result.stdout
    assert (folder / "net.pt2").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pt2", "--half"], "--pt2 cannot be combined with --half"),
        (["--pt2", "--plain"], "--pt2 cannot be combined with --plain"),
        (["--pt2", "-o", "net.onnx"], "cannot be the name of a torch.export file"),
        (["--half", "--int8"], "exclude each other"),
        (["--for-cpu", "--half"], "--for-cpu is for float32"),
        (["--for-cpu", "--pt2"], "--pt2 cannot be combined with --for-cpu"),
        (["--int8"], "--int8 needs --calib DATA"),
        (["--calib", "data"], "--calib is for --int8"),
        (["--pt2", "--opset", "20"], "--opset is for ONNX files"),
        (["--data-dir", "elsewhere"], "--data-dir is for --calib"),
        (["--plain", "--input-shape", "2,1,8,8"], "--input-shape is for ONNX and .pt2 files"),
        (["--int8", "--calib", "data", "--input-shape", "2,1,8,8"], "--input-shape is not for --calib"),
    ],
)
def test_formats_that_do_not_go_together(folder: Path, arguments: list[str], said: str) -> None:
    make_net(folder)
    before = sorted(folder.iterdir())
    result = export("net.se.pt", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("arguments", [["--onnx"], ["--pt2"]])
def test_a_folding_that_changes_the_outputs_ends_the_export(
    folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_net(folder)
    before = sorted(folder.iterdir())
    monkeypatch.setattr("sesurgeon.surgery.folding.gate_scale.same", lambda *_: False)
    result = export("net.se.pt", *arguments)
    assert result.exit_code == 5, result.stderr
    assert "After folding the gates' factors the outputs of this Sequential are not the ones before" in result.stderr
    assert sorted(folder.iterdir()) == before


def make_net(folder: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(8, 3))
    sesurgeon.save(sesurgeon.add_se(net, torch.randn(2, 1, 8, 8)), folder / "net.se.pt")


def test_any_name_can_be_that_of_a_file_in_half_precision(folder: Path) -> None:
    result = export("factory:own_networks:tiny", "--half", "-o", "full.onnx")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in folder.iterdir() if path.suffix == ".onnx"] == ["full.onnx"]


def test_images_that_a_run_held_out_are_compared(
    folder: Path, images: Callable[[Path, Sequence[str], int], Path]
) -> None:
    """Whatever seed and share it had."""
    images(folder / "data", ("a", "b"), 10)
    net = nn.Conv2d(1, 2, 3)
    record = {"command": "finetune", "data": str(folder / "data"), "val_split": 0.3, "seed": 7}
    attach_provenance(net, Provenance(Source("module"), history=(record,)))
    with reporting(Talking()) as out:
        _, compared, _ = calibration_images(net, "data", "data", out)
    held_out = open_data("data", val_split=0.3, seed=7).val
    expected = list(eval_loader(held_out, preprocessing_for(net, held_out), [0, 1], batch_size=32, workers=0))
    assert torch.equal(torch.cat(compared), torch.cat([batch for batch, _ in expected]))
    assert len(compared[0]) == 6
