"""What is kept of the epochs of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sesurgeon.finetune import EpochRow, Evaluation, best_of
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.keeping.runfolder import RunFolder

MakeNet = Callable[..., nn.Module]


def scored(right: int) -> Evaluation:
    """``right`` of four images."""
    labels = torch.zeros(4).long()
    return Evaluation({0: "a"}, 2, 2, labels, (torch.arange(4) >= right).long(), labels == 0, torch.ones(4))


def test_a_better_epoch_in_the_file_is_only_replaced_by_one_that_is_no_worse(make_net: MakeNet, tmp_path: Path) -> None:
    scores = iter([0, 2, 3])
    recorder = Recorder(lambda model: scored(next(scores)), RunFolder(tmp_path), "top1", {}, (), lambda event: None)
    recorder.record(make_net(), -1)
    recorder.held = EpochRow(2, "all", 0.5, {"loss": 1.0, "top1": 75.0}, 1e-3)
    before = (tmp_path / "best.pt").read_bytes()
    recorder.record(make_net(), 1, "all", 0.5, 1e-3)
    assert (tmp_path / "best.pt").read_bytes() == before
    recorder.record(make_net(), 2, "all", 0.5, 1e-3)
    assert recorder.held is None
    assert RunFolder(tmp_path).read_best_row() == recorder.rows[-1]


def test_of_equal_scores_the_lower_loss_is_better_and_of_equal_losses_the_earlier() -> None:
    rows = [
        EpochRow(epoch, "all", 0.5, {"top1": 20.0, "loss": loss}, 1e-3) for epoch, loss in enumerate((3.0, 2.0, 2.0))
    ]
    assert best_of(rows, "top1") is rows[1]
    assert best_of([*rows, EpochRow(3, "all", 0.5, {"top1": 20.1, "loss": 9.0}, 1e-3)], "top1").epoch == 3
