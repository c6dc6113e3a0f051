"""The labels that a classifier predicts for image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sesurgeon.errors import DataError, SesurgeonError, UsageError
from sesurgeon.files import StrPath
from sesurgeon.finetune.data.folder import list_images
from sesurgeon.finetune.data.image_checks import BadImage, bad_images, check_images, describe_bad_images
from sesurgeon.finetune.data.images import SUFFIXES, FileImages
from sesurgeon.finetune.data.loader import check_loading, eval_loader
from sesurgeon.finetune.data.preparing import preprocessing_for
from sesurgeon.finetune.data.readers import readers_ended
from sesurgeon.finetune.devices import find_device
from sesurgeon.finetune.events import OnProgress, ignore
from sesurgeon.finetune.scoring.evaluate import outputs
from sesurgeon.finetune.scoring.forward import count_outputs, evaluating, output_names
from sesurgeon.finetune.scoring.multilabel import THRESHOLD
from sesurgeon.models.provenance import provenance_of

_USUAL_TOPK = 5


@dataclass(frozen=True)
class Guess:
    """A class that an image may show.

    Attributes:
        label: the name of the class; the index in digits if the model has no names.
        index: the model's output.
        probability: softmax over all outputs, in [0, 1]; for a model that gives several labels per image, the sigmoid
            of this output.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The guesses for one image, the most probable first; none are possible where there may be several labels."""

    path: Path
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Predictions:
    """The guesses for a set of images.

    Attributes:
        images: one for each image that can be read, in the order given; those of a folder are sorted by name.
        skipped: the files that cannot be read.
        input_size: (channels, height, width) of the model's input.
        multi_label: the model gives several labels per image.
    """

    images: tuple[Prediction, ...]
    skipped: tuple[BadImage, ...]
    input_size: tuple[int, int, int]
    multi_label: bool = False


def predict(
    model: nn.Module,
    images: StrPath | Iterable[StrPath],
    *,
    topk: int | None = None,
    batch_size: int = 64,
    workers: int = 4,
    img_size: int | None = None,
    device: str | None = None,
    on_progress: OnProgress = ignore,
) -> Predictions:
    """Predict the labels of image files; the model's train and eval modes are left as they were.

    Images are prepared as for :func:`evaluate`. All files are decoded once before the model runs, and those that
    cannot be read are left out and listed.

    Args:
        model: a classifier, also one from :func:`load_onnx`.
        images: a file, a folder (all image files in it and in its folders), or several of them. Each file counts once.
        topk: guesses per image, at most as many as the model has outputs. None gives 5; for a model that gives several
            labels per image, those more probable than not.
        batch_size: images per step.
        workers: processes that read images, at most one per core and one per step.
        img_size: side in pixels, instead of that in the model's preprocessing.
        device: "auto", "cpu", "cuda" or "mps"; the model is moved there. None stays where the model is.
        on_progress: gets :class:`ImagesChecked`, then :class:`EvaluationStep`.

    Raises:
        DataError: a path is missing, a folder has no image, no image can be read, or the model cannot take them.
        UsageError: ``topk`` or ``batch_size`` is less than 1, ``workers`` less than 0, the model is no classifier, or
            the device is not available.
        SesurgeonError: the model's outputs are not finite.
    """
    if topk is not None and topk < 1:
        raise UsageError(f"topk (={topk}) must be at least 1.")
    check_loading(batch_size, workers)
    paths = find_images([images] if isinstance(images, (str, os.PathLike)) else images)
    if device is not None:
        model.to(find_device(device))
    skipped = bad_images(check_images(paths, workers=workers, on_progress=on_progress))
    unreadable = frozenset(image.path for image in skipped)
    readable = tuple(path for path in paths if path not in unreadable)
    if not readable:
        raise DataError(describe_bad_images(skipped, len(paths)), hint="Give image files that a viewer can show.")
    files = FileImages(readable, (0,) * len(readable))
    preprocessing = preprocessing_for(model, files, img_size)
    multi_label = provenance_of(model).multi_label
    names = output_names(model, count_outputs(model, preprocessing))
    steps = -(-len(readable) // batch_size)
    # one step is read sooner here than by a process that has to start
    workers = min(workers, steps) if steps > 1 else 0
    loader = eval_loader(files, preprocessing, (0,), batch_size=batch_size, workers=workers)
    rows: list[tuple[Guess, ...]] = []
    with evaluating(model), torch.no_grad(), readers_ended(loader):
        for logits, _ in outputs(model, loader, on_progress):
            _check_finite(logits, readable[len(rows) :])
            rows += _guesses(logits, names, topk, multi_label)
    found = tuple(Prediction(path, guesses) for path, guesses in zip(readable, rows, strict=True))
    return Predictions(found, skipped, preprocessing.input_size, multi_label)


def find_images(paths: Iterable[StrPath]) -> tuple[Path, ...]:
    """All files that ``paths`` mean: the files themselves, and the image files in folders, sorted; each once.

    A file given by name may have any suffix. Hidden files in folders are passed over.

    Raises:
        DataError: a path is missing, or a folder has no image; all such paths are named.
        UsageError: there are no paths, or something else.
    """
    listed = list(paths) if isinstance(paths, Iterable) else [paths]
    others = [type(path).__name__ for path in listed if not isinstance(path, (str, os.PathLike))]
    if others:
        raise UsageError(
            f"Images are given by their paths, not as a {others[0]}.",
            hint="Write them to files first; or call the network on a tensor yourself.",
        )
    given = [Path(path) for path in listed]
    if not given:
        raise UsageError("No images given.", hint="Name image files, or folders of them.")
    missing = [str(path) for path in given if not path.exists()]
    if missing:
        raise DataError(f"There is no such file or folder: {', '.join(missing)}.")
    found = {path: list_images(path) if path.is_dir() else [path] for path in given}
    empty = [str(path) for path, files in found.items() if not files]
    if empty:
        raise DataError(f"No image found in {', '.join(empty)}.", hint=f"Images are files with {', '.join(SUFFIXES)}.")
    return tuple(dict.fromkeys(file for files in found.values() for file in files))


def names_images(path: StrPath) -> bool:
    """Is it a folder, or has it the suffix of an image file?"""
    return Path(path).is_dir() or Path(path).suffix.lower() in SUFFIXES


def _guesses(logits: Tensor, names: Sequence[str], topk: int | None, multi_label: bool) -> Iterator[tuple[Guess, ...]]:
    probabilities = logits.sigmoid() if multi_label else logits.softmax(1)
    most = topk or (len(names) if multi_label else _USUAL_TOPK)
    least = THRESHOLD if multi_label and topk is None else -1.0
    best = probabilities.topk(min(most, len(names)))
    for row in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        guesses = (Guess(names[index], index, probability) for index, probability in zip(*row, strict=True))
        yield tuple(guess for guess in guesses if guess.probability > least)


def _check_finite(logits: Tensor, paths: Sequence[Path]) -> None:
    finite = logits.isfinite().all(1)
    if not finite.all():
        first = paths[int(finite.logical_not().nonzero()[0])]
        raise SesurgeonError(f"The model's outputs for {first} are not finite.", hint="Check its weights.")
