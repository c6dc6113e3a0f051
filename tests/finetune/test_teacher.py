"""Distillation from another network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from finetune_nets import TinyNet
from torch import Tensor, nn

from sesurgeon.errors import DataError, UnreadableFileError, UsageError
from sesurgeon.finetune import Event, FinetuneConfig, TrainStep, finetune
from sesurgeon.finetune.scoring.forward import main_logits
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.training import objective
from sesurgeon.finetune.training.teacher import columns_of
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance, provenance_of
from sesurgeon.surgery import add_se, load

MakeNet = Callable[..., TinyNet]
SEEN = Preprocessing((1, 8, 8), (0.5,), (0.5,))


def knowing(net: nn.Module, classes: tuple[str, ...] | None, **changes: object) -> nn.Module:
    """A teacher of other weights that knows these classes."""
    attach_provenance(net, replace(provenance_of(net), **{"classes": classes, "preprocessing": SEEN, **changes}))  # type: ignore[arg-type]
    torch.manual_seed(7)
    nn.init.normal_(net.get_parameter("fc.weight"), std=2.0)
    return net.eval()


@pytest.fixture
def config(config: FinetuneConfig) -> FinetuneConfig:
    return replace(config, distill=1.0, kd_temperature=1.0)


def test_a_new_head_learns_from_another_network(make_net: MakeNet, split_folder: Path, config: FinetuneConfig) -> None:
    teacher = knowing(make_net(2), ("left", "right"))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))
    events: list[Event] = []
    result = finetune(
        student, split_folder, replace(config, epochs=8, lr=0.02), teacher=teacher, on_progress=events.append
    )
    assert provenance_of(student).classes == ("left", "right")
    assert "1 of the loss is the distance from the outputs of another network, a TinyNet." in result.task.notes
    assert result.rows[-1].train_loss < 0.5 * result.rows[1].train_loss
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    kept = load(result.folder / "teacher.pt", trust_pickle=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.state_dict().items())


def test_labels_count_though_the_network_itself_knows_none_of_the_classes(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    student = knowing(make_net(3), ("a", "b", "c"))
    result = finetune(student, split_folder, config, teacher=knowing(make_net(2), ("left", "right")))
    assert result.task.classes == ("left", "right")
    assert result.metric == "top1"


def test_its_outputs_are_taken_by_the_names_of_classes(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = knowing(make_net(4), ("up", "right", "down", "left"))
    seen: list[tuple[Tensor, Tensor]] = []
    original = objective.distillation_loss

    def watch(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        seen.append((images[-1], wanted))
        return original(logits, wanted, temperature)

    images: list[Tensor] = []
    student = make_net(5)
    student.register_forward_pre_hook(lambda _, given: images.append(given[0].clone()))
    monkeypatch.setattr(objective, "distillation_loss", watch)
    finetune(student, split_folder, replace(config, epochs=1), teacher=teacher)
    assert seen
    for image, wanted in seen:
        assert torch.equal(wanted, main_logits(teacher(image))[:, [3, 1]])


@pytest.mark.parametrize("classes", [("left", "right"), None])
def test_it_is_stopped_and_resumed_bit_for_bit(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig, classes: tuple[str, ...] | None
) -> None:
    teacher = knowing(make_net(2), classes)

    def student() -> nn.Module:
        torch.manual_seed(3)
        return add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))

    def stop(event: Event) -> None:
        if isinstance(event, TrainStep) and event.epoch == 1:
            raise KeyboardInterrupt

    config = replace(config, distill=0.7)
    whole = finetune(student(), split_folder, replace(config, name="whole"), teacher=teacher).folder
    with pytest.raises(KeyboardInterrupt):
        finetune(student(), split_folder, replace(config, name="torn"), teacher=teacher, on_progress=stop)
    torn = Path(config.output) / "torn"
    assert yaml.safe_load((torn / "args.yaml").read_text())["teacher"] == "factory:finetune_nets:TinyNet"
    with pytest.raises(UsageError, match="distilled from another network"):
        finetune(load(torn / "last.pt", trust_pickle=True), split_folder, resume=torn)
    another = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(UnreadableFileError, match=r"teacher\.pt"):
        finetune(load(torn / "last.pt", trust_pickle=True), split_folder, resume=torn, teacher=another)
    if classes is not None:
        other = knowing(make_net(2), classes[::-1])
        with pytest.raises(UsageError, match=r"names other classes than the one that the run had.\nGive .*teacher\.pt"):
            finetune(load(torn / "last.pt", trust_pickle=True), split_folder, resume=torn, teacher=other)
    again = make_net(2)  # of other weights, which do not count
    attach_provenance(again, provenance_of(teacher))
    finetune(load(torn / "last.pt", trust_pickle=True), split_folder, resume=torn, teacher=again)
    ours, theirs = (load(run / "last.pt", trust_pickle=True).state_dict() for run in (whole, torn))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_teacher_in_half_precision_is_fed_so(make_net: MakeNet, split_folder: Path, config: FinetuneConfig) -> None:
    teacher = knowing(make_net(2), ("left", "right")).bfloat16()
    result = finetune(make_net(5), split_folder, replace(config, epochs=1), teacher=teacher)
    assert len(result.rows) == 2


def test_a_run_without_one_gets_none_when_it_is_resumed(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    result = finetune(make_net(2), split_folder, replace(config, distill=0.5))
    with pytest.raises(UsageError, match="no teacher but the network itself"):
        finetune(
            load(result.last, trust_pickle=True), split_folder, resume=result.folder, teacher=knowing(make_net(2), None)
        )


@pytest.mark.parametrize(
    ("classes", "changes", "settings", "error", "message"),
    [
        (("left", "right"), {}, {"distill": 0.0}, UsageError, r"distill \(=0\) takes nothing from it"),
        (("left", "up"), {}, {}, DataError, r"\(TinyNet\) does not fit\. .* not know these classes of the data: right"),
        (None, {}, {}, DataError, r"does not fit\. The data have 2 classes, the model has 3 outputs without names"),
        (("left", "right"), {"multi_label": True}, {}, UsageError, "differ in whether images may have several labels"),
        (
            ("left", "right"),
            {"preprocessing": replace(SEEN, mean=(0.1,))},
            {},
            UsageError,
            r"mean \(0\.1,\) .* \(0\.5,\)",
        ),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_is_written(
    make_net: MakeNet,
    split_folder: Path,
    config: FinetuneConfig,
    classes: tuple[str, ...] | None,
    changes: dict[str, object],
    settings: dict[str, float],
    error: type[Exception],
    message: str,
) -> None:
    teacher = knowing(make_net(3 if classes is None else 2), classes, **changes)
    with pytest.raises(error, match=message):
        finetune(make_net(5), split_folder, replace(config, **settings), teacher=teacher)  # type: ignore[arg-type]
    assert not Path(config.output).exists()


def test_what_cannot_be_kept_cannot_teach(make_net: MakeNet, split_folder: Path, config: FinetuneConfig) -> None:
    config = replace(config, name="run", epochs=1)
    finetune(make_net(2), split_folder, replace(config, distill=0.0))
    before = sorted(Path(config.output).rglob("*"))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    teacher.odd = lambda: None
    with pytest.raises(UsageError, match="The teacher cannot be kept"):
        finetune(make_net(5), split_folder, replace(config, force=True), teacher=teacher)
    assert sorted(Path(config.output).rglob("*")) == before


@pytest.mark.parametrize(
    ("of_teacher", "of_student", "of_data", "columns"),
    [
        (("up", "right", "left"), ("left", "right"), ("left", "right"), (2, 1)),
        (None, ("right", "left"), ("left", "right"), (1, 0)),
        (("crane", "dog", "crane"), ("crane", "dog", "crane"), ("crane", "dog", "crane"), (0, 1, 2)),
        (None, ("left", "right", "up"), ("left", "right"), None),
        (("crane", "dog", "crane"), ("dog", "crane"), ("dog", "crane"), None),
    ],
)
def test_columns_follow_names_or_else_the_order_of_the_data(
    make_net: MakeNet,
    config: FinetuneConfig,
    of_teacher: tuple[str, ...] | None,
    of_student: tuple[str, ...],
    of_data: tuple[str, ...],
    columns: tuple[int, ...] | None,
) -> None:
    teacher = knowing(make_net(len(of_teacher or of_student)), of_teacher)
    indices = tuple(range(3)) if len(set(of_data)) < len(of_data) else tuple(map(of_student.index, of_data))
    task = Task(SEEN, of_student, indices, None, frozenset(), (), (), len(of_student))
    with contextlib.nullcontext() if columns is not None else pytest.raises(DataError):
        assert columns_of(teacher, task, config) == columns


def test_nor_can_what_takes_other_images_or_is_no_network(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    with pytest.raises(DataError, match=r"The teacher \(TinyNet\) does not fit.* cannot take images of 1 x 8 x 8"):
        finetune(make_net(5), split_folder, config, teacher=make_net(2, channels=3))
    with pytest.raises(UsageError):
        finetune(make_net(5), split_folder, config, teacher="best.pt")  # type: ignore[arg-type]
    named = make_net(2)
    attach_provenance(named, Provenance(Source("module"), classes=("right", "left")))
    assert finetune(make_net(5), split_folder, replace(config, epochs=1), teacher=named).task.classes == (
        "left",
        "right",
    )
