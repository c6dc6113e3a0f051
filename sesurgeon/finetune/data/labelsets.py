"""Image files that may have several labels each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.classfiles import by_class, check_all_trained, check_none_empty, sorted_labels
from sesurgeon.finetune.data.images import FileImages, ImageFile

SEPARATOR = "|"


@dataclass(frozen=True)
class LabelSets:
    """The image files of one set, with the labels of each; the counterpart of :class:`.ClassFiles`.

    Attributes:
        where: the file that lists them, for messages.
        classes: the labels' names, sorted.
        paths: the image files.
        targets: for each, the ascending indices of its labels in ``classes``; none for one that shows no class.
        ignored: files beside them that are no images; here there are none.
    """

    where: str
    classes: tuple[str, ...]
    paths: tuple[ImageFile, ...]
    targets: tuple[tuple[int, ...], ...]
    ignored: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[tuple[ImageFile, ...], ...]:
        """The files of each class, in which a file may come several times."""
        found: list[list[ImageFile]] = [[] for _ in self.classes]
        for file, target in zip(self.paths, self.targets, strict=True):
            for index in target:
                found[index].append(file)
        return tuple(map(tuple, found))

    @property
    def images(self) -> FileImages:
        return FileImages(self.paths, self.targets)

    def without(self, unwanted: Set[ImageFile]) -> LabelSets:
        """The same without these files.

        Raises:
            DataError: a class that had images has none left.
        """
        kept = self._of(file for file in self.paths if file not in unwanted)
        pairs = zip(self.classes, self.files, kept.files, strict=True)
        check_none_empty(self.where, (name for name, before, after in pairs if before and not after))
        return kept

    def split(self, share: float, seed: int) -> tuple[LabelSets, LabelSets]:
        """Hold out ``share``: (kept, held out). So that rare labels are in both, each file counts as one of the rarest
        among its labels, and of the files of each the share is taken.

        Raises:
            DataError: no two files have the same rarest label.
        """
        counts = Counter(index for target in self.targets for index in target)
        rarest = (min(target, key=lambda index: (counts[index], index), default=-1) for target in self.targets)
        groups = by_class(self.where, ((str(index), file) for index, file in zip(rarest, self.paths, strict=True)))
        kept, held_out = (self._of(part.paths) for part in groups.split(share, seed))
        return kept, held_out

    def over(self, classes: tuple[str, ...]) -> LabelSets:
        """The same files under these classes, some of which may have none here.

        Raises:
            DataError: a class of these files is not among them.
        """
        check_all_trained(self.where, self.classes, classes)
        places = [classes.index(name) for name in self.classes]
        targets = tuple(tuple(sorted(places[index] for index in target)) for target in self.targets)
        return replace(self, classes=classes, targets=targets)

    def _of(self, files: Iterable[ImageFile]) -> LabelSets:
        """Those of the files that are here, in the order that they have here."""
        wanted = frozenset(files)
        chosen = [pair for pair in zip(self.paths, self.targets, strict=True) if pair[0] in wanted]
        return replace(self, paths=tuple(file for file, _ in chosen), targets=tuple(target for _, target in chosen))


def by_labels(where: str, labelled: Iterable[tuple[str, ImageFile]]) -> LabelSets:
    """(Labels with ``|`` between them, file) pairs as :class:`LabelSets`, in their order."""
    pairs = [({name.strip() for name in text.split(SEPARATOR)} - {""}, file) for text, file in labelled]
    classes = tuple(sorted_labels(name for names, _ in pairs for name in names))
    places = {name: index for index, name in enumerate(classes)}
    targets = tuple(tuple(sorted(places[name] for name in names)) for names, _ in pairs)
    return LabelSets(where, classes, tuple(file for _, file in pairs), targets)


def check_some_labelled(found: LabelSets) -> None:
    """Raises:
    DataError: no image shows any class, so that nothing could be measured.
    """
    if not any(found.targets):
        raise DataError(
            f"None of the {len(found.paths):,} images to measure with in {found.where} has a label.",
            hint="Put images of each class there.",
        )
