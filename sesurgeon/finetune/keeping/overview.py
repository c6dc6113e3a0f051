"""The overview of a run for people: its report and the pictures in it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.finetune.data.notes import left_out_notes
from sesurgeon.finetune.keeping.class_bars import draw_classes
from sesurgeon.finetune.keeping.confusion import draw_confusion
from sesurgeon.finetune.keeping.curve import draw_curve
from sesurgeon.finetune.keeping.mistakes import draw_mistakes
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.keeping.report import write_run_report
from sesurgeon.finetune.keeping.runfolder import RunFolder
from sesurgeon.finetune.scoring.evaluation import Evaluation
from sesurgeon.finetune.scoring.gatestatistics import GateStatistics
from sesurgeon.finetune.scoring.gatewatch import watch_gates
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.task import Task
from sesurgeon.models import read_weights, take_weights
from sesurgeon.models.copies import copy_of

_BATCHES_WATCHED = 8


def write_overview(
    folder: RunFolder,
    model: nn.Module,
    recorder: Recorder,
    data: Data,
    task: Task,
    batch_size: int,
) -> tuple[GateStatistics, ...]:
    """Write ``report.md`` of a run that has ended, regularly or early, and its pictures.

    These are ``curve.png``, ``confusion.png`` and ``mistakes.png``; or ``curve.png`` and ``classes.png`` for images
    with several labels.

    Args:
        folder: of the run. Its ``best.pt`` is the network that the gates are measured in.
        model: a network of the same architecture.
        recorder: of the run.
        data: its images.
        task: its task.
        batch_size: images per step when the gates are measured.

    Returns:
        the statistics of the gates.
    """
    draw_curve(recorder.rows, task.phases, folder.curve, recorder.metric)
    pictures = (folder.curve, *_draw(recorder.best, data, folder))
    best = _read(folder.best, model)
    # from all over the set, because images are sorted by class
    part = range(0, len(data.val), -(-len(data.val) // (_BATCHES_WATCHED * batch_size)))
    seen = eval_loader(data.val, task.preprocessing, task.labels, batch_size=batch_size, workers=0, part=part)
    gates = watch_gates(best, seen)
    write_run_report(
        folder.report,
        f"{folder.path.name}: fine-tuned on {data.name}",
        {**recorder.milestones, folder.best.name: recorder.best},
        rows=recorder.rows,
        metric=recorder.metric,
        gates=gates,
        pictures=pictures,
        notes=(*left_out_notes(data.skipped), *task.notes, *recorder.notes, *_of_held(recorder)),
    )
    return gates


def _of_held(recorder: Recorder) -> tuple[str, ...]:
    if recorder.held is None:
        return ()
    return (
        f"best.pt holds epoch {recorder.held.epoch + 1} as it was before the run was resumed from an older state. That "
        "is better than the best epoch below, whose scores are shown as those of best.pt.",
    )


def _draw(found: Measured, data: Data, folder: RunFolder) -> tuple[Path, ...]:
    """The pictures of an evaluation."""
    if not isinstance(found, Evaluation):
        draw_classes(found, folder.classes)
        return (folder.classes,)
    draw_confusion(found, folder.confusion)
    draw_mistakes(data.val, found, folder.mistakes)
    return folder.confusion, folder.mistakes


def _read(checkpoint: Path, model: nn.Module) -> nn.Module:
    network = copy_of(model)
    take_weights(network, read_weights(checkpoint), str(checkpoint))
    return network
