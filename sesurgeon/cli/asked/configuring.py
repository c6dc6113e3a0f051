"""``--config``: options from a YAML file, as a run's ``args.yaml``; what is typed comes first."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

# A file that somebody else wrote must not make us run code.
_ONLY_TYPED = ("trust_pickle", "config", "resume", "force", "help")


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's entries the defaults of the command's options.

    Raises:
        typer.BadParameter: it cannot be read, or has an entry that is no option.
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
    single = {str(parameter.name) for parameter in context.command.params if not parameter.multiple}
    lists = [key for key in sorted(single & entries.keys()) if isinstance(entries[key], (list, dict))]
    if lists:
        raise typer.BadParameter("\n".join(f"{path}: {key} takes one value, not {entries[key]}." for key in lists))
    for key in ("model", "arch"):
        if str(entries.get(key, "")).startswith("factory:"):
            raise typer.BadParameter(f"{path}: {entries[key]} would be imported and run; type it, if you want that.")
    for key in entries.keys() - single:
        if not isinstance(entries[key], list) and entries[key] is not None:
            entries[key] = [entries[key]]
    context.default_map = {key: _typed(value) for key, value in entries.items() if value is not None}
    return path


def _refusal(path: Path, key: str, known: list[str]) -> str:
    if key in _ONLY_TYPED:
        return f"{path}: {key} is taken from the command line alone."
    near = difflib.get_close_matches(key, known, n=1)
    return f"{path}: there is no option {key}{f'; did you mean {near[0]}?' if near else '.'}"


def _typed(value: Any) -> Any:
    """As it would be typed: an option that may be repeated takes a list, all others one word."""
    return [str(item) for item in value] if isinstance(value, list) else value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        callback=_read_config,
        is_eager=True,
        help="Take options from a file, as the args.yaml of a run; what is typed comes first.",
        show_default=False,
    ),
]
