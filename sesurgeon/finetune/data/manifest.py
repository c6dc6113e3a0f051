"""Manifests: a CSV file that names images and their labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.labelled_files import LabelledFiles, by_class, by_labels, sorted_labels
from sesurgeon.finetune.data.sets import SET_NAMES, TRAIN_NAME, Listing, val_name_in

SUFFIXES = (".csv", ".tsv")
_COLUMNS = ("path", "label")
_MOST_TOLD = 20
_FORM = "A manifest has a header with the columns path and label, and may have split (train, val or test)."
_NO_LABEL = " If images may have no label, or several, finetune takes them with --multi-label."


def list_manifest(path: Path, *, multi_label: bool = False) -> Listing:
    """List the sets of a manifest.

    The file is UTF-8 with a header: the columns ``path`` (relative to the manifest's folder) and ``label``,
    and optionally ``split`` (train, or val, valid, validation or test, of which the first that is there is
    taken). Other columns are passed over. Columns are separated by commas, semicolons or tabs. Labels are taken
    literally, but for spaces after the separator.

    Args:
        path: of the manifest.
        multi_label: the column ``label`` holds any number of labels with ``|`` between them.

    Raises:
        DataError: the file is missing or not of that form, or rows are bad: without path or label, of a file
            that is missing or was named before, of an unknown split. All bad rows are listed by line.
    """
    sets = {name: _labelled(path, name, rows, multi_label) for name, rows in _read(path, multi_label).items()}
    val_name = val_name_in(sets)
    return sets.get(TRAIN_NAME, sets.get("")), None if val_name is None else sets[val_name]


def _labelled(path: Path, name: str, rows: list[tuple[str, Path]], multi_label: bool) -> LabelledFiles:
    where = f"{path} ({name})" if name else str(path)
    if multi_label:
        return by_labels(where, rows)
    return by_class(where, rows, sorted_labels(label for label, _ in rows))


def _read(path: Path, multi_label: bool) -> dict[str, list[tuple[str, Path]]]:
    """The (label, file) pairs of each set, sorted by file; a manifest without sets has one, called ""."""
    rows = _rows(path)
    needed = _COLUMNS[:1] if multi_label else _COLUMNS  # an image may have no label
    unlabelled = any(row["path"] and not row["label"] for _, row in rows)
    problems: list[str] = []
    lines: dict[str, int] = {}
    sets: dict[str, list[tuple[str, Path]]] = {}
    for line, row in rows:
        file = path.parent / (row["path"] or "")
        problem = _problem(row, file, lines, needed)
        if problem is None:
            lines[os.path.abspath(file)] = line
            sets.setdefault((row.get("split") or "").strip().lower(), []).append((row["label"] or "", file))
        else:
            problems.append(f"  line {line}: {problem}")
    if problems:
        more = [f"  … and {len(problems) - _MOST_TOLD:,} more"] if len(problems) > _MOST_TOLD else []
        raise DataError(
            "\n".join([f"The manifest {path} has bad rows:", *problems[:_MOST_TOLD], *more]),
            hint=f"Paths are relative to {path.parent}/. {_FORM}{_NO_LABEL if unlabelled and not multi_label else ''}",
        )
    if not sets:
        raise DataError(f"The manifest {path} names no images.", hint=_FORM)
    # sorted, so that the order of the rows does not change what is held out
    return {name: sorted(labelled, key=lambda pair: pair[1]) for name, labelled in sets.items()}


def _rows(path: Path) -> list[tuple[int, dict[Any, Any]]]:
    """The line number of each row, and its cells by column; cells beyond the header are under None."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel writes a byte order mark
    except FileNotFoundError as error:
        raise DataError(f"The manifest {path} does not exist.") from error
    except OSError as error:
        raise DataError(f"The manifest {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The manifest {path} is not UTF-8: {error}.", hint="Save it as UTF-8.") from error
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in _COLUMNS if name not in reader.fieldnames]
        twice = [name for name in (*_COLUMNS, "split") if reader.fieldnames.count(name) > 1]
        if missing:
            raise DataError(f"Line 1 of the manifest {path} lacks {' and '.join(missing)}: {header!r}.", hint=_FORM)
        if twice:
            raise DataError(
                f"Line 1 of the manifest {path} has {' and '.join(twice)} more than once: {header!r}.", hint=_FORM
            )
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"Line {reader.reader.line_num} of the manifest {path} is no CSV: {error}.") from error


def _problem(row: dict[Any, Any], file: Path, lines: dict[str, int], needed: Sequence[str]) -> str | None:
    blank = [name for name in needed if not row[name]]
    if blank:
        return f"no {' and no '.join(blank)}"
    if None in row:
        return "more cells than columns; quote what holds a separator"
    if "split" in row and (row["split"] or "").strip().lower() not in SET_NAMES:
        return f"the split {row['split']!r} is none of {', '.join(SET_NAMES)}"
    if (before := lines.get(os.path.abspath(file))) is not None:  # however it is spelled
        return f"{row['path']} was named in line {before} already"
    if not os.path.isfile(file):  # Path.is_file raises an error for a name that is too long
        return f"there is no file {row['path']}"
    return None
