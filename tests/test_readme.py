"""What the README prints has been run as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_snippet_runs_as_printed(tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(snippets) == 1
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    for index in range(20):
        folder = tmp_path / "photos" / ("dark", "light")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 10 + 5 * index).convert("RGB").save(folder / f"{index}.png")
    done = subprocess.run(
        [sys.executable, "-c", snippets[0]], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == ".:conv 64 (112, 112) 1"
    assert (tmp_path / "resnet18.se.pt").exists()
    assert (tmp_path / "runs" / "finetune" / "photos" / "best.pt").exists()
    assert (tmp_path / "photos.onnx").exists()


def test_every_command_and_flag_in_it_exists() -> None:
    from typer.main import get_command

    from sesurgeon.cli.app import app

    group = get_command(app)
    lines = re.findall(r"^ {4}(?:pip install \. && )?sesurgeon ([^#\n]*)", README, flags=re.M)
    assert len(lines) >= 15
    for line in lines:
        verb, *words = line.split()
        command = group.get_command(None, verb)
        if hasattr(command, "commands"):  # a verb with verbs of its own
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line


def test_its_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)", README, flags=re.M)
    # As GitHub makes them.
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        path, _, anchor = target.partition("#")
        assert (Path(__file__).parents[1] / path).exists(), target
        assert not anchor or path or anchor in anchors, target
