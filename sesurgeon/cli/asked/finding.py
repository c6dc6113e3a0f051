"""The file that a command reads: of a run's folder its best network, or without a MODEL the newest result here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from sesurgeon.errors import UsageError


def given_or_latest(model: str | None, latest: Callable[[Path], Path], say: Callable[[str], object]) -> str:
    """The MODEL that was given, or else what ``latest`` finds in the working folder; ``say`` is told which."""
    if model is not None:
        return best_of_run(model)
    found = latest(Path())
    say(f"No MODEL given: taking {found}, the newest here.")
    return str(found)


def best_of_run(model: str) -> str:
    """``best.pt`` in ``model`` if that is the folder of a run, and otherwise ``model``."""
    best, settings = Path(model, "best.pt"), Path(model, "args.yaml")
    return str(best) if model and best.is_file() and settings.is_file() else model


def latest_augmented(folder: Path) -> Path:
    """The newest ``*.se.pt`` in ``folder``: a result of ``add-se``.

    Raises:
        UsageError: there is none.
    """
    found = _newest(folder.glob("*.se.pt"))
    if found is None:
        raise UsageError(
            f"No MODEL given, and no *.se.pt lies in {folder.resolve()}.",
            hint="Name a MODEL, or make one with: sesurgeon add-se MODEL",
        )
    return found


def latest_trained(folder: Path) -> Path:
    """The newest ``runs/finetune/*/best.pt`` in ``folder``, or else the newest ``*.se.pt``.

    Raises:
        UsageError: there is neither.
    """
    return _newest(folder.glob("runs/finetune/*/best.pt")) or latest_augmented(folder)


def latest_result(folder: Path) -> Path:
    """As :func:`latest_trained`, but what ``prune`` made of these files counts too.

    Raises:
        UsageError: there is neither.
    """
    trained = (file for name in ("best.pt", "best.pruned.pt") for file in folder.glob(f"runs/finetune/*/{name}"))
    untrained = (file for kind in ("se", "pruned") for file in folder.glob(f"*.{kind}.pt"))
    return _newest(trained) or _newest(untrained) or latest_augmented(folder)


def _newest(files: Iterable[Path]) -> Path | None:
    there = (file for file in files if file.exists())  # links may lead nowhere
    return max(there, key=lambda file: (file.stat().st_mtime_ns, file), default=None)
