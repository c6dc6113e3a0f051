"""Several labels per image: data, loss, scores, a whole run, going on with it, prediction."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_nets import weights
from PIL import Image
from torch import nn
from torch.nn import functional as F

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune import (
    Event,
    FinetuneConfig,
    MultiLabelEvaluation,
    TrainStep,
    batches,
    evaluate,
    finetune,
    open_data,
    predict,
    resumed_config,
)
from sesurgeon.finetune.keeping.report import write_run_report
from sesurgeon.finetune.scoring.measured import restored
from sesurgeon.finetune.scoring.perimage import joined
from sesurgeon.finetune.training.multilabel import MultiLabelLoss, multi_label_distillation_loss, positive_weights
from sesurgeon.finetune.training.objective import make_objective
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance, provenance_of
from sesurgeon.surgery import add_se, load

MakeNet = Callable[..., nn.Module]
CLASSES = ("bottom", "left", "top")
SETS = [names for size in range(4) for names in itertools.combinations(CLASSES, size)]


def picture(labels: tuple[str, ...], number: int) -> Image.Image:
    """Bright at each of the sides that it is named after."""
    pixels = np.random.default_rng(number).integers(0, 60, (8, 8))
    for name, place in {"top": np.s_[:2], "bottom": np.s_[6:], "left": np.s_[:, :2]}.items():
        pixels[place] += 80 if name in labels else 0
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """24 training and 8 validation images, all combinations of the three classes alike."""
    rows = []
    for number in range(32):
        labels = SETS[number % 8]
        picture(labels, number).save(tmp_path / f"{number:02}.png")
        rows.append([f"{number:02}.png", "|".join(labels), "val" if number % 4 == number // 8 else "train"])
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    return path


@pytest.fixture
def config(tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        epochs=3, freeze_epochs=1, batch_size=6, workers=0, device="cpu", output=str(tmp_path / "runs"), log_with=(),
        multi_label=True, lr=0.01,
    )  # fmt: skip


@pytest.fixture
def augmented(make_net: MakeNet) -> nn.Module:
    return add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))


def scored() -> MultiLabelEvaluation:
    """Classes 0, 2 and 3 of four; nobody shows the last."""
    logits = torch.tensor([[2.0, 9.0, -1.0, -3.0], [1.0, 9.0, 2.0, -3.0], [-1.0, 9.0, 1.0, -3.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    return MultiLabelEvaluation.of([(logits[:2], targets[:2]), (logits[2:], targets[2:])], {0: "a", 2: "b", 3: "c"})


def test_a_manifest_gives_sets_of_labels(manifest: Path) -> None:
    data = open_data(manifest, multi_label=True)
    assert (data.classes, data.multi_label, len(data.split("train")), len(data.val)) == (CLASSES, True, 24, 8)
    preprocessing = Preprocessing((1, 8, 8), (0.5,), (0.25,))
    [(images, labels)] = batches(data, preprocessing, "val")
    assert (images.shape, labels.dtype) == ((8, 1, 8, 8), torch.float32)
    shown = [
        row["label"].split("|") for row in csv.DictReader(manifest.read_text().splitlines()) if row["split"] == "val"
    ]
    assert labels.tolist() == [[float(name in names) for name in CLASSES] for names in shown]


def test_what_cannot_be_is_refused(manifest: Path, class_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"read from a manifest .*, which .*photos is not"):
        open_data(class_folder, multi_label=True)
    text = manifest.read_text()
    manifest.write_text(text.replace(",top,val", ",nowhere,val"))
    with pytest.raises(DataError, match="has classes without training images: nowhere"):
        open_data(manifest, multi_label=True)
    lines = [line if ",train" in line else f"{line.split(',')[0]},,val" for line in text.splitlines()[1:]]
    manifest.write_text("\n".join(["path,label,split", *lines]))
    with pytest.raises(DataError, match="None of the 8 images to measure with"):
        open_data(manifest, multi_label=True)
    for number in (4, 6):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    manifest.write_text("path,label\n04.png,left|top\n06.png,left\n00.png,top\n01.png,top")
    with pytest.raises(DataError, match="No readable image in the classes left"):
        open_data(manifest, multi_label=True)


def test_joined_names_are_told_of_where_one_label_is_read(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace(",,", ",none,"))
    [note] = [note for note in open_data(manifest).notes if "--multi-label" in note]
    assert note.startswith("Class names have a | in them (bottom|left, bottom|left|top, bottom|top, left|top)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_metric": "top1"}, r"eval_metric \(='top1'\) must be one of map, f1, loss with multi_label"),
        ({"eval_metric": "map", "multi_label": False}, r"must be one of top1, top5, balanced, loss\."),
        ({"balanced_sampling": True}, "must be off with multi_label"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    config: FinetuneConfig, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        replace(config, **settings)  # type: ignore[arg-type]
    assert (config.metric, replace(config, multi_label=False).metric) == ("map", "top1")


def test_the_loss_is_a_mean_over_images_and_classes() -> None:
    logits, targets = torch.randn(4, 3), torch.randint(2, (4, 3)).float()
    plain = F.binary_cross_entropy_with_logits(logits, targets)
    parts = MultiLabelLoss()(logits, targets)
    assert parts.shape == (4,)
    assert torch.allclose(parts.mean(), plain)
    smoothed = F.binary_cross_entropy_with_logits(logits, targets * 0.9 + 0.05)
    assert torch.allclose(MultiLabelLoss(0.1)(logits, targets).mean(), smoothed)
    zero, ones = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    weighed = MultiLabelLoss(0.0, torch.tensor([3.0, 5.0]))(zero, ones)
    assert weighed.item() == pytest.approx((3 + 1) / 2 * math.log(2))
    assert positive_weights([10, 50, 0, 100], 100) == [9.0, 1.0, 1.0, 0.01]


def test_distance_from_a_teacher_is_none_at_the_teacher_and_positive_elsewhere() -> None:
    logits = torch.randn(4, 3)
    assert multi_label_distillation_loss(logits, logits, 4.0).item() == pytest.approx(0, abs=1e-6)
    assert multi_label_distillation_loss(logits + 1, logits, 4.0) > 0.01


def test_mixed_images_have_mixed_labels(config: FinetuneConfig) -> None:
    objective = make_objective(replace(config, mixup=1.0), 3, 8, torch.device("cpu"))
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    images = torch.stack([torch.ones(1, 2, 2), torch.zeros(1, 2, 2)])
    mixed, targets = objective.mixed(images, labels)
    share = mixed[0, 0, 0, 0]
    assert torch.allclose(targets, torch.stack([share * labels[0] + (1 - share) * labels[1],
                                                (1 - share) * labels[0] + share * labels[1]]))  # fmt: skip


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}], ids=str)
def test_a_timm_that_cannot_mix_several_labels_is_refused_before_anything_is_written(
    augmented: nn.Module,
    manifest: Path,
    config: FinetuneConfig,
    mixing: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def older(mixup_alpha: float, cutmix_alpha: float, *, label_smoothing: float, num_classes: int) -> None: ...

    monkeypatch.setattr("timm.data.Mixup", older)
    with pytest.raises(UsageError, match=r"with multi_label need timm 1\.0\.31 or newer"):
        finetune(augmented, manifest, replace(config, **mixing))  # type: ignore[arg-type]
    assert not Path(config.output).exists()


def test_scores_are_those_of_the_definitions() -> None:
    found = scored()
    first, second, third = found.per_class
    # a: ranks 1 and 3 of three are right; b: ranks 1 and 3
    assert (first.images, second.images, third.images) == (2, 2, 0)
    assert first.average_precision == pytest.approx(100 * (1 / 1 + 2 / 3) / 2)
    assert second.average_precision == pytest.approx(100 * (1 / 1 + 2 / 3) / 2)
    assert (first.f1, second.f1) == (pytest.approx(50), pytest.approx(50))  # 1 hit, 1 too many, 1 missed
    assert (third.average_precision, third.f1) == (None, None)
    assert found.scores() == pytest.approx({"loss": found.loss, "map": 100 * 5 / 6, "f1": 50.0})
    logits = torch.tensor([[2.0, -1.0, -3.0], [1.0, 2.0, -3.0], [-1.0, 1.0, -3.0]])
    assert found.loss == pytest.approx(F.binary_cross_entropy_with_logits(logits, found.targets.float()).item())


def test_images_without_any_label_have_no_scores() -> None:
    found = scored()
    with pytest.raises(DataError, match="None of the 3 images"):
        replace(found, targets=torch.zeros_like(found.targets)).scores()


def test_an_evaluation_is_kept_and_put_together_again() -> None:
    found = scored()
    again = restored(found.to_dict())
    assert isinstance(again, MultiLabelEvaluation)
    assert again.scores() == found.scores()
    columns = ("targets", "probabilities", "losses")
    parts = [
        replace(found, **{name: getattr(found, name)[rows] for name in columns}) for rows in (slice(2), slice(2, 3))
    ]
    whole = joined(parts)
    assert isinstance(whole, MultiLabelEvaluation)
    assert all(torch.equal(getattr(whole, name), getattr(found, name)) for name in columns)


def test_a_report_has_the_right_scores(tmp_path: Path) -> None:
    found = scored()
    write_run_report(tmp_path / "report.md", "x-rays", {"before": found, "best": found})
    text = (tmp_path / "report.md").read_text()
    assert "|  | mAP | F1 | loss | images |\n| --- | ---: | ---: | ---: | ---: |\n" in text
    assert f"| before | 83.33 % | 50.00 % | {found.loss:.4f} | 3 |\n" in text
    assert 'From "before" to "best" mAP changed by +0.00 points.' in text
    assert "| class | images | average precision at first | average precision now |" in text
    assert "| a | 2 | 83.33 % | 83.33 % |" in text
    assert "top-1" not in text
    assert "Most confused classes" not in text


def test_a_run_learns_and_its_checkpoint_knows(augmented: nn.Module, manifest: Path, config: FinetuneConfig) -> None:
    config = replace(config, epochs=24, lr=0.03, lr_backbone_mult=1.0, class_weights=True)
    result = finetune(augmented, manifest, config)

    assert result.metric == "map"
    assert result.best_row.scores["map"] > 90
    assert result.best_row.scores["map"] > result.rows[0].scores["map"]
    assert result.task.head is not None
    with (result.folder / "summary.csv").open() as file:
        assert next(csv.reader(file)) == ["epoch", "train_loss", "eval_loss", "eval_map", "eval_f1", "lr"]
    assert {path.name for path in result.folder.glob("*.png")} == {"curve.png", "classes.png"}
    report = (result.folder / "report.md").read_text()
    assert "![classes](classes.png)" in report
    assert "| epoch | phase | training loss | loss | mAP | F1 | largest learning rate |" in report
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert [score["name"] for score in metrics["best_per_class"]] == list(CLASSES)
    assert set(metrics["best_per_class"][0]) == {"name", "images", "average_precision", "f1"}

    best = load(result.best, trust_pickle=True)
    assert (provenance_of(best).multi_label, provenance_of(best).classes) == (True, CLASSES)
    found = evaluate(best, manifest, workers=0)
    assert isinstance(found, MultiLabelEvaluation)
    assert found.scores() == result.best_row.scores
    seen = predict(best, [manifest.parent / f"{number:02}.png" for number in range(8)], workers=0)
    for image, probabilities in zip(seen.images, probabilities_of(best, manifest), strict=True):
        expected = {name: value for name, value in zip(CLASSES, probabilities, strict=True) if value > 0.5}
        assert {guess.label: guess.probability for guess in image.guesses} == pytest.approx(expected, rel=1e-5)
        assert [guess.probability for guess in image.guesses] == sorted(expected.values(), reverse=True)
    everything = predict(best, manifest.parent / "00.png", topk=3, workers=0).images[0]
    assert {guess.label for guess in everything.guesses} == set(CLASSES)


def probabilities_of(model: nn.Module, manifest: Path) -> list[list[float]]:
    preprocessing = provenance_of(model).preprocessing
    assert preprocessing is not None
    images = [torch.from_numpy(np.array(Image.open(manifest.parent / f"{number:02}.png"))) for number in range(8)]
    batch = (torch.stack(images)[:, None] / 255 - preprocessing.mean[0]) / preprocessing.std[0]
    with torch.no_grad():
        rows: list[list[float]] = model(batch).sigmoid().tolist()
    return rows


def test_a_stopped_run_goes_on_bit_for_bit(augmented: nn.Module, manifest: Path, config: FinetuneConfig) -> None:
    config = replace(config, smoothing=0.1, mixup=0.4, class_weights=True)
    net = copy.deepcopy(augmented)
    whole = finetune(augmented, manifest, replace(config, name="whole")).folder

    def stop(event: Event) -> None:
        if isinstance(event, TrainStep) and (event.epoch, event.step) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(net, manifest, replace(config, name="torn", checkpoint_every=1), on_progress=stop)
    torn = whole.parent / "torn"
    again = resumed_config(replace(config, name="torn").to_dict(), {})
    finetune(load(torn / "last.pt", trust_pickle=True), manifest, again, resume=torn)
    for name in ("last.pt", "best.pt"):
        ours, theirs = weights(whole / name), weights(torn / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (whole / "summary.csv").read_text() == (torn / "summary.csv").read_text()


def test_settings_data_and_network_must_agree(make_net: MakeNet, manifest: Path, config: FinetuneConfig) -> None:
    model = make_net(3)
    source = Source("factory", "finetune_nets:TinyNet", {"classes": 3})
    attach_provenance(model, Provenance(source, classes=CLASSES, multi_label=True))
    data = open_data(manifest, multi_label=True)
    single = replace(config, multi_label=False)
    with pytest.raises(UsageError, match="is not the value with which"):
        finetune(model, data, single)
    three = "\n".join(line for line in manifest.read_text().splitlines() if "|" not in line and ",," not in line)
    manifest.write_text(three)
    with pytest.raises(UsageError, match="The model gives several labels per image"):
        finetune(model, manifest, single)
    with pytest.raises(UsageError, match="was opened with one"):
        evaluate(model, open_data(manifest), workers=0)
    assert not Path(config.output).exists()


def test_a_network_with_several_labels_can_be_kept_by_distillation(
    make_net: MakeNet, manifest: Path, config: FinetuneConfig
) -> None:
    model = add_se(make_net(3), example_inputs=torch.zeros(1, 1, 8, 8))
    attach_provenance(model, replace(provenance_of(model), classes=CLASSES, multi_label=True))
    result = finetune(model, manifest, replace(config, epochs=1, distill=1.0, freeze_epochs=0))
    assert result.rows[1].train_loss is not None
    assert 0 <= result.rows[1].train_loss < 0.2
