"""Images in tar files, read in place: nothing is unpacked, and images can be read in any order."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.images import SUFFIXES
from sesurgeon.finetune.data.labelled_files import LabelledFiles, by_class
from sesurgeon.finetune.data.sets import SET_NAMES, TRAIN_NAME, Listing, val_name_in

SUFFIX = ".tar"
_MOST_LINKS = 40  # that lead to one another, as on Linux


@dataclass(frozen=True)
class Member:
    """A file inside a tar, given by byte offset and size.

    It holds no open file, so threads and processes can read in parallel.

    Attributes:
        archive: the tar.
        name: of the file in the tar; a tar within the tar counts as a folder.
        start: offset of its first byte.
        size: number of bytes.
        lost: where a link leads that leads to no file of the tar, so that it cannot be read; None for all others.
    """

    archive: Path
    name: str
    start: int
    size: int
    lost: str | None = None

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def open(self, mode: Literal["rb"] = "rb", /) -> io.BytesIO:
        if self.lost is not None:
            raise FileNotFoundError(f"it is a link to {self.lost}, which leads to no file of the archive")
        with self.archive.open(mode) as file:
            file.seek(self.start)
            return io.BytesIO(file.read(self.size))


def list_tar(path: Path) -> Listing:
    """List the sets of a packed image folder.

    Folders around all others are passed over. A tar within the tar counts as a folder: ImageNet comes as one tar per
    class. Links are followed: of files that are the same, tar packs the first, and links to it for the others.

    Raises:
        DataError: the file is missing, is no uncompressed tar, or holds no images in folders.
    """
    placed = _placed(_members(path))
    names = {_set_of(parts) for parts, _ in placed}
    used = (TRAIN_NAME if TRAIN_NAME in names else None, val_name_in(names))
    if any(used):
        unused = {parts[0] for parts, _ in placed if len(parts) > 1 and parts[0].lower() not in used}
        aside = [path / folder for folder in sorted(unused)]
        train, val = (None if name is None else _list_set(path, placed, name, aside) for name in used)
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
    """All images in a tar, without hidden ones, sorted by name.

    Raises:
        DataError: see :func:`list_tar`.
    """
    shown = (member for member in _members(path) if not _hidden(PurePosixPath(member.name).parts))
    return sorted(shown, key=lambda member: member.name)


def _members(path: Path) -> list[Member]:
    if not path.is_file():
        raise DataError(f"The archive {path} does not exist.")
    try:
        with tarfile.open(path, "r:") as archive:
            return [*_images_in(archive, path)]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"The archive {path} cannot be read: {error}", hint="It must be a whole .tar that is not compressed."
        ) from error


def _images_in(archive: tarfile.TarFile, path: Path, folder: str = "", start: int = 0) -> Iterator[Member]:
    """The images in a tar and in the tars in it.

    Args:
        archive: the tar.
        path: of the outermost tar.
        folder: the names of the tars around this one, as a prefix.
        start: offset of this one in the outermost.
    """
    for info, file in files_in(archive):
        stem, suffix = posixpath.splitext(info.name)
        if suffix.lower() in SUFFIXES:
            yield member_of(path, folder + info.name, file or info, start)
        elif suffix.lower() == SUFFIX and file is not None:
            with tarfile.open(fileobj=archive.extractfile(file), mode="r:") as inner:
                yield from _images_in(inner, path, f"{folder}{stem}/", start + file.offset_data)


def files_in(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    """Each file and link in a tar, in its order, with the file that holds its bytes: None for a link to none."""
    infos = [info for info in archive.getmembers() if not _is_repeated(info)]
    at_the_end = {posixpath.normpath(info.name): info for info in infos}
    so_far: dict[str, tarfile.TarInfo] = {}
    for info in infos:
        file = _followed(info, so_far if info.islnk() else at_the_end)  # a hard link is to what came before it
        so_far[posixpath.normpath(info.name)] = info
        if file is None or file.isreg():
            yield info, file


def _is_repeated(info: tarfile.TarInfo) -> bool:
    """Whether it is a hard link to itself: so GNU tar writes a file that it was told twice to take."""
    return info.islnk() and posixpath.normpath(info.linkname) == posixpath.normpath(info.name)


def member_of(path: Path, name: str, held: tarfile.TarInfo, start: int = 0) -> Member:
    """A member called ``name``.

    Args:
        path: of the outermost tar.
        name: see :class:`Member`.
        held: the file that holds its bytes; or a link to no file.
        start: offset in the outermost tar of the one that ``held`` is in.
    """
    lost = None if held.isreg() else held.linkname
    return Member(path, name, start + held.offset_data, held.size, lost)


def _followed(info: tarfile.TarInfo, by_name: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """What a link in a tar leads to at last, a folder perhaps; None if that is nothing in the tar."""
    for _ in range(_MOST_LINKS):
        if not (info.islnk() or info.issym()):
            return info
        # a hard link has the file's name, a symbolic one the way to it
        near = posixpath.dirname(info.name) if info.issym() else ""
        found = by_name.get(posixpath.normpath(posixpath.join(near, info.linkname)))
        if found is None:
            return None
        info = found
    return None


def _placed(members: list[Member]) -> list[tuple[tuple[str, ...], Member]]:
    """The folders and the name of each file, without the folders that all files share, sorted."""
    parts = {member: PurePosixPath(member.name).parts for member in members}
    shown = [(places, member) for member, places in parts.items() if not _hidden(places)]
    folders = {places[:-1] for places, _ in shown}
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    around = tuple(level[0] for level in levels)
    if folders == {around}:  # one class, whose folder must stay
        around = around[:-1]
    return sorted(((places[len(around) :], member) for places, member in shown), key=lambda placed: placed[0])


def _list_set(path: Path, placed: list[tuple[tuple[str, ...], Member]], name: str, aside: list[Path]) -> LabelledFiles:
    """The set in the folder called ``name``."""
    labelled = [(parts[1], file) for parts, file in placed if _set_of(parts) == name]
    loose = [Path(str(file)) for parts, file in placed if len(parts) == 2 and parts[0].lower() == name]
    return by_class(f"{path}/{name}", labelled, ignored=loose, aside=aside)


def _set_of(parts: tuple[str, ...]) -> str:
    """The set that a file belongs to by its first folder; "" for none."""
    name = parts[0].lower()
    return name if name in SET_NAMES and len(parts) > 2 else ""


def _hidden(places: tuple[str, ...]) -> bool:
    # macOS adds a hidden copy of every file
    return "__MACOSX" in places or any(place.startswith(".") and place != ".." for place in places)
