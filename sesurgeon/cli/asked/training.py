"""Options of training, in timm's words; what they mean stands in ``finetune.FinetuneConfig``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from sesurgeon.cli.asked.completing import one_of
from sesurgeon.cli.asked.images import BatchSize, DataDir, Device, Download, ImgSize, OnBadImage, Workers

_LENGTH = "How long"
_RATE = "How fast"
_LOSS = "What is minimised"
_IMAGES = "The images"
_COMPUTING = "Computing"
_WHERE = "Where it is kept"


def _option(panel: str, text: str, *names: str, shows: bool = True, **options: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=shows, **options)


@dataclass(frozen=True)
class Training:
    """The settings of a run as options; each is one of ``FinetuneConfig``, with its default."""

    epochs: Annotated[int, _option(_LENGTH, "Passes over the training images, in all.")] = 10
    freeze_epochs: Annotated[
        int, _option(_LENGTH, "How many of them, at the start, train only what is new: inserted blocks, a new head.")
    ] = 1
    train: Annotated[
        str,
        _option(
            _LENGTH, "blocks: train inserted blocks and the head alone, for an adapter.", **one_of("all", "blocks")
        ),
    ] = "all"
    warmup_epochs: Annotated[float, _option(_LENGTH, "Linear warm-up of each phase; may be a part of an epoch.")] = 0.0
    patience: Annotated[
        int | None, _option(_LENGTH, "Stop after so many epochs without a better one.", shows=False)
    ] = None
    eval_metric: Annotated[
        str | None,
        _option(
            _LENGTH,
            "Chooses the best epoch: top1 by default; map (the default), f1 or loss with --multi-label.",
            **one_of("top1", "top5", "balanced", "loss", "map", "f1", metavar="top1|top5|balanced|loss"),
            shows=False,
        ),
    ] = None
    lr: Annotated[float, _option(_RATE, "Learning rate.")] = 1e-3
    lr_block_mult: Annotated[
        float | None,
        _option(_RATE, "What is new gets --lr times this; by default 5, or 1 with a new head.", shows=False),
    ] = None
    lr_backbone_mult: Annotated[
        float | None,
        _option(_RATE, "Everything else gets --lr times this; by default 0.1, or 1 with a new head.", shows=False),
    ] = None
    calibrate: Annotated[
        bool,
        _option(
            _RATE,
            "Start the hidden units of fresh blocks where they tell the first training images apart.",
            "--calibrate/--no-calibrate",
        ),
    ] = True
    layer_decay: Annotated[
        float | None,
        _option(_RATE, "Each layer but what is new gets this times the rate of the one above it.", shows=False),
    ] = None
    sched: Annotated[str, _option(_RATE, "Its course within a phase.", **one_of("cosine", "tanh", "none"))] = "cosine"
    opt: Annotated[str, _option(_RATE, "An optimiser of timm's: adamw, sgd, lamb, …")] = "adamw"
    weight_decay: Annotated[float, _option(_RATE, "Not of biases and norms.")] = 0.01
    clip_grad: Annotated[float | None, _option(_RATE, "The largest norm of gradients.", shows=False)] = None
    smoothing: Annotated[float, _option(_LOSS, "Label smoothing.")] = 0.0
    mixup: Annotated[float, _option(_LOSS, "Alpha of mixup; 0 for none.")] = 0.0
    cutmix: Annotated[float, _option(_LOSS, "Alpha of CutMix; 0 for none.")] = 0.0
    multi_label: Annotated[
        bool,
        _option(
            _LOSS, "An image may have several labels, or none: in a manifest with | between them.", "--multi-label"
        ),
    ] = False
    class_weights: Annotated[bool, _option(_LOSS, "Rare classes weigh more.", "--class-weights")] = False
    distill: Annotated[
        float,
        _option(
            _LOSS,
            "Weight of staying with the network as it came; 1 needs no labels, nor class folders.",
            metavar="WEIGHT",
        ),
    ] = 0.0
    kd_temperature: Annotated[float, _option(_LOSS, "At which outputs are compared then.")] = 4.0
    model_ema: Annotated[bool, _option(_LOSS, "Evaluate and keep a moving average of the weights.", "--model-ema")] = (
        False
    )
    model_ema_decay: Annotated[float, _option(_LOSS, "Of that average.")] = 0.9998
    hflip: Annotated[
        float | None,
        _option(
            _IMAGES,
            "Probability of a horizontal flip; by default 0.5 for colour images above 64 pixels, else 0.",
            shows=False,
        ),
    ] = None
    aa: Annotated[str | None, _option(_IMAGES, "An augmentation policy of timm's: rand-m9-mstd0.5, …", shows=False)] = (
        None
    )
    reprob: Annotated[float, _option(_IMAGES, "Probability of random erasing.")] = 0.0
    balanced_sampling: Annotated[
        bool, _option(_IMAGES, "Draw so that all classes come alike often.", "--balanced-sampling")
    ] = False
    img_size: ImgSize = None
    val_split: Annotated[float, _option(_IMAGES, "Share held out of a folder without a val/.")] = 0.2
    on_bad_image: OnBadImage = "skip"
    data_dir: DataDir = "data"
    download: Download = False
    seed: Annotated[int, _option(_IMAGES, "Of everything random.")] = 42
    batch_size: BatchSize = 64
    grad_accum_steps: Annotated[int, _option(_COMPUTING, "Steps whose gradients make one update.")] = 1
    workers: Workers = 4
    device: Device = "auto"
    amp: Annotated[bool, _option(_COMPUTING, "Compute in --amp-dtype where that is safe.", "--amp")] = False
    amp_dtype: Annotated[str, _option(_COMPUTING, "Of --amp.", **one_of("bfloat16", "float16"))] = "bfloat16"
    channels_last: Annotated[bool, _option(_COMPUTING, "Memory order of images.", "--channels-last")] = False
    compile: Annotated[bool, _option(_COMPUTING, "By torch.compile.", "--compile")] = False
    sync_bn: Annotated[
        bool, _option(_COMPUTING, "BatchNorm over the images of all processes together.", "--sync-bn")
    ] = False
    output: Annotated[str, _option(_WHERE, "Holds the runs.", "--output", "-o", metavar="FOLDER")] = "runs/finetune"
    name: Annotated[
        str | None,
        _option(_WHERE, "The run's folder in it; by default exp, exp2, … whichever is free.", shows=False),
    ] = None
    force: Annotated[bool, _option(_WHERE, "Replace a run of that name.", "--force")] = False
    checkpoint_every: Annotated[
        int | None,
        _option(_WHERE, "Updates between states to resume from, beside each epoch's.", metavar="STEPS", shows=False),
    ] = None
    log_with: Annotated[
        list[str] | None,
        _option(
            _WHERE,
            "tensorboard, wandb, mlflow or trackio; may be repeated, none for none of them; by default tensorboard "
            "where it is installed.",
            shows=False,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """As ``FinetuneConfig`` takes them."""
        trackers = None if self.log_with is None else tuple(name for name in self.log_with if name != "none")
        return {**asdict(self), "log_with": trackers}


Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a run that was stopped: the newest, or that of --name. Its settings are taken from it.",
        rich_help_panel=_WHERE,
    ),
]
NumProcesses = Annotated[
    int,
    typer.Option(
        min=1,
        help="Start so many processes on this machine, each with --batch-size images a step; on several machines "
        "start the same command with torchrun.",
        rich_help_panel=_COMPUTING,
    ),
]
