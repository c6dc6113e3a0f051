"""The report of a study: CSV files and pictures in one folder."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sesurgeon.errors import OutputError
from sesurgeon.files import atomic_write, check_writable
from sesurgeon.gates.drawing import draw_activations, draw_spreads
from sesurgeon.gates.study import GateStudy

_FILES = ("gates.csv", "activations.csv", "activations.png", "spreads.png")


def check_report(folder: Path, *, force: bool = False) -> None:
    """Check that a report can be written to ``folder``, before any work is done.

    Raises:
        OutputError: it is a file or cannot be made, or there is a report in it (and not ``force``).
    """
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"The folder {folder} of the report is a link to nothing.", hint="Give another one with -o.")
    if folder.is_dir():
        for name in _FILES:
            check_writable(folder / name, force=force)
        return
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise OutputError(
            f"The folder {folder} of the report cannot be made: {there} is no folder that can be written to.",
            hint="Give another one with -o.",
        )


def write_gate_report(study: GateStudy, folder: Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write a study to ``folder``: ``gates.csv``, ``activations.csv``, ``activations.png`` and ``spreads.png``.

    The first has a row per gate. The second has a row per channel: its mean factor over all images, its spread over
    images and places, and its mean over the images of each chosen class.

    Raises:
        OutputError: see :func:`check_report`.
    """
    check_report(folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    gates, activations, picture, spreads = (folder / name for name in _FILES)
    rows = [gate.to_dict() for gate in study.gates]
    _write(gates, list(rows[0]), (row.values() for row in rows))
    header = ["gate", "channel", "mean", "image_spread", *(f"mean of {name}" for name in study.classes)]
    _write(activations, header, _channels(study))
    draw_activations(study, picture)
    draw_spreads(study, spreads)
    return gates, activations, picture, spreads


def _channels(study: GateStudy) -> Iterable[Sequence[object]]:
    for gate in study.gates:
        means, spreads = study.means[gate.gate].tolist(), study.spreads[gate.gate].tolist()
        by_class = study.class_means[gate.gate].T.tolist()
        for channel, (mean, spread, classes) in enumerate(zip(means, spreads, by_class, strict=True)):
            yield gate.gate, channel, mean, spread, *classes


def _write(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    with atomic_write(path) as temporary:  # names of folders, and so of classes, need not be UTF-8
        temporary.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))
