"""From an image to the tensor that a model sees: timm's recipe with torchvision's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from PIL import Image, ImageOps
from torch import Tensor

from sesurgeon.models.preprocessing import Preprocessing

Transform: TypeAlias = Callable[[Image.Image], Tensor]


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """timm's recipe: resize by ``crop_mode``, crop the centre, which is ``crop_pct`` of a side, and normalise."""
    from torchvision import transforms

    steps = [*resize_steps(preprocessing), transforms.ToTensor(), normalize(preprocessing)]
    return transforms.Compose(steps)  # type: ignore[no-any-return]  # torchvision has no types


def mean_colour(preprocessing: Preprocessing) -> Any:
    """The mean colour: a tuple for colour images, a number for grey ones."""
    levels = [round(255 * level) for level in preprocessing.mean]
    return tuple(levels) if len(levels) > 1 else levels[0]


def resize_steps(preprocessing: Preprocessing) -> list[Any]:
    """The steps that bring an image to the size at which the model sees it."""
    from torchvision import transforms

    _, height, width = preprocessing.input_size
    larger = [math.floor(side / preprocessing.crop_pct) for side in (height, width)]
    if preprocessing.crop_mode == "squash":
        resize: Any = transforms.Resize(larger, interpolation=interpolation_of(preprocessing))
    elif preprocessing.crop_mode == "border":
        return _fit_whole(preprocessing, larger)
    elif height == width:
        resize = transforms.Resize(larger[0], interpolation=interpolation_of(preprocessing))
    else:
        method = Image.Resampling[preprocessing.interpolation.upper()]
        resize = partial(ImageOps.cover, size=(larger[1], larger[0]), method=method)
    return [resize, transforms.CenterCrop([height, width])]


def _fit_whole(preprocessing: Preprocessing, larger: list[int]) -> list[Any]:
    """Fit the whole image into ``larger`` (height, width) pixels, padded with the mean colour."""
    from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

    resize = ResizeKeepRatio(larger, longest=1.0, interpolation=preprocessing.interpolation)
    return [resize, CenterCropOrPad(preprocessing.input_size[1:], fill=mean_colour(preprocessing))]


def normalize(preprocessing: Preprocessing) -> Any:
    """The step from values between 0 and 1 to what the model sees."""
    from torchvision import transforms

    return transforms.Normalize(preprocessing.mean, preprocessing.std)


def interpolation_of(preprocessing: Preprocessing) -> Any:
    """As torchvision names it."""
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(preprocessing.interpolation)
