"""The plan as a YAML file that people read and edit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sesurgeon.errors import UnreadableFileError
from sesurgeon.files import StrPath, atomic_write
from sesurgeon.placement.costs import Cost
from sesurgeon.placement.document import entry_to_data, plan_in_part, plan_to_data
from sesurgeon.placement.plan import Entry, Plan
from sesurgeon.placement.problems import Problem, refuse
from sesurgeon.placement.yaml_lines import parse_yaml

_WIDTH = 84  # a line is ended behind the first word beyond it


def read_plan(path: StrPath) -> Plan:
    """The plan in a YAML file, as :func:`write_plan` or a person wrote it; no model is needed for that.

    What it leaves open (attributes, channels, inputs) is filled in when it meets a model.

    Raises:
        UnreadableFileError: there is no such file, or it is not text.
        UsageError: it is not a plan; all problems are named, each with its line.
    """
    plan, problems = read_in_part(path)
    refuse(f"{path} cannot be read", problems)
    return plan


def read_in_part(path: StrPath) -> tuple[Plan, tuple[Problem, ...]]:
    """As :func:`read_plan`, but gives what could be read of the plan, and the problems with the rest.

    :func:`refuse_all` then reports them, with what of the plan does not fit a model.

    Raises:
        UnreadableFileError: there is no such file, or it is not text.
        UsageError: it is not a plan.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UnreadableFileError(
            f"There is no plan {path}.", hint="Make one with: sesurgeon plan MODEL -o plan.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"{path} is not a plan: it is not text.", hint="A plan is a YAML file.") from error
    except OSError as error:
        raise UnreadableFileError(f"The plan {path} cannot be opened: {error.strerror or error}.") from error
    data, lines = parse_yaml(text, str(path))
    return plan_in_part(data, lines, str(path))


def write_plan(
    plan: Plan,
    path: StrPath,
    *,
    costs: Mapping[str, Cost] | None = None,
    name: str = "MODEL",
    options: str = "",
    force: bool = True,
) -> None:
    """Write ``plan`` as a YAML file that :func:`read_plan` reads: see :func:`plan_to_yaml`.

    Raises:
        OutputError: it cannot be written, or it is there and ``force`` is false; nothing was changed.
    """
    with atomic_write(Path(path), force=force) as temporary:
        text = plan_to_yaml(plan, costs=costs, name=name, options=options, file=Path(path).name)
        temporary.write_text(text, encoding="utf-8")


def plan_to_yaml(
    plan: Plan,
    *,
    costs: Mapping[str, Cost] | None = None,
    name: str = "MODEL",
    options: str = "",
    file: str = "plan.yaml",
) -> str:
    """The plan as a document for people.

    Args:
        plan: what is written.
        costs: of each site's block, shown beside it: see :func:`plan_costs`.
        name, options, file: what the model is called in the words at the top, what else it takes to load it
            (`` --arch …``), and what the file is called.
    """
    data = plan_to_data(plan)
    del data["blocks"]
    made_for = "" if plan.architecture is None else f" for {plan.architecture.class_name}"
    lines = [
        f"# A plan of sesurgeon{made_for}: which block goes where. Apply it with",
        f"#     sesurgeon add-se {_in_a_line(name)}{' '.join(options.splitlines())} --plan {_in_a_line(file)}",
        "# Take entries out, give them settings of their own (as rd_ratio: 0.25), or add some: {site: ID} is",
        "# enough, and `sesurgeon inspect MODEL --all` lists the ids. Costs are shown, but not read.",
    ]
    lines += [_top(key, value) for key, value in data.items()]
    lines.append("blocks:")
    for entry in plan.entries:
        lines += _entry(entry, (costs or {}).get(entry.site))
    return "\n".join(lines) + "\n"


def _in_a_line(path: str) -> str:
    """Quoted for a shell, and in one line: a line break would end the comment."""
    return shlex.quote(" ".join(path.split()))


def _entry(entry: Entry, cost: Cost | None) -> list[str]:
    """``- {site: …, cost: …}  # squeezed to 8``, in two lines where there is a cost."""
    lines = [_flow(entry_to_data(entry))]
    if cost is not None:
        lines[0] = lines[0].removesuffix("}") + ","
        lines.append(" cost: " + _flow(_shown(cost)) + "}")
    squeezed = entry.config.squeezed(entry.channels) if entry.channels else None
    lines[-1] += "" if squeezed is None else f"  # squeezed to {squeezed}"
    return ["  - " + lines[0], *("    " + line for line in lines[1:])]


def _shown(cost: Cost) -> dict[str, int]:
    return {"parameters": cost.parameters, "macs": cost.macs, "pooling": cost.pooling, "scaling": cost.scaling}


def _flow(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()


def _top(key: str, value: Any) -> str:
    """A key at the top level: a list in one line, a mapping with a line for each of its keys."""
    if isinstance(value, dict):
        text = yaml.safe_dump({key: value}, default_flow_style=None, sort_keys=False, width=_WIDTH, allow_unicode=True)
        return text.rstrip()
    return _flow({key: value})[1:-1]
