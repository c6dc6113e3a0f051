"""The teacher of distillation: a frozen copy of the network before training, or another network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.data.labels import map_classes
from sesurgeon.finetune.scoring.forward import as_input, count_outputs, evaluating, main_logits
from sesurgeon.finetune.task import Task
from sesurgeon.models.copies import copy_of
from sesurgeon.models.files.own_weights import CHECKPOINT_KEY, read_parts, take_weights
from sesurgeon.models.provenance import Provenance, provenance_of


class OtherTeacher(nn.Module):
    """Another network, of whose outputs those of the student's classes are taken.

    Args:
        network: the teacher.
        columns: its output of each of the student's outputs.
    """

    def __init__(self, network: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor(columns))

    def forward(self, images: Tensor) -> Tensor:
        return main_logits(self.network(as_input(images, self.network))).index_select(1, self.columns)


def make_teacher(model: nn.Module, images: Tensor) -> nn.Module:
    """A frozen copy of ``model`` in eval mode; without its blocks, which cost time, if its outputs stay the same.

    Args:
        model: the network before training.
        images: to compare the outputs on, of shape (N, C, H, W).
    """
    from sesurgeon.surgery import blocks_of, remove_se

    teacher = copy_of(model)
    if blocks_of(model):
        bare = remove_se(teacher)
        images = as_input(images, model)
        with evaluating(teacher), evaluating(bare), torch.no_grad():
            same = torch.equal(main_logits(bare(images)), main_logits(teacher(images)))
            teacher = bare if same else teacher
    return teacher.requires_grad_(False).eval()


def restore_teacher(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> nn.Module:
    """The teacher of a resumed run.

    Args:
        model: the network in training.
        weights: the tensors of the teacher that :func:`make_teacher` made.
        origin: the file that they come from.

    Raises:
        UnreadableFileError: the weights belong to another network.
    """
    from sesurgeon.surgery import blocks_of, remove_se

    had_blocks = any(name.startswith(f"{path}.") for path in blocks_of(model) for name in weights)
    teacher = copy_of(model) if had_blocks else remove_se(model)
    take_weights(teacher, weights, origin)
    return teacher.requires_grad_(False).eval()


def check_teacher(teacher: nn.Module | None, config: FinetuneConfig, own: Mapping[str, Any] | None) -> None:
    """Refuse a teacher of which nothing is learned, or another one than the run had that is resumed.

    Args:
        teacher: that was given.
        config: the settings.
        own: settings of the run that is resumed; None for a new run.
    """
    if teacher is not None and config.distill == 0:
        raise UsageError(
            f"A teacher ({type(teacher).__name__}) is given, and distill (=0) takes nothing from it.",
            hint="Give --distill 0.8, as well.",
        )
    if own is None:
        return
    had = own.get("teacher")
    if had is not None and teacher is None:
        raise UsageError(
            f"The run is distilled from another network ({had}), which is needed to go on.",
            hint="Give it again: teacher=sesurgeon.load(folder / 'teacher.pt', ...), with arch or trust_pickle where "
            "it needs them.",
        )
    if had is None and teacher is not None:
        raise UsageError("The run has no teacher but the network itself.", hint="Leave the teacher out.")


def check_savable(teacher: nn.Module) -> None:
    """Refuse a teacher that the run's folder could not keep, before there is one."""
    from sesurgeon.surgery import save

    with tempfile.TemporaryDirectory() as folder:
        try:
            save(teacher, Path(folder, "teacher.pt"))
        except UsageError as error:
            raise UsageError(f"The teacher cannot be kept. {error.message}", hint=error.hint) from error


def check_is_the_kept(teacher: nn.Module, path: Path) -> None:
    """Refuse another teacher than the one that a run keeps at ``path``: its outputs mean other classes.

    Raises:
        UsageError: it names other classes, or they are in another order.
        UnreadableFileError: the kept one is damaged.
    """
    parts = read_parts(path, mapped=True)
    if parts is not None:
        had = Provenance.from_dict(parts[CHECKPOINT_KEY]["provenance"]).classes
        if had != provenance_of(teacher).classes:
            raise UsageError(
                "The teacher that is given names other classes than the one that the run had.", hint=f"Give {path}."
            )


def columns_of(teacher: nn.Module, task: Task, config: FinetuneConfig) -> tuple[int, ...]:
    """Which output of another network belongs to each of the student's. Checks that it can teach.

    Classes are matched by name; where the teacher does not name its own, they are taken to be those of the data, in the
    same order.

    Raises:
        UsageError: the images have no labels; or the teacher is no classifier, wants images normalised in another way,
            or differs in whether they may have several labels.
        DataError: it cannot take the images, or does not know a class.
    """
    name, known = type(teacher).__name__, provenance_of(teacher)
    if task.unlabelled:
        raise UsageError(
            "Images without labels are learnt from the network itself, not from a teacher.", hint="Leave --teacher out."
        )
    if known.multi_label != config.multi_label and (known.multi_label or known.classes is not None):
        raise UsageError(
            f"The teacher ({name}) and the run differ in whether images may have several labels.",
            hint="Give a teacher of the same kind.",
        )
    own, wanted = task.preprocessing, known.preprocessing
    if wanted is not None and (wanted.mean, wanted.std) != (own.mean, own.std):
        raise UsageError(
            f"The teacher ({name}) wants images with mean {wanted.mean} and std {wanted.std}, the model with "
            f"{own.mean} and {own.std}.",
            hint="Both see the same images. Give a teacher that was trained on images prepared alike.",
        )
    try:
        outputs = count_outputs(teacher, own)
        if known.classes is not None:
            return map_classes(task.classes, known.classes, outputs)
        if len(task.indices) != len(task.classes):
            raise DataError(
                f"The model knows {len(task.classes)} classes and the data {len(task.indices)}: which are meant by "
                f"{outputs} outputs without names, cannot be told.",
                hint="Give a teacher that names its classes, such as the best.pt of another run.",
            )
        map_classes(task.classes, None, outputs)  # refuses another number
        return tuple(map(task.indices.index, range(outputs)))  # in the order of the data
    except DataError as error:
        raise DataError(f"The teacher ({name}) does not fit. {error.message}", hint=error.hint) from error


def other_teacher(teacher: nn.Module, task: Task, config: FinetuneConfig) -> OtherTeacher:
    """A frozen copy of another network in eval mode; errors are those of :func:`columns_of`."""
    columns = columns_of(teacher, task, config)
    return OtherTeacher(copy_of(teacher), columns).requires_grad_(False).eval()
