"""Checks of the settings that a run's folder keeps: people edit the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.type_checks import mismatches

_NEEDED = ("model", "data")
_OF_COMMANDS: dict[str, Any] = {
    **dict.fromkeys(_NEEDED, str),
    "arch": str | None,
    "model_kwargs": tuple[str, ...] | None,
    "num_classes": int | None,
    "pretrained": bool,
    "preprocessing": tuple[str, ...] | None,
    "num_processes": int,
    "teacher": str | None,
    "teacher_arch": str | None,
    "teacher_model_kwargs": tuple[str, ...] | None,
}


def problems_of(settings: Mapping[Any, Any]) -> Iterator[str]:
    """Say which of ``settings`` are missing, and which are of another type than in :class:`FinetuneConfig`."""
    yield from (f"{name} is missing" for name in _NEEDED if name not in settings)
    yield from mismatches(settings, {**_OF_COMMANDS, **get_type_hints(FinetuneConfig)})
