"""Training that leads to numbers that are not finite."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sesurgeon.errors import DivergedError
from sesurgeon.finetune import Evaluation, Event, FinetuneConfig, PhaseStarted, TrainStep, finetune
from sesurgeon.finetune.keeping.recorder import Recorder

MakeNet = Callable[..., nn.Module]


def test_a_loss_that_is_no_number_stops_with_its_step(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    with torch.no_grad():
        augmented.get_parameter("fc.weight").mul_(1e30)
    with pytest.raises(
        DivergedError, match=r"loss is (nan|inf) in epoch [1-3], step \d of 3, at learning rates up to 9.*e\+34"
    ) as caught:
        finetune(augmented, split_folder, replace(config, opt="sgd", lr=1e30, lr_backbone_mult=1e5, freeze_epochs=0))
    assert "--lr" in (caught.value.hint or "")


def test_a_loss_that_is_no_number_spoils_no_weight(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    model, steps = make_net(), count(1)

    def spoil(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        return output * torch.nan if layer.training and next(steps) == 2 else output

    model.get_submodule("fc").register_forward_hook(spoil)
    with pytest.raises(DivergedError, match="loss is nan in epoch 1, step 2"):
        finetune(model, split_folder, config)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_a_loss_that_is_no_number_in_another_process_is_what_all_tell(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = sys.modules["sesurgeon.finetune.training.loop"]
    monkeypatch.setattr(loop, "any_of_all", lambda accelerator, flag: True)
    monkeypatch.setattr(loop, "from_all", lambda own: [own, (torch.nan, False)])
    with pytest.raises(DivergedError, match="loss is nan in epoch 1, step 1 of 3") as caught:
        finetune(augmented, split_folder, config)
    assert "look at the data" in (caught.value.hint or "")


def test_a_run_that_diverged_has_a_report(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    config = replace(config, opt="sgd", lr=1e30, lr_block_mult=1e-30, lr_backbone_mult=1e5, name="hot")
    with pytest.raises(DivergedError) as caught:
        finetune(augmented, split_folder, config)
    folder = Path(config.output) / "hot"
    report = (folder / "report.md").read_text()
    assert f"The run ended before its time: {caught.value.message}" in report
    for milestone in ("after surgery", "after phase 1", "best.pt"):
        assert f"| {milestone} |" in report
    assert "after phase 2" not in report
    assert "## Gates" in report
    for picture in ("curve.png", "confusion.png", "mistakes.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_images_that_are_gone_do_not_hide_that_it_diverged(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    def remove(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase.name == "all":
            for image in (split_folder / "val").rglob("*.png"):
                image.unlink()

    config = replace(config, opt="sgd", lr=1e30, lr_block_mult=1e-30, lr_backbone_mult=1e5)
    with pytest.raises(DivergedError):
        finetune(augmented, split_folder, config, on_progress=remove)


@pytest.mark.parametrize(
    ("broken", "named"), [("a", r"a\. The state before"), ("abc", r"a and 2 more\. The state before")]
)
def test_weights_that_are_no_numbers_are_named(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig, broken: str, named: str
) -> None:
    model = make_net()
    for name in broken:
        model.register_buffer(name, torch.zeros(1))  # which no loss shows

    def spoil(event: Event) -> None:
        if isinstance(event, TrainStep):
            for name in broken:
                model.get_buffer(name).fill_(torch.nan)

    with pytest.raises(DivergedError, match=f"Weights are not finite after epoch 1: {named}"):
        finetune(model, split_folder, config, on_progress=spoil)


def test_a_validation_loss_that_is_no_number_is_told_by_its_epoch_counted_from_1(make_net: MakeNet) -> None:
    found = Evaluation({0: "a"}, 1, 1, *torch.zeros(2, 1).long(), torch.ones(1).bool(), torch.tensor([torch.nan]))
    recorder = Recorder(lambda model: found, None, "top1", {}, (), lambda event: None)
    with pytest.raises(DivergedError, match="The validation loss is nan after epoch 1"):
        recorder.record(make_net(), 0, "blocks", 0.5, 1e-3)


def test_outputs_that_are_no_numbers_are_said_before_training(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    model = make_net()
    nn.init.constant_(model.get_parameter("fc.bias"), torch.nan)
    with pytest.raises(DivergedError, match="nan before training"):
        finetune(model, split_folder, config)
