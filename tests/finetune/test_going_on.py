"""What a run that goes on says, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from sesurgeon.errors import UnreadableFileError, UsageError
from sesurgeon.finetune import (
    EpochRow,
    Event,
    FinetuneConfig,
    FinetuneResult,
    NotResumable,
    RunResumed,
    TrainStep,
    finetune,
    resumed_config,
)
from sesurgeon.models.provenance import add_record
from sesurgeon.surgery import load, save

MakeNet = Callable[..., nn.Module]


def resume(run: FinetuneResult, data: Path, config: FinetuneConfig) -> RunResumed:
    """What is said when the run goes on."""
    events: list[Event] = []
    finetune(load(run.last, trust_pickle=True), data, config, resume=run.folder, on_progress=events.append)
    [said] = [event for event in events if isinstance(event, RunResumed)]
    return said


class Placed(nn.Identity):
    """Keeps a path."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def get_extra_state(self) -> Path:
        return self.place

    def set_extra_state(self, state: Path) -> None:
        self.place = state


def test_a_folder_that_is_no_run_keeps_its_files(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    hidden = [tmp_path / "project" / name for name in (".pre-commit-config.yaml", ".best-practice.md", ".args-old")]
    hidden[0].parent.mkdir()
    for file in hidden:
        file.touch()
    with pytest.raises(UnreadableFileError, match=r"project is not a run folder: there is no args\.yaml in it"):
        finetune(augmented, split_folder, config, resume=hidden[0].parent)
    (hidden[0].parent / "args.yaml").write_text("model: net.pt\ndata: data\nbatch_size: 8")
    with pytest.raises(UsageError, match="no state to resume from"):
        finetune(augmented, split_folder, config, resume=hidden[0].parent)
    assert all(file.exists() for file in hidden)


def test_a_resumed_run_says_what_was_said_at_its_start(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    config = replace(config, epochs=2)
    first = finetune(make_net(classes=5), split_folder, config)
    assert any("is replaced by a new one" in note for note in first.task.notes)
    again = finetune(load(first.last, trust_pickle=True), split_folder, replace(config, epochs=3), resume=first.folder)
    assert again.task.notes == first.task.notes


def test_a_better_epoch_from_after_the_state_is_kept_and_told(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    result = finetune(augmented, split_folder, config)
    assert resume(result, split_folder, config).held is None
    held = EpochRow(7, "all", 0.0, {"loss": 0.0, "top1": 101.0}, 1e-3)  # as if its state had been damaged
    best = load(result.best, trust_pickle=True)
    add_record(best, "finetune", **held.to_dict())
    save(best, result.best, force=True)
    before = result.best.read_bytes()
    assert resume(result, split_folder, replace(config, epochs=3)).held == held
    assert result.best.read_bytes() == before
    assert "best.pt holds epoch 8 as it was before the run was resumed" in (result.folder / "report.md").read_text()


def test_extra_state_that_cannot_be_read_safely_is_told_at_once(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    net = make_net()
    net.drop = Placed(split_folder)
    events: list[Event] = []
    result = finetune(net, split_folder, replace(config, epochs=1), on_progress=events.append)
    [told] = [index for index, event in enumerate(events) if isinstance(event, NotResumable)]
    assert "Path" in events[told].refused  # type: ignore[union-attr]
    assert not any(isinstance(event, TrainStep) for event in events[:told])
    with pytest.raises(UnreadableFileError, match="extra state of the network that cannot be read safely"):
        finetune(net, split_folder, config, resume=result.folder)


@pytest.mark.parametrize("content", [None, b"half"], ids=["gone", "damaged"])
def test_a_run_whose_best_epoch_is_lost_is_refused_before_training(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, content: bytes | None
) -> None:
    result = finetune(augmented, split_folder, config)
    result.best.unlink()
    if content is not None:
        result.best.write_bytes(content)
    events: list[Event] = []
    more = replace(config, epochs=config.epochs + 1)
    with pytest.raises(UnreadableFileError, match=r"best.pt is gone or damaged"):
        finetune(augmented, split_folder, more, resume=result.folder, on_progress=events.append)
    assert not events


def test_a_resumed_run_keeps_its_settings_in_python_too(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    result = finetune(augmented, split_folder, config)
    before = {path: path.read_bytes() for path in result.folder.rglob("*") if path.is_file()}
    for changed in ({"lr": 0.5}, {"batch_size": 3}, {"freeze_epochs": 0}, {"freeze_epochs": 5}, {"hflip": 0.5}):
        with pytest.raises(UsageError, match=f"A resumed run keeps its settings.*{next(iter(changed))}"):
            finetune(augmented, split_folder, replace(config, epochs=5, **changed), resume=result.folder)
    assert {path: path.read_bytes() for path in result.folder.rglob("*") if path.is_file()} == before
    again = finetune(load(result.last, trust_pickle=True), split_folder, resume=result.folder)
    assert again.config == result.config


def test_what_is_open_is_as_the_run_has_it(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    started = replace(config, clip_grad=0.5, hflip=0.25, smoothing=0.1, lr_block_mult=2.0)
    settings = {"arch": None, "model": "mine.pt", "num_processes": 1}
    first = finetune(augmented, split_folder, started, settings=settings)
    opened: dict[str, Any] = dict.fromkeys(("clip_grad", "hflip", "lr_block_mult", "name"))
    given = replace(started, **opened, epochs=config.epochs + 1, output="elsewhere", eval_metric="top1")
    again = finetune(load(first.last, trust_pickle=True), split_folder, given, resume=first.folder)
    assert again.config == replace(first.config, epochs=config.epochs + 1)
    assert again.folder == first.folder
    kept = yaml.safe_load((first.folder / "args.yaml").read_text())
    assert kept == {**settings, "data": str(split_folder), **again.config.to_dict()}


def test_settings_that_could_not_be_read_again_are_refused_before_anything_is_written(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    with pytest.raises(UsageError, match=r"could not be resumed: preprocessing .* must be a list of texts or null"):
        finetune(augmented, split_folder, config, settings={"preprocessing": {"mean": 0.5}})
    assert not Path(config.output).exists()


def test_other_epochs_leave_or_cut_the_frozen_ones() -> None:
    """As if the run had been started with so many."""
    for epochs, frozen, changed, left in ((2, 2, 4, 2), (6, 4, 3, 3), (6, 4, 5, 4)):
        settings = FinetuneConfig(epochs=epochs, freeze_epochs=frozen).to_dict()
        found = resumed_config(settings, {"epochs": changed})
        assert (found.epochs, found.freeze_epochs) == (changed, left)
    with pytest.raises(UsageError, match="epochs \\(='3'\\) must be a whole number"):
        resumed_config(settings, {"epochs": "3"})


def test_what_does_not_change_the_result_may_be_changed() -> None:
    def is_fixed(name: str) -> bool:
        with pytest.raises(UsageError) as caught:
            resumed_config(FinetuneConfig().to_dict(), {name: object()})
        return "A resumed run keeps its settings" in caught.value.message

    assert {name for name in FinetuneConfig().to_dict() if not is_fixed(name)} == {
        "epochs", "patience", "checkpoint_every", "workers", "device", "log_with", "data_dir", "download",
    }  # fmt: skip
