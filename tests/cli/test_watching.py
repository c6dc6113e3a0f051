"""What a run looks like on a terminal and in a pipe."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from sesurgeon.cli.shown.console import Output
from sesurgeon.cli.shown.narrating import Narrator
from sesurgeon.cli.shown.watching import Watcher
from sesurgeon.demo import BaseEpoch, StepFinished, StepStarted
from sesurgeon.finetune import (
    BadImage,
    Data,
    EpochFinished,
    EpochRow,
    EvaluationStep,
    Event,
    ImagesChecked,
    NotResumable,
    Phase,
    PhaseStarted,
    RunResumed,
    RunStarted,
    StateWritten,
    TrainStep,
)
from sesurgeon.finetune.data.images import FileImages
from sesurgeon.finetune.task import Task
from sesurgeon.models import Preprocessing


def images(number: int) -> FileImages:
    return FileImages(tuple(Path(f"{index}.png") for index in range(number)), (0,) * number)


def events() -> list[Event]:
    phase = Phase("blocks", 0, 1)
    bad = tuple(BadImage(Path(f"bad{index}.png"), "torn") for index in range(7))
    data = Data("photos", ("cat", "dog"), images(4), images(12), 0.25, 7, bad)
    task = Task(
        Preprocessing((3, 32, 32), (), ()), ("cat", "dog"), (0, 1), None, frozenset(), (phase,), ("Mind it.",), 2
    )
    return [
        ImagesChecked(5, 16),
        RunStarted(Path("runs/exp"), data, task),
        EvaluationStep(1, 2),
        EpochFinished(EpochRow(-1, "", None, {"loss": 0.5, "top1": 75.0, "top5": 100.0}, None), True),
        PhaseStarted(phase, 1500, 20000),
        TrainStep(0, 1, 3, 0.25, 1e-3),
        TrainStep(0, 3, 3, 0.125, 1e-3),
        EpochFinished(EpochRow(0, "blocks", 0.125, {"loss": 0.25, "top1": 100.0, "top5": 100.0}, 1e-3), True),
    ]


def shown(*, terminal: bool, quiet: bool = False, width: int = 100) -> str:
    """All that is written, each state of the bars included."""
    file = io.StringIO()
    notes = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    out = Output(Console(file=io.StringIO()), notes, False, quiet)
    with out.progress() as progress:
        watcher = Watcher(out, progress, epochs=2)
        for event in events():
            watcher(event)
            progress.refresh()
        watcher.say_what_is_kept()
    return file.getvalue()


def test_a_pipe_gets_lines_alone() -> None:
    lines = shown(terminal=False).splitlines()
    images = "12 training and 4 validation images (25 % held out, seed 7)"
    assert lines[0] == f"photos: {images}, 2 classes, seen as 3x32x32."
    assert lines[1] == "Warning: 7 unreadable images are left out:"
    assert lines[2:8] == [*(f"  bad{index}.png: torn" for index in range(5)), "  … and 2 more; --json lists all."]
    assert lines[8:10] == ["Mind it.", "The run is kept in runs/exp"]
    assert lines[10].split() == ["before", "training", "val", "loss", "0.5000", "top-1", "75.00", "%"]
    assert lines[11] == "1 epoch, new parts: 1,500 of 20,000 parameters are trained."
    assert lines[12].startswith("epoch 1/2      loss 0.1250  val loss 0.2500  top-1 100.00 %  ")
    assert lines[12].endswith(" images/s  best")
    assert lines[13:] == ["Kept: runs/exp/last.pt, the state after epoch 1 of 2."]


def said_of(*seen: Event) -> list[str]:
    """What is said after an interrupt that came after these events of a run of two epochs."""
    file = io.StringIO()
    out = Output(Console(file=io.StringIO()), Console(file=file, width=200), False, False)
    with out.progress() as progress:
        watcher = Watcher(out, progress, epochs=2)
        for event in seen:
            watcher(event)
        file.truncate(0)
        file.seek(0)
        watcher.say_what_is_kept()
    return file.getvalue().splitlines()


def test_an_interrupt_names_the_newest_state_that_is_kept() -> None:
    _, started, _, before, *_, finished = events()
    onwards = "To go on: sesurgeon finetune --resume --output runs --name exp"
    middle, end = StateWritten(Path("runs/exp/states/one"), 0, 145), StateWritten(Path("runs/exp/states/two"), 1, 0)
    first = StateWritten(Path("runs/exp/states/none"), 0, 0)
    assert said_of(started, before, first) == ["Kept: runs/exp/last.pt, the state before any training.", onwards]
    in_epoch_1 = "Kept: runs/exp/states/one, the state after 145 updates of epoch 1."
    assert said_of(started, before, middle) == [
        "Kept: runs/exp/last.pt, the state before any training.", in_epoch_1, onwards,
    ]  # fmt: skip
    assert said_of(started, middle) == [in_epoch_1, onwards]  # of a run that went on in the same epoch
    whole = ["Kept: runs/exp/last.pt, the state after epoch 1 of 2.", onwards]
    assert said_of(started, before, middle, finished, end) == whole
    assert said_of(started, before, middle, finished) == whole  # between the epoch's files and its state


def test_a_run_that_cannot_be_resumed_is_not_told_how() -> None:
    _, started, _, before, *_ = events()
    first = StateWritten(Path("runs/exp/states/none"), 0, 0)
    kept = said_of(started, before, first, NotResumable("pathlib.PosixPath"))
    assert kept == ["Kept: runs/exp/last.pt, the state before any training."]


def test_an_epoch_that_was_trained_before_has_no_speed() -> None:
    _, started, *_, finished = events()
    file = io.StringIO()
    out = Output(Console(file=io.StringIO()), Console(file=file, width=200), False, False)
    with out.progress() as progress:
        watcher = Watcher(out, progress, epochs=2)
        for event in (started, RunResumed(Path("state"), 0, 3, ()), finished):
            watcher(event)
    assert file.getvalue().splitlines()[-1].endswith("top-1 100.00 %  best")


def test_a_terminal_gets_bars_as_well() -> None:
    text = shown(terminal=True)
    for bar in ("Checking images", "5/16", "Evaluating", "epoch 1/2 blocks loss 0.2500 top-1 75.00 %"):
        assert bar in text
    assert "epoch 1/2      loss 0.1250" in text


def test_bars_fit_into_80_columns() -> None:
    assert re.search(r"img/s ━{9,} 3/3 0:00:00", shown(terminal=True, width=80))


def test_quiet_is_silent_on_a_terminal_too() -> None:
    assert shown(terminal=True, quiet=True).strip("\n") == ""


def test_the_demo_shows_commands_before_and_outcomes_after() -> None:
    file = io.StringIO()
    out = Output(Console(file=io.StringIO()), Console(file=file, width=100), False, False)
    with out.progress() as progress:
        narrator = Narrator(out, progress, epochs=1)
        narrator(StepStarted("Blocks go in.", "sesurgeon add-se digits.pt"))
        narrator(BaseEpoch(1, 2, 0.5))
        narrator(StepFinished("3 blocks", 1.26))
        narrator(EpochFinished(EpochRow(-1, "", None, {"loss": 0.5, "top1": 75.0, "top5": 100.0}, None), True))
    assert file.getvalue().splitlines()[:4] == [
        "",
        "Blocks go in.",
        "$ sesurgeon add-se digits.pt",
        "3 blocks (1.3 s)",
    ]
    assert "before training" in file.getvalue()
