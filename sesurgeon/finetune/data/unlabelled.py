"""Images without labels, which are enough for distillation alone (``--distill 1``)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePath

from sesurgeon.errors import DataError
from sesurgeon.finetune.data import archives, folder
from sesurgeon.finetune.data.images import SUFFIXES, ImageFile
from sesurgeon.finetune.data.labelled_files import LabelledFiles, by_class


def lacks_classes(name: str, known: Collection[str] | None) -> bool:
    """Is ``name`` a folder or a tar of images without class folders?

    For a network with named classes: no folder in it has the name of one of them. For a network without: all images
    lie in one folder.

    Args:
        name: the data, as a user writes them. Manifests, shards and named datasets always have labels.
        known: the network's classes.
    """
    path = Path(name)
    if not path.is_dir() and not _is_tar(path):
        return False
    places = [_folders(path, file) for file in _images(path)]
    if known is None:
        return len(set(places)) == 1 and (not path.is_dir() or places[0] == ())
    return bool(places) and set(known).isdisjoint(name for place in places for name in place)


def list_unlabelled(path: Path) -> LabelledFiles:
    """All images in a folder or a tar, at any depth, sorted, as images of one class with the name "".

    Raises:
        DataError: there are none.
    """
    files = _images(path) if path.is_dir() or _is_tar(path) else []
    if not files:
        raise DataError(f"{path} holds no images.", hint=f"Images are files with {', '.join(SUFFIXES)}.")
    return by_class(str(path), (("", file) for file in files))


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == archives.SUFFIX and path.is_file()


def _images(path: Path) -> list[ImageFile]:
    return [*(folder.list_images(path) if path.is_dir() else archives.list_images(path))]


def _folders(path: Path, file: ImageFile) -> tuple[str, ...]:
    """The folders between the root of the data and an image."""
    return PurePath(str(file)).relative_to(path).parts[:-1]
