"""The weights in a checkpoint of our own: read without the rest of it, and put into a network."""

from __future__ import annotations

import contextlib
import pickle
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.errors import SesurgeonError, UnreadableFileError
from sesurgeon.files import StrPath
from sesurgeon.models.files.allowlist import CALLABLES, PLAIN_DATA
from sesurgeon.models.files.formats import format_of
from sesurgeon.models.files.pickles import damaged

CHECKPOINT_KEY = "sesurgeon"  # what marks a file as a checkpoint of our own, which surgery/ reads
_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


def read_weights(path: StrPath) -> Mapping[str, Tensor]:
    """The tensors of the state dict in a checkpoint of our own; everything else is skipped, and no code is run.

    So it also reads checkpoints that :func:`sesurgeon.models.read` reads only with ``trust_pickle``.

    Args:
        path: of the file.

    Raises:
        UnreadableFileError: missing, damaged, or without weights.
    """
    with _content(Path(path)) as content:
        return {name: value for name, value in content["state_dict"].items() if isinstance(value, Tensor)}


def read_parts(path: StrPath, *, mapped: bool = False) -> dict[str, Any] | None:
    """The header and the state dict of a checkpoint of our own, without the module that may be embedded in it.

    Read as by :func:`read_weights`, so that no code is run.

    Args:
        path: of the file.
        mapped: leave the weights in the file: see :func:`sesurgeon.models.read`.

    Returns:
        None for other files, and where some of it is neither plain data nor a tensor.
    """
    try:
        with _content(Path(path), mapped=mapped) as content:
            parts = {CHECKPOINT_KEY: content[CHECKPOINT_KEY], "state_dict": content["state_dict"]}
            return None if _was_passed_over(parts) else parts
    except UnreadableFileError:
        return None


def _was_passed_over(value: object) -> bool:
    """Whether anything in it was not read."""
    if isinstance(value, Mapping):  # a state dict has the versions of its modules in an attribute
        inside = [*value.keys(), *value.values(), *getattr(value, "__dict__", {}).values()]
    else:
        inside = [*value] if isinstance(value, (list, tuple, set, frozenset)) else []
    return isinstance(value, _Passed) or value is _Passed or any(map(_was_passed_over, inside))


def read_history(path: StrPath) -> tuple[Mapping[str, Any], ...]:
    """The records of what was done to the network in a checkpoint of our own, read as by :func:`read_weights`.

    Raises:
        UnreadableFileError: missing, damaged, or without records.
    """
    with _content(Path(path)) as content:
        return tuple(dict(record) for record in content[CHECKPOINT_KEY]["provenance"]["history"])


@contextlib.contextmanager
def _content(path: Path, *, mapped: bool = False) -> Iterator[Any]:
    """What a file holds; raises an UnreadableFileError if the block does not find what it looks for."""
    try:
        if format_of(path) != "zip":
            raise TypeError("no checkpoint of sesurgeon")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PASSING_OVER, mmap=mapped)
        yield content
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
        own.update(weights)  # itself, not a copy: it carries the versions of its modules, which loading asks for
        model.load_state_dict(own)
    except RuntimeError as error:
        raise UnreadableFileError(f"{origin} holds the weights of another network: {error}") from error


class _Passed:
    """Stands in for whatever is not read: accepts everything, does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Passed:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None:
        """As a list is filled."""

    extend = add = append


class _Call:
    """Calls a function. A pickle can set attributes of what it names; of this, it cannot.

    What is made of something that was passed over, as a NumPy number of its dtype, is passed over, too.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: object) -> Any:
        passed = any(arg is _Passed or isinstance(arg, _Passed) for arg in args)
        return _Passed() if passed else self._function(*args)

    def __setstate__(self, state: object) -> None: ...


class _PassingOver(pickle.Unpickler):
    """Knows tensors and plain data; a pickle can only call what it finds here, and change only what it made itself.

    So of classes it gets those that Python does not let anyone change, and functions in a :class:`_Call`.
    """

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if full not in CALLABLES and not is_dtype:
            return _Passed
        found = PLAIN_DATA[full] if full in PLAIN_DATA else super().find_class(module, name)
        if is_dtype:
            return found
        if not isinstance(found, type):
            return _Call(found)
        return found if found.__flags__ & _IMMUTABLE else _Passed


# as much of a pickle module as torch asks for
_PASSING_OVER: Any = types.SimpleNamespace(__name__="pickle", Unpickler=_PassingOver)
