"""``sesurgeon remove-se``: restore the network without blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sesurgeon.cli.asked.loading import flags_to_load, load_model
from sesurgeon.cli.asked.naming import output_for, shown
from sesurgeon.cli.asked.options import Arch, Force, Model, ModelKwargs, OutputPath, Reading, Talking, TrustPickle
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.rendering import count
from sesurgeon.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


@spread
def remove_se(
    model: Model,
    *,
    output: OutputPath = None,
    force: Force = False,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    trust_pickle: TrustPickle = False,
    talking: Talking,
) -> None:
    """Remove the blocks from MODEL and write the network without them to MODEL.base.pt.

    The other layers keep their current weights. If nothing was trained since `sesurgeon add-se`, these are the
    original ones, bit for bit. Gate factors that were folded into them are taken out again; the constants of blocks
    that `sesurgeon prune` removed are not.
    """
    with reporting(talking) as out:
        with out.working(f"Operating on {model}"):
            from sesurgeon import surgery
            from sesurgeon.modules import parameter_count

            path = output_for(model, output, ".base.pt")
            surgery.check_checkpoint_path(path, force=force)
            reading = Reading(arch=arch, model_kwargs=model_kwargs, trust_pickle=trust_pickle)
            loaded = load_model(model, reading)
            blocks = surgery.blocks_of(loaded)
            if not blocks:
                raise UsageError(
                    f"There are no inserted blocks in {model}.",
                    hint="remove-se takes what add-se or finetune wrote; blocks that an architecture has itself stay.",
                )
            base = surgery.remove_se(loaded)
            trained, pruned = _was_trained(loaded), _pruned_constants(loaded)
            parameters = parameter_count(loaded), parameter_count(base)
            surgery.save(base, path, force=force)
        data: dict[str, Any] = {
            "model": model,
            "output": path,
            "removed": list(blocks),
            "trained": trained or None,  # training loops other than ours leave no record
            "pruned": pruned,
            "parameters": {"before": parameters[0], "after": parameters[1]},
        }
        out.result(_rendered(parameters, len(blocks), trained, pruned, path), data)
        flags = flags_to_load(base, reading)
        if flags:
            out.note(f"Commands on this file need{flags} too.")


def _since_surgery(model: nn.Module) -> Sequence[Mapping[str, Any]]:
    """The records of its history since its blocks were inserted."""
    from sesurgeon.models import provenance_of

    history = provenance_of(model).history
    commands = [record.get("command") for record in history]
    return history[len(commands) - commands[::-1].index("add-se") if "add-se" in commands else 0 :]


def _was_trained(model: nn.Module) -> bool:
    return any(record.get("command") == "finetune" for record in _since_surgery(model))


def _pruned_constants(model: nn.Module) -> list[str]:
    """Blocks that `prune` removed and whose constants were folded into the weights of other layers."""
    pruned = [record for record in _since_surgery(model) if record.get("command") == "prune"]
    return [block["block"] for record in pruned for block in record["blocks"] if block["folded"]]


def _rendered(parameters: tuple[int, int], blocks: int, trained: bool, pruned: list[str], path: Path) -> Group:
    table = Table("", "before", "after", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_row("blocks", count(blocks), "0")
    table.add_row("parameters", *map(count, parameters))
    if trained:
        said = "It was fine-tuned with its blocks: the other layers keep the fine-tuned weights."
    else:
        said = "Its history names no training since add-se: if there was none, the weights are the original ones."
    if pruned:
        said = f"The constants of blocks that were pruned stay in its weights: {', '.join(pruned)}."
    changed = trained or bool(pruned)
    return Group(table, Text(said, style="yellow" if changed else ""), Text(f"Written: {shown(path)}"))
