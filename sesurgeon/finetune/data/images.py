"""Reading image files: every pixel format becomes what the model's first layer takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal, Protocol, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from sesurgeon.errors import DataError

_BY_WAY_OF = {"LAB": "RGB", "La": "LA", "RGBa": "RGBA"}  # Pillow converts these to few others
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_AT_A_TIME = 10_000  # images in the threads' queue, which keeps more of each than is found
TINY = 8  # pixels a side; an image that is smaller shows next to nothing
CONVERSIONS = MappingProxyType(
    {
        "CMYK": "to the model's colours",
        "16-bit": "to its upper 8 bits",
        "transparent": "laid over white unless the model takes transparency",
    }
)


Target: TypeAlias = int | tuple[int, ...]
"""What an image shows: the index of its class, or those of all its classes where there may be several."""


class Images(Protocol):
    """A set of images with labels: a map-style dataset of (PIL image of any mode, target)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, Target]: ...


def labels_of(images: Images) -> list[tuple[int, ...]]:
    """The class indices of each image, mostly one; without reading the images, where the set knows."""
    for name in ("targets", "labels", "_labels"):  # as torchvision's datasets call it
        known = getattr(images, name, None)
        if known is not None and len(known) == len(images):
            return [_as_tuple(target) for target in known]
    return [_as_tuple(images[index][1]) for index in range(len(images))]


def _as_tuple(target: Target) -> tuple[int, ...]:
    return target if isinstance(target, tuple) else (int(target),)


class ImageFile(Protocol):
    """What opens as an image file: a path, or a part of an archive or of a table. Its ``str`` is for messages."""

    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


@dataclass(frozen=True)
class FileImages:
    """Image files with their targets."""

    paths: tuple[ImageFile, ...]
    targets: tuple[Target, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, Target]:
        try:
            return read_image(self.paths[index]), self.targets[index]
        except Exception as error:  # as in check_images; the file was whole when the data were opened
            raise DataError(f"The image {self.paths[index]} cannot be read any more: {error}") from error


@dataclass(frozen=True)
class BadImage:
    """A file that looks like an image by its name and cannot be read.

    In an archive, ``path`` goes on behind the archive's own path.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What decoding a file on trial showed.

    Attributes:
        file: the file.
        problem: why it cannot be used; None when it can.
        kinds: keys of ``CONVERSIONS`` that apply to it.
        tiny: is a side shorter than ``TINY``?
    """

    file: ImageFile
    problem: str | None = None
    kinds: tuple[str, ...] = ()
    tiny: bool = False

    @property
    def bad(self) -> BadImage | None:
        if self.problem is None:
            return None
        return BadImage(self.file if isinstance(self.file, Path) else Path(str(self.file)), self.problem)


def read_image(file: ImageFile) -> Image.Image:
    """The decoded image, in its own mode, its file closed. Raises what Pillow raises for broken files."""
    with file.open("rb") as stream, Image.open(stream) as image:
        image.load()
    loaded: Image.Image = image
    return loaded


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in one of :data:`MODES`, of 8 bits.

    16-bit values keep their upper 8 bits (Pillow would clip them to white). Where the mode has no transparency, the
    image is laid over white, as a viewer shows it: the colours under it are often garbage. Where it has, an image
    without any is opaque.

    Raises:
        ValueError: the pixels are floating-point numbers, whose range nothing tells.
    """
    if image.mode in _BY_WAY_OF:
        image = image.convert(_BY_WAY_OF[image.mode])
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    elif mode.endswith("A"):
        image = image.convert("RGBA")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def check_images(
    files: Sequence[ImageFile], *, workers: int = 4, report: Callable[[int], None] | None = None
) -> tuple[Checked, ...]:
    """Decode every file once, in threads. ``report`` gets the count so far.

    One pass costs less than the first epoch's reading, and in exchange a run is refused before it starts,
    counts what it really trains on, and sees the same batches whatever the number of workers.
    """
    found = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(files), _AT_A_TIME):
            for checked in pool.map(_check, files[start : start + _AT_A_TIME]):
                found.append(checked)
                if report is not None:
                    report(len(found))
    return tuple(found)


def find_bad_images(
    paths: Sequence[ImageFile], *, workers: int = 4, report: Callable[[int], None] | None = None
) -> tuple[BadImage, ...]:
    """Those that fail in :func:`check_images`."""
    checks = check_images(paths, workers=workers, report=report)
    return tuple(checked.bad for checked in checks if checked.bad is not None)


def _check(file: ImageFile) -> Checked:
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            kinds = _kinds(image)  # before the pixels are loaded: Pillow then forgets how they were stored
            to_mode(image, "RGB")
            return Checked(file, None, kinds, min(image.size) < TINY)
    except UnidentifiedImageError:  # whose own words name a Python object
        return Checked(file, "it is empty, or of no image format that Pillow reads")
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, EOFError, …
        return Checked(file, str(error) or type(error).__name__)


def _kinds(image: Image.Image) -> tuple[str, ...]:
    # 16-bit colour has a mode of 8 bits in Pillow, which cuts the lower ones off in reading
    deep = image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ()))
    held = {"CMYK": image.mode == "CMYK", "16-bit": deep, "transparent": image.has_transparency_data}
    return tuple(kind for kind, holds in held.items() if holds)
