"""The ``sesurgeon`` command: its verbs, in the order of the road."""

from __future__ import annotations

from typing import Annotated

import typer

from sesurgeon.cli.add_se import add_se
from sesurgeon.cli.demo import demo
from sesurgeon.cli.evaluate import evaluate
from sesurgeon.cli.export import export
from sesurgeon.cli.finetune import finetune
from sesurgeon.cli.inspect import inspect
from sesurgeon.cli.plan import plan
from sesurgeon.cli.predict import predict
from sesurgeon.cli.remove_se import remove_se
from sesurgeon.cli.version import print_version, version

app = typer.Typer(
    name="sesurgeon",
    help="Retrofit channel attention into a trained CNN without changing what it computes, and ship it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # console.reporting says what went wrong
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(inspect)
app.command()(plan)
app.command()(add_se)
app.command()(remove_se)
app.command()(finetune)
app.command()(evaluate)
app.command()(predict)
app.command()(export)
app.command()(demo)
app.command()(version)


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
