"""What an image goes through before a model sees it, in the words of timm's data configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from sesurgeon.errors import UsageError
from sesurgeon.scalars import as_python

CropMode: TypeAlias = Literal["center", "squash", "border"]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")  # Pillow's
_LISTS = ("input_size", "mean", "std")
_LARGEST = 2**16  # channels or pixels
_MOST_OF_IMAGES = 4  # channels
_EXAMPLE = "Write, for example, input_size=[3,224,224] mean=[0.5,0.5,0.5] std=[0.25,0.25,0.25]."
_COLOUR = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's
_STATISTICS = {
    1: ((0.5,), (0.5,)),
    2: ((0.5, 0.5), (0.5, 0.5)),
    3: _COLOUR,
    4: ((*_COLOUR[0], 0.5), (*_COLOUR[1], 0.5)),
}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor.

    Attributes:
        input_size: (channels, height, width) in pixels.
        mean: per channel, subtracted after scaling to [0, 1]; () with ``std`` where nothing is known of so many
            channels.
        std: per channel, divided by.
        interpolation: how images are resized, as Pillow calls it: "nearest", "bilinear", "bicubic", "lanczos", "box"
            or "hamming".
        crop_pct: the share of the resized image's sides that the centre crop keeps; above 1 it is padded.
        crop_mode: how an image of another aspect ratio is brought to size: "center" crops its longer side, "squash"
            distorts it, "border" pads it with the mean colour.

    Raises:
        ValueError: a value makes no sense.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        lengths = {len(self.mean), len(self.std)}
        if min(self.input_size) < 1:
            raise ValueError(f"input_size (={self.input_size}) must be sizes above 0.")
        if lengths != {self.input_size[0]} and lengths != {0}:
            raise ValueError(
                f"mean (={self.mean}) and std (={self.std}) must have a value for each of the {self.input_size[0]} "
                "channels."
            )
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean (={self.mean}) must be finite.")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std (={self.std}) must be above 0 and finite.")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation (={self.interpolation!r}) must be one of {', '.join(INTERPOLATIONS)}.")
        if not 0 < self.crop_pct <= min(self.input_size[1:]):  # above that, the image would be resized to nothing
            raise ValueError(f"crop_pct (={self.crop_pct}) must be above 0, and at most the sides of the image.")

    def for_channels(self, channels: int) -> Preprocessing:
        """The same for images of ``channels`` channels, each with the average mean and deviation."""
        if channels == self.input_size[0]:
            return self
        return replace(
            self,
            input_size=(channels, *self.input_size[1:]),
            mean=per_channel(self.mean, channels),
            std=per_channel(self.std, channels),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is kept in checkpoints and in the metadata of exported files."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """The inverse of :meth:`to_dict`; files that say nothing of a crop mode were made for "center"."""
        channels, height, width = (int(size) for size in data["input_size"])
        return cls(
            input_size=(channels, height, width),
            mean=tuple(float(value) for value in data["mean"]),
            std=tuple(float(value) for value in data["std"]),
            interpolation=str(data.get("interpolation", "bicubic")),
            crop_pct=float(data.get("crop_pct", 1.0)),
            crop_mode=_crop_mode(data.get("crop_mode", "center")),
        )


def default_preprocessing(channels: int, height: int, width: int) -> Preprocessing:
    """The default: ImageNet's mean and standard deviation for colour, 0.5 for both for the rest."""
    mean, std = _STATISTICS.get(channels, ((), ()))
    return Preprocessing((channels, height, width), mean, std)


def stated_preprocessing(known: Preprocessing | None, stated: Preprocessing | Mapping[str, Any]) -> Preprocessing:
    """``known``, or the default where that is None, with what a user says of it.

    Args:
        known: what the model's file says.
        stated: all of it; or values by the names of :class:`Preprocessing`'s attributes. One number as ``mean`` or
            ``std`` is that of each channel, and a text such as "0.5, 0.5, 0.5" is a list. ``input_size`` is needed
            where nothing is known.

    Raises:
        UsageError: there is no such attribute, a value makes no sense, or the size is missing or seems to end with the
            channels.
    """
    check_stated(stated)
    if isinstance(stated, Preprocessing):
        return stated
    if known is None and "input_size" not in stated:
        raise UsageError(
            f"The model does not say at which size it sees images, and the preprocessing ({', '.join(stated)}) does "
            "not, either.",
            hint="Add input_size, such as input_size=[3,224,224]: channels, height, width.",
        )
    try:
        parts = {name: _numbers(value) if name in _LISTS else value for name, value in stated.items()}
        channels, height, width = _size(parts["input_size"]) if known is None else known.input_size
        base = default_preprocessing(channels, height, width) if known is None else known
        if "input_size" in parts:
            base = base.for_channels(_size(parts["input_size"])[0])
        each = {name: parts[name] * base.input_size[0] for name in ("mean", "std") if len(parts.get(name, ())) == 1}
        found = Preprocessing.from_dict({**base.to_dict(), **parts, **each})
    except (OverflowError, TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value}" for name, value in stated.items())
        raise UsageError(f"The preprocessing {given} makes no sense: {error}", hint=_EXAMPLE) from error
    channels, height, width = found.input_size
    if width <= _MOST_OF_IMAGES < min(channels, height):
        raise UsageError(
            f"The input_size [{channels},{height},{width}] says that images have {channels} channels.",
            hint=f"It is channels, height, width: [{width},{channels},{height}]?",
        )
    return found


def check_stated(stated: Preprocessing | Mapping[str, Any]) -> None:
    """Refuse what is wrong about it for every model, before one is read.

    Raises:
        UsageError: it is not a dict, or there is no such setting.
    """
    if isinstance(stated, Preprocessing):
        return
    if not isinstance(stated, Mapping):
        raise UsageError(f"preprocessing must be a dict, not a {type(stated).__name__}.", hint=_EXAMPLE)
    names = [field.name for field in fields(Preprocessing)]
    if unknown := [str(name) for name in stated if name not in names]:
        raise UsageError(
            f"There is no preprocessing setting {', '.join(unknown)}.", hint=f"There are {', '.join(names)}."
        )


def _numbers(value: Any) -> list[float]:
    """A number, several, or the text of some, as a list.

    Raises:
        ValueError: it is none of these.
    """
    values = re.split(r"[,\s]+", value.strip("[]() ")) if isinstance(value, str) else value
    try:
        found = [one if isinstance(one, str) else as_python(one) for one in values]
    except TypeError:  # a single one
        found = [as_python(values)]
    if isinstance(value, Mapping) or any(isinstance(one, bool) for one in found):
        raise ValueError(f"{value} is no list of numbers.")
    return [float(one) for one in found]


def _size(numbers: list[float]) -> tuple[int, int, int]:
    if len(numbers) != 3 or not all(one.is_integer() and 1 <= one <= _LARGEST for one in numbers):
        raise ValueError("input_size is three whole numbers: channels, height, width.")
    channels, height, width = map(int, numbers)
    return channels, height, width


def per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """``values`` if there is one for each channel, or none, else their average for each."""
    return values if len(values) in (0, channels) else (sum(values) / len(values),) * channels


def _crop_mode(name: object) -> CropMode:
    for mode in get_args(CropMode):
        if name == mode:
            return mode  # type: ignore[no-any-return]  # get_args tells no types
    raise ValueError(f"crop_mode (={name!r}) must be one of {', '.join(get_args(CropMode))}.")
