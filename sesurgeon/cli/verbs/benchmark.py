"""``sesurgeon benchmark``: what blocks cost on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.completing import several_of
from sesurgeon.cli.asked.loading import load_model
from sesurgeon.cli.asked.options import Force, Model, Reading, Talking
from sesurgeon.cli.asked.selecting import InputShape, parse_inputs
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import Output, reporting
from sesurgeon.cli.shown.timing import latency_table, memory_table, placement_costs, placement_table, timed
from sesurgeon.errors import UsageError
from sesurgeon.files import check_writable
from sesurgeon.machine import threads_of_torch
from sesurgeon.words import counted, in_per_cent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from sesurgeon.export import BlockShare, PlacementCost

_DEFAULT_BATCHES, _DEFAULT_RUNTIMES = (1, 8), ("torch", "onnxruntime", "training")
_DEFAULT_RUNTIMES_OF_PLACEMENTS = ("torch", "onnxruntime")

Versus = Annotated[
    str | None,
    typer.Option("--vs", metavar="OTHER", help="Compare with this; by default with MODEL without its blocks."),
]
VersusArch = Annotated[
    str | None,
    typer.Option("--vs-arch", help="The architecture of OTHER, if it is a state dict.", show_default=False),
]
VersusKwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--vs-model-kwargs",
        metavar="KEY=VALUE",
        help="An argument of OTHER's architecture; may be repeated.",
        show_default=False,
    ),
]
Batch = Annotated[
    list[int] | None, typer.Option("--batch-size", "-b", min=1, help="Batch size; may be repeated. By default 1 and 8.")
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        **several_of("torch", "compiled", "onnxruntime", "training"),
        help="torch, compiled, onnxruntime or training, a whole step with backward pass and update; may be repeated. "
        "By default all but compiled.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default torch's own choice.")]
Repeats = Annotated[int, typer.Option(min=2, help="How many pairs are timed.")]
Placements = Annotated[
    Path | None,
    typer.Option(
        metavar="PNG",
        help="Instead, time the policies standard and inner, in all stages and in each, and plot the result.",
        show_default=False,
    ),
]


@spread
def benchmark(
    model: Model,
    *,
    versus: Versus = None,
    versus_arch: VersusArch = None,
    versus_kwargs: VersusKwargs = None,
    batch_size: Batch = None,
    runtime: Runtimes = None,
    threads: Threads = None,
    repeats: Repeats = 20,
    placements: Placements = None,
    force: Force = False,
    input_shape: InputShape = None,
    reading: Reading,
    talking: Talking,
) -> None:
    """Time MODEL with and without its blocks, or against OTHER, and show how much memory they use.

    The two run alternately, so that other load on the machine affects both. In PyTorch they run on the CPU; in
    onnxruntime, as `export` writes them. Memory, and the share of each block in a forward pass, are those of the
    largest batch that ran. If no runtime can run both networks, the exit code is 1.
    """
    with reporting(talking) as out:
        if (versus_arch is not None or versus_kwargs) and versus is None:
            raise UsageError("--vs-arch and --vs-model-kwargs describe what --vs names.", hint="Give --vs too.")
        if placements is not None:
            _check_placements(placements, versus, batch_size, force=force)
        with out.working(f"Loading {model}"):
            from sesurgeon.surgery import blocks_of, known_inputs, remove_se

            trusted = reading.trust_pickle
            of_other = Reading(arch=versus_arch, model_kwargs=versus_kwargs, trust_pickle=trusted)
            if versus is not None and reading.pretrained:
                reading, of_other = _pretrained(model, reading, versus, of_other)
            loaded = load_model(model, reading)
            if versus is None and placements is None and not blocks_of(loaded):
                raise UsageError(
                    f"There are no inserted blocks in {model}.",
                    hint="Name another network with --vs, or time where blocks could go with --placements.",
                )
            other = remove_se(loaded) if versus is None else load_model(versus, of_other)
            given = parse_inputs(input_shape, loaded)
            inputs = known_inputs(loaded) if given is None else given
        batches = tuple(batch_size or _DEFAULT_BATCHES)
        with threads_of_torch(threads) as used:
            if placements is not None:
                runtimes = tuple(runtime or _DEFAULT_RUNTIMES_OF_PLACEMENTS)
                costs = placement_costs(out, other, inputs, max(batches), repeats, runtimes)
                ran = _show_placements(out, model, costs, placements, used)
            else:
                names = ("without blocks", "with blocks") if versus is None else (versus, model)
                compared = f"{model} against {versus or 'itself without its blocks'}, {counted(used, 'CPU thread')}"
                data = {"model": model, "vs": versus, "threads": used}
                pair = _Pair(other, loaded, names, inputs, tuple(runtime or _DEFAULT_RUNTIMES), repeats)
                ran = _time_pair(out, pair, batches, compared, data)
        if not ran:
            if versus is not None:
                out.note("Both networks get the input of MODEL; --input-shape gives them another.")
            raise typer.Exit(1)


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two networks, what to run them on, and how."""

    base: nn.Module
    augmented: nn.Module
    names: tuple[str, str]
    inputs: tuple[Any, ...]
    runtimes: tuple[Any, ...]
    repeats: int


def _time_pair(out: Output, pair: _Pair, batches: tuple[int, ...], title: str, data: dict[str, Any]) -> bool:
    """Time two networks, and print what was found below the title and beside the data; whether any runtime ran them."""
    common: dict[str, Any] = {"runtimes": pair.runtimes, "names": pair.names}
    ratios = timed(out, pair.base, pair.augmented, pair.inputs, repeats=pair.repeats, batches=batches, **common)
    ran = [one.batch for one in ratios if one.failure is None]
    with out.working("Looking at memory and at each block"):
        from sesurgeon.export import block_shares, measure_memory

        largest = max(ran or batches)
        memory = measure_memory(pair.base, pair.augmented, pair.inputs, batch=largest, **common)
        shares = block_shares(pair.augmented, pair.inputs, batch=largest, repeats=pair.repeats) if ran else []
    body = [
        Text(title, style="bold"),
        latency_table(ratios, pair.names),
        *([memory_table(memory, pair.names)] if memory and ran else []),
        *_shares_lines(shares),
    ]
    found = {"latency": ratios, "memory": [vars(one) | {"ratio": one.ratio} for one in memory], "blocks": shares}
    out.result(Group(*body), data | found)
    return bool(ran)


def _show_placements(out: Output, model: str, costs: list[PlacementCost], path: Path, threads: int) -> bool:
    """Draw and print the costs; whether any runtime ran any of the networks."""
    from sesurgeon.export import draw_placements

    ran = any(one.failure is None for cost in costs for one in cost.latency)
    if ran:
        draw_placements(costs, path)
    drawn = f"; drawn in {path}" if ran else ""
    title = f"{model} with blocks in other places, {counted(threads, 'CPU thread')}{drawn}"
    data = {"model": model, "threads": threads, "placements": costs, "picture": path if ran else None}
    out.result(Group(Text(title, style="bold"), placement_table(costs)), data)
    return ran


def _pretrained(model: str, reading: Reading, versus: str, of_other: Reading) -> tuple[Reading, Reading]:
    """Give ``--pretrained`` only to those of the two that are names of architectures; one of them is enough."""
    from sesurgeon.models import named_source

    of_other = replace(of_other, pretrained=named_source(versus) is not None)
    return replace(reading, pretrained=named_source(model) is not None or not of_other.pretrained), of_other


def _check_placements(picture: Path, versus: str | None, batches: list[int] | None, *, force: bool) -> None:
    if picture.suffix.lower() != ".png":
        raise UsageError(f"--placements {picture} must be a PNG file.", hint="Let its name end in .png.")
    if versus is not None:
        raise UsageError("--placements compares with MODEL itself, not with --vs.", hint="Leave one out.")
    if batches is not None and len(batches) > 1:
        raise UsageError("--placements is drawn for one batch size.", hint="Give -b once.")
    check_writable(picture, force=force)


def _shares_lines(shares: Sequence[BlockShare]) -> list[Text | Table]:
    if not shares:
        return []
    whole = sum(one.share for one in shares)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("block")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    for one in sorted(shares, key=lambda one: -one.ms):
        table.add_row(one.block, f"{one.ms:.3f} ms", in_per_cent(one.share, ".1f"))
    blocks = counted(len(shares), "block")
    images = counted(shares[0].batch, "image")
    return [
        Text(f"\nOf a pass of {images} in PyTorch {in_per_cent(whole, '.1f')} of the time goes into {blocks}:"),
        table,
    ]
