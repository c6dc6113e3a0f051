"""Tar files of images, read where they stand: nothing is unpacked, and any image can be read at any time."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.classfiles import SUFFIXES, TRAIN_NAME, VAL_NAMES, ClassFiles, by_class

SUFFIX = ".tar"
_SETS = (TRAIN_NAME, *VAL_NAMES)


@dataclass(frozen=True)
class Member:
    """A file in a tar, by its place.

    It holds no open file: threads and processes read it without a common position.

    Attributes:
        archive: the tar.
        name: of the file in it, tars within the tar counted as folders.
        start: of its bytes in the tar.
        size: how many there are.
    """

    archive: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def open(self, mode: Literal["rb"] = "rb", /) -> io.BytesIO:
        with self.archive.open(mode) as file:
            file.seek(self.start)
            return io.BytesIO(file.read(self.size))


def list_tar(path: Path) -> tuple[ClassFiles | None, ClassFiles | None]:
    """The training set, or all there is, and the validation set, if it is apart.

    A packed image folder has the classes and sets of that folder; folders around everything else are passed
    over. A tar within the tar counts as a folder (ImageNet comes so, one a class). timm's reader lists the files.

    Raises:
        DataError: the file is missing, is no uncompressed tar, or holds no images in folders.
    """
    placed = _placed(_members(path))
    there = {_set_of(parts) for parts, _ in placed}
    train_name = TRAIN_NAME if TRAIN_NAME in there else None
    val_name = next((name for name in VAL_NAMES if name in there), None)
    if train_name is not None or val_name is not None:
        used = (train_name, val_name)
        unused = {parts[0] for parts, _ in placed if len(parts) > 1 and parts[0].lower() not in used}
        aside = tuple(path / folder for folder in sorted(unused))
        train, val = (None if name is None else replace(_apart(path, placed, name), aside=aside) for name in used)
        return train, val
    loose = [Path(str(file)) for parts, file in placed if len(parts) == 1]
    labelled = [(parts[0], file) for parts, file in placed if len(parts) > 1]
    if not labelled:
        raise DataError(
            f"The archive {path} holds no images in folders.",
            hint=f"Its folders are the classes, and images are files with {', '.join(SUFFIXES)}.",
        )
    return by_class(str(path), labelled, ignored=loose), None


def list_images(path: Path) -> list[Member]:
    """All images in a tar, sorted by name.

    Raises:
        DataError: see :func:`list_tar`.
    """
    shown = (member for member in _members(path) if not _hidden(PurePosixPath(member.name).parts))
    return sorted(shown, key=lambda member: member.name)


def _members(path: Path) -> list[Member]:
    from timm.data.readers.reader_image_in_tar import extract_tarinfos

    if not path.is_file():
        raise DataError(f"The archive {path} does not exist.")
    try:
        # it would leave a cache beside archives of more than 10 GB
        samples = extract_tarinfos(str(path), cache_tarinfo=False, extensions=SUFFIXES)[0]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"The archive {path} cannot be read: {error}", hint="It must be a whole .tar that is not compressed."
        ) from error
    except ValueError:  # timm's way with an archive without images
        return []
    return [
        Member(
            path,
            info.path if inner is None else f"{inner.path.removesuffix(SUFFIX)}/{info.path}",
            info.offset_data + (0 if inner is None else inner.offset_data),
            info.size,
        )
        for info, _, inner in samples
    ]


def _placed(members: list[Member]) -> list[tuple[tuple[str, ...], Member]]:
    """Folders and name of each file, without the folders around all of them, sorted."""
    parts = {member: PurePosixPath(member.name).parts for member in members}
    shown = [(places, member) for member, places in parts.items() if not _hidden(places)]
    folders = {places[:-1] for places, _ in shown}
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    around = tuple(level[0] for level in levels)
    if folders == {around}:  # one class, whose folder must stay
        around = around[:-1]
    return sorted(((places[len(around) :], member) for places, member in shown), key=lambda placed: placed[0])


def _apart(path: Path, placed: list[tuple[tuple[str, ...], Member]], name: str) -> ClassFiles:
    """One of the sets that lie in folders of their own."""
    labelled = [(parts[1], file) for parts, file in placed if _set_of(parts) == name]
    loose = [Path(str(file)) for parts, file in placed if len(parts) == 2 and parts[0].lower() == name]
    return by_class(f"{path}/{name}", labelled, ignored=loose)


def _set_of(parts: tuple[str, ...]) -> str:
    """The set that a file is in by the folder above its class; "" for none."""
    name = parts[0].lower()
    return name if name in _SETS and len(parts) > 2 else ""


def _hidden(places: tuple[str, ...]) -> bool:
    # macOS packs a shadow of every file
    return "__MACOSX" in places or any(place.startswith(".") and place != ".." for place in places)
