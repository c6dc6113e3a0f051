"""How training images are varied, with timm's recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from sesurgeon.errors import UsageError
from sesurgeon.finetune.data.preparing import mode_of
from sesurgeon.finetune.data.transforms import Transform, interpolation_of, mean_colour, normalize, resize_steps
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.randomness import seeded

_SMALL = 64  # pixels; images up to this size are shifted instead of zoomed, and never flipped
_TRIES = 300  # a policy draws two of fifteen operations, and applies each with probability 1/2


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
        steps = [*resize_steps(preprocessing), *on_pictures, transforms.ToTensor(), shift]
    else:
        interpolation = interpolation_of(preprocessing)
        crop = transforms.RandomResizedCrop([height, width], scale=(0.6, 1.0), interpolation=interpolation)
        steps = [crop, *on_pictures, transforms.ToTensor()]
    steps.append(normalize(preprocessing))
    if augmentation.reprob > 0:
        from timm.data.random_erasing import RandomErasing

        steps.append(RandomErasing(augmentation.reprob, mode="pixel", device="cpu"))
    return transforms.Compose(steps)  # type: ignore[no-any-return]  # torchvision has no types


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
        "img_mean": mean_colour(preprocessing),
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
