"""``sesurgeon plan``: which block goes where, as a table or as a file to edit and apply."""

from __future__ import annotations

import shlex

from rich.console import Group, RenderableType
from rich.text import Text

from sesurgeon.cli.asked.loading import load_model
from sesurgeon.cli.asked.naming import check_is_another
from sesurgeon.cli.asked.options import Force, Model, OutputPath, Reading, Talking
from sesurgeon.cli.asked.selecting import InputShape, Selection, parse_inputs
from sesurgeon.cli.asked.spread import spread
from sesurgeon.cli.asked.timing import Latency, MaxLatency, parse_share
from sesurgeon.cli.shown.console import reporting
from sesurgeon.cli.shown.planning import plan_body, plan_data
from sesurgeon.cli.shown.timing import timed
from sesurgeon.files import check_writable
from sesurgeon.words import counted


@spread
def plan(
    model: Model,
    *,
    selection: Selection,
    output: OutputPath = None,
    force: Force = False,
    latency: Latency = False,
    max_latency: MaxLatency = None,
    input_shape: InputShape = None,
    reading: Reading,
    talking: Talking,
) -> None:
    """Choose the blocks for MODEL and show them; with -o, write them to a YAML file.

    That file can be edited (take blocks out, give one settings of its own), kept beside the code, and applied by
    `sesurgeon add-se MODEL --plan plan.yaml`. MODEL stays as it is.
    """
    with reporting(talking) as out:
        from sesurgeon.placement import (
            plan_from_survey,
            plan_to_data,
            price_of,
            settle,
            survey_to_plan,
            write_plan,
        )

        most = parse_share(max_latency)
        policies, config, filters = settle(selection.choices())
        if output is not None:
            check_is_another(output, model)
            check_writable(output, force=force)
        with out.working(f"Planning for {model}"):
            from sesurgeon.surgery import apply_plan

            loaded = load_model(model, reading)
            found = survey_to_plan(loaded, policies, parse_inputs(input_shape, loaded))
            made = plan_from_survey(found, policies, config, filters)
            fitted = []
            if most is not None:
                from sesurgeon.export import fit_latency

                made, fits = fit_latency(loaded, made, found, most)
                fitted.append(fits)
            price = price_of(made, loaded, found)
        ratios = timed(out, loaded, apply_plan(loaded, made), found.inputs) if latency else fitted
        if output is not None:
            write_plan(made, output, costs=price.blocks, name=model, options=reading.typed, force=force)
        for warning in made.warnings:
            out.note(f"Warning: {warning}")
        title = Text(f"{type(loaded).__name__} from {model}: {counted(len(made.entries), 'block')}", style="bold")
        body: list[RenderableType] = [title, *plan_body(made, found, price, ratios, table=output is None)]
        if output is not None:
            words = f"{shlex.quote(model)}{reading.typed} --plan {shlex.quote(str(output))}"
            body.append(Text(f"Written: {output}. Apply it with: sesurgeon add-se {words}"))
        about = {"model": model, "output": output, "plan": plan_to_data(made)}
        out.result(Group(*body), {**about, **plan_data(made, found, price, ratios)})
