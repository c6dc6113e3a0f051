"""Which image files can be read, and which of them are unusual."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from PIL import Image, UnidentifiedImageError

from sesurgeon.finetune.data.images import ImageFile, to_mode, upright
from sesurgeon.finetune.events import ImagesChecked, OnProgress, ignore

TINY = 8  # pixels a side; a smaller image shows next to nothing
CONVERSIONS = MappingProxyType(
    {
        "CMYK": "to the model's colours",
        "16-bit": "to its upper 8 bits",
        "transparent": "laid over white unless the model takes transparency",
        "rotated": "turned upright by their EXIF orientation",
    }
)
_AT_A_TIME = 10_000  # files: pool.map makes all its futures at once, which take more memory than the results


@dataclass(frozen=True)
class BadImage:
    """A file that looks like an image by its name and cannot be read.

    For a file in an archive, ``path`` is the archive's path followed by the file's name.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of decoding a file.

    Attributes:
        file: the file.
        problem: why it cannot be read; None if it can.
        kinds: the keys of ``CONVERSIONS`` that apply to it.
        tiny: a side is shorter than ``TINY``.
    """

    file: ImageFile
    problem: str | None = None
    kinds: tuple[str, ...] = ()
    tiny: bool = False


def check_images(
    files: Sequence[ImageFile], *, workers: int = 4, on_progress: OnProgress = ignore
) -> tuple[Checked, ...]:
    """Decode every file once, in ``workers`` threads. ``on_progress`` gets :class:`ImagesChecked`.

    This takes less time than reading the images in the first epoch. In return, bad data are refused before a run
    starts, and all later passes see the same images.
    """
    found: list[Checked] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(files), _AT_A_TIME):
            for checked in pool.map(_check, files[start : start + _AT_A_TIME]):
                found.append(checked)
                on_progress(ImagesChecked(len(found), len(files)))
    return tuple(found)


def bad_images(checks: Iterable[Checked]) -> tuple[BadImage, ...]:
    """The files that cannot be read."""
    return tuple(
        BadImage(checked.file if isinstance(checked.file, Path) else Path(str(checked.file)), checked.problem)
        for checked in checks
        if checked.problem is not None
    )


def describe_bad_images(bad: Sequence[BadImage], total: int) -> str:
    """A sentence, and a line for each file that cannot be read."""
    listed = (f"  {image.path}: {image.reason}" for image in bad)
    return "\n".join([f"{len(bad)} of {total} images cannot be read:", *listed])


def _check(file: ImageFile) -> Checked:
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            kinds = _kinds(image)  # before the pixels are loaded: Pillow then forgets how they were stored
            to_mode(image, "RGB")
            if upright(image) is not image:
                kinds = (*kinds, "rotated")
            return Checked(file, None, kinds, min(image.size) < TINY)
    except UnidentifiedImageError:  # its message names a Python object
        return Checked(file, "it is empty, or of no image format that Pillow reads")
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, EOFError, …
        return Checked(file, str(error) or type(error).__name__)


def _kinds(image: Image.Image) -> tuple[str, ...]:
    # Pillow reads 16-bit colour into an 8-bit mode, and drops the lower bits
    deep = image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ()))
    holds = {"CMYK": image.mode == "CMYK", "16-bit": deep, "transparent": image.has_transparency_data}
    return tuple(kind for kind, held in holds.items() if held)
