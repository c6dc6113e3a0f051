"""``sesurgeon finetune``: the inserted blocks learn, then everything."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.console import reporting
from sesurgeon.cli.images import BatchSize, DataDir, DataSpec, Device, Download, ImgSize, OnBadImage, Workers
from sesurgeon.cli.latest import given_or_latest, latest_augmented
from sesurgeon.cli.loading import flags_to_load, load_model
from sesurgeon.cli.options import (
    Arch,
    Debug,
    Json,
    ModelKwargs,
    NumClasses,
    OptionalModel,
    Pretrained,
    Quiet,
    TrustPickle,
)
from sesurgeon.cli.scoring import gain, score_label, score_text, shown_scores
from sesurgeon.cli.training import (
    Epochs,
    ForceRun,
    FreezeEpochs,
    Hflip,
    Lr,
    LrBackboneMult,
    LrBlockMult,
    Name,
    Opt,
    RunsFolder,
    Sched,
    Seed,
    Smoothing,
    ValSplit,
    WarmupEpochs,
    WeightDecay,
)

if TYPE_CHECKING:
    from sesurgeon.finetune import Data, EpochRow, FinetuneResult


def finetune(
    context: typer.Context,
    data: DataSpec,
    model: OptionalModel = None,
    epochs: Epochs = 10,
    freeze_epochs: FreezeEpochs = 1,
    warmup_epochs: WarmupEpochs = 0.0,
    lr: Lr = 1e-3,
    lr_block_mult: LrBlockMult = 5.0,
    lr_backbone_mult: LrBackboneMult = 0.1,
    sched: Sched = "cosine",
    opt: Opt = "adamw",
    weight_decay: WeightDecay = 0.01,
    smoothing: Smoothing = 0.0,
    hflip: Hflip = None,
    seed: Seed = 42,
    img_size: ImgSize = None,
    val_split: ValSplit = 0.2,
    on_bad_image: OnBadImage = "skip",
    data_dir: DataDir = "data",
    download: Download = False,
    batch_size: BatchSize = 64,
    workers: Workers = 4,
    device: Device = "auto",
    output: RunsFolder = "runs/finetune",
    name: Name = None,
    force: ForceRun = False,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    num_classes: NumClasses = None,
    pretrained: Pretrained = False,
    trust_pickle: TrustPickle = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train MODEL on DATA: what is new first, with the rest frozen, then everything.

    Without a MODEL the newest `*.se.pt` is taken. The run's folder gets the best and the last checkpoint, the
    settings, a line an epoch, and a curve. The state before training counts, too: what gains nothing changes nothing.
    """
    with reporting(json=json, quiet=quiet, debug=debug) as out:
        model = given_or_latest(model, latest_augmented, out)
        with out.working(f"Loading {model}"):
            from sesurgeon.cli.watching import Watcher
            from sesurgeon.finetune import FinetuneConfig, finetune

            config = FinetuneConfig(**{key: context.params[key] for key in FinetuneConfig.__dataclass_fields__})
            loaded = load_model(
                model,
                arch=arch,
                model_kwargs=model_kwargs,
                num_classes=num_classes,
                pretrained=pretrained,
                trust_pickle=trust_pickle,
            )
        with out.progress() as progress:
            watcher = Watcher(out, progress, epochs=config.epochs)
            try:
                result = finetune(loaded, data, config, on_progress=watcher)
            except KeyboardInterrupt:
                watcher.say_what_is_kept()
                raise
        images = watcher.data
        next_flags = flags_to_load(loaded, trust_pickle)
        on_data = f"--data {shlex.quote(data)}"
        if data.startswith("torchvision:"):
            on_data += f" --data-dir {shlex.quote(data_dir)}"
        rendered = _rendered(model, images, result, config.epochs, next_flags, on_data)
        out.result(rendered, _data(model, images, result))


def _rendered(model: str, data: Data, result: FinetuneResult, epochs: int, flags: str, on_data: str) -> Group:
    before, best = result.rows[0], result.best_row
    if best is before:
        outcome = "No epoch scored higher than the state before training: best.pt holds that state, unchanged."
    else:
        outcome = f"{gain(before, best, result.metric)} on {len(data.val):,} validation images."
    still = [gate.gate for gate in result.gates if not gate.moved]
    moved = f"{len(result.gates) - len(still)} of {len(result.gates)} gates moved." if result.gates else ""
    if still:
        moved += f" These learned nothing: {', '.join(still[:3])}{' …' if len(still) > 3 else ''} (see report.md)."
    checkpoint = shlex.quote(str(result.best))
    return Group(
        Text(f"{model}, fine-tuned on {data.name}", style="bold"),
        _epoch_table(result, epochs),
        Text(" ".join(part for part in (outcome, moved) if part)),
        Text(f"Written: {result.folder}/ with best.pt, last.pt, report.md, its pictures, summary.csv and more"),
        Text(f"Next:    sesurgeon evaluate {checkpoint}{flags} {on_data}"),
        Text(f"         sesurgeon export {checkpoint}{flags} --onnx"),
    )


def _epoch_table(result: FinetuneResult, epochs: int) -> Table:
    from sesurgeon.cli.watching import PHASES

    best, last = result.best_row, result.rows[-1]
    columns = shown_scores(best, result.metric)
    table = Table()
    table.add_column("")
    for column in ("epoch", *(score_label(name) for name in columns)):
        table.add_column(column, justify="right")
    table.add_column("kept as")
    rows = {"before training": result.rows[0]}
    rows |= {f"{PHASES[phase]}: best": row for phase, row in _best_of_phases(result).items()}
    if last not in rows.values():
        rows["last"] = last
    for label, row in rows.items():
        kept = ", ".join(file for file, kept in (("best.pt", best), ("last.pt", last)) if kept is row)
        table.add_row(
            label,
            "-" if row.epoch < 0 else f"{row.epoch + 1}/{epochs}",
            *(score_text(name, row.scores[name]) for name in columns),
            kept,
            style="bold" if row is best else None,
        )
    return table


def _best_of_phases(result: FinetuneResult) -> dict[str, EpochRow]:
    from sesurgeon.finetune import best_of

    phases = dict.fromkeys(row.phase for row in result.rows[1:])
    return {phase: best_of([row for row in result.rows if row.phase == phase], result.metric) for phase in phases}


def _data(model: str, data: Data, result: FinetuneResult) -> dict[str, Any]:
    assert data.train is not None
    return {
        "model": model,
        "data": data.name,
        "images": {"train": len(data.train), "val": len(data.val)},
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
        "per_class": [{**vars(score), "accuracy": score.accuracy} for score in result.evaluation.per_class],
    }
