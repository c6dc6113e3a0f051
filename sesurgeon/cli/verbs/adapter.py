"""``sesurgeon adapter``: what fine-tuning added to a network, in a small file."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.finding import given_or_latest, latest_trained
from sesurgeon.cli.asked.loading import flags_to_load, load_model
from sesurgeon.cli.asked.naming import check_is_another, output_for, shown
from sesurgeon.cli.asked.options import Arch, Force, ModelKwargs, OutputPath, Pretrained, Reading, Talking, TrustPickle
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.rendering import count
from sesurgeon.errors import UsageError
from sesurgeon.files import check_writable

if TYPE_CHECKING:
    from sesurgeon.surgery import Adapter

adapter = typer.Typer(
    help="Save what fine-tuning added to a network in a small file, and restore the whole network from it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
)


@adapter.command()
@spread
def extract(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run folder or a checkpoint; by default the newest result in the working folder.",
            show_default=False,
        ),
    ] = None,
    *,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="The network that was fine-tuned, to compare the backbone with: a file, timm:NAME, torchvision:NAME "
            "or factory:PKG.MOD:MAKE.",
            show_default=False,
        ),
    ] = None,
    output: OutputPath = None,
    force: Force = False,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    pretrained: Pretrained = False,
    trust_pickle: TrustPickle = False,
    talking: Talking,
) -> None:
    """Save only the plan, the inserted blocks and the head of RUN, with the fingerprint of their base.

    RUN must have been trained with `finetune --train blocks`, which leaves the backbone equal to the base's, bit for
    bit. If another training loop trained it, give `--base`: the two backbones are compared before anything is written.
    `--pretrained` applies to BASE.
    """
    with reporting(talking) as out:
        if pretrained and base is None:
            raise UsageError("--pretrained is for --base.", hint="Give --base too, or leave it out.")
        model = given_or_latest(run, latest_trained, out.note)
        path = output_for(model, output, ".adapter.safetensors")
        if base is not None:
            check_is_another(path, base)
        check_writable(path, force=force)
        with out.working(f"Reading {model}"):
            from sesurgeon.modules import parameter_count
            from sesurgeon.surgery import extract_adapter

            reading = Reading(arch=arch, model_kwargs=model_kwargs, trust_pickle=trust_pickle)
            of_run, of_base = (reading, reading) if base is None else _readings(base, reading, pretrained=pretrained)
            loaded = load_model(model, of_run)
            below = None if base is None else load_model(base, of_base)
            extracted = extract_adapter(loaded, path, base=below, force=force)
        size = path.stat().st_size
        whole = parameter_count(loaded)
        data = {"model": model, "output": path, "size": size, **_data(extracted)}
        below_it = "BASE" if base is None else shlex.quote(base)
        flags = flags_to_load(loaded, of_run) if base is None else of_base.typed
        following = f"Next:    sesurgeon adapter apply {below_it} {shlex.quote(shown(path))}{flags}"
        out.result(Group(_table(extracted, size, whole), Text(f"Written: {shown(path)}"), Text(following)), data)


@adapter.command()
@spread
def apply(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="The network that was fine-tuned: a file, timm:NAME, torchvision:NAME or factory:PKG.MOD:MAKE.",
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="ADAPTER", help="What `sesurgeon adapter extract` wrote.")],
    *,
    output: OutputPath = None,
    force: Force = False,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    pretrained: Pretrained = False,
    trust_pickle: TrustPickle = False,
    talking: Talking,
) -> None:
    """Restore the whole network, bit for bit: BASE with the blocks and the head of ADAPTER.

    It is written next to ADAPTER, as `NAME.se.pt` (`NAME.whole.pt` if there are no blocks). A different BASE is
    refused (exit code 5), with the differences. No code in ADAPTER is run.
    """
    with reporting(talking) as out:
        with out.working(f"Reading {file}"):
            from sesurgeon.modules import parameter_count
            from sesurgeon.surgery import SUFFIX, apply_adapter, check_checkpoint_path, read_adapter, save

            given = read_adapter(file)
            name = file.name.removesuffix(SUFFIX).removesuffix(".safetensors")
            path = output or file.with_name(f"{name}.se.pt" if given.plan is not None else f"{name}.whole.pt")
            for given_file in (base, str(file)):
                check_is_another(path, given_file)
            check_checkpoint_path(path, force=force)
        with out.working(f"Reading {base}"):
            reading = Reading(arch=arch, model_kwargs=model_kwargs, pretrained=pretrained, trust_pickle=trust_pickle)
            model = apply_adapter(load_model(base, reading), given)
            save(model, path, force=force)
        whole = parameter_count(model)
        data = {"base": base, "adapter": file, "output": path, **_data(given)}
        proof = Text(
            "The base is the one that it was extracted from: its weights, except the head's, have that fingerprint.",
            style="green",
        )
        out.result(Group(_table(given, file.stat().st_size, whole), proof, Text(f"Written: {shown(path)}")), data)
        if flags := flags_to_load(model, reading):
            out.note(f"Commands on this file need{flags} too.")


def _readings(base: str, reading: Reading, *, pretrained: bool) -> tuple[Reading, Reading]:
    """The options for RUN and for BASE. If BASE is a name, ``--arch`` is of RUN, which without it has no arguments."""
    from sesurgeon.models import named_source

    of_base = replace(reading, pretrained=pretrained)
    if named_source(base) is None:
        return reading, of_base
    return replace(reading, model_kwargs=reading.model_kwargs if reading.arch else None), replace(of_base, arch=None)


def _table(adapter: Adapter, size: int, whole: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_row("blocks", count(0 if adapter.plan is None else len(adapter.plan.entries)))
    table.add_row("classes", "-" if adapter.num_classes is None else count(adapter.num_classes))
    table.add_row("numbers", f"{count(adapter.parameters)}; the whole network has {count(whole)} parameters")
    table.add_row("file", f"{size / 1000:,.0f} kB")
    table.add_row("base", f"{adapter.provenance.source}, weights {adapter.weights.whole[:16]}")
    return table


def _data(adapter: Adapter) -> dict[str, Any]:
    return {
        "blocks": 0 if adapter.plan is None else len(adapter.plan.entries),
        "classes": adapter.provenance.classes,
        "num_classes": adapter.num_classes,
        "numbers": adapter.parameters,
        "base": {
            "source": str(adapter.provenance.source),
            "architecture": adapter.architecture.fingerprint,
            "weights": adapter.weights.whole,
        },
    }
