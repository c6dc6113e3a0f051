"""``sesurgeon finetune``: train the inserted blocks, then everything."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.configuring import ConfigFile
from sesurgeon.cli.asked.images import OptionalDataSpec
from sesurgeon.cli.asked.loading import flags_to_load, load_model, note_random_weights
from sesurgeon.cli.asked.options import OptionalModel, Reading, Talking
from sesurgeon.cli.asked.running import Asked, new_run, resumed_run
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.asked.teaching import Teaching, load_teacher, of_teacher
from sesurgeon.cli.asked.training import NumProcesses, Resume, Training
from sesurgeon.cli.launching import hush_torch, is_launched, is_main, launch, leave_group, main_explains
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.scoring import gain, per_cent, score_label, score_text, shown_scores, usual_score
from sesurgeon.errors import DivergedError, SesurgeonError
from sesurgeon.interrupts import INTERRUPTED
from sesurgeon.words import some

if TYPE_CHECKING:
    from sesurgeon.finetune import EpochRow, FinetuneResult


@spread
def finetune(
    context: typer.Context,
    model: OptionalModel = None,
    *,
    training: Training,
    teaching: Teaching,
    data: OptionalDataSpec = None,
    config: ConfigFile = None,
    resume: Resume = False,
    num_processes: NumProcesses = 1,
    reading: Reading,
    talking: Talking,
) -> None:
    """Train MODEL on DATA: first the new parts, with the rest frozen, then everything.

    Without a MODEL, the newest `*.se.pt` is taken. The run's folder gets the best and the last checkpoint, the
    settings, one line per epoch, a report with pictures, and the states that `--resume` continues from. The state
    before training competes too: if no epoch is better, it stays the best checkpoint. Without labels (`--distill 1`)
    no score tells which epoch is best, and the last one is taken.
    """
    main = is_main()
    if is_launched():
        hush_torch()
    with reporting(talking if main else replace(talking, quiet=True)) as out, main_explains():
        asked = Asked(context, data, num_processes, training, teaching, reading)
        if resume:
            own = {
                "model": model,
                "config": config,
                "preprocessing": reading.preprocessing,
                "teacher": teaching.teacher,
            }
            run = resumed_run(own, asked)
        else:
            run = new_run(model, asked)
        if run.processes > 1 and not is_launched():
            launch(run.processes)
            return
        for note in run.notes:
            out.note(note)
        from sesurgeon.cli.shown.watching import Watcher
        from sesurgeon.finetune import finetune

        with out.working(f"Loading {run.model}"):
            loaded = load_model(run.model, run.reading, mapped=False)
            teacher = None if run.teacher is None else load_teacher(*run.teacher)
        note_random_weights(out, run.model, run.reading)
        with out.progress() as progress:
            watcher = Watcher(out, progress, epochs=run.config.epochs, metric=run.config.metric)
            try:
                result = finetune(
                    loaded, run.data, run.config, teacher=teacher, resume=run.folder, settings=run.settings,
                    on_progress=watcher,
                )  # fmt: skip
            except (KeyboardInterrupt, SesurgeonError) as error:
                onwards = not isinstance(error, DivergedError)  # it would diverge again
                flags = flags_to_load(loaded, reading)
                if teacher is not None:
                    flags += of_teacher(flags_to_load(teacher, reading)).replace(" --trust-pickle", "")
                watcher.say_what_is_kept(flags, onwards=onwards)
                if isinstance(error, KeyboardInterrupt) and not main:
                    raise typer.Exit(INTERRUPTED) from error  # the main process prints it
                raise
        leave_group()
        if main:
            next_flags = flags_to_load(loaded, reading)
            on_data = f"--data {shlex.quote(run.data)}"
            if run.data.startswith("torchvision:"):
                on_data += f" --data-dir {shlex.quote(run.config.data_dir)}"
            started_from = str(run.settings.get("model", run.model))  # a resumed run has read its last.pt
            rendered = _rendered(started_from, result, next_flags, on_data)
            out.result(rendered, _data(started_from, result))


def _rendered(model: str, result: FinetuneResult, flags: str, on_data: str) -> Group:
    before, best, data = result.rows[0], result.best_row, result.data
    if result.metric is None:
        said = per_cent(best.scores[usual_score(best)])
        outcome = f"On {said} of {len(data.val):,} validation images its answer is the one before training."
    elif best is before:
        outcome = "No epoch was better than the state before training: best.pt holds that state, unchanged."
    else:
        outcome = f"{gain(before, best, result.metric, result.evaluation)} on {len(data.val):,} validation images."
    # the gates are those of best.pt
    looked_at = () if result.metric is not None and best is before else result.gates
    still = [gate.gate for gate in looked_at if not gate.moved]
    moved = f"{len(looked_at) - len(still)} of {len(looked_at)} gates moved." if looked_at else ""
    if still:
        moved += f" These learned nothing: {some(still, 3)} (see report.md)."
    checkpoint = shlex.quote(str(result.best))
    seen = f"predict {checkpoint}{flags} IMAGES" if data.unlabelled else f"evaluate {checkpoint}{flags} {on_data}"
    small = f"adapter extract {shlex.quote(str(result.folder))}{flags}" if result.config.train == "blocks" else ""
    return Group(
        Text(f"{model}, fine-tuned on {data.name}", style="bold"),
        _epoch_table(result),
        Text(" ".join(part for part in (outcome, moved) if part)),
        Text(f"Written: {result.folder}/ with best.pt, last.pt, report.md, its pictures, summary.csv and more"),
        Text(f"Next:    sesurgeon {seen}"),
        Text(f"         sesurgeon export {checkpoint}{flags} --onnx"),
        *([Text(f"         sesurgeon {small}")] if small else []),
    )


def _epoch_table(result: FinetuneResult) -> Table:
    from sesurgeon.cli.shown.watching import PHASES

    best, last = result.best_row, result.rows[-1]
    columns = shown_scores(best, result.metric)
    table = Table()
    table.add_column("")
    for column in ("epoch", *(score_label(name, result.evaluation) for name in columns)):
        table.add_column(column, justify="right")
    table.add_column("kept as")
    rows = {"before training": result.rows[0]}
    which = "last" if result.metric is None else "best"
    rows |= {f"{PHASES[phase]}: {which}": row for phase, row in _best_of_phases(result).items()}
    if last not in rows.values():
        rows["last"] = last
    for label, row in rows.items():
        kept = ", ".join(file for file, kept in (("best.pt", best), ("last.pt", last)) if kept is row)
        table.add_row(
            label,
            "-" if row.epoch < 0 else f"{row.epoch + 1}/{result.config.epochs}",
            *(score_text(name, row.scores[name]) for name in columns),
            kept,
            style="bold" if row is best else None,
        )
    return table


def _best_of_phases(result: FinetuneResult) -> dict[str, EpochRow]:
    from sesurgeon.finetune import best_of

    phases = dict.fromkeys(row.phase for row in result.rows[1:])
    return {phase: best_of([row for row in result.rows if row.phase == phase], result.metric) for phase in phases}


def _data(model: str, result: FinetuneResult) -> dict[str, Any]:
    data = result.data
    return {
        "model": model,
        "data": data.name,
        "images": {"train": len(data.split("train")), "val": len(data.val)},
        "skipped": data.skipped,
        "ignored": data.ignored,
        "classes": result.task.classes,
        "preprocessing": result.task.preprocessing,
        "notes": result.task.notes,
        "folder": result.folder,
        "best": result.best,
        "last": result.last,
        "metric": result.metric,
        "before": result.rows[0].to_dict(),
        "best_epoch": result.best_row.to_dict(),
        "best_of_phases": {phase: row.to_dict() for phase, row in _best_of_phases(result).items()},
        "epochs": [row.to_dict() for row in result.rows],
        "gates": result.gates,
        "per_class": [score.to_dict() for score in result.evaluation.per_class],
    }
