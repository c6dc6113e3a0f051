"""``sesurgeon benchmark``: what blocks cost on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.console import reporting
from sesurgeon.cli.loading import load_model
from sesurgeon.cli.options import Arch, Debug, Json, Model, ModelKwargs, NumClasses, Pretrained, Quiet, TrustPickle
from sesurgeon.cli.selecting import InputShape, parse_inputs
from sesurgeon.cli.timing import latency_table, timed
from sesurgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sesurgeon.export import BlockShare

_ALL_RUNTIMES = ("torch", "compiled", "onnxruntime", "training")
_DEFAULT_BATCHES, _DEFAULT_RUNTIMES = (1, 8), ("torch", "onnxruntime", "training")

Versus = Annotated[
    str | None,
    typer.Option("--vs", metavar="OTHER", help="Compare with this; by default with MODEL without its blocks."),
]
Batch = Annotated[
    list[int] | None, typer.Option("--batch-size", "-b", min=1, help="Images; may be repeated. By default 1 and 8.")
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="|".join(_ALL_RUNTIMES),
        help="May be repeated; all but compiled by default. training is a step: forward, backward, update.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU; torch's own choice by default.")]
Repeats = Annotated[int, typer.Option(min=2, help="Pairs that are timed.")]


def benchmark(
    model: Model,
    versus: Versus = None,
    batch_size: Batch = None,
    runtime: Runtimes = None,
    threads: Threads = None,
    repeats: Repeats = 20,
    input_shape: InputShape = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    num_classes: NumClasses = None,
    pretrained: Pretrained = False,
    trust_pickle: TrustPickle = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time MODEL with and without its blocks, or against OTHER, on this machine.

    Both run in turn, so that whatever else the machine does falls on both. In PyTorch they run on the CPU, in
    onnxruntime as `export` writes them. The share of each block in a pass is shown, too.
    """
    with reporting(json=json, quiet=quiet, debug=debug) as out:
        with out.working(f"Loading {model}"):
            import torch

            from sesurgeon.export import block_shares
            from sesurgeon.models import example_inputs
            from sesurgeon.surgery import blocks_of, remove_se

            reading: dict[str, Any] = {"pretrained": pretrained, "trust_pickle": trust_pickle}
            own: dict[str, Any] = {"arch": arch, "model_kwargs": model_kwargs, "num_classes": num_classes}
            loaded = load_model(model, **own, **reading)
            if versus is None and not blocks_of(loaded):
                raise UsageError(f"There are no inserted blocks in {model}.", hint="Name another network with --vs.")
            plain: dict[str, Any] = {"arch": None, "model_kwargs": None, "num_classes": None}
            other = remove_se(loaded) if versus is None else load_model(versus, **plain, **reading)
            given = parse_inputs(input_shape, loaded)
            inputs = example_inputs(loaded) if given is None else given
        before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            ratios = timed(
                out, other, loaded, inputs, repeats=repeats, batches=tuple(batch_size or _DEFAULT_BATCHES),
                runtimes=tuple(runtime or _DEFAULT_RUNTIMES),
            )  # fmt: skip
            with out.working("Timing each block"):
                shares = block_shares(loaded, inputs, repeats=repeats)
            used = torch.get_num_threads()
        finally:
            torch.set_num_threads(before)
        compared = f"{model} against {versus or 'itself without its blocks'}, {used} CPU threads"
        body = [Text(compared, style="bold"), latency_table(ratios), *_shares_lines(shares)]
        data = {"model": model, "vs": versus, "threads": used, "latency": ratios, "blocks": shares}
        out.result(Group(*body), data)


def _shares_lines(shares: Sequence[BlockShare]) -> list[Text | Table]:
    if not shares:
        return []
    whole = sum(one.share for one in shares)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("block")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    for one in sorted(shares, key=lambda one: -one.ms):
        table.add_row(one.block, f"{one.ms:.3f} ms", f"{one.share:.1%}")
    return [Text(f"\nOf a pass in PyTorch its {len(shares)} blocks take {whole:.1%}:"), table]
