"""Real images without a download: scikit-learn's 1,797 handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HELD_OUT = 0.25
_WHITE = 16  # pixels are counts from 0 to 16


def write_digits(folder: Path, *, images: int, seed: int) -> tuple[int, int]:
    """Write the first ``images`` digits as 8x8 grey PNGs: ``train/3/0013.png`` is the 14th, a three.

    A quarter of each class is held out in ``val/``, chosen by ``seed``.

    Returns:
        the numbers of images in ``train/`` and ``val/``.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.rint(digits.images[:images] * (255 / _WHITE)).astype(np.uint8)
    labels = digits.target[:images]
    parts = train_test_split(np.arange(len(pixels)), test_size=HELD_OUT, stratify=labels, random_state=seed)
    for name in ("train", "val"):
        for file in (folder / name).glob("[0-9]/[0-9][0-9][0-9][0-9].png"):  # of another seed
            file.unlink()
    for name, part in zip(("train", "val"), parts, strict=True):
        for index in part:
            file = folder / name / str(labels[index]) / f"{index:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[index]).save(file)
    return len(parts[0]), len(parts[1])
