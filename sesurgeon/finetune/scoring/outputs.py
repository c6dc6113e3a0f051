"""What a model's forward returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sesurgeon.errors import DataError, UsageError
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import provenance_of


def main_logits(output: object) -> Tensor:
    """The logits of shape (N, classes) in a forward's result.

    In train mode Inception and GoogLeNet return a tuple whose first entry these are; their auxiliary
    classifiers are left untrained.

    Raises:
        UsageError: the result has no such tensor: the model is no classifier.
    """
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor) or first.ndim != 2:
        shape = f" of shape {tuple(first.shape)}" if isinstance(first, Tensor) else ""
        raise UsageError(
            f"The model gives a {type(first).__name__}{shape}, not a tensor of shape (images, classes).",
            hint="Only classifiers can be fine-tuned and evaluated here.",
        )
    return first


def count_outputs(model: nn.Module, preprocessing: Preprocessing) -> int:
    """How many classes ``model`` tells apart, by running it once on a black image.

    Raises:
        DataError: the model cannot take images of that size.
        UsageError: the model is no classifier.
    """
    with evaluating(model), torch.no_grad():
        image = torch.zeros(1, *preprocessing.input_size)
        try:
            output = model(as_input(image, model))
        except (AssertionError, RuntimeError, ValueError) as error:  # timm's transformers assert it
            size = " x ".join(str(number) for number in preprocessing.input_size)
            raise DataError(
                f"The model cannot take images of {size} (channels, height, width): {error}",
                hint="Give the size that it was made for with --img-size.",
            ) from error
        return main_logits(output).shape[1]


def output_names(model: nn.Module, outputs: int) -> tuple[str, ...]:
    """The classes that the model's checkpoint names; the outputs' indices in digits where it names none."""
    known = provenance_of(model).classes
    return known if known is not None and len(known) == outputs else tuple(map(str, range(outputs)))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """Of the model's first parameter of floating point; float32 for a model without any."""
    return next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)


def as_input(images: Tensor, model: nn.Module) -> Tensor:
    """``images`` where ``model`` lies, and of the type of its weights: those of a file may be of half precision."""
    return images.to(device_of(model), dtype_of(model))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets its own flag back."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
