"""From an image to the tensor that a model sees: timm's recipe with torchvision's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from PIL import Image, ImageOps
from torch import Tensor, nn

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune.data.images import MODES, Images, item_of
from sesurgeon.finetune.data.randomness import seeded
from sesurgeon.models.inputs import input_channels
from sesurgeon.models.preprocessing import Preprocessing, default_preprocessing
from sesurgeon.models.provenance import provenance_of

Transform: TypeAlias = Callable[[Image.Image], Tensor]

_SMALL = 64  # pixels; images up to this size are shifted instead of zoomed, and never flipped
_LARGEST_OWN_SIZE = 256
_USUAL_SIZE = 224
_USUAL_CHANNELS = 3
_LOOKED_AT = 64  # images
_TRIES = 300  # a policy draws two of fifteen operations, and applies each with probability 1/2


def preprocessing_for(model: nn.Module, images: Images, img_size: int | None = None) -> Preprocessing:
    """How images are prepared for ``model``: as its checkpoint says, else by default.

    The default takes the channels of the model's first convolution; the size of the images if a sample of them has
    one size of at most 256 pixels, else 224 x 224; ImageNet's mean and standard deviation for colour, and 0.5 for both
    for grey and for transparency.

    Args:
        model: the model, with its provenance.
        images: the images that it will see.
        img_size: side in pixels, instead of that in the checkpoint or of the images.

    Raises:
        DataError: the model takes more channels than images have; or an image cannot be read.
    """
    known = provenance_of(model).preprocessing
    if known is None:
        size = _own_size(images) if img_size is None else (img_size, img_size)
        known = default_preprocessing(input_channels(model) or _USUAL_CHANNELS, *size)
    elif img_size is not None:
        known = replace(known, input_size=(known.input_size[0], img_size, img_size))
    mode_of(known)
    return known


def mode_of(preprocessing: Preprocessing) -> str:
    """Pillow's mode for the model's input channels.

    Raises:
        DataError: they are more than 4.
    """
    channels = preprocessing.input_size[0]
    if channels not in MODES:
        raise DataError(
            f"The model takes {channels} input channels, and images give 1 (grey) or 3 (colour), 2 or 4 with "
            "transparency.",
            hint="Only models with 1 to 4 input channels can be trained on images.",
        )
    return MODES[channels]


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """timm's recipe: resize by ``crop_mode``, crop the centre, which is ``crop_pct`` of a side, and normalise."""
    from torchvision import transforms

    steps = [*_fit(preprocessing), transforms.ToTensor(), _normalize(preprocessing)]
    return transforms.Compose(steps)  # type: ignore[no-any-return]  # torchvision has no types


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented beside shifts and crops; the names are timm's.

    Attributes:
        hflip: probability of a horizontal flip; None means 0.5 for colour images above 64 pixels and 0 for the rest
            (digits, letters and signs are small or grey, and wrong when mirrored).
        aa: one of timm's policies, such as "rand-m9-mstd0.5"; None for none.
        reprob: probability of random erasing.
    """

    hflip: float | None = None
    aa: str | None = None
    reprob: float = 0.0


MILD = Augmentation()


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation = MILD) -> Transform:
    """Mild augmentation, and what ``augmentation`` adds.

    Mild augmentation is what a photographer or a scanner could have done, so that no label changes: images of at most
    64 pixels are resized as in evaluation and shifted by up to an eighth, with edges repeated; larger ones lose up to
    40 % of their area to a random crop of slightly different aspect ratio.
    """
    from torchvision import transforms

    channels, height, width = preprocessing.input_size
    small = max(height, width) <= _SMALL
    hflip = augmentation.hflip
    if hflip is None:
        hflip = 0.5 if channels >= 3 and not small else 0.0
    on_pictures = [transforms.RandomHorizontalFlip(hflip)] if hflip > 0 else []
    if augmentation.aa is not None:
        on_pictures.append(_make_policy(augmentation.aa, preprocessing))
    if small:
        padding = [max(1, width // 8), max(1, height // 8)]
        shift = transforms.RandomCrop([height, width], padding=padding, padding_mode="edge")
        steps = [*_fit(preprocessing), *on_pictures, transforms.ToTensor(), shift]
    else:
        interpolation = _interpolation(preprocessing)
        crop = transforms.RandomResizedCrop([height, width], scale=(0.6, 1.0), interpolation=interpolation)
        steps = [crop, *on_pictures, transforms.ToTensor()]
    steps.append(_normalize(preprocessing))
    if augmentation.reprob > 0:
        from timm.data.random_erasing import RandomErasing

        steps.append(RandomErasing(augmentation.reprob, mode="pixel", device="cpu"))
    return transforms.Compose(steps)  # type: ignore[no-any-return]  # as above


def _make_policy(name: str, preprocessing: Preprocessing) -> Any:
    """One of timm's augmentation policies, with timm's usual settings for images of that size.

    Raises:
        UsageError: timm has no such policy; or images have transparency, for which none of them works.
    """
    from timm.data import auto_augment as aa

    channels, height, width = preprocessing.input_size
    if channels in (2, 4):
        raise UsageError(
            f"aa (={name!r}) works on grey and colour images, and the model takes {channels} channels: "
            "transparency, too.",
            hint="Leave --aa out.",
        )
    settings: dict[str, Any] = {
        "translate_const": int(min(height, width) * 0.45),
        "img_mean": _fill(preprocessing),
        "interpolation": Image.Resampling[preprocessing.interpolation.upper()],
    }
    try:
        if name.startswith("rand"):
            return aa.rand_augment_transform(name, settings)
        if name.startswith("augmix"):
            return aa.augment_and_mix_transform(name, settings | {"translate_pct": 0.3})
        return aa.auto_augment_transform(name, settings)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise UsageError(
            f"timm has no augmentation policy {name!r} ({error}).",
            hint="Use one such as rand-m9-mstd0.5 (RandAugment), augmix-m5-w4-d2 or original.",
        ) from error


def check_policy(name: str, preprocessing: Preprocessing) -> None:
    """Try an augmentation policy, so that it does not fail in the middle of a run.

    Raises:
        UsageError: timm has no such policy; or images have transparency, for which none of them works; or Pillow
            refuses what the policy asks for, such as Posterize to 0 bits.
    """
    policy, image = _make_policy(name, preprocessing), Image.new(mode_of(preprocessing), (8, 8))
    try:
        with seeded(0):
            for _ in range(_TRIES):
                policy(image)
    except Exception as error:  # Pillow's and NumPy's
        raise UsageError(
            f"The augmentation policy aa (={name!r}) fails: {error}.",
            hint="Give another magnitude, or take one as rand-m9-mstd0.5 (RandAugment), augmix-m5-w4-d2 or original.",
        ) from error


def _fill(preprocessing: Preprocessing) -> Any:
    """The mean colour: a tuple for colour images, a number for grey ones."""
    levels = [round(255 * level) for level in preprocessing.mean]
    return tuple(levels) if len(levels) > 1 else levels[0]


def _fit(preprocessing: Preprocessing) -> list[Any]:
    from torchvision import transforms

    _, height, width = preprocessing.input_size
    larger = [math.floor(side / preprocessing.crop_pct) for side in (height, width)]
    if preprocessing.crop_mode == "squash":
        resize: Any = transforms.Resize(larger, interpolation=_interpolation(preprocessing))
    elif preprocessing.crop_mode == "border":
        return _fit_whole(preprocessing, larger)
    elif height == width:
        resize = transforms.Resize(larger[0], interpolation=_interpolation(preprocessing))
    else:
        method = Image.Resampling[preprocessing.interpolation.upper()]
        resize = partial(ImageOps.cover, size=(larger[1], larger[0]), method=method)
    return [resize, transforms.CenterCrop([height, width])]


def _fit_whole(preprocessing: Preprocessing, larger: list[int]) -> list[Any]:
    """Fit the whole image into ``larger`` (height, width) pixels, padded with the mean colour."""
    from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

    resize = ResizeKeepRatio(larger, longest=1.0, interpolation=preprocessing.interpolation)
    return [resize, CenterCropOrPad(preprocessing.input_size[1:], fill=_fill(preprocessing))]


def _normalize(preprocessing: Preprocessing) -> Any:
    from torchvision import transforms

    return transforms.Normalize(preprocessing.mean, preprocessing.std)


def _interpolation(preprocessing: Preprocessing) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(preprocessing.interpolation)


def _own_size(images: Images) -> tuple[int, int]:
    """(height, width) of the images, if a sample from all over the set has one small size; else the default."""
    step = max(1, len(images) // _LOOKED_AT)
    sizes = {item_of(images, index)[0].size for index in range(0, len(images), step)}
    width, height = sizes.pop()
    if sizes or max(width, height) > _LARGEST_OWN_SIZE:
        return _USUAL_SIZE, _USUAL_SIZE
    return height, width
