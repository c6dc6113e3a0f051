"""What a run that goes on says, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune import FinetuneConfig, finetune
from sesurgeon.surgery import load

MakeNet = Callable[..., nn.Module]


def test_a_folder_that_is_no_run_keeps_its_files(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    hidden = [tmp_path / "project" / name for name in (".pre-commit-config.yaml", ".best-practice.md", ".args-old")]
    hidden[0].parent.mkdir()
    for file in hidden:
        file.touch()
    with pytest.raises(UsageError, match="no state to resume from"):
        finetune(augmented, split_folder, config, resume=hidden[0].parent)
    assert all(file.exists() for file in hidden)


def test_a_resumed_run_says_what_was_said_at_its_start(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    config = replace(config, epochs=2)
    first = finetune(make_net(classes=5), split_folder, config)
    assert any("gives way to a new one" in note for note in first.task.notes)
    again = finetune(load(first.last, trust_pickle=True), split_folder, replace(config, epochs=3), resume=first.folder)
    assert again.task.notes == first.task.notes
