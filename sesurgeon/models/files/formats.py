"""Which kind of file is this? Told by its first bytes, so that each wrong kind gets its own message."""

from __future__ import annotations

import difflib
import os
import zipfile
from pathlib import Path
from typing import Literal

from sesurgeon.errors import UnreadableFileError
from sesurgeon.models.sources.source import BUILDERS
from sesurgeon.words import nearest

Format = Literal["safetensors", "zip", "legacy"]

_SAMPLE = 4096
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.serialization.MAGIC_NUMBER, pickled
_MODEL_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".tar")
_SAVE_AGAIN = "Save the model's weights from Python: torch.save(model.state_dict(), 'model.pt'), and give --arch."

# (offset, bytes there, what such a file is, what to do)
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer, not the model itself",
        "Fetch it first: git lfs pull.",
    ),
    (4, b"TFL3", "a TensorFlow Lite model, which has no PyTorch modules to edit", _SAVE_AGAIN),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 (Keras) file, which has no PyTorch modules to edit", _SAVE_AGAIN),
    (0, b"\x93NUMPY", "a NumPy array, not a model", _SAVE_AGAIN),
    (0, b"GGUF", "a GGUF file, which has no PyTorch modules to edit", _SAVE_AGAIN),
    (0, b"\x1f\x8b", "compressed with gzip", "Unpack it first: gzip -d."),
    (
        257,
        b"ustar",
        "a tar archive",
        "Unpack it first: tar -xf. If torch.save wrote it (before 2017), save it again.",
    ),
)


def format_of(path: Path) -> Format:
    """How ``path`` has to be read: "zip" is what ``torch.save`` writes since version 1.6, "legacy" before.

    Raises:
        UnreadableFileError: there is no such file, or it is none of these.
    """
    check_is_file(path)
    try:
        with path.open("rb") as file:
            sample = file.read(_SAMPLE)
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be opened: {error.strerror or error}.") from error
    if not sample:
        raise UnreadableFileError(f"{path} is empty.", hint="It may be a download or a copy that was cut off.")
    if path.suffix == ".safetensors" or _is_safetensors(sample, path.stat().st_size):
        return "safetensors"
    if sample.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return "zip"
    if sample[2:].startswith(_LEGACY_MAGIC):
        return "legacy"
    raise _foreign(path, sample)


def check_is_file(path: Path) -> None:
    """Raise an UnreadableFileError unless there is a file at ``path``; it names similar ones."""
    if path.is_dir():
        raise UnreadableFileError(f"{path} is a folder, not a model file.", hint=_contents(_model_files(path)))
    if path.is_symlink() and not path.exists():
        raise UnreadableFileError(f"{path} is a link to {os.readlink(path)}, where there is no file.")
    if not path.exists():
        names_a_file = path.suffix in _MODEL_SUFFIXES or len(path.parts) > 1
        near = nearest(path.name, _model_files(path.parent))
        raise UnreadableFileError(
            f"There is no file {path}.",
            hint=" ".join(filter(None, (near, None if names_a_file else _by_name(str(path))))) or None,
        )
    if not path.is_file():
        raise UnreadableFileError(f"{path} is not a regular file.")


def _by_name(text: str) -> str:
    """How to name the architecture that ``text`` may mean."""
    kind, colon, name = text.partition(":")
    if not colon:
        return f"To name an architecture, write timm:{text} or torchvision:{text}."
    close = difflib.get_close_matches(kind.lower(), BUILDERS, n=1)
    return f"To name an architecture, write {' or '.join(f'{one}:{name}' for one in close or BUILDERS)}."


def _model_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix in _MODEL_SUFFIXES)


def _contents(names: list[str]) -> str | None:
    return f"It contains: {', '.join(names[:5])}." if names else None


def _is_safetensors(sample: bytes, size: int) -> bool:
    """Eight bytes of length, then a header in JSON."""
    return sample[8:9] == b"{" and int.from_bytes(sample[:8], "little") < size


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UnreadableFileError(
            f"{path} is cut off or damaged: the table of contents at its end cannot be read.",
            hint="Download or copy it again.",
        ) from error
    if "constants.pkl" in names:
        raise UnreadableFileError(
            f"{path} is a TorchScript archive: compiled code, with no Python modules to edit.",
            hint="Save the original model, torch.save(model, 'model.pt'), or its weights, and give --arch.",
        )
    if "data.pkl" not in names:
        raise UnreadableFileError(
            f"{path} is a zip file, but torch.save did not write it.",
            hint="An exported program (.pt2) or an archive has no Python modules to edit. " + _SAVE_AGAIN,
        )


def _foreign(path: Path, sample: bytes) -> UnreadableFileError:
    for offset, signature, what, hint in _FOREIGN:
        if sample[offset:].startswith(signature):
            return UnreadableFileError(f"{path} is {what}.", hint=hint)
    if path.suffix == ".onnx" or sample[:1] + sample[2:3] == b"\x08\x12":  # ir_version, then producer_name
        return UnreadableFileError(f"{path} is an ONNX model, with no PyTorch modules to edit.", hint=_SAVE_AGAIN)
    if sample.startswith(b"\x80"):
        return UnreadableFileError(
            f"{path} is a Python pickle, but torch.save did not write it. It was not read.", hint=_SAVE_AGAIN
        )
    if _is_text(sample):
        start = sample.lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            return UnreadableFileError(
                f"{path} is a web page, not a model.",
                hint="The download returned a login page, a notice or an error instead. Open the file to see.",
            )
        first_line = sample.decode(errors="replace").strip().partition("\n")[0]
        return UnreadableFileError(f"{path} is a text file, not a model. It begins with: {first_line[:60]!r}")
    return UnreadableFileError(
        f"{path} is not a file of torch.save or safetensors.",
        hint=f"It begins with the bytes {sample[:8].hex(' ')}. {_SAVE_AGAIN}",
    )


def _is_text(sample: bytes) -> bool:
    try:
        text = sample.decode()
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:  # else a character that the sample's end cuts in two
            return False
        text = sample[: error.start].decode()
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)
