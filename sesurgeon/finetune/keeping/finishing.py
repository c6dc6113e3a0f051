"""What people look at when a run has ended: its curve, its mistakes, its gates, its report."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.finetune.data.notes import left_out_notes
from sesurgeon.finetune.keeping.bars import draw_classes
from sesurgeon.finetune.keeping.curve import draw_curve
from sesurgeon.finetune.keeping.milestones import Milestone
from sesurgeon.finetune.keeping.pictures import draw_confusion, draw_mistakes
from sesurgeon.finetune.keeping.recorder import Recorder
from sesurgeon.finetune.keeping.report import write_report
from sesurgeon.finetune.keeping.runfolder import RunFolder
from sesurgeon.finetune.scoring.gatewatch import GateMovement, watch_gates
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.finetune.scoring.scores import Evaluation
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
) -> tuple[GateMovement, ...]:
    """``report.md`` of a run that has ended, be it before its time, and its pictures.

    These are ``curve.png``, and ``confusion.png`` and ``mistakes.png``; or ``classes.png``, where an image may have
    several labels.

    Args:
        folder: of the run; ``best.pt`` in it is the network that is looked at.
        model: of the same architecture.
        recorder: of the run.
        data: its images.
        task: what it was about.
        batch_size: images a step when the gates are watched.

    Returns:
        what the gates of that network did.
    """
    assert recorder.best is not None  # the state before training was recorded
    draw_curve(recorder.rows, task.phases, folder.curve, recorder.metric)
    measured = {**recorder.milestones, folder.best.name: recorder.best}
    milestones = [Milestone(name, found) for name, found in measured.items()]
    pictures = (folder.curve, *_draw(milestones[-1].evaluation, data, folder))
    looked_at = _read(folder.best, model)
    # from all over the set, in which images lie class by class
    part = range(0, len(data.val), -(-len(data.val) // (_BATCHES_WATCHED * batch_size)))
    seen = eval_loader(data.val, task.preprocessing, task.labels, batch_size=batch_size, workers=0, part=part)
    gates = watch_gates(looked_at, seen)
    write_report(
        folder.report,
        f"{folder.path.name}: fine-tuned on {data.name}",
        milestones,
        rows=recorder.rows,
        metric=recorder.metric,
        gates=gates,
        pictures=pictures,
        notes=(*left_out_notes(data.skipped), *filter(None, task.notes), *recorder.notes),
    )
    return gates


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
