from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from sesurgeon.errors import DataError
from sesurgeon.finetune import open_data
from sesurgeon.finetune.data.archives import Member
from sesurgeon.finetune.data.images import FileImages
from sesurgeon.finetune.data.loader import eval_loader
from sesurgeon.models.preprocessing import Preprocessing

Fill = Callable[..., Path]


def pack(source: Path, target: Path, name: str = ".") -> Path:
    with tarfile.open(target, "w") as archive:
        archive.add(source, name)
    return target


def same_pixels(one: object, other: object) -> bool:
    assert isinstance(one, FileImages)
    assert isinstance(other, FileImages)
    pairs = zip(one.paths, other.paths, strict=True)
    return one.targets == other.targets and all(a.open("rb").read() == b.open("rb").read() for a, b in pairs)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the comparison, which closes nothing
@pytest.mark.parametrize("name", [".", "photos", "a/b"])
def test_a_packed_folder_is_that_folder_with_the_same_split(class_folder: Path, tmp_path: Path, name: str) -> None:
    Image.new("L", (8, 8)).save(class_folder / "left" / "._000.png")
    (class_folder / "right" / "deep" / "er").mkdir(parents=True)
    Image.new("L", (8, 8)).save(class_folder / "right" / "deep" / "er" / "x.WEBP")
    packed, folder = open_data(pack(class_folder, tmp_path / "photos.tar", name)), open_data(class_folder)
    assert (packed.classes, packed.val_split, packed.skipped) == (folder.classes, 0.2, ())
    assert len(packed.split("train")) == 17
    assert same_pixels(packed.train, folder.train)
    assert same_pixels(packed.val, folder.val)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sets_in_a_packed_folder_stay_apart(split_folder: Path, tmp_path: Path) -> None:
    archive = pack(split_folder, tmp_path / "photos.tar", "photos")
    packed, folder = open_data(archive), open_data(split_folder)
    assert packed.val_split is None
    assert same_pixels(packed.train, folder.train)
    assert same_pixels(packed.val, folder.val)
    assert open_data(archive, training=False).val == packed.val


def test_hidden_folders_in_a_tar_are_no_classes(class_folder: Path, tmp_path: Path) -> None:
    for folder in (class_folder / ".ipynb_checkpoints", class_folder / "left" / ".thumbs"):
        folder.mkdir()
        Image.new("L", (8, 8)).save(folder / "000.png")
    data = open_data(pack(class_folder, tmp_path / "photos.tar", "photos"), training=False, val_split=None)
    assert (data.classes, len(data.val)) == (("left", "right"), 20)


def test_capitals_of_packed_sets_do_not_matter_and_what_is_left_aside_is_named(
    split_folder: Path, tmp_path: Path, fill: Fill
) -> None:
    (split_folder / "train").rename(split_folder / "Train")
    (split_folder / "val").rename(split_folder / "Valid")
    fill(split_folder / "test", ("left", "right"), 1)
    fill(split_folder, ("bird",), 1)
    (split_folder / "Train" / "stray.png").write_bytes((split_folder / "bird" / "000.png").read_bytes())
    archive = pack(split_folder, tmp_path / "photos.tar", "photos")
    data = open_data(archive)
    assert (len(data.split("train")), len(data.val)) == (24, 12)
    aside = f"{archive / 'bird'}, {archive / 'test'}"
    assert any(note.endswith(f"images are read from train and valid beside them: {aside}.") for note in data.notes)
    assert [path.parts[-2:] for path in data.ignored] == [("Train", "stray.png")]


def test_tars_in_a_tar_are_classes_and_are_read_in_place(class_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in ("left", "right"):
            archive.add(pack(class_folder / name, tmp_path / f"{name}.tar"), f"{name}.tar")
    data = open_data(tmp_path / "all.tar", training=False, val_split=None)
    assert (data.classes, len(data.val)) == (("left", "right"), 20)
    image, label = data.val[13]
    assert label == 1
    assert image.tobytes() == Image.open(class_folder / "right" / "003.png").tobytes()


def link(archive: tarfile.TarFile, name: str, to: str, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    archive.addfile(info)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_links_in_a_tar_are_followed_and_those_that_lead_out_are_named(class_folder: Path, tmp_path: Path) -> None:
    os.link(class_folder / "left" / "000.png", class_folder / "right" / "same.png")  # packed as a link to the first
    (class_folder / "right" / "soft.png").symlink_to("../left/001.png")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(class_folder, "./photos")
        assert [info.name for info in archive if info.islnk()] == ["./photos/right/same.png"]
        link(archive, "./photos/right/twice.png", "soft.png", tarfile.SYMTYPE)
        link(archive, "./photos/right/round.png", "round.png", tarfile.SYMTYPE)
        link(archive, "./photos/right/out.png", "/elsewhere/1.png", tarfile.SYMTYPE)
        link(archive, "./photos/right/folder.png", "../left", tarfile.SYMTYPE)
    data = open_data(tmp_path / "photos.tar", training=False, val_split=None)
    assert isinstance(data.val, FileImages)
    found = {Path(str(path)).name: path.open("rb").read() for path in data.val.paths[10:]}
    assert len(found) == 13
    assert found["same.png"] == (class_folder / "left" / "000.png").read_bytes()
    assert found["soft.png"] == found["twice.png"] == (class_folder / "left" / "001.png").read_bytes()
    assert [(image.path.name, image.reason) for image in data.skipped] == [
        ("out.png", "it is a link to /elsewhere/1.png, which leads to no file of the archive"),
        ("round.png", "it is a link to round.png, which leads to no file of the archive"),
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_file_that_a_tar_was_told_twice_to_take_is_there_once(class_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(class_folder, "photos")
        link(archive, "photos/left/000.png", "photos/left/000.png", tarfile.LNKTYPE)  # as GNU tar does
        link(archive, "photos/right/same.png", "photos/left/000.png", tarfile.LNKTYPE)
    data = open_data(tmp_path / "photos.tar", training=False, val_split=None)
    assert isinstance(data.val, FileImages)
    assert data.skipped == ()
    assert len(data.val) == sum(1 for _ in class_folder.rglob("*.png")) + 1


def test_one_class_keeps_its_folder(class_folder: Path, tmp_path: Path) -> None:
    data = open_data(pack(class_folder / "left", tmp_path / "one.tar", "left"), training=False, val_split=None)
    assert data.classes == ("left",)


def test_unreadable_and_loose_images_are_named_by_archive_and_place(class_folder: Path, tmp_path: Path) -> None:
    (class_folder / "left" / "torn.jpg").write_bytes(b"nothing")
    Image.new("L", (8, 8)).save(class_folder / "loose.png")
    data = open_data(pack(class_folder, tmp_path / "photos.tar"))
    assert [image.path.parts[-3:] for image in data.skipped] == [("photos.tar", "left", "torn.jpg")]
    assert [path.parts[-2:] for path in data.ignored] == [("photos.tar", "loose.png")]


def test_workers_and_threads_read_the_same_archive(class_folder: Path, tmp_path: Path) -> None:
    data = open_data(pack(class_folder, tmp_path / "photos.tar"), training=False, val_split=None)
    preprocessing = Preprocessing((1, 8, 8), (0.0,), (1.0,))
    loaded = [
        torch.cat([images for images, _ in eval_loader(data.val, preprocessing, (0, 1), batch_size=4, workers=workers)])
        for workers in (0, 2)
    ]
    assert torch.equal(*loaded)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda index: data.val[index][0].tobytes(), range(20)))
    assert read == [data.val[index][0].tobytes() for index in range(20)]


def test_archives_that_cannot_be_used(class_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photos\.tar does not exist"):
        open_data(tmp_path / "photos.tar")
    whole = pack(class_folder, tmp_path / "whole.tar").read_bytes()
    (tmp_path / "torn.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(DataError, match=r"torn\.tar cannot be read"):
        open_data(tmp_path / "torn.tar")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(class_folder)
    with pytest.raises(DataError, match=r"packed\.tar cannot be read") as caught:
        open_data(tmp_path / "packed.tar")
    assert "not compressed" in (caught.value.hint or "")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    with pytest.raises(DataError, match="no images in folders"):
        open_data(pack(tmp_path / "notes", tmp_path / "notes.tar"))


def test_a_member_is_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcdef")
    member = Member(tmp_path / "x", "inner.png", 2, 3)
    assert (member.open().read(), str(member)) == (b"cde", f"{tmp_path}/x/inner.png")
