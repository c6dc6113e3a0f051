"""What timm's users know, one by one: that each does what it is for."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import accelerate
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune import FinetuneConfig, FinetuneResult, RunStopped, TrainStep, evaluate, finetune, open_data
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.finetune.keeping.trackers import trackers_for
from sesurgeon.finetune.remarks import remarks_on
from sesurgeon.finetune.scoring.gatewatch import watch_gates
from sesurgeon.finetune.training.objective import Objective, balancing_weights, distillation_loss
from sesurgeon.finetune.training.phase_training import check_optimizer
from sesurgeon.finetune.training.phases import Phase, param_groups, phases_of, set_trainable
from sesurgeon.finetune.training.teacher import make_teacher
from sesurgeon.models import provenance_of
from sesurgeon.paths import is_within_any
from sesurgeon.surgery import add_se, blocks_of, load

MakeNet = Callable[..., nn.Module]


def trained(model: nn.Module, data: Path, config: FinetuneConfig) -> tuple[dict[str, Tensor], FinetuneResult]:
    ours = copy.deepcopy(model)
    result = finetune(ours, data, config)
    return ours.state_dict(), result


@pytest.mark.parametrize(
    "change",
    [
        {"mixup": 0.5},
        {"cutmix": 1.0},
        {"smoothing": 0.1},
        {"aa": "rand-m9-mstd0.5"},
        {"reprob": 1.0},
        {"clip_grad": 1e-3, "opt": "sgd"},
        {"layer_decay": 0.5},
        {"distill": 0.5},
        {"balanced_sampling": True},
        {"amp": True},
        {"warmup_epochs": 0.5},
    ],
    ids=str,
)
def test_each_changes_what_is_learned_and_the_same_way_each_time(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, change: dict[str, object]
) -> None:
    plain, _ = trained(augmented, split_folder, replace(config, opt=str(change.get("opt", "adamw"))))
    one, result = trained(augmented, split_folder, replace(config, **change))  # type: ignore[arg-type]
    two, _ = trained(augmented, split_folder, replace(config, **change))  # type: ignore[arg-type]
    assert any(not torch.equal(one[name], plain[name]) for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(bool(tensor.isfinite().all()) for tensor in one.values())
    assert result.rows[-1].train_loss is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kd_temperature": 2.0}, "kd_temperature (=2.0) has no effect without distill."),
        ({"amp_dtype": "float16"}, "amp_dtype (=float16) has no effect without amp."),
        ({"distill": 1.0, "smoothing": 0.1}, "smoothing (=0.1) has no effect with distill (=1), which looks"),
        ({"warmup_epochs": 0.75}, "Warm-up is limited to half of the 1 epochs from 1 on"),
        ({"distill": 1.0, "kd_temperature": 2.0, "warmup_epochs": 0.5}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_settings_without_effect_are_named(config: FinetuneConfig, change: dict[str, object], said: str) -> None:
    changed = replace(config, **change)  # type: ignore[arg-type]
    notes = list(remarks_on(changed, phases_of(changed, anything_new=True)))
    assert bool(notes) == bool(said)
    assert not said or notes[-1].startswith(said)


def test_an_optimiser_that_is_not_there_is_refused_before_anything_is_written(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    with pytest.raises(UsageError, match=r"opt \(='bnbadam'\) is not available here"):
        finetune(augmented, split_folder, replace(config, opt="bnbadam"))
    assert not Path(config.output).exists()


@pytest.mark.parametrize("aa", ["rand-m1", "rand-mstd101", "augmix-m50", "augmix-a0"])
def test_a_policy_that_pillow_refuses_is_refused_before_anything_is_written(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, aa: str
) -> None:
    with pytest.raises(UsageError, match=rf"The augmentation policy aa \(='{aa}'\) fails: (bits|alpha)"):
        finetune(augmented, split_folder, replace(config, aa=aa))
    assert not Path(config.output).exists()


def test_gradients_are_accumulated_as_the_settings_say_whatever_the_environment_says(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, opt="sgd", lr=0.05)
    plain, _ = trained(augmented, split_folder, config)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    ours, _ = trained(augmented, split_folder, config)
    assert all(torch.equal(plain[name], tensor) for name, tensor in ours.items())


def test_channels_last_stays_and_learns_the_same(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    plain, _ = trained(augmented, split_folder, config)
    ours = copy.deepcopy(augmented)
    finetune(ours, split_folder, replace(config, channels_last=True))
    assert ours.get_parameter("block.conv.weight").is_contiguous(memory_format=torch.channels_last)
    assert all(torch.allclose(plain[name], tensor, atol=1e-4) for name, tensor in ours.state_dict().items())


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    for module in augmented.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a compiler draws its own random numbers
    config = replace(config, opt="sgd", lr=0.1)
    plain, _ = trained(augmented, split_folder, config)
    ours, _ = trained(augmented, split_folder, replace(config, compile=True))
    assert list(ours) == list(plain)
    assert any((plain[name] - tensor).abs().max() > 1e-2 for name, tensor in augmented.state_dict().items())
    assert all(torch.allclose(plain[name], ours[name], rtol=1e-4, atol=1e-5) for name in plain)


def test_the_average_of_the_weights_is_what_is_evaluated_and_kept(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    config = replace(config, model_ema=True, model_ema_decay=0.9)
    raw, result = trained(augmented, split_folder, config)
    kept = load(result.last, trust_pickle=True).state_dict()
    assert list(kept) == list(raw)
    assert not torch.equal(kept["block.se.fc1.weight"], raw["block.se.fc1.weight"])
    start = augmented.state_dict()["block.se.fc2.weight"]
    assert (kept["block.se.fc2.weight"] - start).norm() < (raw["block.se.fc2.weight"] - start).norm()


def test_a_run_without_gain_stops_early(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    events: list[object] = []
    config = replace(config, epochs=9, patience=2, lr=1e-9)
    result = finetune(augmented, split_folder, config, on_progress=events.append)
    assert [row.epoch for row in result.rows] == [-1, 0, 1, 2]
    assert [event for event in events if isinstance(event, RunStopped)] == [RunStopped(3)]


def test_the_best_epoch_is_chosen_by_the_metric(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    result = finetune(augmented, split_folder, replace(config, epochs=4, lr=0.02, eval_metric="loss"))
    assert result.best_row.eval_loss == min(row.eval_loss for row in result.rows)
    assert result.evaluation.loss == result.best_row.eval_loss


def test_the_report_ties_the_run_together(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    result = finetune(augmented, split_folder, replace(config, lr=0.02))
    report = (result.folder / "report.md").read_text()
    names = ["base: without blocks", "after surgery", "after phase 1", "after phase 2", "best.pt"]
    lines = [next(line for line in report.splitlines() if line.startswith(f"| {name} ")) for name in names]
    assert lines[0].split("|")[2:6] == lines[1].split("|")[2:6]  # surgery changed no score
    assert [gate.gate for gate in result.gates] == list(blocks_of(augmented))
    for picture in ("curve.png", "confusion.png", "mistakes.png"):
        assert f"({picture})" in report
        assert (result.folder / picture).read_bytes().startswith(b"\x89PNG")


def test_gates_are_watched_on_images_from_all_over_the_set(
    augmented: nn.Module, fill: Callable[..., Path], tmp_path: Path, config: FinetuneConfig
) -> None:
    fill(tmp_path / "data" / "train", ("left", "right"), 4)
    fill(tmp_path / "data" / "val", ("left", "right"), 20)
    result = finetune(augmented, tmp_path / "data", replace(config, batch_size=2, lr=0.1))
    best, data = load(result.best, trust_pickle=True), open_data(tmp_path / "data")
    part = range(0, 40, 3)  # 8 batches of 2 would be 16 of the first class
    seen = eval_loader(data.val, result.task.preprocessing, result.task.labels, batch_size=2, workers=0, part=part)
    assert result.gates == watch_gates(best, seen)
    assert result.gates[0].images == 14


def test_tensorboard_gets_the_numbers_where_it_is_installed(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert trackers_for(None) == ("tensorboard",)
    result = finetune(augmented, split_folder, replace(config, log_with=None))
    events = accumulator.EventAccumulator(str(result.folder / "sesurgeon"))
    events.Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    scores = [(point.step, point.value) for point in events.Scalars("epoch/eval_top1")]
    assert scores == [(step, row.scores["top1"]) for step, row in zip((0, 3, 6), result.rows, strict=True)]


def test_a_run_that_replaces_another_takes_its_curves_away(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    pytest.importorskip("tensorboard")
    config = replace(config, log_with=("tensorboard",), name="again", force=True, epochs=1)

    def logged(folder: Path) -> list[Path]:
        return sorted(path for path in (folder / "sesurgeon").rglob("*") if path.is_file())

    first = logged(finetune(augmented, split_folder, config).folder)
    second = logged(finetune(augmented, split_folder, config).folder)
    assert len(first) == len(second) == 3
    assert set(first).isdisjoint(second)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, OSError])
def test_trackers_are_finished_however_the_run_ends(
    augmented: nn.Module,
    split_folder: Path,
    config: FinetuneConfig,
    error: type[BaseException] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = pytest.importorskip("accelerate.tracking").TensorBoardTracker
    pytest.importorskip("tensorboard")
    finished: list[object] = []
    monkeypatch.setattr(tracker, "finish", lambda self: finished.append(self))

    def end(event: object) -> None:
        if error is not None and isinstance(event, TrainStep):
            raise error

    with contextlib.nullcontext() if error is None else pytest.raises(error):
        finetune(augmented, split_folder, replace(config, log_with=None), on_progress=end)
    assert len(finished) == 1


def test_runs_have_their_folders_names_in_every_tracker(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("accelerate.tracking")
    pytest.importorskip("tensorboard")
    given: dict[str, dict[str, str]] = {}
    monkeypatch.setattr(
        accelerate.Accelerator, "init_trackers", lambda *_, init_kwargs, **__: given.update(init_kwargs)
    )
    monkeypatch.setattr(accelerate.Accelerator, "trackers", [], raising=False)
    finetune(augmented, split_folder, replace(config, log_with=("tensorboard",), name="mine", epochs=1))
    assert given == {"wandb": {"name": "mine"}, "trackio": {"name": "mine"}, "mlflow": {"run_name": "mine"}}
    assert "run_name" in inspect.signature(tracking.MLflowTracker).parameters  # the others pass on what they are given


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="mlflow"):
        trackers_for(("mlflow",))
    (tmp_path / "nowhere").mkdir()  # as the logs of a tracker
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="nowhere"):
        trackers_for(("nowhere",))
    assert trackers_for(()) == ()


def test_distillation_is_the_papers_divergence() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    expected = (p * (p.log() - q.log())).sum(1).mean() * 16
    assert torch.allclose(distillation_loss(student, teacher, 4.0), expected, rtol=1e-4)
    assert distillation_loss(teacher, teacher, 4.0).abs() < 1e-6


def test_the_teacher_is_the_network_without_blocks_while_they_change_nothing(augmented: nn.Module) -> None:
    images = torch.randn(2, 1, 8, 8)
    teacher = make_teacher(augmented, images)
    assert not blocks_of(teacher)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert torch.equal(teacher(images), augmented.eval()(images))
    with torch.no_grad():
        augmented.get_parameter("block.se.fc2.weight").fill_(0.3)
    teacher = make_teacher(augmented, images)
    assert blocks_of(teacher)
    assert torch.equal(teacher(images), augmented.eval()(images))


def test_with_distillation_alone_labels_play_no_part(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    one, _ = trained(augmented, split_folder, replace(config, distill=1.0, smoothing=0.0))
    two, _ = trained(augmented, split_folder, replace(config, distill=1.0, smoothing=0.3))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_new_head_has_nothing_to_be_distilled_from(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    model = add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))
    with pytest.raises(UsageError, match="head is replaced"):
        finetune(model, split_folder, replace(config, distill=0.5))
    assert not Path(config.output).exists()


def test_too_few_images_for_an_update_are_refused_before_anything_is_written(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    with pytest.raises(DataError, match="24 training images"):
        finetune(augmented, split_folder, replace(config, grad_accum_steps=25))
    assert not Path(config.output).exists()


def test_weights_balance_classes() -> None:
    weights = balancing_weights([30, 10, 0])
    assert weights == [20 / 30, 2.0, 0.0]
    assert 30 * weights[0] == 10 * weights[1]
    objective = Objective(nn.CrossEntropyLoss(torch.tensor(weights), reduction="none"))
    logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    each = F.cross_entropy(logits, labels, reduction="none")
    expected = (each[:3].sum() * weights[0] + each[3:].sum() * weights[1]) / 6
    assert torch.allclose(objective.loss(logits, labels, logits), expected)


def test_rates_fall_from_layer_to_layer() -> None:
    model = load("timm:test_resnet")
    set_trainable(model, Phase("all", 0, 1), (), {name for name, _ in model.named_parameters()})
    groups = param_groups(model, (), FinetuneConfig(lr=1.0, lr_backbone_mult=1.0, layer_decay=0.5))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    by_name = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert by_name["fc.weight"] == 1.0
    assert by_name["conv1.0.weight"] < by_name["layer1.0.conv1.weight"] < by_name["layer4.0.conv1.weight"] <= 1.0


@pytest.mark.parametrize("source", ["timm:test_resnet", "torchvision:resnet18"])
def test_what_is_new_learns_at_its_own_rate_in_every_layer(source: str) -> None:
    plain = load(source)
    model = add_se(plain, policy=["standard", "conv"], example_inputs=torch.zeros(1, 3, 32, 32))
    names = {name for name, _ in model.named_parameters()}
    new = blocks_of(model)
    set_trainable(model, Phase("all", 0, 1), new, names)
    config = FinetuneConfig(lr=1.0, lr_block_mult=3.0, lr_backbone_mult=1.0, layer_decay=0.5)
    rates = [
        {id(parameter): group["lr"] for group in param_groups(network, paths, config) for parameter in group["params"]}
        for network, paths in ((model, new), (plain, ()))
    ]
    with_blocks, without = (
        {name: of[id(parameter)] for name, parameter in network.named_parameters()}
        for network, of in zip((model, plain), rates, strict=True)
    )
    assert {with_blocks[name] for name in names if is_within_any(name, new)} == {3.0}
    assert {name: with_blocks[name] for name in without} == without  # the others as if there were none


def test_an_optimiser_that_is_unusable_without_a_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.optim.kron.has_opt_einsum", False)
    with pytest.raises(UsageError, match="opt_einsum"):
        check_optimizer(FinetuneConfig(opt="kron"), torch.device("cpu"))


def test_the_network_knows_what_it_was_trained_on_though_its_average_is_kept(
    augmented: nn.Module, class_folder: Path, config: FinetuneConfig
) -> None:
    finetune(augmented, class_folder, replace(config, model_ema=True))
    assert [record["command"] for record in provenance_of(augmented).history][-1] == "finetune"
    assert evaluate(augmented, class_folder).images == 4  # held out, of 20
