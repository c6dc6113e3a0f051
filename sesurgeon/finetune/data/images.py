"""Reading image files: every pixel format becomes what the model's first layer takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, Protocol, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sesurgeon.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode by the number of channels."""
_BY_WAY_OF = {"LAB": "RGB", "La": "LA", "RGBa": "RGBA"}  # Pillow converts these to few others
_16_BIT = ("PNG", "PPM")  # formats whose integers have at most 16 bits, though Pillow may read them as 32
_TURNED = range(2, 9)  # EXIF orientations

warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # of damaged EXIF; they do not name the file

Target: TypeAlias = int | tuple[int, ...]
"""What an image shows: the index of its class, or the indices of its classes where there may be several."""


class Images(Protocol):
    """A set of images with labels: a map-style dataset of (PIL image of any mode, target)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, Target]: ...


class ImageFile(Protocol):
    """Something that opens like an image file: a path, or a part of an archive or a table. ``str`` names it."""

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
        except Exception as error:  # Pillow raises anything; the file could be read when the data were opened
            raise DataError(f"The image {self.paths[index]} cannot be read any more: {error}") from error


def item_of(images: Images, index: int) -> tuple[Image.Image, Target]:
    """An image and its target, checked, because datasets of others give and raise anything.

    Raises:
        DataError: the image cannot be read, or is no PIL image; or its target is no class index.
    """
    try:
        item: Any = images[index]
        image, target = item
        if not isinstance(image, Image.Image):
            raise ValueError(f"it is a {type(image).__name__}, not a PIL image; leave out ToTensor() and the like")
        indices = np.asarray(target)
        if indices.ndim and not isinstance(target, tuple):
            raise ValueError(f"its target (={target!r}) is no class index and no tuple of them")
        if indices.size and (indices.dtype.kind not in "biu" or indices.min() < 0):  # -1 would count from the end
            raise ValueError(f"its target (={target!r}) is no class index")
    except DataError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"The image with index {index} cannot be read: {reason}") from error
    return image, target


def labels_of(images: Images) -> list[tuple[int, ...]]:
    """The class indices of each image. The images are read unless it is sure that the set returns what it lists."""
    listed: Sequence[Target] = images.targets if isinstance(images, FileImages) else _returned_targets(images)
    if len(listed) != len(images):
        listed = [item_of(images, index)[1] for index in range(len(images))]
    return [target if isinstance(target, tuple) else (int(target),) for target in listed]


def _returned_targets(images: object) -> Sequence[int]:
    """The targets that a dataset lists, if they are indices, and its ``target_transform`` is None; otherwise empty.

    torchvision's datasets have that attribute. Of others, nobody knows what they do to their targets.
    """
    if getattr(images, "target_transform", images) is not None:
        return ()
    targets = known_targets(images)
    listed = targets.tolist() if hasattr(targets, "tolist") else list(targets)
    return listed if all(isinstance(target, int) for target in listed) else ()


def known_targets(images: object) -> Sequence[Any]:
    """The targets that a dataset lists under one of torchvision's names for them; empty if it lists none."""
    listed = (getattr(images, name, None) for name in ("targets", "labels", "_labels"))
    return next((targets for targets in listed if targets is not None), ())


def read_image(file: ImageFile) -> Image.Image:
    """The decoded image, upright, in its own mode. Raises what Pillow raises for broken files.

    Phones store portrait photos lying on their side, with a tag that says so. Viewers heed it; timm and torchvision do
    not.
    """
    with file.open("rb") as stream, Image.open(stream) as image:
        image.load()
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """``image``, which is loaded, turned as its EXIF orientation says; itself if it needs no turn.

    Pillow turns TIFFs itself when it loads them.
    """
    try:
        if image.getexif().get(ExifTags.Base.Orientation) not in _TURNED:
            return image
        turned = ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata, which do not keep the pixels from being read
        return image
    turned.format = image.format
    return turned


def _has_16_bits(image: Image.Image) -> bool:
    """Whether an image of 32-bit integers holds 16-bit values: by its file's format, or else by its values."""
    if image.format is not None:
        return image.format in _16_BIT
    values = np.asarray(image)
    return bool((values >= 0).all() and (values < 2**16).all())


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in one of :data:`MODES`, with 8 bits per channel.

    16-bit values keep their upper 8 bits (Pillow would clip them to white). If the mode has no transparency, the image
    is laid over white, as a viewer shows it: the colours of transparent pixels are often garbage. If it has, an image
    without transparency becomes opaque.

    Raises:
        ValueError: the pixels are floating-point numbers or 32-bit integers, whose range is unknown.
    """
    if image.mode in _BY_WAY_OF:
        image = image.convert(_BY_WAY_OF[image.mode])
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.mode == "I" and not _has_16_bits(image):
        raise ValueError("its pixels are 32-bit integers, whose range is not known")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    elif mode.endswith("A"):
        image = image.convert("RGBA")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
