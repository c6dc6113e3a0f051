"""``finetune --teacher``: distillation from another network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import sesurgeon
from tests.cli.commands import finetune, run

SHORT = ("--data", "data", "-j", "0", "--device", "cpu", "-b", "4", "--log-with", "none", "-q")
TEACHER = "runs/finetune/teacher/last.pt"
MODULE = """
from torch import nn
from torchvision.models.resnet import BasicBlock


def make(classes=5):
    parts = nn.Conv2d(1, 8, 3, padding=1), BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*parts, nn.Linear(8, classes))
"""


@pytest.fixture
def taught(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder with a run called teacher, and net.pt, which has five classes."""
    done = finetune("net.se.pt", *SHORT, "--epochs", "2", "--name", "teacher")
    assert done.exit_code == 0, done.stderr
    (workplace / "net_of_students.py").write_text(MODULE)
    monkeypatch.syspath_prepend(workplace)
    yield workplace
    sys.modules.pop("net_of_students", None)


def test_a_run_learns_from_another_and_goes_on_with_it(taught: Path) -> None:
    arch = ("--arch", "factory:net_of_students:make")
    assert run("add-se", "factory:net_of_students:make", "--input-shape", "2,1,8,8", "-o", "five.se.pt").exit_code == 0
    words = ("--teacher", TEACHER, "--distill", "0.8", "--train", "blocks", "--name", "student")
    done = finetune("five.se.pt", *arch, *SHORT, *words, "--epochs", "1")
    assert done.exit_code == 0, done.stderr
    folder = Path("runs/finetune/student")
    settings = yaml.safe_load((folder / "args.yaml").read_text())
    assert (settings["teacher"], settings["teacher_arch"], settings["distill"]) == (TEACHER, None, 0.8)
    kept, teacher = (sesurgeon.load(path).state_dict() for path in (folder / "teacher.pt", TEACHER))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in teacher.items())
    Path(TEACHER).unlink()  # the run has its own
    more = finetune("--resume", "--name", "student", "--epochs", "2", *arch, "-q")
    assert more.exit_code == 0, more.stderr
    assert yaml.safe_load((folder / "args.yaml").read_text())["teacher"] == TEACHER
    assert len((folder / "summary.csv").read_text().splitlines()) == 4


def test_a_teacher_by_a_factory_is_named_again_on_resuming(taught: Path) -> None:
    assert run("add-se", "factory:net_of_students:make", "--input-shape", "2,1,8,8", "-o", "five.se.pt").exit_code == 0
    arch = ("--arch", "factory:net_of_students:make")
    teacher = ("--teacher", "factory:net_of_students:make", "--teacher-model-kwargs", "classes=2")
    done = finetune("five.se.pt", *arch, *SHORT, *teacher, "--distill", "0.5", "--epochs", "1", "--name", "student")
    assert done.exit_code == 0, done.stderr
    refused = finetune("--resume", "--name", "student", "--epochs", "2", *arch, "-q")
    assert refused.exit_code == 3
    assert "--teacher-arch factory:net_of_students:make --teacher-model-kwargs classes=2" in refused.stderr
    again = ("--teacher-arch", "factory:net_of_students:make", *teacher[2:])
    more = finetune("--resume", "--name", "student", "--epochs", "2", *arch, *again, "-q")
    assert more.exit_code == 0, more.stderr


def test_what_does_not_go_together_is_refused(taught: Path) -> None:
    before = sorted(path for path in taught.rglob("*") if ".lock" not in path.name)
    for words, said in (
        (("--teacher", TEACHER), "--distill 0.8"),
        (("--teacher", "missing.pt", "--distill", "0.8"), "missing.pt"),
        (
            ("--teacher", "factory:net_of_students:make", "--distill", "0.8", "--teacher-arch", "timm:resnet18"),
            "--teacher-arch",
        ),
        (("--teacher", "timm:resnet18", "--distill", "0.8"), "timm:resnet18 is an architecture without weights"),
        (("--teacher-arch", "timm:resnet18"), "Give --teacher too"),
        (("--teacher", TEACHER, "--distill", "0.8", "--name", "teacher", "--force"), "where the new run would take"),
        (("--resume", "--name", "teacher", "--teacher", TEACHER), "--resume continues a run with its own teacher"),
    ):
        given = ("-q",) if "--resume" in words else ("net.se.pt", *SHORT)
        refused = finetune(*given, *words)
        assert refused.exit_code in (2, 3), refused.output
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr
    assert sorted(path for path in taught.rglob("*") if ".lock" not in path.name) == before


def test_a_configuration_chooses_no_code_for_it(taught: Path) -> None:
    Path("mine.yaml").write_text(
        "teacher: factory:net_of_students:make\nteacher_model_kwargs: {classes: 2}\ndistill: 0.5\n"
    )
    refused = finetune("net.se.pt", *SHORT, "--config", "mine.yaml")
    assert refused.exit_code == 2
    assert "its teacher and teacher_model_kwargs would choose what code is run" in " ".join(refused.stderr.split())
    assert "--teacher factory:net_of_students:make --teacher-model-kwargs classes=2" in refused.stderr
    Path("mine.yaml").write_text("teacher: net.se.pt\ndistill: 0.5\n")
    refused = finetune("net.se.pt", *SHORT, "--config", "mine.yaml", "--trust-pickle")
    assert refused.exit_code == 2
    assert "its teacher would choose what code is run" in refused.stderr
    assert "type it, too: --teacher net.se.pt" in refused.stderr
