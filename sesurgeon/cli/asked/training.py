"""Options of training, under timm's names; ``finetune.FinetuneConfig`` explains them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import typer

from sesurgeon.cli.asked.images import BatchSize, DataDir, Device, Download, ImgSize, OnBadImage, Workers

_LENGTH = "Epochs"
_RATE = "Optimiser"
_LOSS = "Loss"
_IMAGES = "Images"
_COMPUTING = "Computing"
_WHERE = "Run folder"


def _option(panel: str, text: str, *names: str, shows: bool = True, **options: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=shows, **options)


@dataclass(frozen=True)
class Training:
    """The settings of a run as options, each with the name and default of a field of ``FinetuneConfig``."""

    epochs: Annotated[int, _option(_LENGTH, "Passes over the training images in total.")] = 10
    freeze_epochs: Annotated[
        int, _option(_LENGTH, "Of these, how many at the start train only the new parts: blocks and a new head.")
    ] = 1
    train: Annotated[
        Literal["all", "blocks"],
        _option(_LENGTH, "blocks: train only inserted blocks and the head, for an adapter."),
    ] = "all"
    warmup_epochs: Annotated[float, _option(_LENGTH, "Linear warm-up of each phase; may be fractional.")] = 0.0
    patience: Annotated[int | None, _option(_LENGTH, "Stop after so many epochs without improvement.", shows=False)] = (
        None
    )
    eval_metric: Annotated[
        Literal["top1", "top5", "balanced", "loss", "map", "f1"] | None,
        _option(
            _LENGTH,
            "Score that chooses the best epoch: top1 (default), top5, balanced or loss; with --multi-label: map "
            "(default), f1 or loss.",
            metavar="NAME",
            shows=False,
        ),
    ] = None
    lr: Annotated[float, _option(_RATE, "Learning rate.")] = 1e-3
    lr_block_mult: Annotated[
        float | None,
        _option(_RATE, "Factor on --lr for the new parts; by default 5, or 1 with a new head.", shows=False),
    ] = None
    lr_backbone_mult: Annotated[
        float | None,
        _option(_RATE, "Factor on --lr for everything else; by default 0.1, or 1 with a new head.", shows=False),
    ] = None
    calibrate: Annotated[
        bool,
        _option(
            _RATE,
            "Standardise the hidden units of new blocks over the first training images.",
            "--calibrate/--no-calibrate",
        ),
    ] = True
    layer_decay: Annotated[
        float | None,
        _option(_RATE, "Each layer's rate is this times that of the layer above; not for new parts.", shows=False),
    ] = None
    sched: Annotated[
        Literal["cosine", "tanh", "none"],
        _option(_RATE, "The schedule within a phase: cosine, tanh or none.", metavar="NAME"),
    ] = "cosine"
    opt: Annotated[str, _option(_RATE, "One of timm's optimisers: adamw, sgd, lamb, …")] = "adamw"
    weight_decay: Annotated[float, _option(_RATE, "Not applied to biases and norms.")] = 0.01
    clip_grad: Annotated[float | None, _option(_RATE, "Clip gradients to this norm.", shows=False)] = None
    smoothing: Annotated[float, _option(_LOSS, "Label smoothing.")] = 0.0
    mixup: Annotated[float, _option(_LOSS, "Alpha of mixup; 0 for none.")] = 0.0
    cutmix: Annotated[float, _option(_LOSS, "Alpha of CutMix; 0 for none.")] = 0.0
    multi_label: Annotated[
        bool,
        _option(_LOSS, "Images may have several labels, or none; in a manifest, | separates them.", "--multi-label"),
    ] = False
    class_weights: Annotated[bool, _option(_LOSS, "Give rare classes more weight.", "--class-weights")] = False
    distill: Annotated[
        float,
        _option(
            _LOSS,
            "Weight of distillation, from --teacher or from the network before training. From the latter, 1 needs no "
            "labels and no class folders.",
            metavar="WEIGHT",
        ),
    ] = 0.0
    kd_temperature: Annotated[float, _option(_LOSS, "Temperature of the distillation.")] = 4.0
    model_ema: Annotated[bool, _option(_LOSS, "Evaluate and keep a moving average of the weights.", "--model-ema")] = (
        False
    )
    model_ema_decay: Annotated[float, _option(_LOSS, "Decay of that average.")] = 0.9998
    hflip: Annotated[
        float | None,
        _option(
            _IMAGES,
            "Probability of a horizontal flip; by default 0.5 for colour images above 64 pixels, else 0.",
            shows=False,
        ),
    ] = None
    aa: Annotated[str | None, _option(_IMAGES, "A timm augmentation policy: rand-m9-mstd0.5, …", shows=False)] = None
    reprob: Annotated[float, _option(_IMAGES, "Probability of random erasing.")] = 0.0
    balanced_sampling: Annotated[bool, _option(_IMAGES, "Sample all classes equally often.", "--balanced-sampling")] = (
        False
    )
    img_size: ImgSize = None
    val_split: Annotated[float, _option(_IMAGES, "Share held out for validation if there is no val/.")] = 0.2
    on_bad_image: OnBadImage = "skip"
    data_dir: DataDir = "data"
    download: Download = False
    seed: Annotated[int, _option(_IMAGES, "Seed of everything random.")] = 42
    batch_size: BatchSize = 64
    grad_accum_steps: Annotated[int, _option(_COMPUTING, "Steps whose gradients are accumulated per update.")] = 1
    workers: Workers = 4
    device: Device = "auto"
    amp: Annotated[bool, _option(_COMPUTING, "Mixed precision: compute in --amp-dtype where safe.", "--amp")] = False
    amp_dtype: Annotated[Literal["bfloat16", "float16"], _option(_COMPUTING, "Data type of --amp.")] = "bfloat16"
    channels_last: Annotated[bool, _option(_COMPUTING, "Channels-last memory format.", "--channels-last")] = False
    compile: Annotated[bool, _option(_COMPUTING, "Use torch.compile.", "--compile")] = False
    sync_bn: Annotated[
        bool, _option(_COMPUTING, "BatchNorm statistics over the images of all processes.", "--sync-bn")
    ] = False
    output: Annotated[str, _option(_WHERE, "Folder of the runs.", "--output", "-o", metavar="FOLDER")] = "runs/finetune"
    name: Annotated[
        str | None,
        _option(_WHERE, "The run's folder in it; by default the first free of exp, exp2, …", shows=False),
    ] = None
    force: Annotated[bool, _option(_WHERE, "Replace a run of that name.", "--force")] = False
    checkpoint_every: Annotated[
        int | None,
        _option(_WHERE, "Also save a state to resume from every so many updates.", metavar="STEPS", shows=False),
    ] = None
    log_with: Annotated[
        list[str] | None,
        _option(
            _WHERE,
            "tensorboard, wandb, mlflow or trackio; may be repeated. none turns all off; by default tensorboard if it "
            "is installed.",
            shows=False,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """The arguments of ``FinetuneConfig``."""
        trackers = None if self.log_with is None else tuple(name for name in self.log_with if name != "none")
        return {**asdict(self), "log_with": trackers}


Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue a run that was stopped, with its own settings: the newest run, or the one named by --name. "
        "--data says where its images are now, if they were moved.",
        rich_help_panel=_WHERE,
    ),
]
NumProcesses = Annotated[
    int,
    typer.Option(
        min=1,
        help="Start so many processes on this machine, each with --batch-size images per step; on several machines, "
        "start the command with torchrun.",
        rich_help_panel=_COMPUTING,
    ),
]
