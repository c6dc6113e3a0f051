"""WebDataset shards: tar files in which an image and its label lie side by side, as key.jpg and key.cls.

The package webdataset, and timm's reader on top of it, stream shards: the order of the images depends on the number of
workers, and broken ones are passed over. Here shards are listed once and read by offset, as other tar files are: images
can be read in any order, which repeatable epochs and resuming need.
https://github.com/webdataset/webdataset#the-webdataset-format
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.archives import SUFFIX, Member, files_in, member_of
from sesurgeon.finetune.data.images import SUFFIXES
from sesurgeon.finetune.data.labelled_files import LabelledFiles, by_class, sorted_labels
from sesurgeon.finetune.data.sets import SET_NAMES, TRAIN_NAME, Listing, val_name_in
from sesurgeon.words import some

PREFIX = "wds:"
_LABELS = (".cls", ".json")  # the first that is there
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 5
_FORM = "A sample is an image and its label: key.jpg and key.cls (a class), or key.json with the field label."


def list_shards(pattern: str, *, training: bool) -> Listing:
    """List the samples of shards. A shard belongs to the set whose name is a word in its file name.

    Args:
        pattern: a folder of shards, or their paths with ``*`` or ``{0000..0127}``.
        training: without it, a validation set that is there is listed alone.

    Raises:
        DataError: there are no such shards, one cannot be read, or a sample has no label.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"The shards {pattern} are not on this machine.", hint="Fetch them first: they are read often.")
    shards = _shards(pattern)
    sets = {name: found for name in SET_NAMES if (found := [shard for shard in shards if _is_of(shard, name)])}
    val_name = val_name_in(sets)
    if val_name is None:
        return _listed(f"{PREFIX}{pattern}", sets.get(TRAIN_NAME, shards)), None
    val = _listed(f"{PREFIX}{pattern} ({val_name})", sets[val_name])
    if not training or TRAIN_NAME not in sets:
        return None, val
    return _listed(f"{PREFIX}{pattern} ({TRAIN_NAME})", sets[TRAIN_NAME]), val


def _shards(pattern: str) -> list[Path]:
    if os.path.isdir(pattern):
        found = sorted(Path(pattern).glob(f"*{SUFFIX}"))
    else:
        paths = [path for one in _expanded(pattern) for path in sorted(glob.glob(one) if _has_magic(one) else [one])]
        found = [Path(path) for path in paths]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        raise DataError(
            f"No WebDataset shard at {some(missing, _MOST) or pattern}.",
            hint="Give wds:FOLDER with .tar files in it, or paths as in 'wds:shards/train-{0000..0127}.tar'.",
        )
    return found


def _has_magic(path: str) -> bool:
    return glob.escape(path) != path


def _expanded(pattern: str) -> list[str]:
    """``a{08..10}`` as a08, a09, a10."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    before, after = pattern[: match.start()], pattern[match.end() :]
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [path for number in numbers for path in _expanded(f"{before}{number}{after}")]


def _is_of(shard: Path, name: str) -> bool:
    return name in re.split(r"[^a-z]+", shard.name.lower())


def _listed(where: str, shards: list[Path]) -> LabelledFiles:
    samples = [sample for shard in shards for sample in _samples(shard)]
    if not samples:
        raise DataError(f"The shards {where} hold no images.", hint=_FORM)
    return by_class(where, samples, sorted_labels(label for label, _ in samples))


def _samples(shard: Path) -> Iterator[tuple[str, Member]]:
    """The (label, image) pairs of a shard, in its order."""
    images: dict[str, Member] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for info, file in files_in(archive):
                key, suffix = _key_and_suffix(info.name)
                if suffix in SUFFIXES:
                    images[key] = member_of(shard, info.name, file or info)
                elif suffix in _LABELS and file is not None:
                    content = archive.extractfile(file)
                    label = None if content is None else _label(suffix, content.read())
                    if label is not None and (suffix == _LABELS[0] or key not in labels):
                        labels[key] = label
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"The shard {shard} cannot be read: {error}", hint="It must be a whole, plain .tar.") from error
    unlabelled = [key for key in images if key not in labels]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled):,} of {len(images):,} images in {shard} have no label, the first is {unlabelled[0]}.",
            hint=_FORM,
        )
    return ((labels[key], image) for key, image in images.items())


def _key_and_suffix(name: str) -> tuple[str, str]:
    """WebDataset's rule: the suffix begins at the first dot of the file's name."""
    folder, file = os.path.split(name)
    stem, dot, rest = file.partition(".")
    return os.path.join(folder, stem), (dot + rest).lower()


def _label(suffix: str, content: bytes) -> str | None:
    if suffix == _LABELS[0]:
        return content.decode().strip()
    try:
        found = json.loads(content)
    except ValueError:
        return None
    label = found.get("label") if isinstance(found, dict) else None
    return str(label) if isinstance(label, int | str) else None
