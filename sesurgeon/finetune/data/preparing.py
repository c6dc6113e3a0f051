"""How images are prepared for a model that says so, or does not."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.images import MODES, Images, item_of
from sesurgeon.models.inputs import input_channels
from sesurgeon.models.preprocessing import Preprocessing, default_preprocessing
from sesurgeon.models.provenance import provenance_of

_LARGEST_OWN_SIZE = 256
_USUAL_SIZE = 224
_USUAL_CHANNELS = 3
_LOOKED_AT = 64  # images


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


def _own_size(images: Images) -> tuple[int, int]:
    """(height, width) of the images, if a sample from all over the set has one small size; else the default."""
    step = max(1, len(images) // _LOOKED_AT)
    sizes = {item_of(images, index)[0].size for index in range(0, len(images), step)}
    width, height = sizes.pop()
    if sizes or max(width, height) > _LARGEST_OWN_SIZE:
        return _USUAL_SIZE, _USUAL_SIZE
    return height, width
