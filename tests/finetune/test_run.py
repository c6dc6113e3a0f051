from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from sesurgeon.errors import DataError, OutputError, SesurgeonError, UsageError
from sesurgeon.finetune import (
    EpochFinished,
    EvaluationStep,
    Event,
    FinetuneConfig,
    Phase,
    PhaseStarted,
    RunStarted,
    TrainStep,
    evaluate,
    finetune,
    open_data,
    open_held_out,
)
from sesurgeon.finetune.task import make_task
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance, provenance_of
from sesurgeon.models.sources.source import Source
from sesurgeon.surgery import add_se, load

MakeNet = Callable[..., nn.Module]
Settings = Callable[..., FinetuneConfig]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    def make(**changes: object) -> FinetuneConfig:
        small = FinetuneConfig(
            epochs=2, freeze_epochs=1, batch_size=8, workers=0, device="cpu", output=str(tmp_path / "runs"), log_with=()
        )
        return replace(small, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def augmented(make_net: MakeNet) -> nn.Module:
    """The small network with an SE block in its residual branch."""
    return add_se(make_net(), example_inputs=torch.zeros(1, 1, 8, 8))


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_the_frozen_phase_leaves_the_backbone_bit_for_bit(
    augmented: nn.Module, split_folder: Path, settings: Settings
) -> None:
    before = _state(augmented)
    finetune(augmented, split_folder, settings(epochs=2, freeze_epochs=2, lr=0.1))
    changed = _changed(before, augmented)
    assert changed
    assert all(".se." in name for name in changed)


def test_the_second_phase_trains_everything(augmented: nn.Module, split_folder: Path, settings: Settings) -> None:
    before = _state(augmented)
    finetune(augmented, split_folder, settings(epochs=3, freeze_epochs=1))
    assert {"stem.weight", "bn.running_mean", "block.conv.weight", "fc.weight"} <= _changed(before, augmented)


def test_one_seed_gives_the_same_weights(augmented: nn.Module, split_folder: Path, settings: Settings) -> None:
    start = _state(augmented)
    finetune(augmented, split_folder, settings())
    once = _state(augmented)
    augmented.load_state_dict(start)
    torch.manual_seed(99)  # what the caller did before plays no part
    for parameter in augmented.parameters():
        parameter.grad = torch.ones_like(parameter)
    finetune(augmented, split_folder, settings())
    assert _changed(once, augmented) == set()
    augmented.load_state_dict(start)
    finetune(augmented, split_folder, settings(seed=1))
    assert _changed(once, augmented) != set()


@pytest.mark.parametrize("train", ["all", "blocks"])
def test_the_callers_flags_and_random_state_come_back(
    augmented: nn.Module, split_folder: Path, settings: Settings, train: str
) -> None:
    augmented.train()
    augmented.get_submodule("bn").eval()
    augmented.get_parameter("stem.weight").requires_grad_(False)
    flags = [module.training for module in augmented.modules()]
    attributes = set(vars(augmented))
    state, weight = torch.get_rng_state(), augmented.get_parameter("stem.weight").clone()
    finetune(augmented, split_folder, settings(train=train))
    assert [module.training for module in augmented.modules()] == flags
    assert not augmented.get_parameter("stem.weight").requires_grad
    assert all(augmented.get_parameter(name).requires_grad for name in ("fc.weight", "block.conv.weight"))
    assert torch.equal(augmented.get_parameter("stem.weight"), weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(vars(augmented)) - attributes <= {"_sesurgeon_provenance"}


def test_the_run_folder(split_folder: Path, settings: Settings) -> None:
    model = add_se(load(Source.parse("timm:test_resnet", {"in_chans": 1, "num_classes": 2})))
    result = finetune(model, split_folder, settings(name="digits", img_size=32))
    folder = result.folder
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "args.yaml",
        "best.pt",
        "confusion.png",
        "curve.png",
        "last.pt",
        "metrics.json",
        "mistakes.png",
        "plan.yaml",
        "report.md",
        "states",
        "summary.csv",
    ]
    args = yaml.safe_load((folder / "args.yaml").read_text())
    assert args["model"] == "timm:test_resnet"
    assert args["data"] == str(split_folder)
    assert (args["epochs"], args["name"], args["lr"]) == (2, "digits", 1e-3)

    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "eval_balanced", "lr"]
    assert [row["epoch"] for row in rows] == ["-1", "0", "1"]
    assert (rows[0]["train_loss"], rows[0]["lr"]) == ("", "")
    assert [float(row["eval_top1"]) for row in rows] == [row.scores["top1"] for row in result.rows]

    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["before"]["epoch"] == -1
    assert metrics["best"]["eval_top1"] == max(row.scores["top1"] for row in result.rows)
    assert [score["name"] for score in metrics["best_per_class"]] == ["left", "right"]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")

    last = load(result.last)
    assert _changed(_state(model), last) == set()
    provenance = provenance_of(last)
    assert provenance.classes == ("left", "right")
    assert provenance.preprocessing is not None
    assert provenance.preprocessing.input_size == (1, 32, 32)
    assert provenance.history[-1]["command"] == "finetune"
    assert provenance.history[-1]["epoch"] == 1
    assert evaluate(load(result.best), split_folder, workers=0).top1 == result.best_row.scores["top1"]


def test_a_run_remembers_what_it_held_out(augmented: nn.Module, class_folder: Path, settings: Settings) -> None:
    data = open_data(class_folder, val_split=0.3, seed=5)
    result = finetune(augmented, data, settings(epochs=1))
    assert open_held_out(load(result.last, trust_pickle=True), class_folder).val == data.val


def test_nothing_gets_worse(augmented: nn.Module, split_folder: Path, settings: Settings) -> None:
    finetune(augmented, split_folder, settings(epochs=6, lr=0.03, lr_backbone_mult=1.0))
    good = evaluate(augmented, split_folder, workers=0)
    before = _state(augmented)
    result = finetune(augmented, split_folder, settings(epochs=1, freeze_epochs=0, opt="sgd", lr=30.0))
    assert good.top1 > 80
    assert result.best_row.scores["top1"] >= good.top1
    if result.best_row.epoch == -1:
        assert _changed(before, load(result.best, trust_pickle=True)) == set()


def test_runs_are_numbered_and_named_ones_kept(augmented: nn.Module, split_folder: Path, settings: Settings) -> None:
    config = settings(epochs=1, freeze_epochs=0)
    assert [finetune(augmented, split_folder, config).folder.name for _ in range(3)] == [
        "exp",
        "exp2",
        "exp3",
    ]
    named = replace(config, name="mine")
    folder = finetune(augmented, split_folder, named).folder
    (folder / "notes.txt").write_text("mine")
    old = [folder / name for name in ("teacher.pt", "states/epoch-00009-update-00000000.pt", "states/1.pt.torn")]
    for file in old:
        file.write_bytes(b"of the run before")
    before = _state(augmented)
    with pytest.raises(OutputError, match="mine exists already"):
        finetune(augmented, split_folder, named)
    assert _changed(before, augmented) == set()
    finetune(augmented, split_folder, replace(named, force=True))
    assert (folder / "notes.txt").read_text() == "mine"
    assert not any(file.exists() for file in old)


def test_the_head_is_replaced_when_the_classes_differ(
    make_net: MakeNet, split_folder: Path, settings: Settings
) -> None:
    model = add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))
    events: list[Event] = []
    result = finetune(model, split_folder, settings(epochs=1, freeze_epochs=1), on_progress=events.append)
    assert model.get_submodule("fc").out_features == 2
    assert provenance_of(model).num_classes == 2
    assert provenance_of(model).classes == ("left", "right")
    assert result.task.head == "fc"
    assert (result.config.lr_block_mult, result.config.lr_backbone_mult) == (1.0, 1.0)
    started = next(event for event in events if isinstance(event, RunStarted))
    assert "fc with 5 outputs" in started.task.notes[0]
    blocks = next(event for event in events if isinstance(event, PhaseStarted))
    assert blocks.trained == sum(
        parameter.numel() for name, parameter in model.named_parameters() if name.startswith("fc.") or ".se." in name
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 2}, "The new parts learn at a rate of 0.001, the rest at 0.001."),
        ({"epochs": 2, "lr_block_mult": 5.0}, "The new parts learn at a rate of 0.005, the rest at 0.001."),
        ({"epochs": 2, "layer_decay": 0.5}, "The new parts learn at a rate of 0.001, the rest at 0.001, lower layers"),
        ({"epochs": 1}, "The new parts learn at a rate of 0.001."),
        ({"epochs": 2, "train": "blocks"}, "The new parts learn at a rate of 0.001."),
    ],
)
def test_with_a_new_head_the_rates_are_said(
    make_net: MakeNet, split_folder: Path, settings: Settings, options: dict[str, object], said: str
) -> None:
    model = add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))
    config = settings(**{"freeze_epochs": 1, "lr": 0.001, **options})
    notes = make_task(model, open_data(split_folder), config).notes
    assert next(note for note in notes if note.startswith("The new parts learn")).startswith(said)


def test_a_checkpoint_with_blocks_and_a_new_head_loads(
    make_net: MakeNet, split_folder: Path, settings: Settings
) -> None:
    model = add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))
    result = finetune(model, split_folder, settings(epochs=1))
    assert _changed(_state(model), load(result.last, trust_pickle=True)) == set()


def test_known_classes_in_another_order_keep_the_head(
    make_net: MakeNet, split_folder: Path, settings: Settings
) -> None:
    model = make_net()
    attach_provenance(model, Provenance(Source("module"), classes=("right", "left")))
    result = finetune(model, split_folder, settings(epochs=1))
    assert result.task.head is None
    assert result.task.classes == ("right", "left")
    assert result.task.labels == (1, 0)


def test_as_many_but_other_classes_get_a_new_head(make_net: MakeNet, split_folder: Path, settings: Settings) -> None:
    model = make_net()
    attach_provenance(model, Provenance(Source("module"), classes=("cat", "dog")))
    assert finetune(model, split_folder, settings(epochs=1)).task.head == "fc"


def test_with_nothing_new_there_is_one_phase(make_net: MakeNet, split_folder: Path, settings: Settings) -> None:
    result = finetune(make_net(), split_folder, settings(epochs=2, freeze_epochs=1))
    assert result.task.phases == (Phase("all", 0, 2),)
    assert "no inserted blocks" in result.task.notes[0]
    assert not (result.folder / "plan.yaml").exists()


def test_events_tell_the_run(augmented: nn.Module, split_folder: Path, settings: Settings) -> None:
    events: list[Event] = []
    result = finetune(augmented, split_folder, settings(), on_progress=events.append)
    told = [event for event in events if not isinstance(event, EvaluationStep)][24 + 12 :]
    kinds = [type(event).__name__ for event in told]
    epoch = ["TrainStep"] * 3 + ["EpochFinished", "StateWritten"]
    start = ["RunStarted", "EpochFinished", "BlocksCalibrated", "StateWritten"]
    assert kinds == [*start, "PhaseStarted", *epoch, "PhaseStarted", *epoch]
    assert [event.row for event in told if isinstance(event, EpochFinished)] == list(result.rows)
    steps = [event for event in told if isinstance(event, TrainStep)]
    assert [(event.epoch, event.step, event.steps) for event in steps[:4]] == [
        (0, 1, 3),
        (0, 2, 3),
        (0, 3, 3),
        (1, 1, 3),
    ]
    assert steps[2].loss == result.rows[1].train_loss
    assert steps[0].lr == steps[3].lr == 5e-3


def test_an_interrupt_leaves_the_last_whole_epoch(augmented: nn.Module, split_folder: Path, settings: Settings) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, TrainStep) and (event.epoch, event.step) == (2, 2):
            raise KeyboardInterrupt

    config = settings(epochs=4, name="stopped")
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, config, on_progress=interrupt)
    folder = Path(config.output) / "stopped"
    assert provenance_of(load(folder / "last.pt", trust_pickle=True)).history[-1]["epoch"] == 1
    assert len((folder / "summary.csv").read_text().splitlines()) == 4
    assert (folder / "curve.png").exists()
    assert [path.name for path in folder.glob(".*")] == [".lock"]


class Auxiliary(nn.Module):
    """Gives a tuple in train mode, as Inception and GoogLeNet do."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.body(x)
        return (logits, logits.detach()) if self.training else logits


def test_a_tuple_in_train_mode_is_trained_by_its_first_entry(
    make_net: MakeNet, split_folder: Path, settings: Settings
) -> None:
    model = Auxiliary(make_net())
    before = _state(model)
    finetune(model, split_folder, settings(epochs=1))
    assert "body.fc.weight" in _changed(before, model)


def test_a_batch_of_one_is_left_out(
    make_net: MakeNet, tmp_path: Path, fill: Callable[..., Path], settings: Settings
) -> None:
    root = tmp_path / "odd"
    fill(root / "train", ("left",), 5)
    fill(root / "train", ("right",), 4)
    fill(root / "val", ("left", "right"), 2)
    norm_on_vectors = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    events: list[Event] = []
    finetune(norm_on_vectors, root, settings(epochs=1), on_progress=events.append)
    assert [event.steps for event in events if isinstance(event, TrainStep)] == [1]


def test_data_errors_come_before_the_run_folder(make_net: MakeNet, settings: Settings) -> None:
    config = settings()
    with pytest.raises(DataError):
        finetune(make_net(), "nowhere", config)
    assert not Path(config.output).exists()


def test_a_folder_that_cannot_be_made(
    make_net: MakeNet, split_folder: Path, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        finetune(make_net(), split_folder, settings(output=str(tmp_path / "taken")))


def test_a_model_that_is_all_frozen(make_net: MakeNet, split_folder: Path, settings: Settings) -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        finetune(make_net().requires_grad_(False), split_folder, settings())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(make_net: MakeNet, split_folder: Path, settings: Settings) -> None:
    config = settings(device="cuda")
    with pytest.raises(UsageError, match="device cuda"):
        finetune(make_net(), split_folder, config)
    assert not Path(config.output).exists()


def test_the_checkpoints_preprocessing_is_kept(make_net: MakeNet, split_folder: Path, settings: Settings) -> None:
    model = make_net()
    known = Preprocessing((1, 12, 12), (0.1,), (0.9,), "bilinear", 0.9)
    attach_provenance(model, Provenance(Source("module"), preprocessing=known))
    result = finetune(model, split_folder, settings(epochs=1))
    assert result.task.preprocessing == known
    assert provenance_of(model).preprocessing == known


def test_digits_are_learned(tmp_path: Path, make_net: MakeNet, settings: Settings) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits(n_class=3)
    for number, (pixels, label) in enumerate(zip(digits.images[:240], digits.target[:240], strict=True)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).astype("uint8")).save(folder / f"{number}.png")
    torch.manual_seed(0)  # of the blocks' first layers
    model = add_se(make_net(3), example_inputs=torch.zeros(1, 1, 8, 8))
    result = finetune(model, tmp_path / "digits", settings(epochs=5, lr=0.01, lr_backbone_mult=2.0, batch_size=16))
    assert result.best_row.scores["top1"] > 90
    assert result.rows[0].scores["top1"] < 60


def test_a_process_that_went_before_the_run_began_is_told_in_words(
    augmented: nn.Module, split_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: object, **options: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1")

    monkeypatch.setattr(sys.modules["sesurgeon.finetune.run"], "open_data", gone)
    with pytest.raises(SesurgeonError, match="Another process of the run has ended"):
        finetune(augmented, split_folder, settings())
