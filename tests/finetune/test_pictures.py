from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sesurgeon.errors import OutputError
from sesurgeon.finetune.keeping.confusion import _counts, draw_confusion
from sesurgeon.finetune.keeping.lettering import lettering_for
from sesurgeon.finetune.keeping.mistakes import draw_mistakes, worst_mistakes
from sesurgeon.finetune.scoring.evaluation import Evaluation


def evaluation(
    labels: Sequence[int], predictions: Sequence[int], outputs: int = 3, names: Sequence[str] = ("cat", "dog", "fox")
) -> Evaluation:
    """The i-th image has the loss i."""
    right, got = torch.tensor(labels), torch.tensor(predictions)
    losses = torch.arange(len(labels), dtype=torch.float32)
    return Evaluation(dict(enumerate(names)), outputs, min(5, outputs), right, got, right == got, losses)


class Listed:
    """Images in a list, all of class 0; says which were asked for."""

    def __init__(self, *images: Image.Image) -> None:
        self.images = images
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        self.asked.append(index)
        return self.images[index], 0


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def cell_colours(path: Path, rows: int, columns: int) -> list[list[tuple[int, ...]]]:
    """The colour of each cell near its lower left corner; the matrix is what lies in the frame."""
    picture = pixels(path)
    frame = (abs(picture - 0x8C) < 3).all(2)
    down, across = np.flatnonzero(frame.mean(1) > 0.4), np.flatnonzero(frame.mean(0) > 0.4)
    ys = np.linspace(down[0], down[-1], rows + 1)
    xs = np.linspace(across[0], across[-1], columns + 1)
    return [[tuple(picture[int(y - 6), int(x + 6)].tolist()) for x in xs[:-1]] for y in ys[1:]]


def test_each_row_of_the_confusion_is_shaded_by_its_shares(tmp_path: Path) -> None:
    found = evaluation([0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 1, 0])
    draw_confusion(found, tmp_path / "confusion.png")
    cells = cell_colours(tmp_path / "confusion.png", 3, 3)
    darkness = [[765 - sum(colour) for colour in row] for row in cells]
    assert darkness[1][1] == darkness[2][0] == max(map(max, darkness))  # the whole row
    assert darkness[1][1] > darkness[0][0] > darkness[0][1] > darkness[0][2]
    assert darkness[0][2] == darkness[1][0] == darkness[2][2] == min(map(min, darkness))  # nothing


def test_outputs_that_are_no_class_of_the_data_get_a_column(tmp_path: Path) -> None:
    found = evaluation([0, 1, 2, 2], [0, 1, 2, 5], outputs=9)
    draw_confusion(found, tmp_path / "confusion.png")
    cells = cell_colours(tmp_path / "confusion.png", 3, 4)
    assert cells[2][3] == cells[2][2] != cells[1][3]


@pytest.mark.parametrize("classes", [2, 30, 120])
def test_few_and_many_classes_can_be_drawn(classes: int, tmp_path: Path) -> None:
    labels = list(range(classes)) * 2
    found = evaluation(labels, [0] * classes + labels[:classes], classes, [f"class {i}" for i in range(classes)])
    draw_confusion(found, tmp_path / "confusion.png")
    height, width, _ = pixels(tmp_path / "confusion.png").shape
    assert 400 < width < 2000
    assert 400 < height < 2000


def test_mistakes_come_by_how_little_the_right_class_got() -> None:
    found = evaluation([0, 0, 1, 1, 2], [0, 1, 0, 1, 1])
    assert worst_mistakes(found) == [4, 2, 1]
    assert worst_mistakes(evaluation([0, 1], [0, 1])) == []


def test_the_worst_images_are_drawn_in_any_format(tmp_path: Path) -> None:
    red = Image.new("RGB", (500, 300), (255, 0, 0))
    deep = Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16))
    images = Listed(red, deep, Image.new("CMYK", (9, 9), (255, 0, 255, 0)), Image.new("P", (1, 1)), red)
    found = evaluation([0, 0, 0, 0, 0], [1, 2, 1, 2, 0])
    draw_mistakes(images, found, tmp_path / "mistakes.png", most=3)
    assert images.asked == [3, 2, 1]
    drawn = pixels(tmp_path / "mistakes.png").reshape(-1, 3)
    assert ((drawn == (0, 255, 0)).all(1)).sum() > 10_000  # the CMYK one
    assert ((drawn == 156).all(1)).sum() > 10_000  # the 16-bit one
    assert not ((drawn == (255, 0, 0)).all(1)).any()
    assert red.size == (500, 300)


def test_no_mistakes_is_a_picture_too(tmp_path: Path) -> None:
    images = Listed(Image.new("L", (8, 8)), Image.new("L", (8, 8)))
    draw_mistakes(images, evaluation([0, 1], [0, 1]), tmp_path / "mistakes.png")
    assert images.asked == []
    assert (pixels(tmp_path / "mistakes.png") == 0).any()


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        draw_confusion(evaluation([0, 1], [1, 1]), tmp_path / "gone" / "confusion.png")
    assert list(tmp_path.iterdir()) == []


def test_any_name_can_be_written(tmp_path: Path) -> None:
    names = ("$a$ \\frac", "猫猫", "\U000f0000", "n" * 80, "مرحبا")
    found = evaluation([0, 1, 2, 3, 4], [1, 2, 3, 4, 0], 5, names)
    lettering = lettering_for(found.classes)
    assert lettering[0] == "$a$ \\frac"
    assert lettering[1] in ("猫猫", "#1")  # by the fonts of this machine
    assert lettering[2] == "#2"  # no font has it
    assert lettering[3] == "n" * 23 + "…"
    assert lettering[7] == "#7"
    draw_confusion(found, tmp_path / "confusion.png")  # a warning of matplotlib's would be an error here
    draw_mistakes(Listed(*[Image.new("L", (8, 8))] * 5), found, tmp_path / "mistakes.png")
    assert (tmp_path / "mistakes.png").stat().st_size > 0


def test_many_classes_share_cells(tmp_path: Path) -> None:
    """The matrix of 30,000 classes would be of 7 GB."""
    classes = list(range(30_000))
    found = evaluation(classes, [29_999, *classes[:-1]], outputs=30_000, names=list(map(str, classes)))
    counts = _counts(found, 30_000, classes, 30)
    assert counts.shape == (1000, 1000)
    assert counts.sum() == 30_000
    assert counts.diagonal().tolist() == [29] * 1000
    draw_confusion(found, tmp_path / "confusion.png")
    assert len(pixels(tmp_path / "confusion.png")) > 500
