"""What an image goes through before a model sees it, in the words of timm's data configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a tensor.

    Attributes:
        input_size: (channels, height, width) in pixels.
        mean: per channel, subtracted after scaling to [0, 1].
        std: per channel, divided by.
        interpolation: "bilinear", "bicubic" or "nearest".
        crop_pct: the share of the resized image's shorter side that the centre crop keeps.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

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
        """The inverse of :meth:`to_dict`."""
        channels, height, width = (int(size) for size in data["input_size"])
        return cls(
            input_size=(channels, height, width),
            mean=tuple(float(value) for value in data["mean"]),
            std=tuple(float(value) for value in data["std"]),
            interpolation=str(data.get("interpolation", "bicubic")),
            crop_pct=float(data.get("crop_pct", 1.0)),
        )
