"""``--config``: options from a YAML file such as a run's ``args.yaml``; the command line takes precedence."""

from __future__ import annotations

import difflib
import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from sesurgeon.cli.asked.options import Reading
from sesurgeon.errors import UsageError

# A file from somebody else must not make us run code: see also check_typed.
_ONLY_TYPED = ("trust_pickle", "config", "resume", "force", "help")


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's entries the defaults of the command's options.

    Raises:
        typer.BadParameter: it cannot be read, or has an entry that is not an option.
    """
    import yaml

    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} holds no entries of the form option: value.")
    entries = {str(key).replace("-", "_"): value for key, value in content.items()}
    known = [str(parameter.name) for parameter in context.command.params if parameter.name not in _ONLY_TYPED]
    unknown = [key for key in entries if key not in known]
    if unknown:
        raise typer.BadParameter("\n".join(_refusal(path, key, known) for key in unknown))
    for key in (str(parameter.name) for parameter in context.command.params if parameter.metavar == "KEY=VALUE"):
        if isinstance(entries.get(key), dict):
            entries[key] = [f"{name}={_in_yaml(value)}" for name, value in entries[key].items()]
    single = {str(parameter.name) for parameter in context.command.params if not parameter.multiple}
    lists = [key for key in sorted(single & entries.keys()) if isinstance(entries[key], (list, dict))]
    if lists:
        raise typer.BadParameter("\n".join(f"{path}: {key} takes one value, not {entries[key]}." for key in lists))
    for key in entries.keys() - single:
        if not isinstance(entries[key], list) and entries[key] is not None:
            entries[key] = [entries[key]]
    context.default_map = {key: _typed(value) for key, value in entries.items() if value is not None}
    return path


def check_typed(context: typer.Context, model: str | None, reading: Reading, of: str = "") -> None:
    """Refuse a factory, which is imported and run, or arguments of it that were not typed but come from ``--config``.

    A teacher that ``--trust-pickle`` would run must be typed, too: it is typed for MODEL.

    Args:
        context: knows which options were typed.
        model: that is read.
        reading: how.
        of: the prefix of the options that say so: "" or "teacher".

    Raises:
        UsageError: that is so.
    """
    first, arch, kwargs = (of or "model", f"{of}_arch".lstrip("_"), f"{of}_model_kwargs".lstrip("_"))
    named = {first: model, arch: reading.arch}
    factories = {name: value for name, value in named.items() if value is not None and value.startswith("factory:")}
    chosen = [name for name in factories if not is_typed(context, name)]
    if factories and reading.model_kwargs and not is_typed(context, kwargs):
        chosen.append(kwargs)
    if of and reading.trust_pickle and model is not None and not factories and not is_typed(context, of):
        chosen.append(of)
        factories[of] = model
    if chosen:
        flags = {name: "" if name == "model" else f"--{name.replace('_', '-')} " for name in (*named, kwargs)}
        words = [f"{flags[name]}{value}" for name, value in factories.items()]
        words += [f"{flags[kwargs]}{shlex.quote(pair)}" for pair in reading.model_kwargs or ()]
        raise UsageError(
            f"{context.params['config']}: its {' and '.join(chosen)} would choose what code is run.",
            hint=f"To allow it, type it, too: {' '.join(words)}",
        )


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option or argument was given on the command line, rather than by a file or by default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"  # an enumeration of typer's own click


def _refusal(path: Path, key: str, known: list[str]) -> str:
    if key in _ONLY_TYPED:
        return f"{path}: {key} can be given on the command line only."
    near = difflib.get_close_matches(key, known, n=1)
    return f"{path}: there is no option {key}{f'; did you mean {near[0]}?' if near else '.'}"


def _in_yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def _typed(value: Any) -> Any:
    """The value as click wants it: a list of strings for an option that may be repeated, or else a single value."""
    return [str(item) for item in value] if isinstance(value, list) else value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        callback=_read_config,
        is_eager=True,
        help="Read options from a file such as the args.yaml of a run; the command line takes precedence.",
        show_default=False,
    ),
]
