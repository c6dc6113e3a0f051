"""What a classifier sees in image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sesurgeon.errors import DataError, SesurgeonError, UsageError
from sesurgeon.finetune.data.classfiles import SUFFIXES
from sesurgeon.finetune.data.folder import list_images
from sesurgeon.finetune.data.images import BadImage, FileImages, find_bad_images
from sesurgeon.finetune.data.loader import check_loading, eval_loader, read
from sesurgeon.finetune.data.transforms import preprocessing_for
from sesurgeon.finetune.devices import find_device
from sesurgeon.finetune.events import EvaluationStep, ImagesChecked, OnProgress, ignore
from sesurgeon.finetune.scoring.multilabel import THRESHOLD
from sesurgeon.finetune.scoring.outputs import as_input, count_outputs, evaluating, main_logits, output_names
from sesurgeon.models.provenance import provenance_of

_USUAL_TOPK = 5


@dataclass(frozen=True)
class Guess:
    """A class that an image may show.

    Attributes:
        label: the class's name; the index in digits where the model has no names.
        index: the model's output.
        probability: softmax over all outputs, in [0, 1]; sigmoid of this output for a model that gives several labels
            an image.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What one image shows, the most probable class first; where it may be several, perhaps none."""

    path: Path
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Predictions:
    """What a model sees in a set of images.

    Attributes:
        images: one a readable image, in the order in which they were given; those of a folder by name.
        skipped: the files that cannot be read.
        input_size: (channels, height, width) of what the model saw.
        multi_label: the model gives several labels an image.
    """

    images: tuple[Prediction, ...]
    skipped: tuple[BadImage, ...]
    input_size: tuple[int, int, int]
    multi_label: bool = False


def predict(
    model: nn.Module,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    topk: int | None = None,
    batch_size: int = 64,
    workers: int = 4,
    img_size: int | None = None,
    device: str | None = None,
    on_progress: OnProgress = ignore,
) -> Predictions:
    """Say what ``model`` sees in image files; its train and eval flags are left as they were.

    Images are prepared as for :func:`evaluate`, by what the model's checkpoint says. All files are decoded once
    before the model runs, and those that cannot be read are left out and listed.

    Args:
        model: a classifier, also one that :func:`load_onnx` gave.
        images: a file, a folder (searched with its folders for image files), or several of them. Each file
            counts once.
        topk: guesses an image, at most as many as the model has outputs. None gives 5; of a model that gives several
            labels an image, all that it finds more probable than not.
        batch_size: images a step.
        workers: processes that read images, at most one a core and one a step.
        img_size: side in pixels, in place of what the model's preprocessing says.
        device: "auto", "cpu", "cuda" or "mps"; the model is moved there. None stays where the model is.
        on_progress: gets :class:`ImagesChecked`, then :class:`EvaluationStep`.

    Raises:
        DataError: a path is missing, a folder has no image, no image can be read, or the model cannot take them.
        UsageError: ``topk`` or ``batch_size`` is less than 1, ``workers`` less than 0, the model is no classifier, or
            the device is not there.
        SesurgeonError: the model's outputs are not finite.
    """
    if topk is not None and topk < 1:
        raise UsageError(f"topk (={topk}) must be at least 1.")
    check_loading(batch_size, workers)
    paths = find_images([images] if isinstance(images, (str, os.PathLike)) else images)
    if device is not None:
        model.to(find_device(device))
    bad = find_bad_images(paths, workers=workers, report=lambda done: on_progress(ImagesChecked(done, len(paths))))
    skipped = frozenset(image.path for image in bad)
    readable = tuple(path for path in paths if path not in skipped)
    if not readable:
        raise DataError(describe_bad_images(bad, len(paths)), hint="Give image files that a viewer can show.")
    files = FileImages(readable, (0,) * len(readable))
    preprocessing = preprocessing_for(model, files, img_size)
    multi_label = provenance_of(model).multi_label
    names = output_names(model, count_outputs(model, preprocessing))
    steps = -(-len(readable) // batch_size)
    # a single step is read sooner here than by a process that has to start
    workers = min(workers, steps) if steps > 1 else 0
    loader = eval_loader(files, preprocessing, (0,), batch_size=batch_size, workers=workers)
    rows: list[tuple[Guess, ...]] = []
    with evaluating(model), torch.no_grad():
        for step, (batch, _) in enumerate(read(loader), start=1):
            logits = main_logits(model(as_input(batch, model))).float()
            _check_finite(logits, readable[len(rows) :])
            rows += _guesses(logits, names, topk, multi_label)
            on_progress(EvaluationStep(step, steps))
    found = tuple(Prediction(path, guesses) for path, guesses in zip(readable, rows, strict=True))
    return Predictions(found, bad, preprocessing.input_size, multi_label)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """The files among ``paths`` as they are, and the image files in the folders among them, sorted; each once.

    A file that is given by name may have any suffix; hidden files in folders are passed over.

    Raises:
        DataError: a path is missing, or a folder has no image; all such are named.
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


def names_images(path: str | os.PathLike[str]) -> bool:
    """Is it a folder, or does it end as image files do?"""
    return Path(path).is_dir() or Path(path).suffix.lower() in SUFFIXES


def describe_bad_images(bad: Sequence[BadImage], total: int) -> str:
    """A sentence and a line for each file that cannot be read."""
    return "\n".join(
        [f"{len(bad)} of {total} images cannot be read:", *(f"  {image.path}: {image.reason}" for image in bad)]
    )


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
