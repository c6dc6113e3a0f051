"""A model from a function of the user's own: ``factory:pkg.mod:function``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.models.importing import working_folder_importable
from sesurgeon.models.provenance import Provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.words import nearest


def build_from_factory(source: Source, pretrained: bool) -> tuple[nn.Module, Provenance]:
    """Import the function and call it with the source's arguments.

    Raises:
        UsageError: there is no such module or function, it failed or gave no ``nn.Module``, or ``pretrained`` was
            asked for.
    """
    if pretrained:
        raise UsageError(
            f"{source} has no pretrained weights to download: only timm and torchvision do.",
            hint="Let the function load its weights, or give the file with the weights as the model.",
        )
    with working_folder_importable():
        function = _find(source)
        try:
            model = function(**source.kwargs)
        except Exception as error:
            raise UsageError(
                f"{source} failed, called with {dict(source.kwargs)}: {type(error).__name__}: {error}",
                hint="Give arguments with --model-kwargs NAME=VALUE; --debug shows where it failed.",
            ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{source} gave a {type(model).__name__}, not a torch.nn.Module.")
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"{source} gave TorchScript: compiled code, with no Python modules to edit.",
            hint="Give the module that was compiled.",
        )
    return model, Provenance(source)


def _find(source: Source) -> Callable[..., Any]:
    module_name, _, path = source.name.partition(":")
    if not module_name or not path:
        raise UsageError(
            f"'{source}' names no function.", hint="Write factory:pkg.mod:function, with the second colon."
        )
    found: Any = _import(module_name, source)
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{source}: there is no '{name}' in {module_name}.", hint=nearest(name, dir(found)))
        found = getattr(found, name)
    if isinstance(found, nn.Module) or not callable(found):
        raise UsageError(
            f"{source} is a {type(found).__name__}, not a function that makes a model.",
            hint="Name a function or a class that is called without arguments, or with --model-kwargs.",
        )
    return found  # type: ignore[no-any-return]


def _import(name: str, source: Source) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{source}: there is no module '{error.name}', neither installed nor in {os.getcwd()}.",
                hint="Run the command from the folder in which `python -c 'import MODULE'` works.",
            ) from error
        raise UsageError(f"{source}: importing {name} failed: {error}") from error
    except Exception as error:
        raise UsageError(
            f"{source}: importing {name} failed: {type(error).__name__}: {error}",
            hint="--debug shows where it failed.",
        ) from error
