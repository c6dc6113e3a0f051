"""The folder of a run and the files in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from sesurgeon.errors import OutputError, UnreadableFileError, UsageError
from sesurgeon.files import atomic_write
from sesurgeon.finetune.keeping.lock import check_unlocked
from sesurgeon.finetune.keeping.records import EpochRow, best_of
from sesurgeon.finetune.keeping.settings import problems_of
from sesurgeon.finetune.keeping.states import TORN
from sesurgeon.finetune.scoring.measured import Measured
from sesurgeon.words import some

_BEST, _LAST, _TEACHER = "best.pt", "last.pt", "teacher.pt"
_SETTINGS, _PLAN = "args.yaml", "plan.yaml"
_SUMMARY, _METRICS, _REPORT = "summary.csv", "metrics.json", "report.md"
_CURVE, _CONFUSION, _MISTAKES, _CLASSES = "curve.png", "confusion.png", "mistakes.png", "classes.png"
FILES = (
    _BEST, _LAST, _TEACHER, _SETTINGS, _PLAN, _SUMMARY, _METRICS, _REPORT, _CURVE, _CONFUSION, _MISTAKES, _CLASSES,
)  # fmt: skip
TRACKED = "sesurgeon"  # the project's name for trackers, and so the folder of TensorBoard's files in a run's folder


@dataclass(frozen=True)
class RunFolder:
    """A folder with checkpoints, settings, the plan, tables, pictures and a report."""

    path: Path

    @property
    def best(self) -> Path:
        return self.path / _BEST

    @property
    def last(self) -> Path:
        return self.path / _LAST

    @property
    def curve(self) -> Path:
        return self.path / _CURVE

    @property
    def confusion(self) -> Path:
        return self.path / _CONFUSION

    @property
    def mistakes(self) -> Path:
        return self.path / _MISTAKES

    @property
    def classes(self) -> Path:
        """The picture of each class's score, for images with several labels."""
        return self.path / _CLASSES

    @property
    def report(self) -> Path:
        return self.path / _REPORT

    @property
    def teacher(self) -> Path:
        """With distillation, the network before training or the other one that teaches."""
        return self.path / _TEACHER

    @property
    def states(self) -> Path:
        """The folder of the states from which the run can be resumed."""
        return self.path / "states"

    def read_settings(self) -> dict[str, Any]:
        """What :meth:`write_settings` wrote.

        Raises:
            UnreadableFileError: there is no such file, it is not one of ours, or entries that a run needs are missing
                or have the wrong type.
        """
        path = self.path / _SETTINGS
        if not self.path.exists():
            raise UnreadableFileError(f"There is no run {self.path}.", hint=_runs_beside(self.path))
        if not path.exists():
            raise UnreadableFileError(f"{self.path} is not a run folder: there is no {_SETTINGS} in it.")
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UnreadableFileError(f"{path} cannot be read: {error}", hint="Is it the folder of a run?") from error
        if not isinstance(settings, dict):
            raise UnreadableFileError(f"{path} holds no settings.", hint="Is it the folder of a run?")
        if problems := list(problems_of(settings)):
            raise UnreadableFileError(
                f"{path} holds no settings of a run: {'; '.join(problems)}.",
                hint="Correct that in the file, or start a new run from the last.pt beside it.",
            )
        return settings

    def has_trained(self) -> bool:
        """Whether ``summary.csv`` has an epoch of training: its first row is the state before."""
        try:
            with (self.path / _SUMMARY).open(newline="") as file:
                return any(row.get("epoch") != "-1" for row in csv.DictReader(file))
        except FileNotFoundError:
            return False

    def read_best_row(self) -> EpochRow | None:
        """The epoch in ``best.pt``, by its history; None if the file is gone or damaged, or not of a run."""
        from sesurgeon.models import read_history

        try:
            return EpochRow.from_dict(read_history(self.best)[-1])
        except (UnreadableFileError, LookupError):
            return None

    def write_settings(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        """``args.yaml``, and ``plan.yaml`` when blocks were inserted."""
        from sesurgeon.placement import plan_to_yaml
        from sesurgeon.surgery import plan_of

        self._write(_SETTINGS, settings_text(settings))
        plan = plan_of(model)
        if plan is not None:
            self._write(_PLAN, plan_to_yaml(plan))

    def write_checkpoints(self, model: nn.Module, *, is_best: bool) -> None:
        """``last.pt``, and ``best.pt`` if this is the best so far."""
        from sesurgeon.surgery import save

        save(model, self.last)
        if is_best:
            save(model, self.best)

    def write_rows(self, rows: tuple[EpochRow, ...], best: Measured, metric: str | None) -> None:
        """``summary.csv`` and ``metrics.json``; ``best`` is the evaluation behind the best row by ``metric``."""
        with atomic_write(self.path / _SUMMARY) as temporary, temporary.open("w", newline="") as file:
            columns = [column for column in rows[0].to_dict() if column != "phase"]  # timm's, in its order
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row.to_dict() for row in rows)
        metrics = {
            "before": rows[0].to_dict(),
            "best": best_of(rows, metric).to_dict(),
            "last": rows[-1].to_dict(),
            "epochs": [row.to_dict() for row in rows],
            "val_images": best.images,
            "best_per_class": [score.to_dict() for score in best.per_class],
        }
        self._write(_METRICS, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.path / name) as temporary:
            # bytes of a folder's name that are no UTF-8, which Python keeps as surrogates, become escapes
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def settings_text(settings: Mapping[str, Any]) -> str:
    """As YAML.

    Raises:
        UsageError: they are no plain data.
    """
    try:
        return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise UsageError(
            f"args.yaml cannot hold these settings: {error}.", hint="Give texts, numbers, lists and dicts of them."
        ) from error


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that a run could not be resumed with.

    Raises:
        UsageError: they are no plain data, or entries that commands read have another type.
    """
    settings_text(settings)
    if problems := list(problems_of(settings)):
        raise UsageError(f"A run with these settings could not be resumed: {'; '.join(problems)}.")


def make_run_folder(output: Path, name: str | None, *, force: bool = False) -> RunFolder:
    """Make ``output/name``; without a name the first of exp, exp2, exp3, … that is free.

    Raises:
        UsageError: a run is going on in it.
        OutputError: there is a run of that name (and not ``force``), or the folder cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        if name is None:
            return RunFolder(_first_free(output))
        run = RunFolder(output / name)
        if run.path.exists() and not force:
            raise OutputError(
                f"The run folder {run.path} exists already.",
                hint="Give another --name, or --force to replace the run.",
            )
        run.path.mkdir(exist_ok=True)
        check_unlocked(run.path)
        # TensorBoard would show the logs of both runs as one
        logs = (run.path / TRACKED).rglob
        for file in (
            *(run.path / name for name in FILES),
            *run.states.glob("*.pt"),
            *run.states.glob(f"*{TORN}"),
            *logs("events.out.tfevents.*"),
            *logs("hparams.yml"),
        ):
            file.unlink(missing_ok=True)
        return run
    except OSError as error:
        raise OutputError(
            f"The run folder in {output} cannot be made: {error.strerror or error}.",
            hint="Give another place with --output.",
        ) from error


def _runs_beside(missing: Path) -> str | None:
    runs = sorted(settings.parent.name for settings in missing.parent.glob(f"*/{_SETTINGS}"))
    return f"In {missing.parent} there are: {some(runs)}." if runs else None


def _first_free(output: Path) -> Path:
    number = 1
    while True:
        folder = output / ("exp" if number == 1 else f"exp{number}")
        try:
            folder.mkdir()  # fails if it exists, even if another run made it just now
            return folder
        except FileExistsError:
            number += 1
