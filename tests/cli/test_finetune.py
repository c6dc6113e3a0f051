"""``sesurgeon finetune`` from end to end, on a tiny network and a few images."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import sesurgeon
from sesurgeon.cli.asked.loading import flags_to_load
from sesurgeon.cli.asked.options import Reading
from sesurgeon.cli.verbs.finetune import finetune as verb
from sesurgeon.finetune import FinetuneConfig
from sesurgeon.models import Provenance, Source, attach_provenance, provenance_of
from tests.cli.commands import finetune

SHORT = ("--data", "data", "--epochs", "2", "-j", "0", "--device", "cpu", "--log-with", "none")


def test_every_setting_is_an_option_with_the_same_default() -> None:
    options = inspect.signature(verb).parameters
    settings = {field.name: field.default for field in dataclasses.fields(FinetuneConfig)}
    assert {name: options[name].default for name in settings if name in options} == settings


def test_the_newest_augmented_network_is_trained_and_the_run_described(workplace: Path) -> None:
    result = finetune(*SHORT)

    assert result.exit_code == 0, result.stderr
    run = workplace / "runs/finetune/exp"
    assert {file.name for file in run.iterdir()} == {
        ".lock", "args.yaml", "best.pt", "confusion.png", "curve.png", "last.pt", "metrics.json", "mistakes.png",
        "plan.yaml", "report.md", "states", "summary.csv",
    }  # fmt: skip
    lines = result.stderr.splitlines()
    assert lines[0] == "No MODEL given: taking net.se.pt, the newest here."
    assert "12 training and 6 validation images, 2 classes, seen as 1x8x8" in lines[1]
    assert [line.split()[:2] for line in lines if line.startswith("epoch ")] == [["epoch", "1/2"], ["epoch", "2/2"]]
    for text in ("before training", "new parts: best", "everything: best", "runs/finetune/exp/", "1/2"):
        assert text in result.stdout
    assert "sesurgeon export runs/finetune/exp/best.pt --onnx" in result.stdout


def test_json_is_alone_on_stdout_and_quiet_is_quiet(workplace: Path) -> None:
    result = finetune("net.se.pt", *SHORT, "--name", "one", "--json", "--quiet")

    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["folder"] == "runs/finetune/one"
    assert report["images"] == {"train": 12, "val": 6}
    assert report["classes"] == ["down", "up"]
    assert [(row["epoch"], row["phase"]) for row in report["epochs"]] == [(-1, ""), (0, "blocks"), (1, "all")]
    assert report["before"] == report["epochs"][0]
    assert report["best_epoch"]["eval_top1"] == max(row["eval_top1"] for row in report["epochs"])
    assert [score["images"] for score in report["per_class"]] == [3, 3]
    assert provenance_of(sesurgeon.load(report["best"])).classes == ("down", "up")


def test_options_reach_the_run(workplace: Path) -> None:
    options = ("--lr", "0.01", "--lr-block-mult", "2", "--opt", "sgd", "-b", "4", "--freeze-epochs", "0")
    assert finetune(*SHORT, *options, "-o", "elsewhere", "--name", "two").exit_code == 0
    metrics = json.loads((workplace / "elsewhere/two/metrics.json").read_text())
    assert {row["phase"] for row in metrics["epochs"][1:]} == {"all"}
    settings = (workplace / "elsewhere/two/args.yaml").read_text()
    for line in ("lr: 0.01", "lr_block_mult: 2.0", "opt: sgd", "batch_size: 4", "epochs: 2"):
        assert line in settings.splitlines()


def test_a_new_head_is_announced(workplace: Path, images: Callable[..., Path]) -> None:
    images(workplace / "three", ("a", "b", "c"), 4)
    result = finetune("--data", "three", "--epochs", "1", "-j", "0", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "with 2 outputs is replaced by a new one for 3 classes.\n" in result.stderr
    assert "The new parts learn at a rate of 0.001.\n" in result.stderr  # in the only epoch
    settings = (workplace / "runs/finetune/exp/args.yaml").read_text().splitlines()
    assert {"lr_block_mult: 1.0", "lr_backbone_mult: 1.0"} <= set(settings)
    assert finetune(*SHORT, "--name", "kept").exit_code == 0
    settings = (workplace / "runs/finetune/kept/args.yaml").read_text().splitlines()
    assert {"lr_block_mult: 5.0", "lr_backbone_mult: 0.1"} <= set(settings)
    assert "(20 % held out, seed 42)" in result.stderr


def test_unreadable_images_are_named(workplace: Path) -> None:
    (workplace / "data/train/up/torn.png").write_bytes(b"no image")
    result = finetune(*SHORT)
    assert result.exit_code == 0, result.stderr
    assert "1 unreadable image is left out:\n  data/train/up/torn.png: " in result.stderr
    refused = finetune(*SHORT, "--on-bad-image", "error")
    assert refused.exit_code == 1
    assert "data/train/up/torn.png" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["net.se.pt"], 2, "--data"),
        ([*SHORT, "--epochs", "0"], 2, "epochs (=0) must be at least 1"),
        ([*SHORT, "--opt", "adamm"], 2, "opt (='adamm')"),
        ([*SHORT, "--batch-size", "0"], 2, "--batch-size"),
        ([*SHORT, "--device", "tpu"], 2, "'tpu' is not one of"),
        (["missing.pt", *SHORT], 3, "missing.pt"),
        (["net.se.pt", "--data", "nowhere"], 1, "The data folder nowhere does not exist"),
        (["net.se.pt", "--data", "one"], 1, "one class only: only"),
        (["net.se.pt", "--data", "differ"], 1, "up in train/ but not in val/"),
        (["net.se.pt", "--data", "torchvision:MNIST", "--data-dir", "none"], 1, "--download"),
        ([*SHORT, "--name", "taken"], 1, "exists already"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(
    arguments: list[str], code: int, message: str, workplace: Path, images: Callable[..., Path]
) -> None:
    images(workplace / "one", ("only",), 2)
    images(workplace / "differ/train", ("down", "up"), 2)
    images(workplace / "differ/val", ("down",), 2)
    (workplace / "runs/finetune/taken").mkdir(parents=True)
    before = sorted(workplace.rglob("*"))
    result = finetune(*arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(workplace.rglob("*")) == before


def test_an_error_that_all_processes_have_is_left_to_the_main_one(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # which the command sets
    waited: list[float] = []
    monkeypatch.setattr("sesurgeon.cli.launching.time.sleep", waited.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("RANK", rank)
        result = finetune("missing.pt", *SHORT)
        assert result.exit_code == 3
        assert "missing.pt" in result.stderr  # from the other one, too, if nobody ends it
        assert waited == ([] if rank == "0" else [30])


def test_without_a_model_it_says_how_to_make_one(workplace: Path) -> None:
    (workplace / "net.se.pt").unlink()
    result = finetune(*SHORT)
    assert result.exit_code == 2
    assert "sesurgeon add-se MODEL" in result.stderr


def test_debug_shows_the_traceback(workplace: Path) -> None:
    result = finetune("net.se.pt", "--data", "nowhere", "--debug")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize(
    ("source", "trust", "flags"),
    [
        (Source("module"), False, ""),
        (Source("module"), True, " --trust-pickle"),
        (Source("timm", "resnet18"), True, ""),
        (Source("factory", "nets:make"), False, " --arch factory:nets:make"),
    ],
)
def test_the_next_commands_get_what_it_takes_to_load(source: Source, trust: bool, flags: str) -> None:
    model = nn.Flatten()
    attach_provenance(model, Provenance(source))
    assert flags_to_load(model, Reading(trust_pickle=trust)) == flags


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_the_last_whole_epoch_and_exits_with_130(workplace: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # shells turn it off
    code = f"{interruptible}; from sesurgeon.cli.app import main; main()"
    command = [sys.executable, "-c", code, "finetune", "--data", "data", "--epochs", "100000", "-j", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch      2/100000"):
                break
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in error
    onwards, last = error.splitlines()[-2:]
    assert last == "Interrupted."
    assert onwards == "To go on: sesurgeon finetune --resume --output runs/finetune --name exp"
    surgery, record = provenance_of(sesurgeon.load("runs/finetune/exp/last.pt")).history
    assert surgery["command"] == "add-se"
    assert record["epoch"] >= 1
    kept = f"Kept: runs/finetune/exp/last.pt, the state after epoch {record['epoch'] + 1} of 100000."
    assert kept in error.splitlines()
    assert [path.name for path in workplace.rglob(".*")] == [".lock"]


def test_a_run_does_not_replace_its_own_model(workplace: Path) -> None:
    assert finetune("net.se.pt", *SHORT, "--name", "one").exit_code == 0
    best = workplace / "runs/finetune/one/best.pt"
    before = best.read_bytes()
    refused = finetune("runs/finetune/one/best.pt", *SHORT, "--name", "one", "--force")
    assert refused.exit_code == 2
    assert "Give another --name." in refused.stderr
    assert best.read_bytes() == before


def test_one_tracker_in_a_file_is_a_list_of_one(workplace: Path) -> None:
    (workplace / "settings.yaml").write_text("log_with: none\n")
    result = finetune("net.se.pt", "--data", "data", "-j", "0", "--epochs", "1", "--config", "settings.yaml")
    assert result.exit_code == 0, result.stderr
