"""The commands that do by hand what the demo does, and the names of its files."""

from __future__ import annotations

import shlex
from pathlib import Path

from sesurgeon.demo.settings import DemoSettings
from sesurgeon.files import StrPath

DATA, BASE, AUGMENTED, ONNX = "digits", "digits.pt", "digits.se.pt", "digits.onnx"
INPUT_SHAPE = (1, 8, 8)
_READING = f"--data {DATA} -j 0"  # for 8x8 images, reader processes cost more than they save

ADD_SE = f"sesurgeon add-se {BASE} --input-shape {','.join(map(str, INPUT_SHAPE))}"


def evaluate_command(model: StrPath) -> str:
    """Measure ``model``, a path relative to the demo's folder."""
    return f"sesurgeon evaluate {model} {_READING}"


def finetune_command(settings: DemoSettings, model: str = "") -> str:
    """Fine-tune ``model``; by default the newest."""
    lengths = f"--epochs {settings.epochs} --freeze-epochs {settings.freeze_epochs}"
    return " ".join(filter(None, ("sesurgeon finetune", model, _READING, lengths)))


def export_command(model: StrPath) -> str:
    """Export ``model`` to ONNX."""
    return f"sesurgeon export {model} --onnx -o {ONNX}"


def by_hand(folder: Path, settings: DemoSettings) -> tuple[str, ...]:
    """The commands to repeat the demo by hand. Each takes the newest result of the one before."""
    return (
        f"cd {shlex.quote(str(folder))}",
        f"{ADD_SE} --force",
        finetune_command(settings),
        f"sesurgeon evaluate {_READING}",
        "sesurgeon export --onnx",
    )
