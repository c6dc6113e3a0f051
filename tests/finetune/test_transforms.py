from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune import preprocessing_for
from sesurgeon.finetune.data.augmentation import Augmentation, train_transform
from sesurgeon.finetune.data.images import to_mode
from sesurgeon.finetune.data.preparing import mode_of
from sesurgeon.finetune.data.transforms import eval_transform
from sesurgeon.models.preprocessing import CropMode, Preprocessing
from sesurgeon.models.provenance import Provenance, attach_provenance
from sesurgeon.models.sources.source import Source
from sesurgeon.models.sources.timm_models import timm_preprocessing

MakeNet = Callable[..., nn.Module]
PLAIN = Preprocessing((1, 8, 8), (0.0,), (1.0,))


@dataclass(frozen=True)
class Pictures:
    """Images of the given (width, height)."""

    sizes: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return Image.new("L", self.sizes[index]), 0


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_the_checkpoints_preprocessing_is_taken(make_net: MakeNet) -> None:
    model = make_net()
    attach_provenance(model, Provenance(Source("module"), preprocessing=PLAIN))
    assert preprocessing_for(model, Pictures([(20, 20)])) == PLAIN
    assert preprocessing_for(model, Pictures([(20, 20)]), 16).input_size == (1, 16, 16)


def test_the_default_follows_model_and_images(make_net: MakeNet) -> None:
    grey = preprocessing_for(make_net(), Pictures([(20, 30)] * 3))
    assert grey == Preprocessing((1, 30, 20), (0.5,), (0.5,))
    colour = preprocessing_for(make_net(channels=3), Pictures([(20, 30), (20, 31)]))
    assert colour == Preprocessing((3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert preprocessing_for(make_net(), Pictures([(4000, 3000)])).input_size == (1, 224, 224)


def test_a_model_for_five_channels_is_refused(make_net: MakeNet) -> None:
    with pytest.raises(DataError, match="5 input channels"):
        preprocessing_for(make_net(channels=5), Pictures([(8, 8)]))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_the_channels_of_a_model_are_those_of_images(make_net: MakeNet, channels: int, mode: str) -> None:
    found = preprocessing_for(make_net(channels=channels), Pictures([(8, 8)] * 2))
    assert (found.input_size, len(found.mean), len(found.std)) == ((channels, 8, 8), channels, channels)
    assert mode_of(found) == mode
    image = to_mode(Image.new("RGBA", (8, 8), (51, 51, 51, 102)), mode)
    for transform in (eval_transform(found), train_transform(found)):
        assert transform(image).shape == (channels, 8, 8)
    if mode.endswith("A"):
        assert torch.allclose(eval_transform(found)(image)[-1], torch.tensor(-0.2), atol=1e-6)  # 2 * 102 / 255 - 1
        with pytest.raises(UsageError, match=r"aa \(='rand-m9-mstd0.5'\)"):
            train_transform(found, Augmentation(aa="rand-m9-mstd0.5"))


@pytest.mark.parametrize("size", [(50, 40), (40, 90), (32, 32)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_evaluation_is_timms(size: tuple[int, int], crop_pct: float, crop_mode: CropMode) -> None:
    from timm.data import create_transform

    preprocessing = Preprocessing((3, 32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), "bicubic", crop_pct, crop_mode)
    timms = create_transform(
        (3, 32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1), interpolation="bicubic", crop_pct=crop_pct,
        crop_mode=crop_mode,
    )  # fmt: skip
    assert torch.allclose(eval_transform(preprocessing)(_noise(*size)), timms(_noise(*size)), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (4, "RGBA")])
def test_a_border_has_the_mean_colour_in_any_number_of_channels(channels: int, mode: str) -> None:
    mean = tuple(51 * (index + 1) / 255 for index in range(channels))
    preprocessing = Preprocessing((channels, 8, 8), mean, (1.0,) * channels, crop_mode="border")
    found = eval_transform(preprocessing)(Image.new(mode, (8, 4), (255,) * channels if channels > 1 else 255))
    assert torch.allclose(found[:, :2], torch.zeros(channels, 2, 8), atol=1e-6)
    assert torch.allclose(found[:, 2:6], 1 - torch.tensor(mean).view(-1, 1, 1).expand(-1, 4, 8))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_the_crop_mode_that_timm_gives_a_network_is_kept(crop_mode: CropMode) -> None:
    model = nn.Conv2d(3, 2, 3)
    model.pretrained_cfg = {"input_size": (3, 32, 32), "crop_mode": crop_mode}  # type: ignore[assignment]
    found = timm_preprocessing(model)
    assert found is not None
    assert found.crop_mode == crop_mode
    assert Preprocessing.from_dict(found.to_dict()) == found


def test_a_record_without_a_crop_mode_means_the_centre_and_an_unknown_one_is_refused() -> None:
    record = PLAIN.to_dict()
    del record["crop_mode"]
    assert Preprocessing.from_dict(record).crop_mode == "center"
    with pytest.raises(ValueError, match=r"crop_mode \(='zoom'\) must be one of center, squash, border"):
        Preprocessing.from_dict({**record, "crop_mode": "zoom"})


def test_evaluation_at_an_oblong_size_keeps_the_aspect() -> None:
    image = Image.new("L", (80, 20), 0)
    image.paste(255, (40, 0, 80, 20))
    found = eval_transform(Preprocessing((1, 10, 20), (0.0,), (1.0,), "nearest"))(image)
    assert found.shape == (1, 10, 20)
    assert torch.equal(found[0, :, :10], torch.zeros(10, 10))
    assert torch.equal(found[0, :, 10:], torch.ones(10, 10))


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = _noise(8, 8, "L")
    found = eval_transform(Preprocessing((1, 8, 8), (0.5,), (0.25,)))(image)
    expected = (torch.from_numpy(np.asarray(image).copy()).float() / 255 - 0.5) / 0.25
    assert torch.allclose(found[0], expected, rtol=0, atol=1e-6)


def _contains_flip(preprocessing: Preprocessing, hflip: float | None) -> bool:
    return "RandomHorizontalFlip" in repr(train_transform(preprocessing, Augmentation(hflip)))


def test_only_large_colour_images_are_flipped_by_default() -> None:
    assert _contains_flip(Preprocessing((3, 224, 224), (0.0,) * 3, (1.0,) * 3), None)
    assert not _contains_flip(Preprocessing((3, 32, 32), (0.0,) * 3, (1.0,) * 3), None)
    assert not _contains_flip(Preprocessing((1, 224, 224), (0.0,), (1.0,)), None)
    assert not _contains_flip(Preprocessing((3, 224, 224), (0.0,) * 3, (1.0,) * 3), 0.0)
    assert _contains_flip(PLAIN, 0.5)


def test_small_images_are_shifted_by_an_eighth_at_most() -> None:
    image = Image.new("L", (8, 8), 0)
    image.putpixel((4, 4), 255)
    transform = train_transform(PLAIN)
    places = {tuple(transform(image)[0].nonzero()[0].tolist()) for _ in range(200)}
    assert places == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}


def test_training_crops_are_resized_as_the_preprocessing_says() -> None:
    transform = train_transform(Preprocessing((1, 96, 96), (0.0,), (1.0,), "nearest"))
    image = _noise(30, 30, "L").point(lambda level: 255 * (level > 127))
    assert set(transform(image).unique().tolist()) == {0.0, 1.0}


def test_training_crops_have_the_models_size() -> None:
    transform = train_transform(Preprocessing((3, 96, 80), (0.0,) * 3, (1.0,) * 3))
    assert transform(_noise(1, 1)).shape == (3, 96, 80)
    assert transform(_noise(300, 20)).shape == (3, 96, 80)
