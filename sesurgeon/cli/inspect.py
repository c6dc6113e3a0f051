"""``sesurgeon inspect``: what a network is, and where a block could go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from sesurgeon.cli.console import reporting
from sesurgeon.cli.loading import load_model
from sesurgeon.cli.options import (
    Arch,
    Debug,
    Json,
    Model,
    ModelKwargs,
    NumClasses,
    Pretrained,
    Quiet,
    TrustPickle,
)
from sesurgeon.cli.rendering import count, kinds, left_alone_lines, site_table, stage_of, times
from sesurgeon.cli.selecting import InputShape, RdChannels, RdDivisor, RdRatio, parse_inputs

if TYPE_CHECKING:
    from torch import nn

    from sesurgeon.blocks import BlockConfig
    from sesurgeon.graph import Survey
    from sesurgeon.placement import Cost


def inspect(
    model: Model,
    all_sites: Annotated[
        bool, typer.Option("--all", help="List every site, not only those of the standard policy.")
    ] = False,
    rd_ratio: RdRatio = 1 / 16,
    rd_channels: RdChannels = None,
    rd_divisor: RdDivisor = 8,
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
    """Show what MODEL is, where blocks could go, what each would cost, and what is not possible and why."""
    with reporting(json=json, quiet=quiet, debug=debug) as out:
        with out.working(f"Looking at {model}"):
            from sesurgeon.blocks import BlockConfig
            from sesurgeon.graph import survey
            from sesurgeon.placement import model_cost

            loaded = load_model(
                model,
                arch=arch,
                model_kwargs=model_kwargs,
                num_classes=num_classes,
                pretrained=pretrained,
                trust_pickle=trust_pickle,
            )
            config = BlockConfig("se", rd_ratio, rd_channels, rd_divisor)
            found = survey(loaded, parse_inputs(input_shape, loaded))
            cost = model_cost(loaded, found.inputs)
        data = _data(model, loaded, found, cost, config)
        out.result(_rendered(model, loaded, found, cost, config, all_sites=all_sites), data)


def _rendered(name: str, model: nn.Module, found: Survey, cost: Cost, config: BlockConfig, *, all_sites: bool) -> Group:
    from sesurgeon.placement import POLICIES, block_cost, images_in
    from sesurgeon.surgery import blocks_of

    chosen = {site.id for site in POLICIES["standard"](found.sites)}
    inserted = blocks_of(model)
    images = images_in(found.inputs)
    shown = [site for site in found.sites if all_sites or site.id in chosen]
    table = site_table("", "kind", "follows", "+ params", "+ MACs", "note")
    extra_parameters = extra_macs = 0
    for site in shown:
        price = block_cost(config, site, images)
        if site.attention is not None:
            note = f"{'block inserted' if site.attention in inserted else 'attention already'}: {site.attention}"
        else:
            note = "standard" if site.id in chosen and all_sites else ""
            note += "" if site.has_skip or site.kind != "residual" else " no skip here"
            note += f" runs {site.calls} times" if site.calls > 1 else ""
            if site.id in chosen:
                extra_parameters, extra_macs = extra_parameters + price.parameters, extra_macs + price.macs
        table.add_row(
            site.id,
            stage_of(site),
            times(site.shape),
            site.kind,
            site.follows,
            count(price.parameters),
            count(price.macs),
            note.strip(),
        )
    head = [
        Text(f"{type(model).__name__} from {name}", style="bold"),
        Text(f"{count(cost.parameters)} parameters, {count(cost.macs)} MACs an image of {_shapes(found)}"),
        Text(f"Sites: {kinds(found.sites)}. Inserted blocks: {len(inserted)}."),
    ]
    tail = []
    if extra_parameters:
        more_parameters, more_macs = _share(extra_parameters, cost.parameters), _share(extra_macs, cost.macs)
        tail.append(
            Text(
                f"add-se (policy standard) would add {count(extra_parameters)} parameters (+{more_parameters}) "
                f"and {count(extra_macs)} MACs (+{more_macs})."
            )
        )
    if not all_sites and len(shown) < len(found.sites):
        tail.append(Text(f"{len(found.sites) - len(shown)} more sites: --all lists them."))
    if found.train_failure is not None:
        tail.append(Text(f"Train mode: {found.train_failure}", style="yellow"))
    return Group(*head, table, *tail, *left_alone_lines(found.left_alone))


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.2%}"


def _shapes(found: Survey) -> str:
    return " and ".join(times(argument.shape) for argument in found.inputs if hasattr(argument, "shape"))


def _data(name: str, model: nn.Module, found: Survey, cost: Cost, config: BlockConfig) -> dict[str, Any]:
    from sesurgeon.models import provenance_of
    from sesurgeon.placement import POLICIES, block_cost, images_in
    from sesurgeon.surgery import blocks_of

    chosen = {site.id for site in POLICIES["standard"](found.sites)}
    provenance, images = provenance_of(model), images_in(found.inputs)
    return {
        "model": name,
        "class": type(model).__name__,
        "source": str(provenance.source),
        "classes": provenance.classes,
        "input_shapes": [list(getattr(argument, "shape", ())) for argument in found.inputs],
        **cost.to_dict(),
        "inserted_blocks": list(blocks_of(model)),
        "sites": [
            {
                **vars(site),
                "channels": site.channels,
                "spatial": site.spatial,
                "stage": site.stage,
                "standard": site.id in chosen,
                "cost": block_cost(config, site, images).to_dict(),
            }
            for site in found.sites
        ],
        "left_alone": found.left_alone,
        "train_failure": found.train_failure,
    }
