"""The list of verbs; each is loaded when it is called, so that listing them is fast and never imports torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import typer
from rich.box import ROUNDED
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

SUMMARIES = {  # in the order of use; each is the first line of the verb's docstring
    "inspect": "Show what MODEL is, where blocks could go, what each would cost, and what is not possible and why.",
    "plan": "Choose the blocks for MODEL and show them; with -o, write them to a YAML file.",
    "add-se": "Insert Squeeze-and-Excitation into MODEL without changing what it computes.",
    "remove-se": "Remove the blocks from MODEL and write the network without them to MODEL.base.pt.",
    "finetune": "Train MODEL on DATA: first the new parts, with the rest frozen, then everything.",
    "evaluate": "Evaluate MODEL on the validation images of DATA: top-1, top-5, loss and each class; or mAP and F1.",
    "predict": "Print the most probable labels of each of the IMAGES; of a multi-label MODEL, all probable ones.",
    "gates": "Show how the gates of MODEL respond to the validation images of DATA; with -o, plot it.",
    "prune": "Remove the blocks of MODEL that do the same for every image of DATA, as long as it stays as good.",
    "adapter": "Save what fine-tuning added to a network in a small file, and restore the whole network from it.",
    "export": "Export MODEL to one ONNX file, checked against PyTorch in onnxruntime; or to .pt2 or plain weights.",
    "benchmark": "Time MODEL with and without its blocks, or against OTHER, and show how much memory they use.",
    "demo": "Run the whole pipeline on real handwritten digits, in about a minute, offline and without a GPU.",
    "version": "Print the versions of sesurgeon, Python and the libraries it uses.",
}


class Verbs(TyperGroup):
    """The group of all verbs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in SUMMARIES:
            return None
        name = cmd_name.replace("-", "_")
        verb = getattr(import_module(f"sesurgeon.cli.verbs.{name}"), name)
        if isinstance(verb, typer.Typer):  # it has subcommands
            return typer.main.get_command(verb)
        alone = typer.Typer(rich_markup_mode="markdown", add_completion=False)
        alone.command(cmd_name)(verb)
        return typer.main.get_command(alone)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Suggest a verb for a misspelt one; Typer does so only among verbs that are loaded."""
        completing = ctx.resilient_parsing
        close = [] if completing or args[0] in SUMMARIES else difflib.get_close_matches(args[0].lower(), SUMMARIES)
        if close:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {', '.join(map(repr, close))}?")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help as Typer would, but without loading each verb for its summary, or a Markdown parser."""
        usage = Text(" ".join([" Usage:", ctx.command_path, *self.collect_usage_pieces(ctx)]), style="bold")
        options = (parameter.get_help_record(ctx) for parameter in self.get_params(ctx))
        about = Padding(self.help or "", (1, 1))
        records = [record for record in options if record is not None]
        Console().print(Group(Text(), usage, about, _panel("Options", records), _panel("Commands", SUMMARIES.items())))


def _panel(title: str, records: Iterable[tuple[str, str]]) -> Panel:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    for name, text in records:
        table.add_row(name, text)
    return Panel(table, title=title, title_align="left", box=ROUNDED, border_style="dim")
