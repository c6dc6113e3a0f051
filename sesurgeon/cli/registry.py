"""The verbs, each loaded when it is called: the list of them comes at once, and never imports torch."""

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

SUMMARIES = {  # in the order of the road; each is the first line of what the verb says of itself
    "inspect": "Show what MODEL is, where blocks could go, what each would cost, and what is not possible and why.",
    "plan": "Choose the blocks for MODEL and show them; with -o, write them to a YAML file.",
    "add-se": "Insert Squeeze-and-Excitation into MODEL without changing what it computes.",
    "remove-se": "Take the blocks out of MODEL and write the network without them to MODEL.base.pt.",
    "finetune": "Train MODEL on DATA: what is new first, with the rest frozen, then everything.",
    "evaluate": "Measure MODEL on the validation images of DATA: top-1, top-5, loss, and each class; or mAP and F1.",
    "predict": "Say what MODEL sees in IMAGES: the most probable labels of each; or all of them, if it gives several.",
    "gates": "Show what the gates of MODEL do with the validation images of DATA; with -o, draw it.",
    "prune": "Take out of MODEL the blocks that do the same for every image of DATA, as long as it stays as good.",
    "adapter": "Keep what a task added to a network in a small file, and give the whole network back from it.",
    "export": "Write MODEL as one ONNX file, checked against PyTorch in onnxruntime; or its weights for other code.",
    "benchmark": "Time MODEL with and without its blocks, or against OTHER, and show what memory they take.",
    "demo": "Show all of it on real handwritten digits, in about a minute, without network or GPU.",
    "version": "Print the versions of sesurgeon, Python and the libraries under it.",
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
        if isinstance(verb, typer.Typer):  # a verb with verbs of its own
            return typer.main.get_command(verb)
        alone = typer.Typer(rich_markup_mode="markdown", add_completion=False)
        alone.command(cmd_name)(verb)
        return typer.main.get_command(alone)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As Typer would, which suggests a verb for a misspelt one only among those that are loaded."""
        completing = ctx.resilient_parsing
        close = [] if completing or args[0] in SUMMARIES else difflib.get_close_matches(args[0].lower(), SUMMARIES)
        if close:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {', '.join(map(repr, close))}?")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As Typer would, which asks each verb for its summary and brings a reader of Markdown."""
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
