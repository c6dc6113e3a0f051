"""Options that say which network teaches another in ``finetune``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from sesurgeon.cli.asked.options import Reading

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
        """How the teacher is read."""
        return Reading(
            arch=self.teacher_arch, model_kwargs=self.teacher_model_kwargs, trust_pickle=of_model.trust_pickle
        )
