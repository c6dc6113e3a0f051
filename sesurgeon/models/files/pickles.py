"""Reading a file of weights, or of a whole model, without running what somebody hid in it."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sesurgeon.errors import UnreadableFileError, UnsafeFileError
from sesurgeon.files import StrPath
from sesurgeon.models.files.allowlist import CALLABLES, PLAIN_DATA, allowed
from sesurgeon.models.files.formats import format_of
from sesurgeon.models.files.quantised import refuse_quantised_names
from sesurgeon.models.files.scan import misdeeds
from sesurgeon.models.files.smuggling import smuggled
from sesurgeon.models.importing import working_folder_importable

_SAFER = (
    "Safer: save only the weights, torch.save(model.state_dict(), 'model.pt'), and give the architecture "
    "by --arch. If you trust whoever made the file: --trust-pickle."
)


def read(path: StrPath, *, trust_pickle: bool = False, mapped: bool = False) -> object:
    """What ``torch.save`` or safetensors put in ``path``, on the CPU.

    Without ``trust_pickle`` nothing that the file brings along is run: safetensors, or torch's reader with
    ``weights_only=True`` and the names of :mod:`sesurgeon.models.files.allowlist`.

    Args:
        path: of the file.
        trust_pickle: run whatever code the file brings along.
        mapped: leave the tensors in the file, mapped, from which they are read as they are used; writing to a tensor
            copies it and leaves the file alone. The file must not be written into meanwhile (but another may take its
            name). Files from before PyTorch 1.6 cannot be mapped, and are read.

    Raises:
        UnsafeFileError: reading it would run code; the names are listed.
        UnreadableFileError: missing, damaged, or of a format that we do not read.
    """
    path = Path(path)
    file_format = format_of(path)
    if file_format == "safetensors":
        return _read_safetensors(path, mapped)
    mapped &= file_format != "legacy"
    if trust_pickle:
        return _read_trusting(path, mapped)
    return _load(path, PLAIN_DATA, mapped) if file_format == "legacy" else _read_zip(path, mapped)


def _read_zip(path: Path, mapped: bool) -> object:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, [f"{error} (a pickle protocol that torch's safe reader does not know)"]) from error
    except Exception as error:  # of many kinds: a torn record, an end in the middle, bytes that are no text
        raise damaged(path, error) from error
    refuse_quantised_names(names, str(path))
    known = {name: allowed(name) for name in names}
    if refused := sorted(name for name, found in known.items() if found is None):
        raise _unsafe(path, refused)
    holds_modules = not set(known) <= set(PLAIN_DATA)
    if holds_modules and (found := _misdeeds(path)):
        raise _unsafe(path, found)
    content = _load(path, known, mapped)
    if found := smuggled(content):
        raise _unsafe(path, found)
    return content


def _load(path: Path, known: Mapping[str, Any], mapped: bool) -> object:
    named: list[Any] = [(found, name) for name, found in known.items()]
    try:
        with torch.serialization.safe_globals(named), warnings.catch_warnings():
            # torch warns of pickle protocols and typed storages, which the user cannot change
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, [_reason(str(error))]) from error
    except Exception as error:
        raise damaged(path, error) from error


def _read_trusting(path: Path, mapped: bool) -> object:
    try:
        with working_folder_importable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped)
    except (ImportError, AttributeError) as error:
        raise UnreadableFileError(
            f"{path} needs code that cannot be imported: {error}",
            hint="Run the command where that code can be imported. A class of a script that was run "
            "(__main__) is not found: save the state dict, and give --arch factory:pkg.mod:function.",
        ) from error
    except Exception as error:
        raise damaged(path, error) from error


def _read_safetensors(path: Path, mapped: bool) -> object:
    try:
        state = load_file(path)  # which maps it
        return state if mapped else {name: tensor.clone() for name, tensor in state.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from error


def _misdeeds(path: Path) -> list[str]:
    # the reader that torch.load uses: another one could be shown another pickle in the same zip file
    try:
        return misdeeds(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"), CALLABLES)
    except (RuntimeError, ValueError) as error:
        raise damaged(path, error) from error


def _unsafe(path: Path, names: list[str]) -> UnsafeFileError:
    return UnsafeFileError(
        f"{path} was not read: it is a pickle that could run code. It asks for: {', '.join(names)}.",
        hint=_SAFER,
    )


def damaged(path: Path, error: Exception) -> UnreadableFileError:
    """The error to raise for a file on which a reader failed."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UnreadableFileError(
        f"{path} is damaged, or not a torch.save file: {reason}", hint="Download, copy or save it again."
    )


def _reason(message: str) -> str:
    """The part of the message of torch's safe reader that matters."""
    if named := re.search(r"GLOBAL (\S+)", message):
        return named[1]
    if "persistent_load" in message:
        return "a whole model in the format before PyTorch 1.6, which can only be read by running it"
    said = re.search(r"WeightsUnpickler error:\s*(.+)", message)
    return said[1] if said else message.strip().partition("\n")[0]
