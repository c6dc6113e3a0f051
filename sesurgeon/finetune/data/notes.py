"""Remarks for the user about unusual images and classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sesurgeon.finetune.data.image_checks import CONVERSIONS, TINY, BadImage, Checked
from sesurgeon.finetune.data.labelled_files import SEPARATOR, LabelledFiles
from sesurgeon.words import some

_MOST = 5


def conversion_notes(checks: Sequence[Checked]) -> tuple[str, ...]:
    """How unusual images that can be read are treated."""
    good = [checked for checked in checks if checked.problem is None]
    notes = []
    counts = {kind: sum(kind in checked.kinds for checked in good) for kind in CONVERSIONS}
    converted = [
        f"{count:,} {kind} image{'s' if count > 1 else ''} ({CONVERSIONS[kind]})"
        for kind, count in counts.items()
        if count
    ]
    if converted:
        notes.append(f"Converted when read: {', '.join(converted)}.")
    tiny = [str(checked.file) for checked in good if checked.tiny]
    if tiny:
        is_or_are = "1 image is" if len(tiny) == 1 else f"{len(tiny):,} images are"
        notes.append(f"{is_or_are} less than {TINY} pixels wide or high, and used anyway: {some(tiny, _MOST)}.")
    return tuple(notes)


def left_out_notes(skipped: Sequence[BadImage]) -> tuple[str, ...]:
    """All files that cannot be read, by name."""
    listed = "; ".join(f"{image.path} ({image.reason})" for image in skipped)
    return (f"Left out, because they cannot be read: {listed}.",) if skipped else ()


def ignored_notes(ignored: Sequence[Path]) -> tuple[str, ...]:
    """The files that are no images by their suffix; a .gif is among them."""
    if not ignored:
        return ()
    return (f"Ignored, because their names are not those of images: {some([*map(str, ignored)], _MOST)}.",)


def aside_notes(sets: Sequence[LabelledFiles]) -> tuple[str, ...]:
    """The folders beside the sets that are not read. ``sets`` are those of :func:`class_notes`."""
    aside = sets[0].aside
    if not aside:
        return ()
    read = " and ".join(dict.fromkeys(Path(found.where).name for found in sets))
    return (f"Ignored, because images are read from {read} beside them: {some([*map(str, aside)], _MOST)}.",)


def class_notes(sets: Sequence[LabelledFiles]) -> tuple[str, ...]:
    """How unusual classes are treated. ``sets`` are a training and a validation set, or one set to measure with."""
    notes = []
    spaced = [repr(name) for name in sets[0].classes if name != name.strip()]
    if spaced:
        notes.append(f"Class names that begin or end with a space keep it: {', '.join(spaced)}.")
    joined = [name for name in sets[0].classes if SEPARATOR in name]
    if joined:
        notes.append(
            f"Class names have a {SEPARATOR} in them ({some(joined, _MOST)}): if these are several labels of an image, "
            "finetune --multi-label takes them so."
        )
    if len(sets) == 2:
        counts = list(zip(sets[0].classes, sets[0].counts, sets[1].counts, strict=True))
        untrained = [name for name, trained, measured in counts if trained == 0 < measured]
        single = [name for name, trained, measured in counts if trained == 1 and measured == 0]
        several = [name for name, trained, measured in counts if trained > 1 and measured == 0]
        if single:
            notes.append(f"Classes with a single image, trained on but not evaluated: {some(single, _MOST)}.")
        if untrained:
            notes.append(f"Classes evaluated without having training images: {some(untrained, _MOST)}.")
        if several:
            notes.append(f"Classes without validation images, trained on but not evaluated: {some(several, _MOST)}.")
    return tuple(notes)
