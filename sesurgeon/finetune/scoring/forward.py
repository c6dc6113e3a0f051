"""Running a classifier: its inputs, its logits, its modes, and hooks on its modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sesurgeon.errors import DataError, UsageError
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.models.provenance import provenance_of
from sesurgeon.modules import device_of, dtype_of


def main_logits(output: object) -> Tensor:
    """The logits of shape (N, classes) in a forward's result.

    In train mode, Inception and GoogLeNet return a tuple with the logits first. The rest is of their auxiliary
    classifiers, which are not trained.

    Raises:
        UsageError: there is no such tensor: the model is no classifier.
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
    """The number of outputs of ``model``, found by running it once on a black image.

    Raises:
        DataError: the model cannot take images of that size.
        UsageError: the model is no classifier, or takes more than images.
    """
    with evaluating(model), torch.no_grad():
        image = torch.zeros(1, *preprocessing.input_size)
        try:
            output = model(as_input(image, model))
        except TypeError as error:
            raise UsageError(
                f"{type(model).__name__} does not run on images alone: {error}",
                hint="Wrap it in a module whose forward takes one batch of images, and returns the class scores.",
            ) from error
        except (AssertionError, RuntimeError, ValueError) as error:  # timm's transformers assert it
            size = " x ".join(str(number) for number in preprocessing.input_size)
            raise DataError(
                f"The model cannot take images of {size} (channels, height, width): {error}",
                hint="Give the size that it was made for with --img-size.",
            ) from error
        return main_logits(output).shape[1]


def output_names(model: nn.Module, outputs: int) -> tuple[str, ...]:
    """The class names in the model's checkpoint; the indices of the outputs in digits if it has none."""
    known = provenance_of(model).classes
    return known if known is not None and len(known) == outputs else tuple(map(str, range(outputs)))


def as_input(images: Tensor, model: nn.Module) -> Tensor:
    """``images`` on the model's device, and in the type of its weights, which may be half precision."""
    return images.to(device_of(model), dtype_of(model))


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Give every module its own train or eval mode back at the end."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module gets its own mode back."""
    with modes_kept(model):
        model.eval()
        yield


@contextlib.contextmanager
def watching(modules: Mapping[str, nn.Module], see: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call ``see(name, output)`` whenever one of ``modules`` has run. The hooks are removed at the end."""

    def hook(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        see(name, output)  # returns nothing: what a hook returns would take the place of the output

    with contextlib.ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(hook, name)))
        yield
