"""``sesurgeon demo``, and what it says to type."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sesurgeon
import sesurgeon.demo
from sesurgeon.cli.app import app
from sesurgeon.demo import DemoSettings

run = CliRunner().invoke


def test_its_commands_work_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sesurgeon.demo, "DemoSettings", lambda: DemoSettings(images=300, base_epochs=1, epochs=2, freeze_epochs=1)
    )
    result = run(app, ["demo", "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["scores"]["augmented"] == report["scores"]["base"]
    assert report["labels_that_onnx_changed"] == 0
    assert report["proof"] == {"in_eval": True, "in_train": True, "note": ""}

    folder, *commands = [shlex.split(command) for command in report["by_hand"]]
    assert folder == ["cd", "sesurgeon-demo"]
    monkeypatch.chdir(tmp_path / "sesurgeon-demo")
    shown = [line.removeprefix("$ ") for line in result.stderr.splitlines() if line.startswith("$ ")]
    assert [command.split()[1] for command in shown] == [
        "evaluate", "add-se", "evaluate", "finetune", "evaluate", "export", "evaluate",
    ]  # fmt: skip
    for arguments in (*commands, *(shlex.split(command) for command in shown if " evaluate " in command)):
        assert arguments[0] == "sesurgeon"
        again = run(app, arguments[1:])
        assert again.exit_code == 0, (arguments, again.stderr)
    assert Path("runs/finetune/exp2/best.onnx").is_file()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    result = run(app, ["demo", "--output", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not empty" in result.stderr
    assert "Traceback" not in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sesurgeon.__file__).parents[1])}
    command = [sys.executable, "-m", "sesurgeon", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    for text in ("What was measured, on 450 held-out digits", "after surgery", "digits.onnx", "The same by hand:"):
        assert text in done.stdout
    metrics = json.loads((tmp_path / "sesurgeon-demo/runs/finetune/exp/metrics.json").read_text())
    assert metrics["before"]["eval_top1"] > 97
    assert metrics["best"]["eval_top1"] >= metrics["before"]["eval_top1"]

    again = subprocess.run(
        [*command, "--force", "--quiet"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert (tmp_path / "sesurgeon-demo/runs/finetune/exp2/best.pt").is_file()
