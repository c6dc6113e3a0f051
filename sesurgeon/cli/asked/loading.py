"""Loading MODEL with the options that say how it is read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sesurgeon.cli.asked.finding import best_of_run
from sesurgeon.cli.asked.options import Reading, parse_kwargs
from sesurgeon.cli.memory import spare_memory_for
from sesurgeon.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.cli.shown.console import Output


def load_model(model: str, reading: Reading, *, mapped: bool = True) -> nn.Module:
    """:func:`sesurgeon.load`, with the arguments of the architecture as ``KEY=VALUE``.

    Args:
        model: MODEL, as it was typed; of the folder of a run, ``best.pt`` is read.
        reading: how it is read.
        mapped: map the file into memory, which suits a command of minutes; a run of days should read it.

    Raises:
        UsageError: ``--model-kwargs`` or ``--preprocessing`` are malformed, or there is no architecture that the
            arguments could belong to.
        SesurgeonError: see :func:`sesurgeon.load`.
    """
    from sesurgeon.models import Source, named_source
    from sesurgeon.surgery import load

    model = best_of_run(model)
    kwargs = parse_kwargs(reading.model_kwargs)
    source = named_source(model)
    if kwargs and source is None and reading.arch is None:
        raise UsageError(
            f"--model-kwargs are arguments of an architecture; {model} is a file.",
            hint="Name the architecture of its weights with --arch.",
        )
    if mapped:
        spare_memory_for(model)
    return load(
        model if source is None else replace(source, kwargs=kwargs),
        arch=None if reading.arch is None else Source.parse(reading.arch, kwargs),
        num_classes=reading.num_classes,
        pretrained=reading.pretrained,
        trust_pickle=reading.trust_pickle,
        mapped=mapped,
        preprocessing=_stated(reading),
    )


def load_model_or_onnx(model: str, reading: Reading) -> nn.Module:
    """:func:`load_model`, or :func:`sesurgeon.export.load_onnx` for an ONNX file.

    Raises:
        UsageError: an ONNX file was given together with options that say how modules are read.
        SesurgeonError: see the two functions.
    """
    if not model.endswith(".onnx"):
        return load_model(model, reading)
    from sesurgeon.export import load_onnx
    from sesurgeon.models import state_preprocessing

    given = [option for option, value in vars(reading).items() if value and option != "preprocessing"]
    if given:
        flags = ", ".join(f"--{option.replace('_', '-')}" for option in given)
        raise UsageError(f"{flags} cannot be used with an ONNX file, which {model} is.")
    loaded = load_onnx(model)
    if (stated := _stated(reading)) is not None:
        state_preprocessing(loaded, stated)
    return loaded


def _stated(reading: Reading) -> dict[str, Any] | None:
    return parse_kwargs(reading.preprocessing, "--preprocessing mean=[0.5,0.5,0.5]") or None


def note_random_weights(out: Output, model: str, reading: Reading) -> None:
    """Say so where MODEL is the name of an architecture, and its weights were not asked for."""
    from sesurgeon.models import named_source

    source = named_source(model)
    if source is None or source.kind == "factory" or ":" in source.name or reading.pretrained or reading.model_kwargs:
        return  # a factory, the hub or an argument may bring weights
    out.note(f"{model} has random weights: --pretrained takes published ones, if there are any.")


def note_unknown_preprocessing(out: Output, model: nn.Module) -> None:
    """Say so where an exported network of images will not tell its users how these are prepared."""
    from sesurgeon.models import input_dims, provenance_of

    if provenance_of(model).preprocessing is None and input_dims(model) == 2:
        out.note(
            "The model does not say how its images are prepared, so the file does not, either: --preprocessing does."
        )


def flags_to_load(model: nn.Module, reading: Reading) -> str:
    """The options that commands on a checkpoint of ``model`` need, each with a space before it; or nothing."""
    from sesurgeon.models import provenance_of

    source = provenance_of(model).source
    if source.kind == "factory":
        return f" {source.options}"
    return " --trust-pickle" if source.kind == "module" and reading.trust_pickle else ""
