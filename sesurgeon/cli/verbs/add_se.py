"""``sesurgeon add-se``: insert blocks into a trained network without changing its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from sesurgeon.cli.asked.loading import flags_to_load, load_model, note_random_weights
from sesurgeon.cli.asked.naming import check_is_another, output_for, shown
from sesurgeon.cli.asked.options import Force, Model, OutputPath, Reading, Talking
from sesurgeon.cli.asked.selecting import InputShape, Selection, parse_inputs
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.asked.timing import Latency
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.planning import plan_body, plan_data
from sesurgeon.cli.shown.timing import timed
from sesurgeon.errors import UsageError
from sesurgeon.files import check_writable
from sesurgeon.words import counted

if TYPE_CHECKING:
    from sesurgeon.export import LatencyRatio
    from sesurgeon.placement import Price
    from sesurgeon.surgery import Surgery


@spread
def add_se(
    model: Model,
    *,
    selection: Selection,
    output: OutputPath = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PLAN",
            help="Take the blocks and their places from this plan file: see `sesurgeon plan`.",
            show_default=False,
        ),
    ] = None,
    plan_out: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Also write the plan to this file.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything, but write nothing.")] = False,
    force: Force = False,
    latency: Latency = False,
    input_shape: InputShape = None,
    reading: Reading,
    talking: Talking,
) -> None:
    """Insert Squeeze-and-Excitation into MODEL without changing what it computes.

    The outputs before and after are compared bit for bit, in eval and in train mode; only then MODEL.se.pt is
    written. The blocks start as an exact identity and learn in `sesurgeon finetune`.
    """
    with reporting(talking) as out:
        from sesurgeon.placement import price_of, read_in_part, refuse_all, settle, survey_for, write_plan
        from sesurgeon.surgery import operate, operate_by, save

        path = output_for(model, output, ".se.pt")
        _check_plan_is_alone(plan, selection)
        read, problems = (None, ()) if plan is None else read_in_part(plan)
        policies, config, filters = settle(selection.choices())
        if not dry_run:
            _check_outputs(model, path, plan_out, force=force)
        with out.working(f"Operating on {model}"):
            loaded = load_model(model, reading)
            inputs = parse_inputs(input_shape, loaded)
            if read is None:
                surgery = operate(
                    loaded, config, policies=policies, filters=filters, example_inputs=inputs, shared=True
                )
            else:
                refuse_all(problems, read, loaded, inputs, str(plan))
                surgery = operate_by(read, survey_for(read, loaded, inputs), shared=True)
            price = price_of(surgery.plan, loaded, surgery.survey)
        note_random_weights(out, model, reading)
        ratios = timed(out, loaded, surgery.model, surgery.survey.inputs) if latency else []
        if not dry_run:
            save(surgery.model, path, force=force)
            if plan_out is not None:
                write_plan(surgery.plan, plan_out, costs=price.blocks, name=model, options=reading.typed, force=force)
        for warning in surgery.warnings:
            out.note(f"Warning: {warning}")
        written = [] if dry_run else [file for file in (path, plan_out) if file is not None]
        data = {
            "model": model,
            "output": None if dry_run else path,
            "plan_output": None if dry_run else plan_out,
            "policy": surgery.plan.policy,
            **plan_data(surgery.plan, surgery.survey, price, ratios),
            "steered": surgery.steered,
            "unreached": surgery.unreached,
            "proof": surgery.proof,
        }
        out.result(_rendered(model, surgery, price, ratios, written), data)
        if not dry_run and (flags := flags_to_load(surgery.model, reading)):
            out.note(f"Commands on this file need{flags} too: code of yours builds the network.")


def _check_plan_is_alone(plan: Path | None, selection: Selection) -> None:
    """Raise a UsageError for options that the plan would override."""
    if plan is not None and selection.flags():
        raise UsageError(
            f"--plan {plan} says where blocks go and what they are; it cannot be given with "
            f"{', '.join(selection.flags())}.",
            hint="Leave these out, or put their settings into the plan.",
        )


def _check_outputs(model: str, path: Path, plan_out: Path | None, *, force: bool) -> None:
    from sesurgeon.surgery import check_checkpoint_path

    check_checkpoint_path(path, force=force)
    if plan_out is not None:
        if plan_out.resolve() == path.resolve():
            raise UsageError(f"--plan-out {plan_out} is where the network is written.", hint="Give it another name.")
        check_is_another(plan_out, model)
        check_writable(plan_out, force=force)


def _rendered(
    name: str, surgery: Surgery, price: Price, ratios: Sequence[LatencyRatio], written: Sequence[Path]
) -> Group:
    plan = surgery.plan
    return Group(
        Text(f"{type(surgery.model).__name__} from {name}: {counted(len(plan.entries), 'block')}", style="bold"),
        *plan_body(plan, surgery.survey, price, ratios),
        Text(f"Proof: {surgery.proof}.", style="green" if surgery.proof.in_eval else "yellow"),
        *([Text(f"Written: {shown(file)}") for file in written] or [Text("Nothing was written (--dry-run).")]),
    )
