from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sesurgeon.errors import DataError, SesurgeonError, UsageError
from sesurgeon.finetune import (
    ClassScore,
    EvaluationStep,
    batches,
    evaluate,
    open_data,
    open_held_out,
    preprocessing_for,
)
from sesurgeon.finetune.data.heldout import identity_of
from sesurgeon.finetune.scoring.evaluate import measure
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.source import Source

MakeNet = Callable[..., nn.Module]
PLAIN = Preprocessing((1, 8, 8), (0.0,), (1.0,))


class Echo(nn.Module):
    """Gives the first pixels of its input as logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)[:, : self.classes]


def _named(model: nn.Module, *classes: str, preprocessing: Preprocessing | None = PLAIN) -> nn.Module:
    attach_provenance(model, Provenance(Source("module"), classes=classes, preprocessing=preprocessing))
    return model


def test_numbers_worked_out_by_hand() -> None:
    logits = torch.tensor(
        [
            [2.0, 0.0, 0.0],  # 0, right
            [0.0, 3.0, 0.0],  # 0, taken for 1
            [0.0, 1.0, 0.0],  # 1, right
            [4.0, 0.0, 1.0],  # 2, taken for 0
        ]
    )
    labels = torch.tensor([0, 0, 1, 2])
    images = torch.zeros(4, 1, 1, 4)
    images[:, 0, 0, :3] = logits
    found = measure(Echo(3), [(images[:3], labels[:3]), (images[3:], labels[3:])], {0: "a", 1: "b", 2: "c"})
    assert (found.images, found.k) == (4, 3)
    assert found.top1 == 50.0
    assert found.top5 == 100.0
    assert found.per_class == (ClassScore("a", 2, 1), ClassScore("b", 1, 1), ClassScore("c", 1, 0))
    assert [score.accuracy for score in found.per_class] == [50.0, 100.0, 0.0]
    assert found.predictions.tolist() == [0, 1, 1, 0]
    e = math.exp
    by_hand = [
        math.log(e(2) + 2) - 2,
        math.log(e(3) + 2),
        math.log(e(1) + 2) - 1,
        math.log(e(4) + 1 + e(1)) - 1,
    ]
    assert found.loss == pytest.approx(sum(by_hand) / 4, rel=1e-6)


def test_top5_of_seven_classes() -> None:
    images = torch.arange(7.0).flip(0).repeat(3, 1)[:, None, None]  # class 0 is the first guess, class 6 the last
    found = measure(Echo(7), [(images, torch.tensor([0, 4, 5]))], dict(enumerate("abcdefg")))
    assert found.k == 5
    assert found.top1 == pytest.approx(100 / 3)
    assert found.top5 == pytest.approx(200 / 3)


def test_flags_and_random_state_are_left(make_net: MakeNet, split_folder: Path) -> None:
    model = make_net()
    model.train()
    model.get_submodule("bn").eval()
    flags = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, split_folder, workers=0)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_classes_are_matched_by_name(make_net: MakeNet, split_folder: Path) -> None:
    straight = evaluate(_named(make_net(), "left", "right"), split_folder, workers=0)
    crossed = evaluate(_named(make_net(), "right", "left"), split_folder, workers=0)
    assert [score.name for score in crossed.per_class] == ["right", "left"]
    assert torch.equal(crossed.predictions, straight.predictions)
    assert torch.equal(crossed.labels, 1 - straight.labels)
    assert crossed.top1 == pytest.approx(100 - straight.top1)


def test_some_of_the_models_classes_are_enough(make_net: MakeNet, tmp_path: Path, fill: Callable[..., Path]) -> None:
    root = fill(tmp_path / "some", ("left",), 4)
    found = evaluate(_named(make_net(3), "up", "left", "down"), root, workers=0)
    assert found.labels.tolist() == [1] * 4
    assert [score.name for score in found.per_class] == ["left"]
    assert found.outputs == 3


def test_an_unknown_class_is_named(make_net: MakeNet, split_folder: Path) -> None:
    with pytest.raises(DataError, match="does not know these classes of the data: right"):
        evaluate(_named(make_net(3), "left", "up", "down"), split_folder, workers=0)


def test_outputs_without_names_must_be_as_many_as_the_classes(make_net: MakeNet, split_folder: Path) -> None:
    with pytest.raises(DataError, match="2 classes, the model has 3 outputs"):
        evaluate(make_net(3), split_folder, workers=0)


def test_images_that_the_model_cannot_take(split_folder: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 9), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(DataError, match="cannot take images of 1 x 8 x 8") as caught:
        evaluate(model, split_folder, workers=0)
    assert "--img-size" in (caught.value.hint or "")


def test_what_is_no_classifier_is_refused(split_folder: Path) -> None:
    with pytest.raises(UsageError, match="Tensor of shape"):
        evaluate(nn.Conv2d(1, 2, 3), split_folder, workers=0)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_outputs_that_are_not_finite_have_no_scores(make_net: MakeNet, split_folder: Path, broken: float) -> None:
    model = make_net()
    with torch.no_grad():
        next(reversed(list(model.parameters()))).fill_(broken)
    with pytest.raises(SesurgeonError, match="outputs for 12 of 12 images are not finite") as caught:
        evaluate(model, split_folder, workers=0)
    assert caught.value.hint == "Check its weights."


def test_a_loader_that_cannot_be_is_refused(make_net: MakeNet, split_folder: Path) -> None:
    data = open_data(split_folder, training=False)
    with pytest.raises(UsageError, match=r"batch_size \(=0\) must be at least 1"):
        evaluate(make_net(), data, batch_size=0)
    with pytest.raises(UsageError, match=r"workers \(=-1\) must be at least 0"):
        evaluate(make_net(), data, workers=-1)
    with pytest.raises(UsageError, match=r"workers \(=-1\) must be at least 0"):
        next(batches(data, preprocessing_for(make_net(), data.val), workers=-1))


def test_progress_counts_batches(make_net: MakeNet, split_folder: Path) -> None:
    events: list[object] = []
    evaluate(make_net(), open_data(split_folder), batch_size=5, workers=0, on_progress=events.append)
    assert events == [EvaluationStep(step, 3) for step in (1, 2, 3)]


def test_only_what_was_held_out_of_a_folder_is_measured(make_net: MakeNet, class_folder: Path) -> None:
    model = make_net()
    record = {"command": "finetune", "data": identity_of(class_folder), "val_split": 0.2, "seed": 5}
    attach_provenance(model, Provenance(Source("module"), history=(record,)))
    assert len(open_held_out(model, class_folder).val) == 4
    assert open_held_out(model, class_folder).val == open_data(class_folder, val_split=0.2, seed=5).val
    assert len(open_held_out(make_net(), class_folder).val) == 20
    assert evaluate(model, class_folder, split="train", workers=0).images == 16
    with pytest.raises(DataError, match="have no validation set"):
        evaluate(make_net(), class_folder, split="train", workers=0)


def test_the_training_images_of_a_folder_can_be_measured(make_net: MakeNet, split_folder: Path) -> None:
    by_path, opened = (
        evaluate(make_net(), data, split="train", workers=0) for data in (split_folder, open_data(split_folder))
    )
    assert by_path.images == 24
    assert torch.equal(by_path.losses, opened.losses)
    with pytest.raises(DataError, match=r"have no split 'train'.\nThey were opened for measuring only"):
        evaluate(make_net(), open_data(split_folder, training=False), split="train", workers=0)


def test_a_network_that_takes_more_than_images_is_told_so(split_folder: Path) -> None:
    class Compares(nn.Module):
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return (one - other).flatten(1)

    with pytest.raises(UsageError, match=r"Compares does not run on images alone: .*'other'"):
        evaluate(Compares(), split_folder, workers=0)
