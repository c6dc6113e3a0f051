"""A folder of images without labels, and the network as it came for a teacher."""

from __future__ import annotations

import copy
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetune_nets import weights
from torch import nn

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune import (
    Data,
    EpochFinished,
    Event,
    FinetuneConfig,
    RunStarted,
    TrainStep,
    finetune,
    open_data,
    predict,
    resumed_config,
)
from sesurgeon.finetune.data.heldout import held_out_record
from sesurgeon.finetune.data.images import FileImages
from sesurgeon.finetune.data.unlabelled import lacks_classes
from sesurgeon.finetune.keeping.states import newest_state
from sesurgeon.models import attach_provenance, provenance_of
from sesurgeon.surgery import add_se, load

MakeNet = Callable[..., nn.Module]
NAMES = ("left", "right")


@pytest.fixture
def config(tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        epochs=2, freeze_epochs=1, batch_size=4, workers=0, device="cpu", output=str(tmp_path / "runs"), log_with=(),
        distill=1.0,
    )  # fmt: skip


@pytest.fixture
def augmented(make_net: MakeNet) -> nn.Module:
    model = make_net()
    attach_provenance(model, replace(provenance_of(model), classes=NAMES))
    return add_se(model, example_inputs=torch.zeros(1, 1, 8, 8))


@pytest.fixture
def flat(class_folder: Path) -> Path:
    """20 images in one folder."""
    root = class_folder.parent / "flat"
    root.mkdir()
    for image in sorted(class_folder.rglob("*.png")):
        shutil.copy(image, root / f"{image.parent.name}-{image.name}")
    return root


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, folder.name)
    return path


def test_folders_that_are_no_classes_are_told_from_those_that_are(class_folder: Path, flat: Path) -> None:
    for pack in (Path, packed):
        assert not lacks_classes(str(pack(class_folder)), NAMES)
        assert not lacks_classes(str(pack(class_folder)), ("right", "top"))
        assert lacks_classes(str(pack(class_folder)), ("cat", "dog"))
        assert not lacks_classes(str(pack(class_folder)), None)
        assert lacks_classes(str(pack(flat)), NAMES)
        assert lacks_classes(str(pack(flat)), None)
    (class_folder / "labels.csv").write_text("path,label\n")
    for other in (class_folder / "labels.csv", class_folder / "nowhere", "torchvision:MNIST", "wds:shards"):
        assert not lacks_classes(str(other), None)


@pytest.mark.parametrize("pack", [Path, packed])
def test_images_are_found_however_deep_and_a_share_is_held_out(class_folder: Path, pack: Callable[..., Path]) -> None:
    shutil.copytree(class_folder / "left", class_folder / "right" / "deeper")
    data = open_data(pack(class_folder), unlabelled=True)
    assert (data.unlabelled, len(data.split("train")), len(data.val), data.val_split) == (True, 24, 6, 0.2)
    assert open_data(pack(class_folder), unlabelled=True).val == data.val
    (class_folder / "none").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_data(class_folder / "none", unlabelled=True)


def test_the_network_is_kept_while_gates_learn(augmented: nn.Module, flat: Path, config: FinetuneConfig) -> None:
    before = predict(augmented, flat, workers=0)
    events: list[Event] = []
    result = finetune(augmented, flat, config, on_progress=events.append)

    [started] = [event for event in events if isinstance(event, RunStarted)]
    said = {str(image.path): image.guesses[0].index for image in before.images}
    val = started.data.val
    assert isinstance(val, FileImages)
    assert [said[str(path)] for path in val.paths] == list(val.targets)
    assert result.rows[0].scores["top1"] == 100
    assert result.task.head is None
    assert any("The images have no labels" in note for note in result.task.notes)
    report = (result.folder / "report.md").read_text()
    assert "The images have no labels, so" in report
    assert "| best.pt |" in report
    assert any(gate.largest > 0 for gate in result.gates)
    assert (result.metric, result.best_row) == (None, result.rows[-1])
    best, last = weights(result.best), weights(result.last)
    assert all(torch.equal(best[name], last[name]) for name in last)
    assert not any(event.is_best for event in events if isinstance(event, EpochFinished))
    assert result.evaluation.top1 == result.rows[-1].scores["top1"]  # type: ignore[union-attr]
    assert provenance_of(load(result.last, trust_pickle=True)).classes == NAMES


def test_a_network_without_names_keeps_having_none(make_net: MakeNet, flat: Path, config: FinetuneConfig) -> None:
    model = add_se(make_net(), example_inputs=torch.zeros(1, 1, 8, 8))
    result = finetune(model, packed(flat), replace(config, epochs=1))
    assert result.task.classes == ("0", "1")
    assert provenance_of(load(result.last, trust_pickle=True)).classes is None


def test_a_stopped_run_goes_on_bit_for_bit(augmented: nn.Module, flat: Path, config: FinetuneConfig) -> None:
    net = copy.deepcopy(augmented)
    whole = finetune(augmented, flat, replace(config, name="whole", lr=0.05, lr_backbone_mult=1.0))

    def stop(event: Event) -> None:
        if isinstance(event, TrainStep) and (event.epoch, event.step) == (1, 2):
            raise KeyboardInterrupt

    settings = replace(config, name="torn", lr=0.05, lr_backbone_mult=1.0, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        finetune(net, flat, settings, on_progress=stop)
    torn = whole.folder.parent / "torn"
    last = load(torn / "last.pt", trust_pickle=True)
    result = finetune(last, flat, resumed_config(settings.to_dict(), {}), resume=torn)
    ours, theirs = weights(whole.last), weights(result.last)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (whole.folder / "summary.csv").read_text() == (torn / "summary.csv").read_text()


def test_labels_are_wanted_by_everything_else(augmented: nn.Module, flat: Path, config: FinetuneConfig) -> None:
    with pytest.raises(DataError, match="has no class folders"):
        finetune(augmented, flat, replace(config, distill=0.9))
    data = open_data(flat, unlabelled=True)
    with pytest.raises(UsageError, match=r"no labels, which distill \(=0.9\) needs"):
        finetune(augmented, data, replace(config, distill=0.9))
    with pytest.raises(UsageError, match="no labels, which class_weights needs"):
        finetune(augmented, data, replace(config, class_weights=True, patience=1))
    with pytest.raises(UsageError, match="no labels, which eval_metric needs"):
        finetune(augmented, data, replace(config, eval_metric="loss"))
    assert not Path(config.output).exists()


def test_the_held_out_images_are_known_again(augmented: nn.Module, flat: Path, config: FinetuneConfig) -> None:
    result = finetune(augmented, flat, replace(config, epochs=1))
    record = provenance_of(augmented).history[-1]
    assert record["val_images"] == 4
    assert record["val_digest"] == held_out_record(open_data(flat, unlabelled=True))["val_digest"]
    state = newest_state(result.folder / "states")
    assert state is not None
    assert all(state.state.data["files"])


def test_a_dataset_of_ones_own_needs_no_labels_either(augmented: nn.Module, flat: Path, config: FinetuneConfig) -> None:
    opened = open_data(flat, unlabelled=True)
    train, val = ([opened.split(name)[index] for index in range(4)] for name in ("train", "val"))
    result = finetune(augmented, Data("mine", ("",), val, train, unlabelled=True), replace(config, epochs=1))
    assert result.rows[0].scores["top1"] == 100


def test_several_labels_an_image_cannot_be_guessed(augmented: nn.Module, flat: Path, config: FinetuneConfig) -> None:
    attach_provenance(augmented, replace(provenance_of(augmented), multi_label=True))
    with pytest.raises(UsageError, match=r"have none.\n.*by --multi-label and a manifest"):
        finetune(augmented, flat, config)


def test_labels_that_fit_are_measured_with(augmented: nn.Module, class_folder: Path, config: FinetuneConfig) -> None:
    result = finetune(augmented, class_folder, replace(config, epochs=1))
    assert not any("no labels" in note for note in result.task.notes)
    assert result.rows[0].scores["top1"] < 100
