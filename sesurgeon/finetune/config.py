"""What a fine-tuning run is asked to do, in timm's words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from sesurgeon.errors import UsageError

Train = Literal["all", "blocks"]
OnBadImage = Literal["skip", "error"]

SCHEDULES = ("cosine", "tanh", "none")
DEVICES = ("auto", "cpu", "cuda", "mps")
AMP_DTYPES = ("bfloat16", "float16")
METRICS = ("top1", "top5", "balanced", "loss")
MULTI_LABEL_METRICS = ("map", "f1", "loss")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
DEFAULT_OUTPUT = "runs/finetune"


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a run. They are checked together when the configuration is made.

    Inserted blocks and a new head learn at ``lr * lr_block_mult`` in both phases, everything else at
    ``lr * lr_backbone_mult`` in the second. Schedule and warm-up run within each phase, update by update.

    Attributes:
        epochs: passes over the training images, the frozen ones included.
        freeze_epochs: how many of them, at the start, train only the inserted blocks and a new head.
        train: "all", or "blocks" for inserted blocks and the head alone in all epochs: the backbone stays as it is, its
            BatchNorms' statistics too, and :func:`sesurgeon.extract_adapter` can keep what was learned in a small file.
        batch_size: images a step, on each process. An update that would leave a single image to a step is left out:
            BatchNorm cannot train on one value.
        grad_accum_steps: steps whose gradients make one update.
        lr: of AdamW; others want their own (SGD about ten times as much).
        lr_block_mult: None for 5 where the network keeps its head: blocks start as identities and need a rate of their
            own to move (on scikit-learn's digits, three frozen epochs took the validation loss from 0.31 to 0.13 with
            5, and to 0.26 with 1); and for 1 where it gets a new one.
        lr_backbone_mult: None for 0.1 where the network keeps its head: it has learned these images already; and for 1
            where it gets a new one: they are new to it, too, and all of it has to learn (benchmarks/adapt.md).
        calibrate: start the hidden units of fresh blocks where they tell images apart: zero mean and unit variance over
            the first training images, see :mod:`sesurgeon.blocks.calibration`. On Fashion-MNIST gates go 1.5 to 10
            times as far with the images after an epoch then; what that is worth in accuracy was below the noise there.
        layer_decay: each layer's rate is this times that of the layer above it, in timm's grouping of layers; None
            for one rate. What is new, in whatever layer, keeps its own.
        opt: an optimiser of timm's.
        sched: "cosine", "tanh" or "none" (constant).
        weight_decay: for weights; biases and norms get none, as in timm.
        warmup_epochs: linear warm-up at the start of each phase, in epochs; may be a fraction of one.
        clip_grad: the largest norm of an update's gradients; None for no bound.
        smoothing: label smoothing of the training loss.
        mixup: alpha of mixup's beta distribution; 0 for none (https://arxiv.org/abs/1710.09412).
        cutmix: likewise of CutMix (https://arxiv.org/abs/1905.04899). With both, each batch gets one or the other.
        aa: an augmentation policy as timm spells it: "rand-m9-mstd0.5" is RandAugment, "augmix-m5-w4-d2", "original".
        reprob: probability of random erasing (https://arxiv.org/abs/1708.04896).
        multi_label: an image may show several classes, or none: each output says yes or no, by binary cross-entropy.
        class_weights: weigh the loss by the inverse frequency of the classes, on average 1; with ``multi_label``, weigh
            the images that show a class so that they count as much as those that do not.
        balanced_sampling: draw images with replacement so that all classes come alike often.
        distill: weight of the loss against the network as it came, the rest going to the labels; 1 needs no labels:
            then the data may be a folder or a tar without class folders, see :mod:`.data.unlabelled`.
        kd_temperature: at which the two outputs are compared (https://arxiv.org/abs/1503.02531).
        model_ema: keep a moving average of the weights, and evaluate and write that.
        model_ema_decay: of the average; it is reached after a warm-up, as timm does it.
        hflip: probability of a horizontal flip. None: 0.5 for colour images above 64 pixels, otherwise 0,
            because digits, letters and signs change their meaning.
        img_size: side in pixels, in place of the size that the model's preprocessing asks for.
        amp: compute in ``amp_dtype`` where that is safe.
        amp_dtype: "bfloat16" or "float16"; the latter on accelerators only.
        channels_last: keep images and weights in that memory order.
        compile: by torch.compile.
        sync_bn: BatchNorm takes mean and variance over the images of all processes, not of each by itself.
        eval_metric: by which the best epoch is chosen: "top1", "top5", "balanced" (the mean of the classes' top-1)
            or "loss"; with ``multi_label`` "map", "f1" (see :class:`sesurgeon.finetune.MultiLabelEvaluation`) or
            "loss". None takes the first.
        patience: stop after so many epochs of the last phase without a better one; None goes on to the end.
        checkpoint_every: updates between states to resume from, beside those at the end of each epoch.
        log_with: trackers that get the numbers; None takes tensorboard when it is installed, () none.
        workers: processes that read images, at most one a core; 0 reads in the main process.
        seed: of everything random: split, order, augmentation, a new head, dropout.
        val_split: the share that is held out of a folder without a validation set.
        on_bad_image: "skip" leaves unreadable images out and names them; "error" refuses the folder.
        data_dir: where torchvision's datasets lie.
        download: may torchvision fetch a dataset that is not there?
        device: "auto" takes the accelerator when there is one.
        output: the folder that holds the runs.
        name: the run's folder in ``output``; None takes exp, exp2, … whichever is free.
        force: replace a run of that name.

    Raises:
        UsageError: a value makes no sense; all of them are listed.
    """

    epochs: int = 10
    freeze_epochs: int = 1
    train: Train = "all"
    batch_size: int = 64
    grad_accum_steps: int = 1
    lr: float = 1e-3
    lr_block_mult: float | None = None
    lr_backbone_mult: float | None = None
    calibrate: bool = True
    layer_decay: float | None = None
    opt: str = "adamw"
    sched: str = "cosine"
    weight_decay: float = 0.01
    warmup_epochs: float = 0.0
    clip_grad: float | None = None
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    aa: str | None = None
    reprob: float = 0.0
    multi_label: bool = False
    class_weights: bool = False
    balanced_sampling: bool = False
    distill: float = 0.0
    kd_temperature: float = 4.0
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    amp: bool = False
    amp_dtype: str = "bfloat16"
    channels_last: bool = False
    compile: bool = False
    sync_bn: bool = False
    eval_metric: str | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    log_with: tuple[str, ...] | None = None
    hflip: float | None = None
    img_size: int | None = None
    workers: int = 4
    seed: int = 42
    val_split: float = 0.2
    on_bad_image: OnBadImage = "skip"
    data_dir: str = "data"
    download: bool = False
    device: str = "auto"
    output: str = DEFAULT_OUTPUT
    name: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        for name, kinds in _kinds():
            object.__setattr__(self, name, _plain(getattr(self, name), kinds))
        problems = list(_no_numbers(self)) or _problems(self)  # others cannot be compared with bounds
        if problems:
            raise UsageError("\n".join(problems))

    @property
    def metric(self) -> str:
        """By which the best epoch is chosen."""
        return self.eval_metric or _metrics(self)[0]

    def settled(self, *, new_head: bool) -> FinetuneConfig:
        """With the rates that were left open; of ``train="blocks"`` that of the backbone stays so.

        Args:
            new_head: the network gets one, for a task that is new to it.
        """
        block_mult, backbone_mult = self.lr_block_mult, self.lr_backbone_mult
        if block_mult is None:
            block_mult = 1.0 if new_head else 5.0
        if backbone_mult is None and self.train == "all":
            backbone_mult = 1.0 if new_head else 0.1
        return replace(self, lr_block_mult=block_mult, lr_backbone_mult=backbone_mult)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as a run's ``args.yaml`` keeps it: what another run could be started with.

        ``force`` is left out: a file should not replace a run.
        """
        log_with = None if self.log_with is None else list(self.log_with) or ["none"]
        return {name: value for name, value in {**asdict(self), "log_with": log_with}.items() if name != "force"}


def _kinds() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The types of each setting."""
    for name, hint in get_type_hints(FinetuneConfig).items():
        yield name, get_args(hint) or (hint,)


def _plain(value: Any, kinds: tuple[Any, ...]) -> Any:
    """A number of NumPy's or torch's as one of Python's; 3.0 as 3 where a whole one is wanted, as files may have it."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    return int(value) if int in kinds and isinstance(value, float) and value.is_integer() else value


def _no_numbers(config: FinetuneConfig) -> Iterator[str]:
    for name, kinds in _kinds():
        value = getattr(config, name)
        if float in kinds and not (type(value) in kinds or type(value) is int):
            yield f"{name} (={value!r}) must be a number."
        if int in kinds and type(value) not in kinds:
            yield f"{name} (={value!r}) must be a whole number."


def _problems(config: FinetuneConfig) -> list[str]:
    with_labels = " with multi_label" if config.multi_label else ""
    checks = [
        (config.epochs >= 1, "epochs", "be at least 1"),
        (
            0 <= config.freeze_epochs <= config.epochs,
            "freeze_epochs",
            f"be from 0 to epochs (={config.epochs})",
        ),
        (config.train in get_args(Train), "train", f"be one of {', '.join(get_args(Train))}"),
        (config.batch_size >= 1, "batch_size", "be at least 1"),
        (_positive(config.lr), "lr", "be above 0"),
        (config.lr_block_mult is None or _positive(config.lr_block_mult), "lr_block_mult", "be above 0"),
        (config.lr_backbone_mult is None or _positive(config.lr_backbone_mult), "lr_backbone_mult", "be above 0"),
        (config.opt in _optimizers(), "opt", "be a first-order optimiser of timm's, as adamw, sgd or lamb"),
        (config.sched in SCHEDULES, "sched", f"be one of {', '.join(SCHEDULES)}"),
        (0 <= config.weight_decay < math.inf, "weight_decay", "be 0 or more"),
        (0 <= config.warmup_epochs < math.inf, "warmup_epochs", "be 0 or more"),
        (config.sched != "none" or config.warmup_epochs == 0, "warmup_epochs", "be 0 without a schedule"),
        (config.grad_accum_steps >= 1, "grad_accum_steps", "be at least 1"),
        (config.layer_decay is None or 0 < config.layer_decay <= 1, "layer_decay", "be above 0 and at most 1"),
        (config.clip_grad is None or _positive(config.clip_grad), "clip_grad", "be above 0"),
        (0 <= config.smoothing < 1, "smoothing", "be from 0 to below 1"),
        (0 <= config.mixup < math.inf, "mixup", "be 0 or more"),
        (
            config.batch_size % 2 == 0 or config.mixup == config.cutmix == 0,
            "batch_size",
            "be even with mixup and cutmix, which mix pairs",
        ),
        (0 <= config.cutmix < math.inf, "cutmix", "be 0 or more"),
        (0 <= config.reprob <= 1, "reprob", "be from 0 to 1"),
        (0 <= config.distill <= 1, "distill", "be from 0 to 1"),
        (_positive(config.kd_temperature), "kd_temperature", "be above 0"),
        (0 < config.model_ema_decay < 1, "model_ema_decay", "be between 0 and 1"),
        (config.amp_dtype in AMP_DTYPES, "amp_dtype", f"be one of {', '.join(AMP_DTYPES)}"),
        (not (config.compile and config.sync_bn), "sync_bn", "be off with compile"),
        (config.metric in _metrics(config), "eval_metric", f"be one of {', '.join(_metrics(config))}{with_labels}"),
        (
            not (config.balanced_sampling and config.multi_label),
            "balanced_sampling",
            "be off with multi_label: its images are not of one class each; class_weights does its work",
        ),
        (config.patience is None or config.patience >= 1, "patience", "be at least 1"),
        (config.checkpoint_every is None or config.checkpoint_every >= 1, "checkpoint_every", "be at least 1"),
        (set(config.log_with or ()) <= set(TRACKERS), "log_with", f"be of {', '.join(TRACKERS)}"),
        (config.hflip is None or 0 <= config.hflip <= 1, "hflip", "be from 0 to 1"),
        (config.img_size is None or config.img_size >= 1, "img_size", "be at least 1"),
        (config.workers >= 0, "workers", "be 0 or more"),
        (0 <= config.seed < 2**32, "seed", "be from 0 to 2**32 - 1"),
        (0 < config.val_split < 1, "val_split", "be between 0 and 1"),
        (config.on_bad_image in ("skip", "error"), "on_bad_image", "be skip or error"),
        (config.device in DEVICES, "device", f"be one of {', '.join(DEVICES)}"),
        (config.name is None or _is_folder_name(config.name), "name", "be a folder name without a path"),
    ]
    return [f"{name} (={getattr(config, name)!r}) must {rule}." for holds, name, rule in checks if not holds]


def _metrics(config: FinetuneConfig) -> tuple[str, ...]:
    return MULTI_LABEL_METRICS if config.multi_label else METRICS


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _is_folder_name(name: str) -> bool:
    return name not in ("", ".", "..") and Path(name).name == name


def _optimizers() -> list[str]:
    from timm.optim import get_optimizer_info, list_optimizers

    return [name for name in list_optimizers() if not get_optimizer_info(name).second_order]
