from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sesurgeon.errors import DataError
from sesurgeon.finetune import open_data
from sesurgeon.finetune.data.heldout import identity_of
from sesurgeon.finetune.data.images import FileImages


def write(folder: Path, lines: Sequence[str], name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def rows(folder: Path) -> list[str]:
    return [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]


def names(images: object) -> list[str]:
    assert isinstance(images, FileImages)
    return [str(path) for path in images.paths]


def test_a_manifest_of_a_folder_is_that_folder_with_the_same_split(class_folder: Path) -> None:
    manifest = write(class_folder, ["path,label", *reversed(rows(class_folder))])
    data, folder = open_data(manifest, seed=3), open_data(class_folder, seed=3)
    assert data.classes == folder.classes
    assert (data.train, data.val, data.val_split, data.seed) == (folder.train, folder.val, 0.2, 3)
    assert open_data(manifest, seed=3, training=False).val == data.val


def test_sets_may_be_told_apart_by_a_column(class_folder: Path) -> None:
    marked = [f"{row},{('Train', 'val', 'test')[index % 3]},x" for index, row in enumerate(rows(class_folder))]
    data = open_data(write(class_folder, ["path,label,split,more", *marked]))
    assert (len(data.split("train")), len(data.val), data.val_split) == (7, 7, None)
    assert all(f"{path.parent.name}/{path.name},{data.classes[target]},val,x" in marked for path, target in zip(
        data.val.paths, data.val.targets, strict=True  # type: ignore[attr-defined]
    ))  # fmt: skip


def test_a_class_may_be_missing_from_validation_but_not_from_training(class_folder: Path) -> None:
    left, right = rows(class_folder)[:10], rows(class_folder)[10:]
    head, most, rest = "path,label,split", [*left[:8], *right], left[8:]
    lines = [head, *(f"{row},train" for row in most), *(f"{row},val" for row in rest)]
    data = open_data(write(class_folder, lines))
    assert data.classes == ("left", "right")
    assert data.notes == ("Classes without validation images, trained on but not evaluated: right.",)
    swapped = [head, *(f"{row},val" for row in most), *(f"{row},train" for row in rest), "left/000.jpg,up,train"]
    (class_folder / "left" / "000.jpg").write_bytes((class_folder / "left" / "000.png").read_bytes())
    with pytest.raises(DataError, match=r"\(val\) has classes without training images: right"):
        open_data(write(class_folder, swapped))


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
def test_separators_marks_and_quotes(class_folder: Path, separator: str) -> None:
    (class_folder / "left" / "a, b.png").write_bytes((class_folder / "left" / "000.png").read_bytes())
    quoted = [f'"{row.split(",")[0]}"{separator}{row.split(",")[1]}' for row in rows(class_folder) if " " not in row]
    lines = [f"\ufeffPath{separator}Label", *quoted]
    lines.append(f'"left/a, b.png"{separator}left')
    data = open_data(write(class_folder, lines, "labels.tsv"), training=False, val_split=None)
    assert data.classes == ("left", "right")
    assert len(data.val) == 21


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_that_are_whole_numbers_are_ordered_by_their_value(
    tmp_path: Path, fill: Callable[..., Path], multi_label: bool
) -> None:
    fill(tmp_path, ("10", "2", "1"), 2)
    manifest = write(tmp_path, ["path,label", *rows(tmp_path)])
    data = open_data(manifest, training=False, val_split=None, multi_label=multi_label)
    assert data.classes == ("1", "2", "10")


def test_all_bad_rows_are_told_by_line(class_folder: Path) -> None:
    lines = [
        "path,label,split",
        "left/000.png,left,train",
        "left/nowhere.png,left,train",
        "",
        ",left,train",
        "left/001.png,,val",
        "left/000.png,right,val",
        "left/002.png,left,training",
        "left/003.png,left,train,what,is,this",
        "left/004.png",
        "right/../left/000.png,left,train",
        f"{'x' * 5000}.png,left,train",
    ]
    with pytest.raises(DataError) as caught:
        open_data(write(class_folder, lines))
    told = re.findall(r"^  (line \d+: .*)$", caught.value.message, re.MULTILINE)
    assert told == [
        "line 3: there is no file left/nowhere.png",
        "line 5: no path",
        "line 6: no label",
        "line 7: left/000.png was named in line 2 already",
        "line 8: the split 'training' is none of train, val, valid, validation, test",
        "line 9: more cells than columns; quote what holds a separator",
        "line 10: no label",
        "line 11: right/../left/000.png was named in line 2 already",
        f"line 12: there is no file {'x' * 5000}.png",
    ]
    assert f"Paths are relative to {class_folder}/" in (caught.value.hint or "")
    assert (caught.value.hint or "").endswith("may have no label, or several, finetune takes them with --multi-label.")


def test_very_many_bad_rows_are_counted(class_folder: Path) -> None:
    with pytest.raises(DataError, match=r"line 21: .*\n  … and 5 more\n") as caught:
        open_data(write(class_folder, ["path,label", *(f"{index}.png,a" for index in range(25))]))
    assert "--multi-label" not in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Line 1 .* lacks path and label"),
        (b"file,label\na.png,b\n", "Line 1 .* lacks path: 'file,label'"),
        (b"path,label,Label \na.png,b,c\n", "Line 1 .* has label more than once: 'path,label,Label '"),
        (b"path,label\n", "names no images"),
        (b'path,label\n"a.png,b\n', "Line 2 .* is no CSV"),
        (b"path,label\n\xe9.png,b\n", "is not UTF-8"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "labels.csv")


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv does not exist"):
        open_data(tmp_path / "labels.csv")


def test_unreadable_images_of_a_manifest_are_skipped(class_folder: Path) -> None:
    (class_folder / "torn.img").write_bytes(b"nothing")
    data = open_data(write(class_folder, ["path,label", *rows(class_folder), "torn.img,left"]))
    assert [image.path for image in data.skipped] == [class_folder / "torn.img"]
    assert len(data.split("train")) + len(data.val) == 20


def test_a_history_knows_a_manifest_by_its_absolute_path(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write(class_folder, ["path,label", *rows(class_folder)])
    monkeypatch.chdir(class_folder)
    assert identity_of("labels.csv") == identity_of(manifest) == str(manifest.resolve())
