from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from sesurgeon.errors import DataError
from sesurgeon.finetune import open_data
from sesurgeon.finetune.data.heldout import identity_of
from sesurgeon.finetune.data.shards import list_shards


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_shard(path: Path, labels: list[object], *, as_json: bool = False) -> Path:
    """Sample i is a picture of the grey i, and has the label i."""
    with tarfile.open(path, "w") as archive:
        for index, label in enumerate(labels):
            content = io.BytesIO()
            Image.new("L", (8, 8), index).save(content, "png")
            if as_json:
                add(archive, f"{index:04}.json", json.dumps({"label": label, "caption": "none"}).encode())
            else:
                add(archive, f"{index:04}.cls", f"{label}\n".encode())
            add(archive, f"{index:04}.png", content.getvalue())
    return path


def test_images_meet_their_labels_and_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    write_shard(tmp_path / "a-0.tar", [2, 10, 2, 0])
    data = open_data(f"wds:{tmp_path}", training=False, val_split=None)
    assert data.classes == ("0", "2", "10")
    seen = sorted((image.getpixel((0, 0)), data.classes[target]) for image, target in (data.val[i] for i in range(4)))
    assert seen == [(0, "2"), (1, "10"), (2, "2"), (3, "0")]


def test_images_and_labels_that_are_links_are_samples_too(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [0, 1])
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for name, to in (("2.png", "0001.png"), ("2.cls", "0000.cls")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, to
            archive.addfile(info)
    data = open_data(f"wds:{tmp_path}", training=False, val_split=None)
    assert sorted((data.val[i][0].getpixel((0, 0)), data.val[i][1]) for i in range(3)) == [(0, 0), (1, 0), (1, 1)]


def test_labels_may_stand_in_json_and_be_names(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", ["dog", "cat", "dog"], as_json=True)
    data = open_data(f"wds:{tmp_path / 'a.tar'}", training=False, val_split=None)
    assert (data.classes, len(data.val)) == (("cat", "dog"), 3)


def test_of_two_labels_that_of_its_own_file_is_taken(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", ["cat", "dog"])
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        add(archive, "0000.json", b'{"label": "cow"}')
    assert open_data(f"wds:{tmp_path}", training=False, val_split=None).classes == ("cat", "dog")


def test_shards_are_told_apart_by_a_word_in_their_names(tmp_path: Path) -> None:
    for name in ("x-train-00", "x-train-01", "x-validation-00", "x-test-00", "constrained"):
        write_shard(tmp_path / f"{name}.tar", [0, 1, 0])
    data = open_data(f"wds:{tmp_path}")
    assert (len(data.split("train")), len(data.val), data.val_split) == (6, 3, None)
    assert "x-validation-00.tar" in str(data.val.paths[0])  # type: ignore[attr-defined]
    train, val = list_shards(str(tmp_path), training=False)
    assert train is None
    assert val is not None


def test_shards_of_one_set_are_split_by_class_and_seed(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-08.tar", [0, 1] * 5)
    write_shard(tmp_path / "s-09.tar", [1, 0] * 5)
    write_shard(tmp_path / "s-10.tar", [1, 1] * 5)
    data = open_data(f"wds:{tmp_path}/s-{{08..09}}.tar", seed=1)
    assert (len(data.split("train")), len(data.val), data.val_split) == (16, 4, 0.2)
    assert open_data(f"wds:{tmp_path}/s-0*.tar", seed=1).val == data.val
    assert len(open_data(f"wds:{tmp_path}/s-{{08..10}}.tar", training=False, val_split=None).val) == 30


def test_what_is_no_image_is_passed_over_and_a_key_ends_at_the_first_dot(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        content = io.BytesIO()
        Image.new("L", (8, 8)).save(content, "png")
        for name in ("v1.2/a.png", "v1.2/b.png"):
            add(archive, name, content.getvalue())
        add(archive, "v1.2/a.cls", b"0")
        add(archive, "v1.2/b.cls", b"1")
        add(archive, "v1.2/b.mask.png", b"a picture of another kind")
    data = open_data(f"wds:{tmp_path}", training=False, val_split=None)
    assert (len(data.val), data.skipped) == (2, ())


def test_shards_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No WebDataset shard"):
        open_data(f"wds:{tmp_path}")
    write_shard(tmp_path / "a-0.tar", [0, 1])
    with pytest.raises(DataError, match=r"No WebDataset shard at .*a-1\.tar\."):
        open_data(f"wds:{tmp_path}/a-{{0..1}}.tar")
    with pytest.raises(DataError, match=r"a-1\.tar, .*a-5\.tar and 3 more\."):
        open_data(f"wds:{tmp_path}/a-{{0..8}}.tar")
    with pytest.raises(DataError, match="not on this machine"):
        open_data("wds:https://example.org/a-{0..1}.tar")
    with tarfile.open(tmp_path / "a-1.tar", "w") as archive:
        add(archive, "x.png", b"")
        add(archive, "x.json", b'{"caption": "no label"}')
        add(archive, "y.png", b"")
        add(archive, "y.json", b"no json")
    with pytest.raises(DataError, match=r"2 of 2 images in .*a-1\.tar have no label, the first is x"):
        open_data(f"wds:{tmp_path}")
    (tmp_path / "a-1.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"a-1\.tar cannot be read"):
        open_data(f"wds:{tmp_path}")


def test_a_history_knows_shards_by_their_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert identity_of("wds:a-{0..1}.tar") == f"wds:{tmp_path.resolve()}/a-{{0..1}}.tar"
