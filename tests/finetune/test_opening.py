from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune import Data, ImagesChecked, open_data
from sesurgeon.finetune.data.images import FileImages

Fill = Callable[..., Path]


def _names(images: object) -> list[str]:
    assert isinstance(images, FileImages)
    return [f"{path.parent.name}/{path.name}" for path in images.paths]


def test_train_and_val_folders_are_taken_as_they_are(split_folder: Path) -> None:
    data = open_data(split_folder)
    assert data.classes == ("left", "right")
    assert (len(data.split("train")), len(data.val)) == (24, 12)
    assert data.val_split is None
    assert [data.val[index][1] for index in (0, 11)] == [0, 1]


@pytest.mark.parametrize("name", ["valid", "validation", "test", "Val", "VALID"])
def test_other_names_of_a_validation_folder(split_folder: Path, name: str) -> None:
    (split_folder / "val").rename(split_folder / name)
    assert len(open_data(split_folder).val) == 12


@pytest.mark.parametrize("name", ["val", "valid"])
def test_validation_is_preferred_to_test_and_what_is_left_aside_is_named(
    split_folder: Path, fill: Fill, name: str
) -> None:
    (split_folder / "val").rename(split_folder / name)
    fill(split_folder / "test", ("left", "right"), 1)
    fill(split_folder, ("bird",), 1)
    data = open_data(split_folder)
    assert len(data.val) == 12
    aside = f"{split_folder / 'bird'}, {split_folder / 'test'}"
    assert data.notes == (f"Ignored, because images are read from train and {name} beside them: {aside}.",)
    (measured,) = open_data(split_folder, training=False).notes
    assert measured == f"Ignored, because images are read from {name} beside them: {aside}."


def test_capitals_of_the_sets_do_not_matter(split_folder: Path) -> None:
    (split_folder / "train").rename(split_folder / "Train")
    (split_folder / "val").rename(split_folder / "Val")
    data = open_data(split_folder)
    assert (data.classes, len(data.split("train")), len(data.val), data.notes) == (("left", "right"), 24, 12, ())


def test_a_class_beside_a_train_folder_is_not_left_aside_without_a_word(split_folder: Path) -> None:
    (split_folder / "val").rename(split_folder / "bird")
    data = open_data(split_folder)
    assert data.notes == (f"Ignored, because images are read from train beside them: {split_folder / 'bird'}.",)


def test_links_that_go_round_in_a_class_are_followed_once(class_folder: Path) -> None:
    (class_folder / "left" / "loop").symlink_to(".")
    (class_folder / "left" / "up").symlink_to("..")
    (class_folder / "more").mkdir()
    (class_folder / "more" / "there").symlink_to(class_folder / "right")
    data = open_data(class_folder, training=False, val_split=None)
    assert data.classes == ("left", "more", "right")
    assert len(data.val) == 30


def test_hidden_folders_in_a_class_are_passed_over(class_folder: Path) -> None:
    (class_folder / "left" / ".ipynb_checkpoints").mkdir()
    Image.new("L", (8, 8)).save(class_folder / "left" / ".ipynb_checkpoints" / "000-checkpoint.png")
    data = open_data(class_folder, training=False, val_split=None)
    assert len(data.val) == 20
    assert not any(".ipynb" in name for name in _names(data.val))


def test_one_folder_is_split_by_class_and_seed(class_folder: Path) -> None:
    data = open_data(class_folder, val_split=0.3, seed=1)
    held_out = _names(data.val)
    assert sum(name.startswith("left/") for name in held_out) == 3
    assert sum(name.startswith("right/") for name in held_out) == 3
    assert sorted(held_out + _names(data.train)) == _names(open_data(class_folder, training=False, val_split=None).val)
    assert _names(open_data(class_folder, val_split=0.3, seed=1).val) == held_out
    assert _names(open_data(class_folder, val_split=0.3, seed=2).val) != held_out
    assert _names(open_data(class_folder, val_split=0.3, seed=1, training=False).val) == held_out


def test_a_class_with_one_image_keeps_it_for_training(class_folder: Path, fill: Fill) -> None:
    fill(class_folder, ("single",), 1)
    data = open_data(class_folder)
    assert "single/000.png" in _names(data.train)
    assert not any(name.startswith("single/") for name in _names(data.val))
    assert data.notes == ("Classes with a single image, trained on but not evaluated: single.",)


def test_single_images_cannot_be_held_out(tmp_path: Path, fill: Fill) -> None:
    root = fill(tmp_path / "singles", ("left", "right"), 1)
    with pytest.raises(DataError, match="one image each"):
        open_data(root)


def test_a_class_called_train_is_a_class(class_folder: Path) -> None:
    (class_folder / "left").rename(class_folder / "train")
    assert open_data(class_folder).classes == ("right", "train")


def test_a_train_folder_without_val_is_split(split_folder: Path) -> None:
    (split_folder / "val").rename(split_folder.parent / "elsewhere")
    data = open_data(split_folder, val_split=0.25)
    assert (len(data.split("train")), len(data.val)) == (18, 6)


def test_nested_folders_odd_names_and_other_files(class_folder: Path) -> None:
    odd = class_folder / "猫 "
    (odd / "deeper").mkdir(parents=True)
    Image.new("L", (8, 8)).save(odd / "deeper" / "x.PNG")
    (odd / "notes.txt").write_text("labels")
    (odd / ".DS_Store").touch()
    (class_folder / ".cache").mkdir()
    data = open_data(class_folder, training=False, val_split=None)
    assert data.classes == ("left", "right", "猫 ")
    assert "deeper/x.PNG" in _names(data.val)
    assert data.ignored == (odd / "notes.txt",)
    assert data.notes == (
        f"Ignored, because their names are not those of images: {odd / 'notes.txt'}.",
        "Class names that begin or end with a space keep it: '猫 '.",
    )


def test_a_folder_of_tars_is_told_from_a_folder_of_classes(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    with pytest.raises(DataError, match="no class folders") as caught:
        open_data(tmp_path)
    assert f"wds:{tmp_path}" in (caught.value.hint or "")


def test_a_folder_in_a_class_that_cannot_be_read_is_not_left_out(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = class_folder / "left" / "more"
    closed.mkdir()
    Image.new("L", (8, 8)).save(closed / "x.png")
    scan = os.scandir

    def refusing(path: str) -> Any:  # root may read anything
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=f"^The data folder {closed} cannot be read: Permission denied"):
        open_data(class_folder)


@pytest.mark.parametrize("classes", [np.array(["0", "1"]), [0, 1], (0, "1")])
def test_classes_are_kept_as_plain_strings(classes: Any, class_folder: Path) -> None:
    data = Data("mine", classes, open_data(class_folder).val)
    assert data.classes == ("0", "1")
    assert {type(name) for name in data.classes} == {str}


@pytest.mark.parametrize("options", [{"val": []}, {"val": [0], "train": []}])
def test_an_empty_set_is_refused(options: Any) -> None:
    with pytest.raises(DataError, match=rf"The split '{[*options][-1]}' of the data mine has no images"):
        Data("mine", ("left", "right"), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val_split": 1.5}, r"val_split \(=1.5\) must be between 0 and 1, or None"),
        ({"val_split": -1}, r"val_split \(=-1\) must be between 0 and 1, or None"),
        ({"seed": -1}, r"seed \(=-1\) must be 0 or more"),
        ({"on_bad_image": "raise"}, r"on_bad_image \(='raise'\) must be skip or error"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, said: str, class_folder: Path) -> None:
    with pytest.raises(UsageError, match=said):
        open_data(class_folder, **options)


def test_missing_folder() -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist") as caught:
        open_data("nowhere")
    assert "torchvision:" in (caught.value.hint or "")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data.zip").touch()
    with pytest.raises(DataError, match="is a file"):
        open_data(tmp_path / "data.zip")


def test_a_folder_without_class_folders(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "loose.png")
    with pytest.raises(DataError, match="no class folders"):
        open_data(tmp_path)


def test_one_class_is_refused_for_training_only(tmp_path: Path, fill: Fill) -> None:
    root = fill(tmp_path / "one", ("left",), 3)
    with pytest.raises(DataError, match="one class only: left"):
        open_data(root)
    assert len(open_data(root, training=False, val_split=None).val) == 3


def test_empty_class_folders_are_named(class_folder: Path) -> None:
    (class_folder / "void").mkdir()
    (class_folder / "blank").mkdir()
    with pytest.raises(DataError, match="blank, void"):
        open_data(class_folder)


def test_differing_classes_are_named_on_both_sides(split_folder: Path) -> None:
    (split_folder / "val" / "left").rename(split_folder / "val" / "up")
    with pytest.raises(DataError, match=r"left in train/ but not in val/; up in val/ but not in train/"):
        open_data(split_folder)


def test_val_without_train_cannot_train(split_folder: Path) -> None:
    (split_folder / "train").rename(split_folder.parent / "elsewhere")
    with pytest.raises(DataError, match="a validation set, but no training set"):
        open_data(split_folder)
    assert len(open_data(split_folder, training=False).val) == 12


def test_training_without_a_share_to_hold_out(class_folder: Path) -> None:
    with pytest.raises(DataError, match="have no validation set"):
        open_data(class_folder, val_split=None)


def test_bad_images_are_skipped_and_listed(split_folder: Path) -> None:
    torn = split_folder / "train" / "left" / "torn.jpg"
    torn.write_bytes(b"\xff\xd8 no picture")
    data = open_data(split_folder)
    assert [image.path for image in data.skipped] == [torn]
    assert len(data.split("train")) == 24


def test_bad_images_are_refused_when_asked(split_folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (split_folder / "val" / "right" / name).touch()
    with pytest.raises(DataError, match="2 of 38 images cannot be read") as caught:
        open_data(split_folder, on_bad_image="error")
    assert "a.png" in caught.value.message
    assert "b.png" in caught.value.message


def test_a_class_with_bad_images_only_is_an_empty_class(class_folder: Path) -> None:
    (class_folder / "torn").mkdir()
    (class_folder / "torn" / "x.png").write_text("no picture")
    with pytest.raises(DataError, match="torn"):
        open_data(class_folder)


def test_a_float_image_counts_as_bad(class_folder: Path) -> None:
    path = class_folder / "left" / "float.tif"
    Image.new("F", (8, 8), 0.5).save(path)
    assert [image.path for image in open_data(class_folder).skipped] == [path]


def test_progress_counts_every_file(class_folder: Path) -> None:
    events: list[object] = []
    open_data(class_folder, on_progress=events.append)
    assert events == [ImagesChecked(done, 20) for done in range(1, 21)]
