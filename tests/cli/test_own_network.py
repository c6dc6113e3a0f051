"""A network of one's own: a module file with odd but legal code, through every command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.surgery import blocks_of

CODE = """
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x, shortcut=None, rate=0.0):
        shortcut = x if shortcut is None else shortcut
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.training and rate > 0:          # a branch that depends on the mode, and on a number
            out = F.dropout(out, rate)
        out += shortcut                         # in place
        return F.relu(out, inplace=True)


class Net(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.twice = Block(8)                   # used twice
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for number, block in enumerate(self.blocks):
            x = block(x, rate=0.1 * number)     # a list of blocks, called in a loop with a float
        x = self.twice(self.twice(x, shortcut=None), shortcut=None)
        x = torch.cat((self.left(x), F.relu(self.right(x))), dim=1)
        return self.fc(x.mean([2, 3]))


def make(classes=2):
    return Net(classes)
"""
ARCH = ("--arch", "factory:net_of_mine:make")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_of_mine.py").write_text(CODE)
    for split, images in (("train", 6), ("val", 3)):
        for label, name in enumerate(("down", "up")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = np.random.default_rng((label, number)).integers(0, 120, (8, 8))
                pixels[label] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    yield tmp_path
    sys.modules.pop("net_of_mine", None)


def run(*words: str) -> dict[str, object]:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, f"{words}: {result.stderr}"
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_every_command_works_on_it(workplace: Path) -> None:
    import net_of_mine  # type: ignore[import-not-found]  # written above

    model = net_of_mine.make().eval()
    torch.save(model.state_dict(), "net.pt")

    assert run("inspect", "net.pt", *ARCH)["left_alone"] == []
    run("plan", "net.pt", *ARCH, "--policy", "standard", "--policy", "inner", "-o", "plan.yaml")
    done = run("add-se", "net.pt", *ARCH, "--plan", "plan.yaml")
    assert done["proof"] == {"in_eval": True, "in_train": True, "note": ""}

    augmented = sesurgeon.load("net.se.pt", arch="factory:net_of_mine:make")
    assert list(blocks_of(augmented)) == [
        "se", "blocks.0.se", "blocks.0.se2", "blocks.1.se", "blocks.1.se2", "twice.se", "twice.se2",
    ]  # fmt: skip
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(augmented(images), model(images))

    run("finetune", "net.se.pt", *ARCH, "--data", "data", "--epochs", "2", "-j", "0", "--device", "cpu", "--img-size",
        "8", "-b", "4")  # fmt: skip
    best = "runs/finetune/exp/best.pt"
    run("evaluate", best, *ARCH, "--data", "data")
    run("predict", best, "data", *ARCH)
    run("export", best, *ARCH, "--onnx", "-o", "net.onnx")
    run("evaluate", "net.onnx", "--data", "data")
    run("export", best, *ARCH, "--plain", "-o", "net.plain.pth")

    run("remove-se", best, *ARCH, "-o", "net.base.pt")
    base = sesurgeon.load("net.base.pt", arch="factory:net_of_mine:make")
    assert list(base.state_dict()) == list(model.state_dict())
    assert type(base) is net_of_mine.Net


STATE = """
class Stateful(Net):
    def get_extra_state(self):
        return {"quantiles": [0.1, 0.9], "made": "by hand"}

    def set_extra_state(self, state):
        self.state = state
"""


def test_state_that_is_no_tensor_is_kept_through_a_run_and_its_resumption(workplace: Path) -> None:
    (workplace / "net_of_mine.py").write_text(CODE + STATE)
    run("add-se", "factory:net_of_mine:Stateful", "--input-shape", "2,1,8,8", "-o", "net.se.pt")
    trusted = ("--trust-pickle",)
    run("finetune", "net.se.pt", "--data", "data", "--epochs", "1", "-j", "0", "--device", "cpu", "-b", "4", *trusted)
    run("finetune", "--resume", "--epochs", "2", *trusted)
    last = sesurgeon.load("runs/finetune/exp/last.pt", trust_pickle=True)
    assert last.state_dict()["_extra_state"] == last.state == {"quantiles": [0.1, 0.9], "made": "by hand"}


def test_arguments_of_its_code_are_typed_each_time(workplace: Path) -> None:
    (workplace / "net_of_mine.py").write_text(CODE)
    typed = (*ARCH, "--model-kwargs", "classes=3")
    run("add-se", ARCH[1], *typed[2:], "--input-shape", "2,1,8,8", "-o", "net.se.pt")
    short = ("--data", "data", "--epochs", "1", "-j", "0", "--device", "cpu", "-b", "4")
    assert "classes=3" in CliRunner().invoke(app, ["finetune", "net.se.pt", *ARCH, *short]).stderr
    run("finetune", "net.se.pt", *typed, *short)
    run("finetune", "--resume", "--epochs", "2", *typed)


def test_a_configuration_chooses_no_code_that_was_not_typed(workplace: Path) -> None:
    typed = (*ARCH, "--model-kwargs", "classes=2")
    run("add-se", ARCH[1], *typed[2:], "--input-shape", "2,1,8,8", "-o", "net.se.pt")
    short = ("--data", "data", "--epochs", "1", "-j", "0", "--device", "cpu", "-b", "4")
    run("finetune", "net.se.pt", *typed, *short, "--name", "first")
    again = ("finetune", "--config", "runs/finetune/first/args.yaml", "--name", "again")
    for words, chosen in (((), "arch and model_kwargs"), (ARCH, "model_kwargs"), (typed[2:], "arch")):
        refused = CliRunner().invoke(app, [*again, *words])
        assert refused.exit_code == 2
        assert f"its {chosen} would choose what code is run" in " ".join(refused.stderr.split())
        assert "type it, too: --arch factory:net_of_mine:make --model-kwargs classes=2" in refused.stderr
    run(*again, *typed)
    (workplace / "named.yaml").write_text(f"model: {ARCH[1]}")
    refused = CliRunner().invoke(app, ["finetune", "--config", "named.yaml", *short])
    assert refused.exit_code == 2
    assert "its model would choose" in refused.stderr
    run("finetune", ARCH[1], "--config", "named.yaml", *short, "--img-size", "8", "--name", "plain")


def test_the_next_command_of_an_adapter_says_how_its_base_is_read(workplace: Path) -> None:
    run("add-se", ARCH[1], "--input-shape", "2,1,8,8", "-o", "net.se.pt")
    short = ("--data", "data", "--epochs", "1", "-j", "0", "--device", "cpu", "-b", "4", "--train", "blocks")
    trained = CliRunner().invoke(app, ["finetune", "net.se.pt", *ARCH, *short, "--name", "run"])
    extract = "adapter extract runs/finetune/run --arch factory:net_of_mine:make"
    assert f"         sesurgeon {extract}\n" in trained.stdout
    extracted = CliRunner().invoke(app, [*extract.split(), "-o", "a.safetensors"])
    assert f"adapter apply BASE a.safetensors {' '.join(ARCH)}\n" in extracted.stdout
    extracted = CliRunner().invoke(app, [*extract.split(), "-o", "a.safetensors", "--force", "--base", "net.se.pt"])
    assert f"adapter apply net.se.pt a.safetensors {' '.join(ARCH)}\n" in extracted.stdout
