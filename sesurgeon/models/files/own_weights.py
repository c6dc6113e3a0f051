"""The weights in a checkpoint of our own, by themselves: read without the rest of it, and put into a network."""

from __future__ import annotations

import pickle
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.errors import SesurgeonError, UnreadableFileError
from sesurgeon.models.files.allowlist import CALLABLES, PLAIN_DATA
from sesurgeon.models.files.formats import format_of
from sesurgeon.models.files.pickles import damaged


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of the state dict in a checkpoint of our own; all else in it is passed over, and no code is run.

    So it reads the weights of networks that :func:`sesurgeon.models.read` wants to be trusted for.

    Args:
        path: of the file.

    Raises:
        UnreadableFileError: missing, damaged, or without weights.
    """
    path = Path(path)
    try:
        if format_of(path) != "zip":
            raise TypeError("no checkpoint of sesurgeon")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PASSING_OVER)
        return {name: value for name, value in content["state_dict"].items() if isinstance(value, Tensor)}
    except SesurgeonError:
        raise
    except Exception as error:  # of many kinds: torn records, ends in the middle, calls of what is passed over
        raise damaged(path, error) from error


def take_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy ``weights`` into ``model``, which must have tensors of just these names and shapes; extra state stays.

    Raises:
        UnreadableFileError: they are of another network; the message names ``origin``.
    """
    own = model.state_dict()
    names = {name for name, value in own.items() if isinstance(value, Tensor)}
    try:
        if names != weights.keys():
            raise RuntimeError(f"{len(names ^ weights.keys())} names differ")
        model.load_state_dict({**own, **weights})
    except RuntimeError as error:
        raise UnreadableFileError(f"{origin} holds the weights of another network: {error}") from error


class _Passed:
    """Stands in for whatever is not read: takes all, does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Passed:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None:
        """As a list is filled."""

    extend = add = append


class _PassingOver(pickle.Unpickler):
    """Knows tensors and plain data; a pickle can only call what it finds here."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in PLAIN_DATA:
            return PLAIN_DATA[full]
        if full in CALLABLES or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        return _Passed


# as much of a pickle module as torch asks for
_PASSING_OVER: Any = types.SimpleNamespace(__name__="pickle", Unpickler=_PassingOver)
