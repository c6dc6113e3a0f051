"""The task of a run: model, data and settings, checked against each other before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.assumptions import assumptions
from sesurgeon.finetune.data.augmentation import check_policy
from sesurgeon.finetune.data.dataset import Data
from sesurgeon.finetune.data.heldout import held_out_notes, runs_on
from sesurgeon.finetune.data.labels import Labels, fits, labels_for, map_classes
from sesurgeon.finetune.data.preparing import preprocessing_for
from sesurgeon.finetune.remarks import remarks_on
from sesurgeon.finetune.scoring.forward import count_outputs
from sesurgeon.finetune.training.phases import Phase, phases_of
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import attach_provenance, provenance_of
from sesurgeon.modules import dtype_of


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        preprocessing: of images before they go into the model.
        classes: the names of the model's outputs, in order.
        indices: the output index of each class of the data.
        head: path of the last layer if it must be replaced, else None.
        new: paths of the modules that are new: inserted blocks and new heads; with ``train="blocks"`` the old head,
            too.
        phases: which parameters train when.
        notes: for the user, in sentences.
        outputs: how many outputs the model had before the run.
        multi_label: images may have several labels.
        unlabelled: the data have no classes, so the model keeps the names of its outputs.
        new_head: whether the run replaces the head, or did so before it was stopped.
    """

    preprocessing: Preprocessing
    classes: tuple[str, ...]
    indices: tuple[int, ...]
    head: str | None
    new: frozenset[str]
    phases: tuple[Phase, ...]
    notes: tuple[str, ...]
    outputs: int
    multi_label: bool = False
    unlabelled: bool = False
    new_head: bool = False

    @property
    def labels(self) -> Labels:
        """The label for the model, by an image's target in the data."""
        return labels_for(self.indices, len(self.classes), multi_label=self.multi_label)


def make_task(model: nn.Module, data: Data, config: FinetuneConfig, *, taught: bool = False) -> Task:
    """Decide what is trained on what. Nothing is changed.

    Args:
        model: to train.
        data: its images.
        config: the settings.
        taught: by another network, so that a new head has something to be distilled from.

    Raises:
        DataError: the data have no training set, or images that the model cannot take.
        UsageError: the model's weights are not float32, it is no classifier, has no last layer that could be
            replaced, or is frozen completely; timm's augmentation policy is unknown or fails; the network gets a new
            head, but distillation from itself is asked for; or model, data and settings disagree on whether images may
            have several labels.
    """
    from sesurgeon.models.head import head_of, heads_of
    from sesurgeon.surgery import blocks_of

    _check_weights(model)
    preprocessing = preprocessing_for(model, data.split("train"), config.img_size)
    if config.aa is not None:
        check_policy(config.aa, preprocessing)
    outputs = count_outputs(model, preprocessing)
    known = provenance_of(model).classes
    keeps = fits(data.classes, known, outputs)
    _check_multi_label(data, config, kept=keeps and provenance_of(model).multi_label)
    classes = known if keeps and known is not None else data.classes
    head = None if keeps else head_of(model, outputs)
    if head is not None and config.distill > 0 and not taught:
        raise UsageError(
            f"distill (={config.distill:g}) asks to keep the network's outputs, but its head is replaced by a new one.",
            hint="Leave --distill out, give a --teacher that knows the classes, or fine-tune on those that the network "
            "knows.",
        )
    new = frozenset(blocks_of(model))
    if head is not None or config.train == "blocks":
        new |= frozenset(heads_of(model, outputs))
    if not new and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(
            "The model has nothing to train: no inserted blocks, and all its parameters are frozen.",
            hint="Insert blocks with add_se, or call model.requires_grad_().",
        )
    task = Task(
        preprocessing=preprocessing,
        classes=classes,
        indices=map_classes(data.classes, classes, len(classes)),
        head=head,
        new=new,
        phases=phases_of(config, anything_new=bool(new)),
        notes=(*data.notes, *held_out_notes(data, runs_on(model, data.name))),
        outputs=outputs,
        multi_label=config.multi_label,
        unlabelled=data.unlabelled,
        new_head=head is not None,
    )
    taken = assumptions(model, data) if keeps else ()
    return replace(task, notes=(*task.notes, *_notes(task, config), *taken))


def _notes(task: Task, config: FinetuneConfig) -> Iterator[str]:
    """What follows from the task and the settings, in sentences."""
    if task.head is not None:
        old, new = f"The head {task.head} with {task.outputs} outputs", f"a new one for {len(task.classes)} classes"
        yield f"{old} is replaced by {new}."
    if config.freeze_epochs and not task.new:
        yield "The model has no inserted blocks and keeps its head: there is no phase with a frozen backbone."
    if task.head is not None:
        yield _rates(config.with_rates(new_head=True), task.phases)
    yield from remarks_on(config, task.phases)


def _rates(config: FinetuneConfig, phases: tuple[Phase, ...]) -> str:
    """The learning rates in a sentence; none of ``config`` may be open."""
    assert config.lr_block_mult is not None
    said = f"The new parts learn at a rate of {config.lr * config.lr_block_mult:g}"
    if any(phase.name == "all" for phase in phases) and config.lr_backbone_mult is not None:
        said += f", the rest at {config.lr * config.lr_backbone_mult:g}"
    return said + (", lower layers at less." if config.layer_decay is not None else ".")


def _check_weights(model: nn.Module) -> None:
    """Refuse weights in half precision, where rounding swallows small updates; --amp keeps them in float32."""
    dtype = str(dtype_of(model)).removeprefix("torch.")
    if dtype != "float32":
        raise UsageError(
            f"The model's weights are {dtype}, and fine-tuning takes float32.",
            hint="Convert them in Python: sesurgeon.save(sesurgeon.load('model.pt').float(), 'model.float32.pt'). "
            "Give load trust_pickle or arch where --trust-pickle or --arch is needed. Then --amp computes in bfloat16.",
        )


def _check_multi_label(data: Data, config: FinetuneConfig, *, kept: bool) -> None:
    """Check that data, settings and model agree. ``kept``: the model keeps a head for several labels per image."""
    if data.multi_label != config.multi_label:
        raise UsageError(
            f"multi_label (={config.multi_label}) is not the value with which {data.name} was opened.",
            hint="Open the data by open_data(..., multi_label=...) of the same value.",
        )
    if kept and not config.multi_label:
        raise UsageError("The model gives several labels per image.", hint="Go on with it by --multi-label.")


def prepare_model(model: nn.Module, task: Task) -> None:
    """Put in the new head, if there is one, and write classes and preprocessing into the provenance."""
    from sesurgeon.models.new_head import replace_head
    from sesurgeon.surgery import note_head

    note_head(model, task.outputs)
    provenance = replace(provenance_of(model), multi_label=task.multi_label, preprocessing=task.preprocessing)
    if not task.unlabelled:
        provenance = replace(provenance, classes=task.classes)
    if task.head is not None:
        replace_head(model, len(task.classes))
        provenance = replace(provenance, num_classes=len(task.classes))
    attach_provenance(model, provenance)
