"""Options that say which network teaches another in ``finetune``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from sesurgeon.cli.asked.loading import load_model
from sesurgeon.cli.asked.options import Reading
from sesurgeon.errors import SesurgeonError, UsageError

if TYPE_CHECKING:
    from torch import nn

_LOSS = "Loss"


@dataclass(frozen=True)
class Teaching:
    """The teacher, and how it is read."""

    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Another network for --distill to learn from, such as the best.pt of another run; by default the "
            "network before training.",
            show_default=False,
            rich_help_panel=_LOSS,
        ),
    ] = None
    teacher_arch: Annotated[
        str | None,
        typer.Option(help="As --arch, for --teacher.", show_default=False, rich_help_panel=_LOSS),
    ] = None
    teacher_model_kwargs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="As --model-kwargs, for --teacher.", show_default=False, rich_help_panel=_LOSS
        ),
    ] = None

    def reading(self, of_model: Reading) -> Reading:
        """How the teacher is read. A run that is resumed has the teacher itself, but not all of this."""
        return Reading(
            arch=self.teacher_arch, model_kwargs=self.teacher_model_kwargs, trust_pickle=of_model.trust_pickle
        )


def load_teacher(teacher: str, reading: Reading) -> nn.Module:
    """:func:`load_model`, whose errors name the options of the teacher.

    Raises:
        UsageError: the teacher is the name of an architecture, which has no weights to teach.
        SesurgeonError: see :func:`load_model`.
    """
    from sesurgeon.models import named_source

    source = named_source(teacher)
    if source is not None and source.kind != "factory" and ":" not in source.name:
        raise UsageError(f"The teacher {teacher} is an architecture without weights.", hint="Give a file.")
    try:
        return load_model(teacher, reading, mapped=False)
    except SesurgeonError as error:
        hint = None if error.hint is None else of_teacher(error.hint)
        raise type(error)(f"The teacher cannot be read. {of_teacher(error.message)}", hint=hint) from error


def of_teacher(text: str) -> str:
    """``text`` with the options that are the teacher's, in place of those for MODEL."""
    return re.sub(r"--(arch|model-kwargs)\b", r"--teacher-\1", text)
