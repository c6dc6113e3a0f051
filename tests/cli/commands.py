"""The command line, as tests call it and read what it prints."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from sesurgeon.cli.app import app


def run(*words: str) -> Result:
    """What comes of ``sesurgeon`` with these words."""
    return CliRunner().invoke(app, words)


def finetune(*words: str) -> Result:
    return run("finetune", *words)


def export(*words: str) -> Result:
    return run("export", *words)


def rows_of(result: Result) -> list[list[str]]:
    """The cells of the tables that it printed."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
