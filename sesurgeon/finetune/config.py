"""The settings of a fine-tuning run, named as in timm."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sesurgeon.errors import UsageError
from sesurgeon.finetune.type_checks import mismatches

Train = Literal["all", "blocks"]
Schedule = Literal["cosine", "tanh", "none"]
AmpDtype = Literal["bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
OnBadImage = Literal["skip", "error"]

METRICS = ("top1", "top5", "balanced", "loss")
MULTI_LABEL_METRICS = ("map", "f1", "loss")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
DEFAULT_OUTPUT = "runs/finetune"


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a run, checked together when the object is created.

    Inserted blocks and a new head train at ``lr * lr_block_mult`` in both phases, everything else at
    ``lr * lr_backbone_mult`` in the second. The schedule and its warm-up start anew in each phase and advance with
    every update.

    Attributes:
        epochs: passes over the training images, including the frozen ones.
        freeze_epochs: how many of them, at the start, train only inserted blocks and a new head.
        train: "all"; or "blocks" to train only inserted blocks and the head, in all epochs. The backbone and its
            BatchNorm statistics stay as they are then, and :func:`sesurgeon.extract_adapter` can save what was learned
            in a small file.
        batch_size: images per step on each process. The last, smaller update of an epoch is left out if one of its
            steps would have a single image: BatchNorm cannot train on one value per channel.
        grad_accum_steps: steps whose gradients are added up for one update.
        lr: learning rate. The default suits AdamW; SGD needs about ten times as much.
        lr_block_mult: factor on ``lr`` for inserted blocks and a new head. None: 5 if the network keeps its head,
            because blocks start as identities and need a higher rate to move (on scikit-learn's digits, three frozen
            epochs took the validation loss from 0.31 to 0.13 with 5 and to 0.26 with 1); 1 if it gets a new head.
        lr_backbone_mult: factor on ``lr`` for everything else. None: 0.1 if the network keeps its head, because it has
            learned these images already; 1 if it gets a new head, because the images are new to the backbone, too
            (benchmarks/adapt.md).
        calibrate: before training, scale the hidden layer of fresh blocks so that each unit has mean 0 and variance 1
            over the first training images (:mod:`sesurgeon.blocks.calibration`). On Fashion-MNIST, five of six gates
            then varied at least five times as much between images after one epoch (benchmarks/calibration.md).
        layer_decay: the learning rate of each layer is this times that of the layer above it, with layers grouped as in
            timm; inserted blocks and a new head are exempt. None: one rate for all layers.
        opt: name of an optimiser in timm.
        sched: "cosine" or "tanh", timm's schedulers of these names; "none" keeps the rates constant.
        weight_decay: of weights; biases and norms get none, as in timm.
        warmup_epochs: epochs of linear warm-up from a rate of 0 at the start of each phase; may be a fraction, and
            takes at most half of a phase.
        clip_grad: maximum norm of the gradients of an update; None: no clipping.
        smoothing: label smoothing of the training loss.
        mixup: alpha of mixup's beta distribution; 0: no mixup (https://arxiv.org/abs/1710.09412).
        cutmix: the same for CutMix (https://arxiv.org/abs/1905.04899). With both, each batch gets one at random.
        aa: augmentation policy in timm's spelling: "rand-m9-mstd0.5" (RandAugment), "augmix-m5-w4-d2", "original".
        reprob: probability of random erasing (https://arxiv.org/abs/1708.04896).
        multi_label: images have any number of labels, or none; each output is trained by binary cross-entropy.
        class_weights: weight classes in the loss by inverse frequency, with mean 1 over the images; with
            ``multi_label``, give the images that show a class the same total weight as those that do not.
        balanced_sampling: draw images with replacement so that all classes are equally frequent.
        distill: weight of distillation from the network as it was before training, or from the teacher that is given to
            :func:`finetune`; the labels get the rest. At 1, without a teacher, no labels are needed, and the data may
            be a folder or a tar without class folders (:mod:`.data.unlabelled`).
        kd_temperature: divides both networks' logits before the softmax; higher compares softer distributions
            (https://arxiv.org/abs/1503.02531).
        model_ema: keep an exponential moving average of the weights, and evaluate and save that.
        model_ema_decay: the decay grows to this value over the first updates (timm's ``use_warmup``).
        hflip: probability of a horizontal flip. None: 0.5 for colour images above 64 pixels, otherwise 0, because
            mirrored digits, letters and signs mean something else.
        img_size: side length of the images in pixels, instead of that in the model's preprocessing.
        amp: automatic mixed precision: compute in ``amp_dtype`` where that is safe.
        amp_dtype: "bfloat16"; or "float16", on accelerators only.
        channels_last: keep images and weights in channels-last memory format.
        compile: compile the network with torch.compile.
        sync_bn: let BatchNorm take mean and variance over the images of all processes instead of each process's own.
        eval_metric: the score that chooses the best epoch: "top1", "top5", "balanced" (mean of the classes' top-1) or
            "loss"; with ``multi_label``, "map", "f1" (see :class:`sesurgeon.finetune.MultiLabelEvaluation`) or "loss".
            None: the first of these. Of equal scores, that with the lower loss is better.
        patience: stop after so many epochs of the last phase without a new best; None: train all epochs.
        checkpoint_every: also write a state to resume from after every so many updates; there is one after each epoch
            in any case.
        log_with: trackers that receive the numbers. None: tensorboard if it is installed; (): none.
        workers: processes that read images, at most one per core; 0: read in the main process.
        seed: of everything random: split, order, augmentation, a new head, dropout.
        val_split: share of the images to hold out where the data have no validation set.
        on_bad_image: "skip" leaves unreadable images out and names them; "error" refuses the data.
        data_dir: where torchvision keeps its datasets.
        download: let torchvision download a dataset that is not in ``data_dir``.
        device: "auto" takes the accelerator if there is one.
        output: the folder that holds the runs.
        name: the run's folder in ``output``; None: the first of exp, exp2, … that is free.
        force: replace a run of that name.

    Raises:
        UsageError: values are of the wrong type or out of range; all of them are listed.
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
    sched: Schedule = "cosine"
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
    amp_dtype: AmpDtype = "bfloat16"
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
    device: Device = "auto"
    output: str = DEFAULT_OUTPUT
    name: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        kinds = get_type_hints(FinetuneConfig)
        for name, kind in kinds.items():
            object.__setattr__(self, name, _plain(getattr(self, name), kind))
        closed = {name: kind for name, kind in kinds.items() if get_origin(kind) is Literal}
        unknown = [f"{problem}." for problem in mismatches(vars(self), closed)]
        wrong = [f"{problem}." for problem in mismatches(vars(self), kinds)]
        # values of other types cannot be compared with bounds
        problems = wrong if len(wrong) > len(unknown) else unknown + _problems(self)
        if problems:
            raise UsageError("\n".join(problems))

    @property
    def metric(self) -> str:
        """The score that chooses the best epoch."""
        return self.eval_metric or _metrics(self)[0]

    def with_rates(self, *, new_head: bool) -> FinetuneConfig:
        """Fill in the rate factors that are None; with ``train="blocks"`` the backbone has no rate, and keeps None.

        Args:
            new_head: whether the network gets a new head.
        """
        block_mult, backbone_mult = self.lr_block_mult, self.lr_backbone_mult
        if block_mult is None:
            block_mult = 1.0 if new_head else 5.0
        if backbone_mult is None and self.train == "all":
            backbone_mult = 1.0 if new_head else 0.1
        return replace(self, lr_block_mult=block_mult, lr_backbone_mult=backbone_mult)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as a run's ``args.yaml`` keeps it; another run can be started from that file.

        ``force`` is left out, so that such a file never replaces a run.
        """
        log_with = None if self.log_with is None else list(self.log_with) or ["none"]
        return {name: value for name, value in {**asdict(self), "log_with": log_with}.items() if name != "force"}


def _plain(value: Any, kind: Any) -> Any:
    """``value`` in Python's own types: a path as text, NumPy's and torch's numbers, 3.0 as 3 where ``kind`` has int."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    wants_int = int in (kind, *get_args(kind))
    return int(value) if wants_int and isinstance(value, float) and value.is_integer() else value


def _problems(config: FinetuneConfig) -> list[str]:
    with_labels = " with multi_label" if config.multi_label else ""
    checks = [
        (config.epochs >= 1, "epochs", "be at least 1"),
        (
            0 <= config.freeze_epochs <= config.epochs,
            "freeze_epochs",
            f"be from 0 to epochs (={config.epochs})",
        ),
        (config.batch_size >= 1, "batch_size", "be at least 1"),
        (_positive(config.lr), "lr", "be above 0"),
        (config.lr_block_mult is None or _positive(config.lr_block_mult), "lr_block_mult", "be above 0"),
        (config.lr_backbone_mult is None or _positive(config.lr_backbone_mult), "lr_backbone_mult", "be above 0"),
        (config.opt in _optimizers(), "opt", "be a first-order optimiser of timm's, as adamw, sgd or lamb"),
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
