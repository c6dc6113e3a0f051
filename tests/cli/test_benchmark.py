"""``sesurgeon benchmark``: what is timed and told; never how long anything takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from typer.testing import CliRunner, Result

import sesurgeon
from sesurgeon.cli.app import app
from sesurgeon.cli.asked.options import Reading


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    body = [nn.Conv2d(1, 8, 3, padding=1), BasicBlock(8, 8), BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*body, nn.Linear(8, 3))
    sesurgeon.save(sesurgeon.add_se(net, torch.randn(2, 1, 8, 8)), tmp_path / "net.se.pt")
    sesurgeon.save(sesurgeon.add_se(net, torch.randn(2, 1, 8, 8), policy="inner"), tmp_path / "inner.se.pt")
    return tmp_path


def benchmark(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["benchmark", *arguments, "--repeats", "2", "--input-shape", "2,1,8,8"])


def test_runtimes_batches_and_blocks(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    threads = torch.get_num_threads()
    result = benchmark("net.se.pt", "-b", "1", "-b", "5", "--threads", "1", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["model"], report["vs"], report["threads"]) == ("net.se.pt", None, 1)
    timed = [(one["runtime"], one["batch"]) for one in report["latency"]]
    assert timed == [(runtime, size) for runtime in ("torch", "onnxruntime", "training") for size in (1, 5)]
    for one in report["latency"]:
        assert one["failure"] is None or (one["runtime"], one["batch"]) == ("training", 1)  # BatchNorm wants two
        assert one["failure"] is not None or one["quartiles"][0] <= one["ratio"] <= one["quartiles"][1]
    assert [(one["runtime"], one["batch"]) for one in report["memory"]] == [("torch", 5), ("training", 5)]
    assert all(one["augmented_bytes"] >= one["base_bytes"] > 0 for one in report["memory"])
    assert all(one["ratio"] == one["augmented_bytes"] / one["base_bytes"] for one in report["memory"])
    assert [block["block"] for block in report["blocks"]] == ["1.se", "2.se"]
    assert all(0 < block["share"] < 1 and block["batch"] == 5 for block in report["blocks"])
    assert torch.get_num_threads() == threads
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_against_another_network() -> None:
    result = benchmark("net.se.pt", "--vs", "inner.se.pt", "--runtime", "torch", "-b", "2")
    assert result.exit_code == 0, result.stderr
    assert "net.se.pt against inner.se.pt" in result.stdout
    assert "goes into 2 blocks:" in result.stdout
    assert "onnxruntime" not in result.stdout
    header = next(line for line in result.stdout.splitlines() if line.startswith("time on this machine"))
    assert header.split()[4:7] == ["batch", "inner.se.pt", "net.se.pt"]


def test_where_no_memory_is_measured_there_is_no_table_of_it() -> None:
    result = benchmark("net.se.pt", "--runtime", "onnxruntime", "-b", "2")
    assert result.exit_code == 0, result.stderr
    assert "onnxruntime" in result.stdout
    assert "peak memory" not in result.stdout


def test_against_a_state_dict_and_who_could_not_run(folder: Path) -> None:
    net = sesurgeon.load("timm:test_resnet", num_classes=3)
    sesurgeon.save(sesurgeon.add_se(net, torch.randn(2, 3, 32, 32)), folder / "augmented.pt")
    torch.save(net.state_dict(), folder / "plain.pth")
    words = ("augmented.pt", "--vs", "plain.pth", "--runtime", "training", "-b", "1", "--repeats", "2", "--json")
    result = CliRunner().invoke(
        app, ["benchmark", *words, "--vs-arch", "timm:test_resnet", "--input-shape", "1,3,32,32"]
    )
    assert result.exit_code == 1, result.stderr  # nothing was timed
    shown = json.loads(result.stdout)
    for (measured,) in (shown["latency"], shown["memory"]):
        assert measured["failure"].split(": ")[0] in ("augmented.pt", "plain.pth"), (
            measured
        )  # BatchNorm wants two values
    for option in (("--vs-arch", "timm:test_resnet"), ("--vs-model-kwargs", "depth=2")):
        alone = benchmark("net.se.pt", *option)
        assert alone.exit_code == 2
        assert "Give --vs" in alone.stderr


def test_each_network_has_arguments_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "chains.py").write_text(
        "from torch import nn\n"
        "def make(depth):\n"
        "    return nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(depth)), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(folder)
    words = ("factory:chains:make", "--model-kwargs", "depth=1", "--vs", "factory:chains:make")
    few = ("--runtime", "torch", "-b", "1", "--repeats", "2", "--input-shape", "1,3,16,16", "--json")
    result = CliRunner().invoke(app, ["benchmark", *words, "--vs-model-kwargs", "depth=7", *few])
    assert result.exit_code == 0, result.stderr
    assert [one["failure"] for one in json.loads(result.stdout)["latency"]] == [None]
    deep = CliRunner().invoke(app, ["benchmark", *words, "--vs-model-kwargs", "depth=9", *few])
    assert "factory:chains:make" in json.loads(deep.stdout)["latency"][0]["failure"]  # nothing is left of 16 x 16


def test_placements_are_timed_and_drawn(folder: Path) -> None:
    result = benchmark("net.se.pt", "--placements", "places.png", "-b", "2", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    found = [(one["policy"], one["stage"], one["blocks"]) for one in report["placements"]]
    assert found == [("standard", None, 2), ("inner", None, 2)]  # all in one stage
    assert [one["runtime"] for one in report["placements"][0]["latency"]] == ["torch", "onnxruntime"]
    assert (folder / "places.png").read_bytes().startswith(b"\x89PNG")
    again = benchmark("net.se.pt", "--placements", "places.png")
    assert again.exit_code == 1
    assert "--force" in again.stderr


GUESSING = """
from torch import nn
from torchvision.models.resnet import BasicBlock


class Guessing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), BasicBlock(8, 8))

    def forward(self, x):
        return self.body(x if x.sum() > 0 else -x).mean((2, 3))  # goes where the values lead: no ONNX
"""


def test_a_runtime_that_takes_no_network_is_told_and_has_no_place_in_the_picture(folder: Path) -> None:
    (folder / "guessing_net.py").write_text(GUESSING)
    words = ("factory:guessing_net:Guessing", "--placements", "places.png", "-b", "2", "--json")
    none = benchmark(*words, "--runtime", "onnxruntime")
    assert (none.exit_code, json.loads(none.stdout)["picture"]) == (1, None)
    assert not (folder / "places.png").exists()
    result = benchmark(*words)
    assert result.exit_code == 0, result.stderr
    for cost in json.loads(result.stdout)["placements"]:
        assert [one["runtime"] for one in cost["latency"] if one["failure"] is None] == ["torch"]
    assert (folder / "places.png").read_bytes().startswith(b"\x89PNG")


def test_placements_need_no_blocks_and_no_other_network(folder: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sesurgeon.save(net, folder / "plain.pt")
    shown = benchmark("plain.pt", "--placements", "plain.png", "--runtime", "torch")
    assert shown.exit_code == 0, shown.stderr
    assert "drawn in plain.png" in shown.stdout
    both = benchmark("net.se.pt", "--placements", "both.png", "--vs", "inner.se.pt")
    assert both.exit_code == 2
    assert not (folder / "both.png").exists()


def test_what_cannot_be_timed_is_refused(folder: Path) -> None:
    sesurgeon.save(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), folder / "plain.pt")
    refused = benchmark("plain.pt")
    assert refused.exit_code == 2
    assert "--vs" in refused.stderr
    unknown = benchmark("net.se.pt", "--runtime", "tensorrt")
    assert unknown.exit_code == 2
    assert "no runtime 'tensorrt'" in unknown.stderr


@pytest.mark.parametrize(("words", "said"), [
    (["--placements", "places"], "Let its name end in .png"),
    (["--placements", "net.se.pt", "--force"], "Let its name end in .png"),
    (["--placements", "places.png", "-b", "1", "-b", "3"], "one batch size"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(folder: Path, words: list[str], said: str) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused = benchmark("net.se.pt", *words)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_images_are_those_that_the_blocks_went_in_with(folder: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 9, 3))
    sesurgeon.save(sesurgeon.add_se(net, torch.randn(2, 1, 7, 11), policy="conv"), folder / "fixed.se.pt")
    words = ["benchmark", "fixed.se.pt", "--repeats", "2", "--runtime", "torch", "-b", "2", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["latency"][0]["failure"] is None


def test_images_that_the_network_does_not_take_are_told_row_by_row(folder: Path) -> None:
    words = ["benchmark", "net.se.pt", "--input-shape", "2,5,8,8", "--repeats", "2", "--runtime", "torch", "-b", "2"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 1, result.stderr
    report = json.loads(result.stdout)
    assert "5 channels" in report["latency"][0]["failure"]
    assert report["blocks"] == []


def test_a_batch_that_the_network_does_not_take_leaves_the_others_their_times(folder: Path) -> None:
    pairs = nn.Sequential(
        nn.Conv2d(1, 8, 3), BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(0), nn.Linear(16, 3)
    )
    sesurgeon.save(sesurgeon.add_se(pairs, torch.randn(2, 1, 8, 8)), folder / "pairs.se.pt")
    result = benchmark("pairs.se.pt", "-b", "2", "-b", "8", "--runtime", "torch", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [(one["batch"], one["failure"] is None) for one in report["latency"]] == [(2, True), (8, False)]
    assert [(one["batch"], one["failure"]) for one in report["memory"]] == [(2, None)]
    assert [one["batch"] for one in report["blocks"]] == [2]


def test_published_weights_go_with_the_network_that_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, reading: Reading) -> nn.Module:
        asked.append((name, reading.pretrained))
        return sesurgeon.load("net.se.pt")

    monkeypatch.setattr("sesurgeon.cli.verbs.benchmark.load_model", load)
    for pair in (("net.se.pt", "timm:one"), ("timm:one", "net.se.pt"), ("timm:one", "timm:two"), ("a.pt", "b.pt")):
        benchmark(pair[0], "--vs", pair[1], "--pretrained", "--runtime", "torch", "-b", "2")
    named = [("net.se.pt", False), ("timm:one", True), ("timm:one", True), ("net.se.pt", False)]
    assert asked == [*named, ("timm:one", True), ("timm:two", True), ("a.pt", True), ("b.pt", False)]
