"""The ``sesurgeon`` command."""

from __future__ import annotations

from typing import Annotated

import typer

from sesurgeon.cli.verbs import Verbs
from sesurgeon.cli.version import print_version

app = typer.Typer(
    name="sesurgeon",
    help="Retrofit channel attention into a trained CNN without changing what it computes, and ship it.",
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # console.reporting says what went wrong
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and leave.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script."""
    app()
