"""The harness that sweeps all networks: bounds, resuming, what it notices, and the tables."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from sesurgeon.blocks import SqueezeExcite
from sesurgeon.graph import survey
from tests.networks import OddNet, trained_like

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
ODD = {"library": "timm", "name": "odd", "family": "odd", "seconds": 1.0}


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of benchmarks/zoo/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"zoo.{name}")


@pytest.fixture
def command(part: Any) -> ModuleType:
    """benchmarks/zoo.py as a module."""
    spec = importlib.util.spec_from_file_location("zoo_command", BENCHMARKS / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def deed(what: str) -> str:
    """The work of the tests of the pool."""
    if what == "sleep":
        time.sleep(60)
    if what == "die":
        os._exit(7)
    if what == "grow":
        held = []
        while True:  # until somebody stops it: a fresh fork holds less than its parent, nobody knows how much less
            held.append(b"x" * (16 << 20))
            time.sleep(0.02)
    return what.upper()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of xdist's worker, which has threads
def test_each_task_runs_in_a_bounded_process_of_its_own(part: Any, tmp_path: Path) -> None:
    pool = part("pool")
    tasks = ["a", "sleep", "die", "b"]
    done = pool.run_all(tasks, deed, jobs=2, bounds=pool.Bounds(seconds=1.5), log=tmp_path / "log")
    ends = {one.task: (one.result, one.death) for one in done}
    assert ends == {
        "a": ("A", ""),
        "b": ("B", ""),
        "die": (None, "the process ended with exit code 7"),
        "sleep": (None, "more than 1.5 seconds"),
    }


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is watched in /proc")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_takes_too_much_memory_is_ended(part: Any, tmp_path: Path) -> None:
    pool = part("pool")
    page = os.sysconf("SC_PAGE_SIZE")
    now = int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**30
    bounds = pool.Bounds(seconds=60, gib=now + 0.3)
    (done,) = pool.run_all(["grow"], deed, jobs=1, bounds=bounds, log=tmp_path / "log")
    assert done.result is None
    assert done.death.endswith("GiB of memory")


def test_the_command_on_four_networks_of_four_kinds(tmp_path: Path) -> None:
    names = [
        "torchvision:squeezenet1_1",
        "torchvision:quantized_resnet18",
        "torchvision:vit_b_16",
        "timm:gmixer_12_224",
    ]
    only = [word for name in names for word in ("--only", name)]
    arguments = [*only, "--work", str(tmp_path), "--jobs", "2", "--onnx-every", "0"]
    subprocess.run([sys.executable, str(BENCHMARKS / "zoo.py"), *arguments], check=True, capture_output=True)
    records = {record["name"]: record for record in json.loads((tmp_path / "zoo.json").read_text())["networks"]}
    assert {name: record["status"] for name, record in records.items()} == {
        "squeezenet1_1": "ok", "quantized_resnet18": "refused", "vit_b_16": "no site", "gmixer_12_224": "few",
    }  # fmt: skip
    assert records["squeezenet1_1"]["policies"]["standard"] == {"blocks": 8}
    assert records["squeezenet1_1"]["sites"] == {"concat": 8, "conv": 26}
    assert records["squeezenet1_1"]["input"] == [[2, 3, 64, 64]]
    table = (tmp_path / "zoo.md").read_text()
    assert "| torchvision | 3 | 0 | 1 | 1 | 1 | 1 | 0 | 0 | 1 of 1 = 100.0 % |" in table
    assert "torchvision:resnet18, and quantise the result" in table
    assert str(Path.home()) not in table


def test_a_second_run_does_what_is_left(command: ModuleType, part: Any, tmp_path: Path) -> None:
    network, sweep = part("networks").Network, part("sweep")
    networks = [network("timm", name, "f") for name in ("heavy", "failed", "light")]
    sizes = {f"timm:{n}": {"convs": c, "parameters": 0} for n, c in (("heavy", 90), ("failed", 50), ("light", 10))}

    def left(retry: list[str]) -> list[str]:
        options = command.argparse.Namespace(work=tmp_path, retry=retry, policy=[], onnx_every=0)
        return [task.network.name for task in command.tasks_of(networks, sizes, options)]

    assert left([]) == ["light", "failed", "heavy"]
    sweep.append_record(tmp_path / "records.jsonl", {**ODD, "name": "failed", "status": "ok"})
    sweep.append_record(tmp_path / "records.jsonl", {**ODD, "name": "failed", "status": "failed"})  # the latest counts
    sweep.append_record(tmp_path / "records.jsonl", {**ODD, "name": "heavy", "status": "ok"})
    assert left([]) == ["light"]
    assert left(["failed"]) == ["light", "failed"]


def test_an_unfinished_sweep_is_taken_up_from_its_result(command: ModuleType, part: Any, tmp_path: Path) -> None:
    result, records = tmp_path / "zoo.json", tmp_path / "records.jsonl"
    result.write_text(json.dumps({"networks": [{**ODD, "status": "ok"}, {**ODD, "name": "even", "status": "ok"}]}))
    part("sweep").append_record(records, {**ODD, "status": "failed"})
    command.take_records(result, records)
    found = part("sweep").read_records(records)
    assert {name: record["status"] for name, record in found.items()} == {"timm:odd": "failed", "timm:even": "ok"}


def test_every_promise_is_checked(part: Any) -> None:
    checks = part("checks")
    model = trained_like(OddNet())
    found = survey(model, torch.randn(2, 3, 32, 32))
    before = checks.Outputs(found)
    assert checks.check_policies(found, ("standard",), before, onnx=False) == {"standard": {"blocks": 5}}
    before.known[True] = before.known[True] + 1e-3
    with pytest.raises(checks.CheckError, match="other outputs in train mode on other inputs"):
        checks.check_policies(found, ("standard",), before, onnx=False)


class Chain(nn.Module):
    """Three layers with a block behind each; no output depends on the last one."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.idle = SqueezeExcite(4, 4), second, SqueezeExcite(4, 4)
        self.blocks = {"first": self.first, "second": self.second, "idle": self.idle}

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        self.idle(x)
        return x


class Deaf(SqueezeExcite):
    """Nothing reaches its parameters."""

    def factors(self, squeezed: Tensor) -> Tensor:
        return super().factors(squeezed).detach()


class Deep(SqueezeExcite):
    """Left out of the first step and the third, as by chance."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += torch.is_grad_enabled()
        return x if self.steps in (1, 3) else super().forward(x)


def test_a_block_without_gradient_is_noticed(part: Any) -> None:
    model = Chain(Deaf(4, 4))
    images = torch.randn(2, 4, 5, 5)
    assert part("gradients").without_gradient(model, model.blocks, (images,)) == (["second"], ["idle"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_gradient_that_is_no_number_is_none(part: Any) -> None:
    model = Chain(SqueezeExcite(4, 4))
    model.second.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] * math.nan,))
    images = torch.randn(2, 4, 5, 5)
    assert part("gradients").without_gradient(model, model.blocks, (images,)) == (["first", "second"], ["idle"])


def test_a_block_that_was_left_out_gets_another_try(part: Any) -> None:
    model = Chain(Deep(4, 4))
    images = torch.randn(2, 4, 5, 5)
    assert part("gradients").without_gradient(model, model.blocks, (images,)) == ([], ["idle"])
    assert model.second.steps > 4
    assert bool(model.first.fc2.weight.any())  # what was right at once is kept


def test_random_depth_is_off(part: Any) -> None:
    model = Chain(nn.Sequential(SqueezeExcite(4, 4), StochasticDepth(0.999, "batch"), DropPath(0.999)))
    blocks = {"first": model.first, "second": model.second[0]}
    assert part("gradients").without_gradient(model, blocks, (torch.randn(2, 4, 5, 5),)) == ([], [])


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e12])
def test_gates_stay_open_whatever_the_size_of_their_tensor(part: Any, size: float) -> None:
    torch.manual_seed(0)
    model = Chain(SqueezeExcite(4, 4))
    images = torch.randn(2, 4, 5, 5) * size
    assert part("gradients").without_gradient(model, model.blocks, (images,)) == ([], ["idle"])
    part("gradients").temper(model, model.blocks, (images,))
    farthest = float((model.first.excitation(images).detach() - 1).abs().max())
    assert 1e-3 < farthest <= 0.1


def test_running_statistics_are_those_of_what_comes_in(part: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, momentum=None)).eval()
    images = torch.randn(8, 3, 4, 4) * torch.tensor([100.0, 10.0, 1e-9]).view(3, 1, 1) + 7
    part("networks").settle(model, images)
    assert not model.training
    assert model[2].num_batches_tracked == 0
    assert float(model[0].running_var[2]) == pytest.approx(0.1)  # next to none: other images would overflow
    now = model(images)[:, :2]
    torch.testing.assert_close(now, model.train()(images)[:, :2], rtol=0.01, atol=0.01)  # to 127 / 128 of a variance


def test_statistics_stay_where_a_network_does_not_run(part: Any) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(4, 4, 1))
    part("networks").settle(model, torch.randn(2, 3, 4, 4))
    assert torch.equal(model[0].running_mean, torch.zeros(3))


def test_outputs_that_are_no_numbers_prove_nothing(part: Any) -> None:
    checks = part("checks")
    model = trained_like(OddNet())
    found = survey(model, torch.randn(2, 3, 32, 32))
    before = checks.Outputs(found)
    before.known[False] = before.known[False] * math.nan
    with pytest.raises(checks.CheckError, match="not finite: NaN would equal NaN"):
        checks.check_policies(found, ("standard",), before, onnx=False)


def test_failures_are_named_with_their_reasons(part: Any) -> None:
    failed = {**ODD, "status": "failed", "reason": "one | two\nthree", "took": {"building": 0.1, "inner": 0.2}}
    fine = {**ODD, "name": "even", "status": "ok", "sites": {"conv": 3}, "policies": {"inner": {"blocks": 2}}}
    text = part("report").markdown([failed, fine], 3)
    assert "| timm | odd | inner | one \\| two three |" in text
    assert "1 of 2 = 50.0 %" in text
    assert "Unfinished: 2 of 3 networks;" in text
    assert "| timm odd | 2 | 1 |  |  |  | 1 |  |  | 3 |  |  |  |  | 2 | 1.0 |" in text
