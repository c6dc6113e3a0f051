"""What an image goes through before a model sees it, in the words of timm's data configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

CropMode: TypeAlias = Literal["center", "squash", "border"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor.

    Attributes:
        input_size: (channels, height, width) in pixels.
        mean: per channel, subtracted after scaling to [0, 1].
        std: per channel, divided by.
        interpolation: "bilinear", "bicubic" or "nearest".
        crop_pct: the share of the resized image's sides that the centre crop keeps.
        crop_mode: how an image of another aspect is brought to size. "center" loses what lies beyond its shorter side,
            "squash" distorts it, "border" lays it whole over the mean colour.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"

    def for_channels(self, channels: int) -> Preprocessing:
        """The same for images of ``channels`` channels, each with the average mean and deviation."""
        if channels == self.input_size[0]:
            return self
        return replace(
            self,
            input_size=(channels, *self.input_size[1:]),
            mean=(sum(self.mean) / len(self.mean),) * channels,
            std=(sum(self.std) / len(self.std),) * channels,
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


def _crop_mode(name: object) -> CropMode:
    for mode in get_args(CropMode):
        if name == mode:
            return mode  # type: ignore[no-any-return]  # get_args tells no types
    raise ValueError(f"crop_mode (={name!r}) must be one of {', '.join(get_args(CropMode))}.")
