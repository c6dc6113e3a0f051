"""A run that was stopped goes on as if it had not been, bit for bit."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from finetune_nets import weights
from torch import nn

from sesurgeon.errors import DataError, SesurgeonError, UsageError
from sesurgeon.finetune import (
    EpochFinished,
    Event,
    FinetuneConfig,
    RunResumed,
    StateWritten,
    TrainStep,
    finetune,
    newest_run,
    resumed_config,
)
from sesurgeon.finetune.keeping.states import newest_state
from sesurgeon.surgery import add_se, load

MakeNet = Callable[..., nn.Module]
EVERYTHING = {
    "clip_grad": 1.0,
    "grad_accum_steps": 2,
    "mixup": 0.2,
    "cutmix": 1.0,
    "smoothing": 0.1,
    "aa": "rand-m9-mstd0.5",
    "reprob": 0.3,
    "model_ema": True,
    "model_ema_decay": 0.9,
    "warmup_epochs": 0.5,
    "balanced_sampling": True,
    "class_weights": True,
    "layer_decay": 0.8,
    "lr": 0.01,
}


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """None is ignored, whatever the tests run under."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def config(config: FinetuneConfig) -> FinetuneConfig:
    return replace(config, epochs=3, batch_size=4)


class Stopping:
    """Interrupts at a step, as a person, a cluster or a power cut would."""

    def __init__(self, epoch: int, step: int, how: Callable[[], None]) -> None:
        self.at = (epoch, step)
        self.how = how
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, TrainStep) and (event.epoch, event.step) == self.at:
            self.how()


def kill() -> None:
    """What a killed process leaves behind is what it had written by then."""
    raise KeyboardInterrupt


def ask(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def assert_same(one: Path, other: Path) -> None:
    for name in ("last.pt", "best.pt"):
        ours, theirs = weights(one / name), weights(other / name)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (one / "summary.csv").read_text() == (other / "summary.csv").read_text()


def resume(folder: Path, data: Path, **changes: object) -> list[Event]:
    settings = yaml.safe_load((folder / "args.yaml").read_text())
    events: list[Event] = []
    finetune(
        load(folder / "last.pt", trust_pickle=True),
        data,
        resumed_config(settings, changes),
        resume=folder,
        on_progress=events.append,
    )
    return events


@pytest.mark.parametrize("step", [(0, 2), (1, 1), (1, 6), (2, 3)])
@pytest.mark.parametrize("how", [ask, kill], ids=["asked", "killed"])
def test_a_stopped_run_goes_on_bit_for_bit(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, step: tuple[int, int], how: Callable[[], None]
) -> None:
    start = {name: value.clone() for name, value in augmented.state_dict().items()}
    whole = finetune(augmented, split_folder, replace(config, name="whole")).folder
    augmented.load_state_dict(start)
    stopping = Stopping(*step, how)
    torn = replace(config, name="torn", checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, torn, on_progress=stopping)
    folder = Path(config.output) / "torn"
    if how is ask:
        [last] = [event for event in stopping.events if isinstance(event, StateWritten)][-1:]
        assert (last.epoch, last.update) == (step if step[1] < 6 else (step[0], 6))
    events = resume(folder, split_folder)
    assert any(isinstance(event, RunResumed) for event in events)
    assert_same(whole, folder)


def test_rates_that_a_new_head_asks_for_stay(make_net: MakeNet, split_folder: Path, config: FinetuneConfig) -> None:
    """A program resumes with the settings that it started with, which leave the rates open."""
    folders = []
    for name in ("whole", "torn"):
        torch.manual_seed(0)
        net = add_se(make_net(5), example_inputs=torch.zeros(1, 1, 8, 8))
        run = replace(config, name=name)
        folders.append(Path(config.output) / name)
        if name == "whole":
            finetune(net, split_folder, run)
            continue
        with pytest.raises(KeyboardInterrupt):
            finetune(net, split_folder, run, on_progress=Stopping(1, 3, ask))
        finetune(load(folders[-1] / "last.pt", trust_pickle=True), split_folder, run, resume=folders[-1])
    assert yaml.safe_load((folders[1] / "args.yaml").read_text())["lr_backbone_mult"] == 1.0
    assert_same(*folders)


def test_with_everything_random_and_averaged_at_once(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    config = replace(config, **EVERYTHING)
    start = {name: value.clone() for name, value in augmented.state_dict().items()}
    whole = finetune(augmented, split_folder, replace(config, name="whole")).folder
    augmented.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, replace(config, name="torn"), on_progress=Stopping(1, 2, ask))
    resume(Path(config.output) / "torn", split_folder)
    assert_same(whole, Path(config.output) / "torn")


def test_with_a_new_head_and_a_teacher(make_net: MakeNet, split_folder: Path, config: FinetuneConfig) -> None:
    for name, classes, settings in (("head", 5, {}), ("teacher", 2, {"distill": 0.5})):
        changed = replace(config, **settings)
        net = add_se(make_net(classes), example_inputs=torch.zeros(1, 1, 8, 8))
        other = copy.deepcopy(net)
        whole = finetune(other, split_folder, replace(changed, name=f"{name}-whole")).folder
        with pytest.raises(KeyboardInterrupt):
            finetune(net, split_folder, replace(changed, name=name), on_progress=Stopping(1, 2, ask))
        resume(Path(config.output) / name, split_folder)
        assert_same(whole, Path(config.output) / name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_are_requests_too_and_handlers_come_back(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, number: int
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, config, on_progress=Stopping(0, 1, lambda: ask(number)))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    found = newest_state(newest_run(Path(config.output)) / "states")
    assert found is not None
    assert (found.state.epoch, found.state.update) == (0, 1)


def test_a_stop_during_an_evaluation_is_heeded_at_once(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    whole = finetune(augmented, split_folder, replace(config, name="whole")).folder
    net = load(whole / "last.pt", trust_pickle=True)
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        evaluating = type(event).__name__ == "EvaluationStep"
        if evaluating and isinstance(events[-2], TrainStep) and events[-2].epoch == 1:
            ask()

    with pytest.raises(KeyboardInterrupt):
        finetune(net, split_folder, replace(config, name="torn"), on_progress=stop)
    assert max(event.row.epoch for event in events if isinstance(event, EpochFinished)) == 0
    folder = Path(config.output) / "torn"
    found = newest_state(folder / "states")
    assert found is not None
    assert (found.state.epoch, found.state.update) == (1, 6)
    rows = [event.row.epoch for event in resume(folder, split_folder) if isinstance(event, EpochFinished)]
    assert rows == [1, 2]


def test_a_torn_state_is_passed_over_and_said(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, config, on_progress=Stopping(2, 2, ask))
    folder = newest_run(Path(config.output))
    newest = max((folder / "states").glob("*.pt"))
    with zipfile.ZipFile(newest) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(newest.read_bytes())
    content[largest.header_offset + 500] ^= 1  # one bit, in the middle of it
    newest.write_bytes(content)
    [resumed] = [event for event in resume(folder, split_folder) if isinstance(event, RunResumed)]
    assert resumed.torn == (newest.with_name(f"{newest.name}.torn"),)
    assert resumed.torn[0].read_bytes() == content
    assert (resumed.epoch, resumed.update) == (2, 0)


def test_what_a_killed_process_was_writing_is_cleared_away(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, config, on_progress=Stopping(1, 2, ask))
    folder = newest_run(Path(config.output))
    litter = [folder / ".last-00ab12cd.pt", folder / "states" / ".epoch-00001-update-00000003-00ab12cd.pt"]
    own = folder / ".last-try.pt"
    for file in (*litter, own):
        file.write_bytes(b"half")
    resume(folder, split_folder)
    assert not any(file.exists() for file in litter)
    assert own.exists()


def test_more_epochs_go_on_with_the_longer_schedule(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    folder = finetune(augmented, split_folder, config).folder
    events = resume(folder, split_folder, epochs=5)
    rows = [event.row for event in events if isinstance(event, EpochFinished)]
    assert [row.epoch for row in rows] == [3, 4]
    rates = [event.lr for event in events if isinstance(event, TrainStep)]
    # the second phase has 4 epochs now, of which 2 are done: its cosine is in the middle
    assert rates[0] == pytest.approx(5e-3 * 0.5)
    assert rates == sorted(rates, reverse=True)
    assert len((folder / "summary.csv").read_text().splitlines()) == 1 + 6
    assert yaml.safe_load((folder / "args.yaml").read_text())["epochs"] == 5


def test_fewer_epochs_end_a_run_within_the_frozen_ones(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    config = replace(config, epochs=4, freeze_epochs=3)
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, config, on_progress=Stopping(1, 2, ask))
    events = resume(newest_run(Path(config.output)), split_folder, epochs=2)
    assert [(event.row.epoch, event.row.phase) for event in events if isinstance(event, EpochFinished)] == [
        (1, "blocks")
    ]


def test_a_finished_run_that_is_resumed_changes_nothing(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    folder = finetune(augmented, split_folder, config).folder
    before = weights(folder / "last.pt")
    assert not any(isinstance(event, TrainStep) for event in resume(folder, split_folder))
    after = weights(folder / "last.pt")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_does_not_end_before_where_it_stands(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    folder = finetune(augmented, split_folder, replace(config, epochs=3)).folder
    with pytest.raises(UsageError, match=r"epochs \(=2\) is less than the 3 "):
        resume(folder, split_folder, epochs=2)
    assert yaml.safe_load((folder / "args.yaml").read_text())["epochs"] == 3


def test_other_settings_and_other_images_are_refused(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    folder = finetune(augmented, split_folder, config).folder
    with pytest.raises(UsageError, match=r"lr \(=0.5, the run has 0.001\)"):
        resume(folder, split_folder, lr=0.5)
    (split_folder / "train" / "left" / "000.png").unlink()
    with pytest.raises(DataError, match="train: 24 then, 23 now"):
        resume(folder, split_folder, epochs=5)


def test_nothing_to_resume_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run in"):
        newest_run(tmp_path)


def test_a_disk_that_is_full_keeps_the_last_good_state(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finetune(augmented, split_folder, replace(config, name="whole")).folder
    net = load(whole / "last.pt", trust_pickle=True)
    real = torch.save
    written = 0

    def fails(content: object, path: Path) -> None:
        nonlocal written
        written += 1
        real(content, path)
        if written >= 6:
            with path.open("r+b") as file:
                file.truncate(100)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(SesurgeonError, match="No space left"):
        finetune(net, split_folder, replace(config, name="full"))
    monkeypatch.undo()
    folder = Path(config.output) / "full"
    assert [path.name for path in folder.rglob(".*")] == [".lock"]
    found = newest_state(folder / "states")
    assert found is not None
    assert found.torn == ()
    weights(folder / "last.pt")
    resume(folder, split_folder)
    assert len((folder / "summary.csv").read_text().splitlines()) == 1 + 4


def test_a_reading_process_that_dies_is_named(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    def kill_readers() -> None:
        for process in multiprocessing.active_children():
            process.kill()

    stopping = Stopping(1, 2, kill_readers)
    with pytest.raises(DataError, match="A process that reads images died") as caught:
        finetune(augmented, split_folder, replace(config, workers=1, name="torn"), on_progress=stopping)
    assert "--workers" in (caught.value.hint or "")
    folder = Path(config.output) / "torn"
    resume(folder, split_folder, workers=0)
    assert len((folder / "summary.csv").read_text().splitlines()) == 1 + 4


def test_an_image_that_is_gone_is_named_whoever_reads_it(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    whole = {file: file.read_bytes() for file in (split_folder / "train").rglob("*.png")}

    def lose() -> None:
        for file in whole:
            file.write_bytes(b"")

    for workers in (0, 2):
        fresh = copy.deepcopy(augmented)
        with pytest.raises(DataError) as caught:
            finetune(fresh, split_folder, replace(config, workers=workers), on_progress=Stopping(0, 6, lose))
        assert caught.value.message.startswith("The image ")
        assert "cannot be read any more" in caught.value.message
        assert "Traceback" not in caught.value.message
        assert multiprocessing.active_children() == []  # which would outlive the command by their grace
        for file, content in whole.items():
            file.write_bytes(content)


class Mark:
    """Leaves a folder behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return leave_a_mark, (self.path,)


def leave_a_mark(path: Path) -> None:
    path.mkdir()


def test_no_file_in_the_folder_gets_to_run_code(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, replace(config, name="torn", distill=0.5), on_progress=Stopping(1, 1, ask))
    folder, mark = Path(config.output) / "torn", tmp_path / "the-payload-ran"
    for name in ("best.pt", "teacher.pt"):
        content = torch.load(folder / name, weights_only=False)
        torch.save({**content, "more": Mark(mark)}, folder / name)
    resume(folder, split_folder, lr=config.lr)
    assert not mark.exists()
    torch.load(folder / "teacher.pt", weights_only=False)
    assert mark.exists()  # which shows that it would have
