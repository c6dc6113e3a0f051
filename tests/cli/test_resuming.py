"""Resuming a run, settings from a file, and several processes: from the command line."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import sesurgeon
from sesurgeon.cli.launching import launch
from sesurgeon.finetune import FinetuneConfig
from tests.cli.commands import finetune

SHORT = ("--data", "data", "-j", "0", "--device", "cpu", "--log-with", "none")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def in_processes(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sesurgeon", "finetune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


def same_weights(one: str, other: str) -> bool:
    ours, theirs = sesurgeon.load(one).state_dict(), sesurgeon.load(other).state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_takes_more_epochs(workplace: Path) -> None:
    assert finetune(*SHORT, "--epochs", "2").exit_code == 0
    result = finetune("--resume", "--epochs", "3", "--json")
    assert result.exit_code == 0, result.stderr
    assert "Resuming runs/finetune/exp, the newest run there." in result.stderr
    report = json.loads(result.stdout)
    assert [row["epoch"] for row in report["epochs"]] == [-1, 0, 1, 2]
    assert report["folder"] == "runs/finetune/exp"
    again = finetune("--resume")
    assert again.exit_code == 0, again.stderr
    assert "all epochs are done; --epochs 4 or more would lengthen the run." in again.stderr
    assert len((workplace / "runs/finetune/exp/summary.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--resume", "--lr", "0.5"], 2, "lr (=0.5, the run has 0.001)"),
        (["--resume", "net.se.pt"], 2, "own model"),
        (["--resume", "-o", "nowhere"], 2, "no run in nowhere"),
        (["--resume", "--name", "none"], 3, "There is no run runs/finetune/none"),
        (["--config", "missing.yaml", *SHORT], 2, "cannot be read"),
        (["--config", "wrong.yaml", *SHORT], 2, "did you mean epochs?"),
        (["--config", "trusting.yaml", *SHORT], 2, "on the command line only"),
        (["--config", "listed.yaml", *SHORT], 2, "name takes one value, not ['a']"),
        ([*SHORT, "--log-with", "wandb"], 2, "not installed: wandb"),
        ([*SHORT, "--aa", "nonsense"], 2, "no augmentation policy"),
        ([*SHORT, "--amp", "--amp-dtype", "float16"], 2, "needs an accelerator"),
        ([*SHORT, "--opt", "fusedadam"], 2, "opt (='fusedadam') is not available here"),
    ],
)
def test_bad_requests_are_refused(workplace: Path, arguments: list[str], code: int, message: str) -> None:
    assert finetune(*SHORT, "--epochs", "1").exit_code == 0
    (workplace / "wrong.yaml").write_text("epoch: 3")
    (workplace / "listed.yaml").write_text("name: [a]")
    (workplace / "trusting.yaml").write_text("trust-pickle: true")
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    result = finetune(*arguments)
    assert result.exit_code == code, result.stderr
    assert message in re.sub(r"[\s│]+", " ", result.stderr)  # usage errors come in a box
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ...}, "data is missing."),
        ({"model": ..., "data": 3}, "model is missing; data (=3) must be a text."),
        ({"epochs": "many"}, "epochs (='many') must be a whole number."),
        ({"epochs": True}, "epochs (=True) must be a whole number."),
        ({"lr": "1e-3"}, "lr (='1e-3') must be a number."),
        ({"train": "some"}, "train (='some') must be one of all, blocks."),
        ({"patience": "long"}, "patience (='long') must be a whole number or null."),
        ({"log_with": "none"}, "log_with (='none') must be a list of texts or null."),
        ({"num_classes": "two"}, "num_classes (='two') must be a whole number or null."),
        ({"num_processes": "two"}, "num_processes (='two') must be a whole number."),
    ],
    ids=str,
)
@pytest.mark.parametrize("state", ["epoch-00001-update-00000000.pt", None])
def test_settings_that_were_damaged_are_named(
    workplace: Path, changes: dict[str, object], message: str, state: str | None
) -> None:
    path = workplace / "runs/finetune/exp/args.yaml"
    (path.parent / "states").mkdir(parents=True)
    if state is not None:
        (path.parent / "states" / state).touch()
    settings = {"model": "net.se.pt", "data": "data", **FinetuneConfig().to_dict(), **changes}
    path.write_text(yaml.safe_dump({name: value for name, value in settings.items() if value is not ...}))
    result = finetune("--resume", "--name", "exp")
    assert result.exit_code == 3, result.stderr
    said = " ".join(result.stderr.split())
    assert f"runs/finetune/exp/args.yaml holds no settings of a run: {message}" in said
    assert "Correct that in the file" in said


def test_a_file_gives_any_option_and_what_is_typed_wins(workplace: Path) -> None:
    (workplace / "mine.yaml").write_text(
        "data: data\nepochs: 3\nfreeze-epochs: 2\nlr: 0.02\nworkers: 0\nlog_with: [none]\n"
    )
    assert finetune("--config", "mine.yaml", "--epochs", "2").exit_code == 0
    args = yaml.safe_load((workplace / "runs/finetune/exp/args.yaml").read_text())
    assert (args["epochs"], args["freeze_epochs"], args["lr"], args["model"]) == (2, 2, 0.02, "net.se.pt")


def test_the_settings_of_a_run_are_such_a_file(workplace: Path) -> None:
    assert finetune("net.se.pt", *SHORT, "--epochs", "1", "--mixup", "0.2", "--log-with", "none").exit_code == 0
    result = finetune("--config", "runs/finetune/exp/args.yaml", "--name", "again")
    assert result.exit_code == 0, result.stderr
    assert same_weights("runs/finetune/exp/last.pt", "runs/finetune/again/last.pt")


def test_a_run_that_was_stopped_before_its_first_state_starts_again(workplace: Path) -> None:
    assert finetune("net.se.pt", *SHORT, "--epochs", "1", "--mixup", "0.2", "--name", "whole").exit_code == 0
    shutil.copytree("runs/finetune/whole", "runs/finetune/torn")
    folder = workplace / "runs/finetune/torn"
    shutil.rmtree(folder / "states")
    for file in folder.iterdir():
        if file.name not in ("args.yaml", "summary.csv"):
            file.unlink()
    summary = (folder / "summary.csv").read_text().splitlines()
    (folder / "summary.csv").write_text("\n".join(summary[:2]) + "\n")  # the state before training
    result = finetune("--resume", "--name", "torn")
    assert result.exit_code == 0, result.stderr
    assert "stopped before its first state was written: it starts again" in result.stderr
    assert same_weights("runs/finetune/whole/last.pt", "runs/finetune/torn/last.pt")


def test_a_run_that_has_trained_does_not_start_again_without_its_states(workplace: Path) -> None:
    assert finetune("net.se.pt", *SHORT, "--epochs", "1").exit_code == 0
    shutil.rmtree(workplace / "runs/finetune/exp/states")
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    result = finetune("--resume", "--name", "exp", "--epochs", "2")
    assert result.exit_code == 2
    assert "runs/finetune/exp has trained epochs but no state to go on from." in result.stderr
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before


def test_images_that_were_moved_are_found_where_the_command_says(workplace: Path) -> None:
    assert finetune("net.se.pt", *SHORT, "--epochs", "1").exit_code == 0
    (workplace / "data").rename(workplace / "moved")
    assert finetune("--resume", "--epochs", "2").exit_code == 1
    result = finetune("--resume", "--epochs", "2", "--data", "moved")
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load((workplace / "runs/finetune/exp/args.yaml").read_text())["data"] == "moved"
    (workplace / "moved/train/up/000.png").unlink()
    other = finetune("--resume", "--epochs", "3", "--data", "moved")
    assert "moved is not what the run was started with" in other.stderr


def test_starting_again_does_not_run_what_a_file_names(workplace: Path) -> None:
    (workplace / "runs/finetune/torn").mkdir(parents=True)
    (workplace / "runs/finetune/torn/args.yaml").write_text("model: factory:os:getcwd\ndata: data")
    result = finetune("--resume", "--name", "torn")
    assert result.exit_code == 2
    assert "would import and run factory:os:getcwd" in re.sub(r"[\s│]+", " ", result.stderr)


def killed(epochs: int, moment: float, *arguments: str) -> int:
    """Run the command, kill it so many seconds after so many of its epochs, and say how it ended."""
    command = [sys.executable, "-m", "sesurgeon", "finetune", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as run:
        assert run.stderr is not None
        lines = iter(run.stderr.readline, "")
        next(line for line in lines if "The run is kept" in line or "Resuming from" in line)
        told = (line for line in lines if line.startswith("epoch "))
        for _ in range(epochs):
            next(told, None)
        time.sleep(moment)
        run.send_signal(signal.SIGKILL)
        run.stderr.read()
    return run.returncode


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(workplace: Path, kills: int) -> None:
    epochs = str(max(40, 4 * kills))
    whole = ("net.se.pt", *SHORT, "--epochs", epochs, "-b", "4", "--checkpoint-every", "1")
    assert in_processes(*whole, "--name", "whole").returncode == 0
    dice = random.Random(0)
    ends = [killed(dice.randint(0, 2), dice.uniform(0, 0.05), *whole, "--name", "torn")]
    while len(ends) < kills:
        ends.append(killed(dice.randint(0, 2), dice.uniform(0, 0.05), "--resume", "--name", "torn"))
    assert ends == [-signal.SIGKILL] * kills
    last = in_processes("--resume", "--name", "torn")
    assert last.returncode == 0, last.stderr
    for name in ("last.pt", "best.pt"):
        assert same_weights(f"runs/finetune/whole/{name}", f"runs/finetune/torn/{name}")
    summaries = [(workplace / f"runs/finetune/{name}/summary.csv").read_text() for name in ("whole", "torn")]
    assert summaries[0] == summaries[1]


def norm_free() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def losses(run: str) -> torch.Tensor:
    metrics = json.loads(Path(f"runs/finetune/{run}/metrics.json").read_text())
    return torch.tensor([[row["train_loss"] or 0, row["eval_loss"]] for row in metrics["epochs"]])


def test_two_processes_train_as_one_with_twice_the_batch(workplace: Path) -> None:
    model = sesurgeon.add_se(norm_free(), example_inputs=torch.randn(2, 1, 8, 8), policy="conv")
    sesurgeon.save(model, "still.se.pt")
    common = ("still.se.pt", *SHORT, "--epochs", "3", "--lr", "0.05", "--quiet")
    assert finetune(*common, "--name", "one", "-b", "8").exit_code == 0
    two = in_processes(*common, "--name", "two", "-b", "4", "--num-processes", "2", "--json")
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["folder"] == "runs/finetune/two"
    steps = in_processes(*common, "--name", "steps", "-b", "4", "--grad-accum-steps", "2")
    assert steps.returncode == 0, steps.stderr
    one = losses("one")
    assert one[1:, 0].max() - one[1:, 0].min() > 0.01  # it does move
    assert torch.allclose(losses("two"), one, rtol=1e-4, atol=1e-6)
    assert torch.allclose(losses("steps"), one, rtol=1e-4, atol=1e-6)

    refused = finetune("--resume", "--name", "two", "--epochs", "4", "--num-processes", "1")
    assert refused.exit_code == 2
    assert "--num-processes 2" in refused.stderr
    more = in_processes("--resume", "--name", "two", "--epochs", "4")
    assert more.returncode == 0, more.stderr
    assert len(losses("two")) == 5


def test_with_sync_bn_they_do_so_with_batch_norm_too(workplace: Path) -> None:
    common = ("net.se.pt", *SHORT, "--epochs", "3", "--freeze-epochs", "1", "--lr", "0.02", "--quiet")
    common += ("--lr-backbone-mult", "1", "--opt", "sgd")
    assert finetune(*common, "--name", "one", "-b", "8").exit_code == 0
    two = in_processes(*common, "--name", "two", "-b", "4", "--num-processes", "2", "--sync-bn")
    assert two.returncode == 0, two.stderr
    one = losses("one")
    assert one[1:, 0].max() - one[1:, 0].min() > 0.005  # it does move
    assert torch.allclose(losses("two"), one, rtol=1e-4, atol=1e-6)


def test_without_it_they_do_not(workplace: Path) -> None:
    common = ("net.se.pt", *SHORT, "--epochs", "2", "--freeze-epochs", "0", "--lr", "0.02", "--opt", "sgd")
    assert finetune(*common, "--name", "one", "-b", "8").exit_code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "sesurgeon", "finetune"]
    two = subprocess.run(
        [*launcher, *common, "--name", "two", "-b", "4"], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    assert two.returncode == 0, two.stderr
    assert not torch.allclose(losses("two"), losses("one"), rtol=1e-4, atol=1e-6)
    assert yaml.safe_load(Path("runs/finetune/two/args.yaml").read_text())["num_processes"] == 2  # for --resume


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.pt"], 3, "missing.pt"),
        (["net.se.pt", "--name", "taken"], 1, "exists already"),
        (["net.se.pt", "--aa", "nonsense"], 2, "no augmentation policy"),
    ],
    ids=["before they are a group", "on the main one", "on all"],
)
def test_an_error_of_several_processes_is_told_once(
    workplace: Path, arguments: list[str], code: int, message: str
) -> None:
    (workplace / "runs/finetune/taken").mkdir(parents=True)
    result = in_processes(*arguments, *SHORT, "--num-processes", "2")
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1


def test_an_error_in_several_processes_has_its_exit_code(workplace: Path) -> None:
    result = in_processes("--data", "nowhere", "--num-processes", "2")
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("No MODEL given: taking net.se.pt") == 1
    assert "The data folder nowhere does not exist" in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr


def test_one_process_in_place_of_several_is_refused(workplace: Path) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "-m", "--num_machines", "1", "--mixed_precision", "no")
    command = ("sesurgeon", "finetune", "net.se.pt", *SHORT)
    result = subprocess.run(
        [sys.executable, *launcher, "--num_processes", "2", "--dynamo_backend", "no", *command],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert "accelerate launch --cpu was asked for several processes and started one." in result.stderr
    assert not (workplace / "runs").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_to_the_whole_group_lets_the_readers_finish_the_step(workplace: Path) -> None:
    arguments = ("net.se.pt", "--data", "data", "-j", "1", "--device", "cpu", "--log-with", "none")
    command = [sys.executable, "-m", "sesurgeon", "finetune", *arguments, "--epochs", "100000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("epoch      2/100000"):
                break
        os.killpg(run.pid, signal.SIGTERM)
        _, error = run.communicate(timeout=120)
    assert run.returncode == 130, error
    assert error.splitlines()[-1] == "Interrupted."


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_of_several_that_is_killed_is_named(workplace: Path) -> None:
    arguments = ("net.se.pt", *SHORT, "--epochs", "100000", "--num-processes", "2")
    command = [sys.executable, "-m", "sesurgeon", "finetune", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as run:
        assert run.stderr is not None
        next(line for line in run.stderr if line.startswith("epoch      2/100000"))
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        ranks = {Path(f"/proc/{pid}/environ").read_bytes().find(b"\0RANK=1\0") >= 0: int(pid) for pid in children}
        os.kill(ranks[True], signal.SIGKILL)
        _, error = run.communicate(timeout=120)
    assert run.returncode == 1, error
    assert "Another process of the run has ended." in error
    assert "To go on: sesurgeon finetune --resume" in error
    assert "Process 1 of 2 was killed by SIGKILL." in error
    for raw in ("gloo", "Traceback", "torch/distributed"):
        assert raw not in error


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_to_several_processes_writes_a_state(workplace: Path) -> None:
    arguments = ("net.se.pt", *SHORT, "--epochs", "100000", "--num-processes", "2")
    command = [sys.executable, "-m", "sesurgeon", "finetune", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("epoch      2/100000"):
                break
        run.send_signal(signal.SIGTERM)
        _, error = run.communicate(timeout=120)
    assert run.returncode == 130, error
    assert "find_unused_parameters" not in error
    kept = re.search(r"^Kept: runs/finetune/exp/last\.pt, the state after epoch (\d+) of 100000\.$", error, re.M)
    assert kept is not None, error
    assert error.splitlines()[-2:] == [
        "To go on: sesurgeon finetune --resume --output runs/finetune --name exp",
        "Interrupted.",
    ]
    result = in_processes("--resume", "--name", "exp", "--epochs", str(int(kept[1]) + 1), "--num-processes", "2")
    assert result.returncode == 0, result.stderr


def test_processes_have_time_to_end_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's launcher kills them half a minute after it passed a signal on, if nothing tells it to wait."""
    given = []

    def recorded(config: Any, command: str) -> Callable[..., None]:
        given.append(config)
        return lambda *words: None

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", recorded)
    for name in ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "OMP_NUM_THREADS", "TORCH_CPP_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # is put back at the end
        monkeypatch.delenv(name)
    launch(2)
    (config,) = given
    assert getattr(config, "shutdown_timeout", 86400) == 86400  # older torch has no such setting
