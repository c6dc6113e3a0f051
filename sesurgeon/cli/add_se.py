"""``sesurgeon add-se``: blocks go into a trained network, and nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.console import Output, reporting
from sesurgeon.cli.loading import load_model
from sesurgeon.cli.naming import beside
from sesurgeon.cli.options import (
    Arch,
    Debug,
    Force,
    Json,
    Model,
    ModelKwargs,
    NumClasses,
    OutputPath,
    Pretrained,
    Quiet,
    TrustPickle,
)
from sesurgeon.cli.rendering import count, left_alone_lines, site_table, stage_of, times
from sesurgeon.cli.selecting import (
    Exclude,
    Include,
    Init,
    InputShape,
    MinChannels,
    Policy,
    RdChannels,
    RdDivisor,
    RdRatio,
    Stages,
    parse_inputs,
    parse_stages,
)
from sesurgeon.files import check_writable

if TYPE_CHECKING:
    from sesurgeon.placement import Cost
    from sesurgeon.surgery import Surgery


def add_se(
    model: Model,
    output: OutputPath = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do it all, but write nothing.")] = False,
    force: Force = False,
    policy: Policy = "standard",
    include: Include = None,
    exclude: Exclude = None,
    stages: Stages = None,
    min_channels: MinChannels = 1,
    rd_ratio: RdRatio = 1 / 16,
    rd_channels: RdChannels = None,
    rd_divisor: RdDivisor = 8,
    init: Init = "identity",
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
    """Insert Squeeze-and-Excitation into MODEL without changing what it computes.

    The outputs before and after are compared bit for bit, in eval and in train mode; only then MODEL.se.pt is
    written. The blocks start as an exact identity and learn in `sesurgeon finetune`.
    """
    with reporting(json=json, quiet=quiet, debug=debug) as out:
        path = output or beside(model, ".se.pt")
        if not dry_run:
            check_writable(path, force=force)
        with out.working(f"Operating on {model}"):
            from sesurgeon.blocks import BlockConfig
            from sesurgeon.placement import Filters, check_policies, model_cost
            from sesurgeon.surgery import operate, save

            check_policies(policy)
            config = BlockConfig("se", rd_ratio, rd_channels, rd_divisor, init)  # type: ignore[arg-type]  # it checks
            filters = Filters(tuple(include or ()), tuple(exclude or ()), parse_stages(stages), min_channels)
            loaded = load_model(
                model,
                arch=arch,
                model_kwargs=model_kwargs,
                num_classes=num_classes,
                pretrained=pretrained,
                trust_pickle=trust_pickle,
            )
            inputs = parse_inputs(input_shape, loaded)
            surgery = operate(loaded, config, policies=[policy], filters=filters, example_inputs=inputs)
            before = model_cost(loaded, surgery.survey.inputs)
            after = model_cost(surgery.model, surgery.survey.inputs)
            if not dry_run:
                _remember(surgery)
                save(surgery.model, path, force=force)
        for warning in surgery.plan.warnings:
            out.note(f"Warning: {warning}")
        written = None if dry_run else path
        out.result(_rendered(model, surgery, before, after, written), _data(model, surgery, before, after, written))
        if written is not None:
            _say_what_it_takes_to_load(out, surgery, trust_pickle)


def _remember(surgery: Surgery) -> None:
    """Write the operation into the augmented model's history."""
    from dataclasses import replace

    from sesurgeon.models import attach_provenance, provenance_of

    provenance = provenance_of(surgery.model)
    record = {
        "command": "add-se",
        "policy": surgery.plan.policy,
        "blocks": len(surgery.plan.entries),
        "proof": str(surgery.proof),
    }
    attach_provenance(surgery.model, replace(provenance, history=(*provenance.history, record)))


def _say_what_it_takes_to_load(out: Output, surgery: Surgery, trust_pickle: bool) -> None:
    from sesurgeon.models import provenance_of

    source = provenance_of(surgery.model).source
    if source.kind == "factory":
        out.note(f"Commands on this file need --arch {source} too: the code that builds the network is yours.")
    elif source.kind == "module" and trust_pickle:
        out.note("Commands on this file need --trust-pickle too: it holds the same classes.")


def _rendered(name: str, surgery: Surgery, before: Cost, after: Cost, written: Path | None) -> Group:
    from sesurgeon.placement import block_cost, images_in

    images = images_in(surgery.survey.inputs)

    table = site_table(f"{type(surgery.model).__name__} from {name}", "block", "+ params", "+ MACs")
    for entry in surgery.plan.entries:
        site = surgery.survey.site(entry.site)
        cost = block_cost(entry.config, site, images)
        what = f"{entry.attribute}: {entry.config.block} {site.channels}→{entry.config.squeezed(site.channels)}"
        table.add_row(site.id, stage_of(site), times(site.shape), what, count(cost.parameters), count(cost.macs))
    totals = Table("", "before", "after", "", box=None, padding=(0, 2, 0, 0))
    for label, old, new in (
        ("parameters", before.parameters, after.parameters),
        ("MACs an image", before.macs, after.macs),
    ):
        totals.add_row(label, count(old), count(new), f"+{(new - old) / max(old, 1):.2%}")
    proof = Text(f"Proof: {surgery.proof}.", style="green" if surgery.proof.in_eval else "yellow")
    where = Text("Nothing was written (--dry-run)." if written is None else f"Written: {written}")
    return Group(table, totals, *left_alone_lines(surgery.plan.left_alone), proof, where)


def _data(name: str, surgery: Surgery, before: Cost, after: Cost, written: Path | None) -> dict[str, Any]:
    from sesurgeon.placement import block_cost, images_in

    images = images_in(surgery.survey.inputs)

    blocks = []
    for entry in surgery.plan.entries:
        site = surgery.survey.site(entry.site)
        cost = block_cost(entry.config, site, images)
        blocks.append(
            {
                "site": site.id,
                "path": f"{site.owner}.{entry.attribute}".lstrip("."),
                "stage": site.stage,
                "channels": site.channels,
                "spatial": site.spatial,
                "rd_channels": entry.config.squeezed(site.channels),
                **cost.to_dict(),
            }
        )
    return {
        "model": name,
        "output": written,
        "policy": surgery.plan.policy,
        "blocks": blocks,
        "before": before.to_dict(),
        "after": after.to_dict(),
        "proof": surgery.proof,
        "left_alone": surgery.plan.left_alone,
    }
