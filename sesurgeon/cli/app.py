"""The ``sesurgeon`` command."""

from __future__ import annotations

from typing import Annotated

import typer

from sesurgeon.cli.memory import collect_seldom, keep_freed_memory
from sesurgeon.cli.registry import Verbs


def _print_version(asked: bool) -> None:
    if asked:
        from sesurgeon.version import __version__  # slow: it reads the installed package's metadata

        typer.echo(f"sesurgeon {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="sesurgeon",
    help="Retrofit channel attention into a trained CNN without changing what it computes, and ship it.",
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # console.reporting explains errors
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script."""
    collect_seldom()
    keep_freed_memory()
    app()
