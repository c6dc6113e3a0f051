"""Reading image files: every pixel format becomes what the model's first layer takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from sesurgeon.errors import DataError

MODES = {1: "L", 3: "RGB"}


class Images(Protocol):
    """A set of images with labels: a map-style dataset of (PIL image of any mode, class index)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


@dataclass(frozen=True)
class FileImages:
    """Image files with their class indices."""

    paths: tuple[Path, ...]
    targets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        try:
            return read_image(self.paths[index]), self.targets[index]
        except Exception as error:  # as in find_bad_images; the file was whole when the folder was opened
            raise DataError(f"The image {self.paths[index]} cannot be read any more: {error}") from error


@dataclass(frozen=True)
class BadImage:
    """A file that looks like an image by its name and cannot be read."""

    path: Path
    reason: str


def read_image(path: Path) -> Image.Image:
    """The decoded image, in its own mode, its file closed. Raises what Pillow raises for broken files."""
    with Image.open(path) as image:
        image.load()
    loaded: Image.Image = image
    return loaded


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """``image`` as 8-bit "L" or "RGB".

    16-bit values keep their upper 8 bits (Pillow would clip them to white). Transparency is laid over white,
    as a viewer shows it: the colours under it are often garbage.

    Raises:
        ValueError: the pixels are floating-point numbers, whose range nothing tells.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def find_bad_images(
    paths: Sequence[Path], *, workers: int = 4, report: Callable[[int], None] | None = None
) -> tuple[BadImage, ...]:
    """Decode every file once, in threads, and give those that fail. ``report`` gets the count so far.

    One pass costs less than the first epoch's reading, and in exchange a run is refused before it starts,
    counts what it really trains on, and sees the same batches whatever the number of workers.
    """
    bad = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, (path, reason) in enumerate(zip(paths, pool.map(_reason, paths), strict=True), start=1):
            if reason is not None:
                bad.append(BadImage(path, reason))
            if report is not None:
                report(done)
    return tuple(bad)


def _reason(path: Path) -> str | None:
    try:
        to_mode(read_image(path), "RGB")
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, EOFError, …
        return str(error) or type(error).__name__
    return None
